"""What batches, losses and steps are, as values that stay: for every kind of pre-training and of fine-tuning.

Run by itself, this file prints all values with hashes of floats, to compare two states of the code on one
machine; with --write it writes frozen.json anew, where a change is meant. The folder frozen/ is a workdir
that an earlier state of the code left; it stays as it is and has to load.

Batches are integers and are compared by their hash, losses and gradients are compared as numbers.
"""

import argparse
import hashlib
import itertools
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from clower_jax import Encoder
from clower_jax.checkpoints.orbax_store import Checkpoints
from clower_jax.checkpoints.train_state import TrainState
from clower_jax.export.bert_folder import export
from clower_jax.objectives import registry
from clower_jax.training import optim
from clower_jax.training.run_log import Writer
from clower_jax.training.train_step import make_train_step
from configs import auto_mlm, classify, cmrc, mirror, mlctl, pretrain
from helpers import synthetic
from input_pipeline.corpus import corpus_builder, from_text, vocab_builder
from input_pipeline.finetuning import data as finetuning_data
from input_pipeline.pretraining import batches
from input_pipeline.text.vocabulary import Vocabulary

FILE = Path(__file__).parent / 'frozen.json'
WORKDIR = Path(__file__).parent / 'frozen'
STEPS = 3
MODEL = {
    'model.hidden_size': 32, 'model.num_layers': 1, 'model.num_heads': 2, 'model.intermediate_size': 64,
    'model.max_positions': 64, 'model.dropout': 0.1, 'model.attention_dropout': 0.1,
}  # fmt: skip
RUN = {'total_steps': STEPS, 'batch_size': 8, 'optim.learning_rate': 1e-3, 'optim.warmup_steps': 1}
PRETRAINING = {
    'clower': {},
    'clower_packed': {'data.pack': True, 'data.char_length': 64, 'data.word_length': 48},
    'clower_branch': {'loss.mlm_candidates': 'branch', 'loss.same_word_negatives': False},
    'clower_microbatches': {'microbatches': 2},
    'bert': pretrain.SYSTEMS['bert_wwm_sop'],
    'macbert': pretrain.SYSTEMS['macbert'],
    'fully_explored': pretrain.SYSTEMS['fully_explored'],
    'fully_explored_whole': pretrain.SYSTEMS['fully_explored_whole'] | {'batch_size': 12},
    'ambert': pretrain.SYSTEMS['ambert'],
    'lichee': pretrain.SYSTEMS['lichee'],
    'cmlm': pretrain.SYSTEMS['cmlm'],
}
# Whose steps are in frozen.json: every kind that has code of its own. Compiling them takes most of the time.
STEPPED = (
    *('clower', 'clower_packed', 'ambert', 'lichee', 'cmlm'),
    *('classify', 'span', 'mirror', 'mlctl', 'auto_mlm'),
)


def corpus(folder: Path) -> Path:
    """A corpus of short rows from the embedded text, and a table of similar words (drawn, not learned)."""
    text = str(from_text.EMBEDDED / 'everyday.txt')
    vocab_builder.build(text, folder / 'vocab.txt', num_words=300)
    out = folder / 'corpus'
    corpus_builder.build(
        text, folder / 'vocab.txt', out, char_length=32, word_length=24, validation_fraction=0.1
    )
    tokens = Vocabulary.load(out / 'vocab.txt').tokens
    words = [token for token in tokens if len(token) == 2 and '\u4e00' <= token[0] <= '\u9fff']
    pairs = zip(words, [*words[1:], words[0]])
    lines = [f'{word}\t{similar}\n' for word, similar in pairs]
    (folder / 'similar.tsv').write_text(''.join(lines), encoding='utf-8')
    return out


def pretraining(
    folder: Path, names: Sequence[str] = tuple(PRETRAINING)
) -> Iterator[tuple[str, ConfigDict, list[dict[str, np.ndarray]]]]:
    """(name, resolved config, three batches to train on, one held out) of each way to pre-train, or these."""
    for name in names:
        changes = PRETRAINING[name]
        config = pretrain.get_config()
        data = {'data.corpus': str(folder / 'corpus'), 'data.char_length': 0, 'data.word_length': 0}
        config.update_from_flattened_dict(MODEL | RUN | data | changes)
        if config.data.masking == 'ngrams':
            config.data.similar_words = str(folder / 'similar.tsv')
        config = batches.resolve(config, folder)
        train = batches.batches(config)
        yield (
            name,
            config,
            [*(next(train) for _ in range(STEPS)), next(batches.batches(config, split='validation'))],
        )


