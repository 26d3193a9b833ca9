"""Mirror-BERT by this project against its recipe in PyTorch and transformers, as a markdown table.

    CLOWER_DATA=../shared/data python bench/mirror.py [--rounds 5] [--json FILE]

About 8 minutes on two cores: 10,000 sentences of STS-B, batches of 200, one epoch, an encoder of 4 × 256
with random weights (--model FOLDER: another), fp32. Where there is a GPU, or with --device gpu: BERT-base's
size, bfloat16. Both sides have the same sentences, mean pooling, masked spans, dropout, InfoNCE over the 2N
vectors, AdamW, one learning rate and decay; both shuffle, and both tokenise as they go. The recipe is
the authors' loop: a batch is tokenised, each side is padded to its longest text (theirs pads to 50 tokens,
which is slower) and encoded in a forward pass of its own; SDPA and a fused AdamW. Ours is the product's own
training loop. In the table

  steps     of the epoch, from the first batch to the last update
  training  the same with what is saved at its end (ours: a checkpoint and curves; the recipe: the weights)
  compiling what the first run of a process spends before (ours: compiling; nothing is cached)
  tokens    computed, padding included
"""

import argparse
import functools
import json
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import numpy as np  # noqa: E402
from ml_collections import ConfigDict  # noqa: E402

from bench import finetune, harness  # noqa: E402
from configs import common, mirror  # noqa: E402

WARM_UP_STEPS = 3


def config_of(case: Path) -> ConfigDict:
    """`configs/mirror.py:sentence` with the changes of a case."""
    config = mirror.get_config('sentence')
    config.update_from_flattened_dict(json.loads(case.read_text(encoding='utf-8')))
    return config


