"""Vectors of 100,000 sentences: this project's Encoder against sentence-transformers, as a markdown table.

    CLOWER_DATA=../shared/data python bench/encode.py [--rounds 3] [--texts 100000] [--json FILE]
    … --texts 100 --whole                              whole processes, python -m clower_jax.encode of ours
    … --model FOLDER [--sentences FILE]                another encoder; sentences of a file's lines

Wants `pip install sentence-transformers==6.2.0`. About 15 minutes on two cores: an encoder of 4 × 256
(--size, --model FOLDER) on titles and questions of THUCNews and TNEWS, in fp32 and bf16. Both sides load the
same Hugging Face folder, pool by the mean (a folder of sentence-transformers: as it says), get the texts as a
list and give an array in the same order. What is timed is that call, after both have encoded 64 other texts;
`first call` is that of those. Nothing that ours compiles is cached, but for `ours, again` of --whole, which
finds what an earlier process has left. sentence-transformers, which sorts by length too, has its default
batch of 32 and one of 128 (--batches). `CPU` is the process's own, of the call; of --whole the whole's.
`difference` is the largest between a number of a vector and the same of sentence-transformers' in the first
dtype.
"""

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import numpy as np  # noqa: E402

from bench import harness  # noqa: E402
from bench.finetune import write_model  # noqa: E402

SOURCES = ('thucnews/train_45k_clean.txt', 'thucnews/dev_10k.txt', 'tnews/train.json')  # in finetune/
WARM_UP = 64  # texts that are encoded before the clock starts
NO_CACHE = {'JAX_COMPILATION_CACHE_DIR': ''}


def titles(data: Path) -> list[str]:
    """Distinct ones, of `SOURCES`."""
    distinct: dict[str, None] = {}
    for name in SOURCES:
        for line in (data / 'finetune' / name).read_text(encoding='utf-8').splitlines():
            text = json.loads(line)['sentence'] if name.endswith('.json') else line.split('\t')[0]
            distinct[text.strip()] = None
    distinct.pop('', None)
    return list(distinct)


def read_sentences(path: Path) -> list[str]:
    """The distinct lines of a file."""
    lines = dict.fromkeys(line.strip() for line in path.read_text(encoding='utf-8').split('\n'))
    lines.pop('', None)
    return list(lines)


def ours(flags):
    """`encode` of the folder's encoder."""
    from clower_jax import Encoder

    return Encoder.load(flags.folder, dtype=flags.dtype).encode


def theirs(flags):
    """Likewise."""
    import torch
    from sentence_transformers import SentenceTransformer, models

    if Path(flags.folder, 'modules.json').is_file():
        encoder = SentenceTransformer(flags.folder)
    else:
        transformer = models.Transformer(flags.folder)
        pooling = models.Pooling(transformer.get_word_embedding_dimension(), 'mean')
        encoder = SentenceTransformer(modules=[transformer, pooling])
    encoder = encoder.to(getattr(torch, flags.dtype))

    def encode(texts: list[str]) -> np.ndarray:
        vectors = encoder.encode(
            texts, batch_size=flags.batch_size, convert_to_numpy=False, show_progress_bar=False
        )
        return torch.stack(vectors).float().cpu().numpy()

    return encode


def contender(flags) -> None:
    """One launch: prints its figures, leaves its vectors."""
    *warm_up, text = Path(flags.input).read_text(encoding='utf-8').split('\n\n')
    encode = (theirs if flags.batch_size else ours)(flags)
    figures = {}
    for name, texts in [('first', part.split('\n')) for part in warm_up] + [('seconds', text.split('\n'))]:
        start, cpu = time.perf_counter(), time.process_time()
        vectors = encode(texts)
        figures[name] = [time.perf_counter() - start]
        figures['cpu'] = time.process_time() - cpu
    np.save(flags.output, vectors)
    print(json.dumps(figures))