def sentences() -> list[str]:
    """Distinct sentences of the embedded text, in its order."""
    text = (from_text.EMBEDDED / 'science.txt').read_text('utf-8')
    return list(
        dict.fromkeys(line.strip() for line in text.replace('。', '。\n').split('\n') if line.strip())
    )


def write_lines(path: Path, *rows: tuple[str, ...]) -> str:
    """A file of rows whose columns are divided by tabs."""
    path.write_text(''.join('\t'.join(row) + '\n' for row in rows), encoding='utf-8')
    return str(path)


def questions(texts: list[str]) -> dict:
    """In SQuAD's format: the fourth and fifth character of each text are to be found."""

    def question(number: int, text: str) -> dict:
        answers = [{'text': text[3:5], 'answer_start': 3}]
        return {'context': text, 'qas': [{'id': f'q{number}', 'question': text[:3], 'answers': answers}]}

    return {'version': 'v1.0', 'data': [{'paragraphs': [question(*item) for item in enumerate(texts)]}]}


def finetuned(folder: Path) -> Iterator[tuple[str, ConfigDict, list[dict[str, np.ndarray]]]]:
    """The same for each way to fine-tune."""
    texts = sentences()[:80]
    whole = Vocabulary.load(folder / 'corpus' / 'vocab.txt')
    characters = Vocabulary(whole.tokens[: whole.base_size], whole.base_size)
    labelled = [(text, 'long' if len(text) > 25 else 'short') for text in texts]
    classes = {
        'data.train': write_lines(folder / 'train.tsv', ('text', 'label'), *labelled[:40]),
        'data.dev': write_lines(folder / 'dev.tsv', ('text', 'label'), *labelled[40:60]),
        'data.max_length': 32,
    }
    spans = {}
    for name, part in {'train': texts[:30], 'dev': texts[30:40]}.items():
        path = folder / f'{name}.json'
        path.write_text(json.dumps(questions(part), ensure_ascii=False), encoding='utf-8')
        spans[f'data.{name}'] = str(path)
    spans |= {'data.max_length': 24, 'data.stride': 8, 'data.max_question_length': 6}
    scored = [(a, b, f'{i % 5}') for i, (a, b) in enumerate(zip(texts[40:60], texts[41:61]))]
    strings = {
        'data.train': write_lines(folder / 'strings.txt', *((text,) for text in texts[:40])),
        'data.dev': write_lines(folder / 'scored.tsv', *scored),
        'data.max_length': 32,
    }
    pairs = [(text, text[: len(text) // 2]) for text in texts]
    translated = {'data.train': write_lines(folder / 'pairs.tsv', *pairs), 'data.max_length': 32}
    masked = strings | {'data.dev': write_lines(folder / 'retrieval.tsv', *pairs[40:])}
    jobs: dict[str, tuple[ConfigDict, Vocabulary, Mapping]] = {
        'classify': (classify.get_config(), characters, classes),
        'classify_cls': (classify.get_config(), characters, classes | {'model.classify_from': 'cls'}),
        'classify_word': (classify.get_config(), whole, classes | {'model.kind': 'word'}),
        'classify_ambert': (classify.get_config(), whole, classes | {'model.kind': 'ambert'}),
        'classify_lichee': (classify.get_config(), whole, classes | {'model.kind': 'lichee'}),
        'span': (cmrc.get_config(), characters, spans),
        'mirror': (mirror.get_config('sentence'), characters, strings),
        'mirror_drophead': (mirror.get_config('word,drophead'), characters, strings),
        'simcse': (mirror.get_config('simcse'), characters, strings),
        'consert': (mirror.get_config('consert'), characters, strings),
        'mlctl': (mlctl.get_config(), characters, translated),
        'auto_mlm': (auto_mlm.get_config(), characters, masked),
    }
    for name, (config, vocabulary, changes) in jobs.items():
        dropout = {} if 'drophead' in name else {'model.dropout': 0.1, 'model.attention_dropout': 0.1}
        sizes = {key: value for key, value in MODEL.items() if 'dropout' not in key} | dropout
        config.update_from_flattened_dict(sizes | RUN | {'model.kind': 'bert', 'data.buckets': 2} | changes)
        if vocabulary is whole:
            config.data.segmenter = 'jieba'
        config, data = finetuning_data.prepare(config, vocabulary)
        train = data.batches(config)
        held_out = next(data.batches(config, split='validation'))
        yield name, config, [*(next(train) for _ in range(STEPS)), held_out]


def digest(tree) -> str:
    """A hash of the names, types, shapes and bytes of a tree of arrays."""
    out = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        leaf = np.asarray(leaf)
        out.update(f'{jax.tree_util.keystr(path)} {leaf.dtype} {leaf.shape}'.encode())
        out.update(np.ascontiguousarray(leaf).tobytes())
    return out.hexdigest()[:16]


def steps(config: ConfigDict, its_batches: list[dict[str, np.ndarray]]) -> tuple[dict[str, list], dict]:
    """The metrics of three steps from random parameters and of what is held out, and the parameters then."""
    task = registry.from_config(config)
    optimizer = optim.optimizer(config)
    step = make_train_step(task, optimizer, optim.learning_rate(config))
    state = TrainState.create(task.init(jax.random.key(0)), optimizer, config.dtype)
    *train, held_out = its_batches
    measured: dict[str, list] = {}
    for batch in train:
        state, out = step(state, batch, jax.random.key(1))
        for name, (total, count) in out['sums'].items():
            measured.setdefault(name, []).append(float(total) / max(float(count), 1))
    if config.task in ('pretrain', 'classify', 'span'):
        sums, _ = jax.jit(task.evaluate)(state.params, held_out)
        means = {name: float(total) / max(float(count), 1) for name, (total, count) in sums.items()}
        measured |= {f'held_out_{name}': [value] for name, value in means.items()}
    return dict(sorted(measured.items())), state.params


def begin(config: ConfigDict) -> tuple[TrainState, Callable]:
    """The first state of a tiny run, and its step."""
    task, optimizer = registry.from_config(config), optim.optimizer(config)
    state = TrainState.create(task.init(jax.random.key(config.seed)), optimizer, config.dtype)
    return state, make_train_step(task, optimizer, optim.learning_rate(config))


def tiny_run() -> ConfigDict:
    """The config of the run in tests/frozen."""
    sizes = {'hidden_size': 16, 'num_layers': 1, 'num_heads': 2, 'intermediate_size': 32}
    return synthetic.tiny_config(**{f'model.{name}': size for name, size in sizes.items()})


def write_workdir() -> None:
    """Two steps of a tiny run as a workdir."""
    config = tiny_run()
    state, step = begin(config)
    for batch in itertools.islice(synthetic.batches(config), 2):
        state, _ = step(state, batch, jax.random.key(1))
    writer = Writer(WORKDIR)
    writer.write_config(config, synthetic.Vocabulary().tokens)
    writer.close()
    with Checkpoints(WORKDIR) as checkpoints:
        checkpoints.save(state)


def of_workdir(folder: Path) -> dict:
    """What is made of the workdir: its next step's metrics, vectors of texts, the files of its export."""
    config = tiny_run()
    state, step = begin(config)
    with Checkpoints(WORKDIR, read_only=True) as checkpoints:
        state = checkpoints.restore(state)
    state, out = step(state, next(synthetic.batches(config, start_step=int(state.step))), jax.random.key(1))
    vectors = Encoder.load(WORKDIR).encode(['一丁七', '万丈三上'])
    export(WORKDIR, folder / 'hf')
    files = sorted(path for path in (folder / 'hf').rglob('*') if path.is_file() and path.name != 'README.md')
    return {
        'step': int(state.step),
        'metrics': {name: [float(total)] for name, (total, _) in sorted(out['sums'].items())},
        'vectors': vectors.tolist(),
        'export': {path.name: hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in files},
    }


def values(folder: Path, everything: bool = False) -> dict[str, dict]:
    """{name: {'batches': a hash, 'metrics': {name: values}}}, the metrics of those that are `STEPPED`;
    `everything`: of all, with a hash of the parameters after the steps."""
    corpus(folder)
    found: dict[str, dict] = {}
    for cases in (pretraining, finetuned):
        for name, config, its_batches in cases(folder):
            found[name] = {'batches': digest(its_batches)}
            if everything or name in STEPPED:
                found[name]['metrics'], params = steps(config, its_batches)
                if everything:
                    found[name]['params'] = digest(params)
    found['workdir'] = of_workdir(folder)
    return found


def main() -> None:
    """Prints the values or, with --write, writes them."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--write', action='store_true', help=f'write {FILE.name}')
    args = parser.parse_args()
    jax.config.update('jax_platforms', 'cpu')
    if not WORKDIR.exists():
        write_workdir()
    with tempfile.TemporaryDirectory() as folder:
        text = json.dumps(values(Path(folder), not args.write), indent=1, ensure_ascii=False) + '\n'
    if args.write:
        FILE.write_text(text, encoding='utf-8')
    else:
        sys.stdout.write(text)


if __name__ == '__main__':
    main()