def write_case(folder: Path, flags: argparse.Namespace) -> Path:
    """The sentences, the model, and what the config of both sides says of them."""
    from input_pipeline.sentence_vectors import sentences

    columns = ConfigDict({'text_columns': (), 'label_column': ''})
    files = (flags.data / 'similarity' / f'sts-b-{split}.txt' for split in ('train', 'dev'))
    texts = [text for file in files for text in sentences.texts(str(file), columns)]
    texts = list(dict.fromkeys(texts))[: flags.strings]
    (folder / 'texts.txt').write_text('\n'.join(texts) + '\n', encoding='utf-8')
    vocab = flags.data / 'vocab' / 'bert_base_chinese_vocab.txt'
    model = flags.model or finetune.write_model(folder / 'model', flags.size, vocab)
    steps = -(-len(texts) // flags.batch_size)
    changes = {
        'data.train': str(folder / 'texts.txt'), 'init_from': str(model), 'eval_first': False,
        'dtype': flags.dtype, 'batch_size': flags.batch_size, 'log_every': 10**6,
        'total_steps': steps,
    }  # fmt: skip
    path = folder / 'case.json'
    path.write_text(json.dumps(changes), encoding='utf-8')
    return path


# ---- the contenders, each a process of its own ----


def ours(case: Path) -> dict:
    """This project's training loop, every width compiled before."""
    import jax

    from clower_jax import jobs
    from clower_jax.training import loop
    from clower_jax.training.inherited_settings import resolve_source
    from clower_jax.utils import allocator, metrics_file
    from input_pipeline.features import buckets

    allocator.keep_freed_memory()  # as run.py does
    with tempfile.TemporaryDirectory() as folder:
        config, vocabulary = resolve_source(config_of(case), Path(folder))
        config, data = jobs.read_data(config, vocabulary)
        split, widths = data.splits['train'], data.widths['train']
        programs = loop.make_programs(config)
        counts = {'computed_tokens': 0}

        def one_of_each_width(start_step=0, split='train', rows=None):
            if split == 'train':
                chosen = data.splits['train']
                shortest = np.array([chosen.rows.lengths.argmin()])
                for width in widths:
                    planned = buckets.Planned(width, shortest)
                    yield chosen.rows.batch(planned, config.batch_size) | chosen.targets(
                        planned, config.batch_size
                    )

        def counted(start_step=0, split='train', rows=None):
            if split == 'train':
                counts['began'] = time.perf_counter()
                for batch in data.batches(config, start_step, split, rows):
                    counts['computed_tokens'] += 2 * batch['char_ids'].size
                    yield batch

        warm = config.copy_and_resolve_references()
        warm.total_steps = len(widths)
        began = time.perf_counter()
        loop.train(warm, Path(folder, 'warm'), one_of_each_width, vocabulary, programs=programs)
        compiling = time.perf_counter() - began
        loop.train(config, Path(folder, 'run'), counted, vocabulary, programs=programs)
        seconds = time.perf_counter() - counts.pop('began')
        (measured,) = (
            row
            for row in metrics_file.read_metrics(Path(folder, 'run', 'metrics.jsonl'))
            if row['split'] == 'train'
        )
    return counts | {
        'seconds': [len(split.rows) / measured['examples_per_s']],
        'training_seconds': seconds,
        'compiling_seconds': compiling,
        'loss': measured['loss'],
        'note': f'jax {jax.__version__}, {jax.devices()[0].device_kind}',
    }


def mask_span(text: str, span: int, rng: np.random.Generator) -> str:
    """A span of so many characters replaced by [MASK]."""
    start = int(rng.integers(0, len(text) - span + 1))
    return f'{text[:start]}[MASK]{text[start + span :]}' if span else text


def info_nce(a, b, temperature: float):
    """The recipe's loss, of torch tensors [N, D]: each of the 2N vectors against all others."""
    import torch

    unit = torch.nn.functional.normalize(torch.cat([a, b]))
    scores = unit @ unit.T / temperature
    scores.fill_diagonal_(float('-inf'))
    partner = torch.arange(len(unit), device=a.device).roll(len(a))
    return torch.nn.functional.cross_entropy(scores, partner)


def recipe(case: Path) -> dict:
    """Mirror-BERT as its authors train it, in PyTorch and transformers."""
    import torch
    import transformers

    from input_pipeline.sentence_vectors.mirror_bert import Masks

    config = config_of(case)
    transformers.logging.set_verbosity_error()
    transformers.set_seed(config.seed)
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    dtype = getattr(torch, config.dtype)
    texts = Path(config.data.train).read_text(encoding='utf-8').split('\n')[:-1]
    tokenizer = transformers.BertTokenizerFast(vocab=str(Path(config.init_from) / 'vocab.txt'))
    model = (
        transformers.BertModel.from_pretrained(config.init_from, add_pooling_layer=False).to(device).train()
    )
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim == 1]
    groups = [
        {'params': decayed, 'weight_decay': config.optim.weight_decay},
        {'params': others, 'weight_decay': 0},
    ]
    masks = Masks(config.data.mask_span, config.data.mask_shortest)
    rng = np.random.default_rng(config.seed)
    counts = {'computed_tokens': 0}

    def vectors(batch: list[str]) -> torch.Tensor:
        inputs = tokenizer(
            batch, padding='longest', truncation=True, max_length=config.data.max_length, return_tensors='pt'
        ).to(device)
        counts['computed_tokens'] += inputs['input_ids'].numel()
        with torch.autocast(device, dtype, enabled=dtype != torch.float32):
            hidden = model(**inputs).last_hidden_state.float()
        real = inputs['attention_mask'][..., None].float()
        return (hidden * real).sum(1) / real.sum(1)

    def train(steps: int) -> list[float]:
        optimizer = torch.optim.AdamW(groups, lr=config.optim.learning_rate, eps=1e-6, fused=True)
        order, losses = rng.permutation(len(texts)), []
        for step in range(steps):
            rows = order[step * config.batch_size : (step + 1) * config.batch_size]
            batch = [texts[row] for row in rows]
            copies = [mask_span(text, masks.of(text), rng) for text in batch]
            loss = info_nce(vectors(batch), vectors(copies), config.loss.temperature)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        return [float(loss) for loss in losses]

    start = {name: value.clone() for name, value in model.state_dict().items()}
    began = time.perf_counter()
    train(WARM_UP_STEPS)
    warm_up = time.perf_counter() - began
    model.load_state_dict(start)
    counts['computed_tokens'] = 0
    began = time.perf_counter()
    losses = train(config.total_steps)
    seconds = time.perf_counter() - began
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        training = time.perf_counter() - began
    return counts | {
        'seconds': [seconds],
        'training_seconds': training,
        'compiling_seconds': warm_up,
        'loss': float(np.mean(losses)),
        'note': f'transformers {transformers.__version__}, torch {torch.__version__}, {device}',
    }


