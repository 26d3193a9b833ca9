"""Vectors of 100,000 sentences: this project's Encoder against sentence-transformers, as a markdown table.

    CLOWER_DATA=../shared/data python bench/encode.py [--rounds 3] [--texts 100000] [--json FILE]

Wants `pip install sentence-transformers==6.2.0`. About 15 minutes on two cores: an encoder of 4 × 256
(--size, --model FOLDER) on titles and questions of THUCNews and TNEWS, in fp32 and bf16. Both sides load the
same Hugging Face folder, pool by the mean, get the texts as a list and give an array in the same order; what
is timed is that call, of ours with all that it compiles, nothing being cached. sentence-transformers, which
sorts by length too, has its default batch of 32 and one of 128. `difference` is the largest between a number
of a vector and the same of sentence-transformers' in fp32.
"""

import argparse
import json
import os
import random
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import numpy as np  # noqa: E402

from bench import harness  # noqa: E402
from bench.finetune import write_model  # noqa: E402

SOURCES = ('thucnews/train_45k_clean.txt', 'thucnews/dev_10k.txt', 'tnews/train.json')  # in finetune/
PEER_BATCHES = (32, 128)


def sentences(data: Path, count: int) -> list[str]:
    """`count` distinct ones, chosen at random."""
    found: dict[str, None] = {}
    for name in SOURCES:
        for line in (data / 'finetune' / name).read_text(encoding='utf-8').splitlines():
            text = json.loads(line)['sentence'] if name.endswith('.json') else line.split('\t')[0]
            found[text.strip()] = None
    found.pop('', None)
    return random.Random(0).sample(list(found), min(count, len(found)))


def ours(flags, texts: list[str]) -> tuple[float, np.ndarray]:
    """Seconds and vectors."""
    from clower_jax import Encoder

    encoder = Encoder.load(flags.folder, dtype=flags.dtype)
    start = time.perf_counter()
    vectors = encoder.encode(texts)
    return time.perf_counter() - start, vectors


def theirs(flags, texts: list[str]) -> tuple[float, np.ndarray]:
    """Likewise."""
    import torch
    from sentence_transformers import SentenceTransformer, models

    transformer = models.Transformer(flags.folder)
    pooling = models.Pooling(transformer.get_word_embedding_dimension(), 'mean')
    encoder = SentenceTransformer(modules=[transformer, pooling])
    encoder = encoder.to(getattr(torch, flags.dtype))
    encoder.encode(texts[:64])
    start = time.perf_counter()
    vectors = encoder.encode(texts, batch_size=flags.batch_size, convert_to_numpy=False)
    vectors = torch.stack(vectors).float().cpu().numpy()
    return time.perf_counter() - start, vectors


def contender(flags) -> None:
    """One launch: prints its figures, leaves its vectors."""
    texts = Path(flags.input).read_text(encoding='utf-8').split('\n')
    seconds, vectors = (theirs if flags.batch_size else ours)(flags, texts)
    np.save(flags.output, vectors)
    print(json.dumps({'seconds': [seconds]}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n')[0])
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--texts', type=int, default=100_000)
    parser.add_argument('--size', default='small', help='of configs/common.py, with random weights')
    parser.add_argument('--model', help='a Hugging Face BERT folder instead')
    parser.add_argument('--dtypes', default='float32,bfloat16')
    parser.add_argument('--json')
    # Of one launch.
    parser.add_argument('--folder', help=argparse.SUPPRESS)
    parser.add_argument('--input', help=argparse.SUPPRESS)
    parser.add_argument('--output', help=argparse.SUPPRESS)
    parser.add_argument('--dtype', help=argparse.SUPPRESS)
    parser.add_argument('--batch_size', type=int, default=0, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.folder:
        return contender(flags)
    data = Path(os.environ.get('CLOWER_DATA', '.'))
    if not (data / 'finetune' / SOURCES[0]).is_file():
        sys.exit(f'error: no {data}/finetune/{SOURCES[0]}; set CLOWER_DATA to the folder of public data')
    texts = sentences(data, flags.texts)
    environment = os.environ | {'JAX_COMPILATION_CACHE_DIR': ''}
    rows, figures = [], {}
    with tempfile.TemporaryDirectory() as folder:
        vocab = data / 'vocab' / 'bert_base_chinese_vocab.txt'
        model = flags.model or write_model(Path(folder, 'model'), flags.size, vocab)
        source = Path(folder, 'texts.txt')
        source.write_text('\n'.join(texts), encoding='utf-8')
        reference = None
        for dtype in flags.dtypes.split(','):
            sides = {'ours': 0} | {f'sentence-transformers, {n} in a batch': n for n in PEER_BATCHES}
            launch = [sys.executable, __file__, f'--folder={model}', f'--input={source}', f'--dtype={dtype}']
            outputs = {name: Path(folder, f'{dtype}-{batch}.npy') for name, batch in sides.items()}
            commands = {
                name: [*launch, f'--batch_size={batch}', f'--output={outputs[name]}']
                for name, batch in sides.items()
            }
            launches = harness.alternate(commands, flags.rounds, env=environment)
            figures[dtype] = launches
            slowest = list(sides)[1]
            faster = harness.speedups(launches, slowest)
            reference = np.load(outputs[slowest]) if reference is None else reference
            for name, runs in launches.items():
                speed = harness.quartiles(
                    [len(texts) / seconds for run in runs for seconds in run['seconds']]
                )
                difference = np.abs(np.load(outputs[name]) - reference).max()
                row = [dtype, name, f'{speed[1]:,.0f}', harness.span(faster[name]), f'{difference:.1e}']
                rows.append(row)
    print(f'{len(texts):,} sentences, {sum(map(len, texts)) / len(texts):.1f} characters each\n')
    header = ('dtype', '', 'sentences/s', f'× {slowest}', 'difference')
    print(harness.table(header, rows))
    harness.save(flags.json, texts=len(texts), launches=figures)


if __name__ == '__main__':
    main()