def whole(command: list[str]) -> None:
    """Prints the seconds of a whole process."""
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    seconds, usage = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    print(json.dumps({'seconds': [seconds], 'cpu': usage.ru_utime + usage.ru_stime}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n')[0])
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--texts', type=int, default=100_000)
    parser.add_argument('--size', default='small', help='of configs/common.py, with random weights')
    parser.add_argument('--model', help='a Hugging Face BERT folder instead')
    parser.add_argument('--dtypes', type=harness.names, default=('float32', 'bfloat16'))
    parser.add_argument('--sentences', type=Path, help='a file with a sentence a line, instead of titles')
    parser.add_argument('--whole', action='store_true', help='time whole processes')
    parser.add_argument(
        '--batches', type=harness.integers, default=(32, 128), help='of sentence-transformers'
    )
    parser.add_argument('--json')
    # Of one launch.
    parser.add_argument('--folder', help=argparse.SUPPRESS)
    parser.add_argument('--input', help=argparse.SUPPRESS)
    parser.add_argument('--output', help=argparse.SUPPRESS)
    parser.add_argument('--dtype', help=argparse.SUPPRESS)
    parser.add_argument('--batch_size', type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument('command', nargs='*', help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.command:
        return whole(flags.command)
    if flags.folder:
        return contender(flags)
    data = Path(os.environ.get('CLOWER_DATA', '.'))
    if not (flags.sentences or (data / 'finetune' / SOURCES[0]).is_file()):
        sys.exit(f'error: no {data}/finetune/{SOURCES[0]}; set CLOWER_DATA to the folder of public data')
    texts = read_sentences(flags.sentences) if flags.sentences else titles(data)
    texts = random.Random(0).sample(texts, min(flags.texts + WARM_UP, len(texts)))
    warm_up, texts = texts[:WARM_UP], texts[WARM_UP:]
    rows, figures = [], {}
    with tempfile.TemporaryDirectory() as folder:
        vocab = data / 'vocab' / 'bert_base_chinese_vocab.txt'
        model = flags.model or write_model(Path(folder, 'model'), flags.size, vocab)
        source = Path(folder, 'texts.txt')
        parts = [texts] if flags.whole else [warm_up, texts]
        source.write_text('\n\n'.join(map('\n'.join, parts)), encoding='utf-8')
        reference = None
        for dtype in flags.dtypes:
            sides = {'ours': 0} | {f'sentence-transformers, {n} in a batch': n for n in flags.batches}
            common = [f'--input={source}', f'--dtype={dtype}']
            outputs = {name: Path(folder, f'{dtype}-{batch}.npy') for name, batch in sides.items()}
            commands = {
                name: [
                    *(sys.executable, __file__, f'--folder={model}', *common),
                    *(f'--batch_size={batch}', f'--output={outputs[name]}'),
                ]
                for name, batch in sides.items()
            }
            if flags.whole:
                commands['ours'] = [sys.executable, '-m', 'clower_jax.encode', f'--model={model}', *common]
                commands['ours'] += [f'--output={outputs["ours"]}']
                commands = {
                    name: ['env', 'JAX_COMPILATION_CACHE_DIR=', sys.executable, __file__, '--', *command]
                    for name, command in commands.items()
                }
                again = f'JAX_COMPILATION_CACHE_DIR={folder}/cache'
                commands['ours, again'] = ['env', again, *commands['ours'][2:]]
                outputs['ours, again'] = outputs['ours']
                harness.launch('ours, again', commands['ours, again'])  # fills the cache
            launches = harness.alternate(commands, flags.rounds, env=os.environ | NO_CACHE)
            figures[dtype] = launches
            slowest = list(sides)[1]
            faster = harness.speedups(launches, slowest)
            reference = np.load(outputs[slowest]) if reference is None else reference
            for name, runs in launches.items():
                columns = [
                    [len(texts) / run['seconds'][0] for run in runs],
                    [run['cpu'] for run in runs],
                    [run.get('first', run['seconds'])[0] for run in runs],
                ]
                speed, cpu, first = (harness.quartiles(values)[1] for values in columns)
                difference = np.abs(np.load(outputs[name]) - reference).max()
                row = [dtype, name, f'{speed:,.0f}', harness.span(faster[name]), f'{cpu:.1f}', f'{first:.1f}']
                rows.append([*row, f'{difference:.1e}'])
    print(f'{len(texts):,} sentences, {sum(map(len, texts)) / len(texts):.1f} characters each\n')
    header = ('dtype', '', 'sentences/s', f'× {slowest}', 'CPU, s', 'first call, s', 'difference')
    print(harness.table(header, rows))
    harness.save(flags.json, texts=len(texts), launches=figures)


if __name__ == '__main__':
    main()