# ---- the comparison ----


def parse() -> argparse.Namespace:
    """The flags."""
    import os

    parser = argparse.ArgumentParser(description=__doc__.split('\n\n')[0])
    gpu = shutil.which('nvidia-smi') is not None
    parser.add_argument('--device', choices=('cpu', 'gpu'), default='gpu' if gpu else 'cpu')
    parser.add_argument('--dtype', help='default float32, on a GPU bfloat16')
    parser.add_argument('--size', choices=tuple(common.SIZES), help='default small, on a GPU base')
    parser.add_argument('--model', type=Path, help='a Hugging Face folder instead of random weights')
    parser.add_argument('--strings', type=int, default=10_000)
    parser.add_argument('--batch_size', type=int, default=200)
    parser.add_argument('--rounds', type=int, default=5, help='launches of each contender')
    parser.add_argument(
        '--data', type=Path, default=os.environ.get('CLOWER_DATA'), help='default $CLOWER_DATA'
    )
    parser.add_argument('--json', help='where the figures go')
    parser.add_argument('--as', dest='kind', choices=('ours', 'recipe'), help=argparse.SUPPRESS)
    parser.add_argument('case', type=Path, nargs='?', help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if not flags.kind and not flags.data:
        parser.error('there is no data: set CLOWER_DATA, or give --data=FOLDER')
    flags.dtype = flags.dtype or {'cpu': 'float32', 'gpu': 'bfloat16'}[flags.device]
    flags.size = flags.size or {'cpu': 'small', 'gpu': 'base'}[flags.device]
    return flags


def main() -> None:
    """Compares, or is a contender."""
    flags = parse()
    if flags.kind:
        print(json.dumps({'ours': ours, 'recipe': recipe}[flags.kind](flags.case)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        case = write_case(Path(temporary), flags)
        contender = functools.partial(_command, case)
        launches = harness.alternate({name: contender(name) for name in ('recipe', 'ours')}, flags.rounds)
    ratios = {'steps': harness.speedups(launches, 'recipe')}
    whole = {
        name: [one | {'seconds': [one['training_seconds']]} for one in runs]
        for name, runs in launches.items()
    }
    ratios['training'] = harness.speedups(whole, 'recipe')
    harness.save(flags.json, ratios=ratios, launches=launches)
    rows = []
    for name, runs in launches.items():

        def median(key, shown, runs=runs):
            return format(statistics.median(one[key] for one in runs), shown)

        steps = format(statistics.median(one['seconds'][0] for one in runs), '.2f')
        rows.append(
            (
                name, steps, harness.span(ratios['steps'][name]), median('training_seconds', '.2f'),
                harness.span(ratios['training'][name]), median('compiling_seconds', '.1f'),
                median('computed_tokens', ',.0f'), median('loss', '.3f'),
            )
        )  # fmt: skip
    faster = '× as fast'
    header = ('', 'steps, s', faster, 'training, s', faster, 'compiling, s', 'tokens', 'loss')
    print(harness.table(header, rows))
    print('\n' + ' · '.join(runs[0]['note'] for runs in launches.values()))


def _command(case: Path, kind: str) -> list[str]:
    return ['env', 'JAX_COMPILATION_CACHE_DIR=', sys.executable, __file__, '--as', kind, str(case)]


if __name__ == '__main__':
    main()
