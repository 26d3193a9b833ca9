"""What the loading of batches costs, with masks and anchors, against what training consumes.

    CLOWER_DATA=../shared/data python bench/loader.py [--rounds 3] [--json FILE] [--work FOLDER]

Makes two corpora, of 128/96 and of 512/384 tokens, from the beginnings of $CLOWER_DATA/pretrain/*.txt (kept
in FOLDER and used again; --corpus takes one of your own instead), and prints three tables: texts and tokens a
second and core, one text a row and packed; seconds from the call to the first batch, at step 0 and at step
10⁶; reading records in random order, from the disk and from the page cache.

Every figure is of a process of its own, in random order (bench/harness.py). The need of a GPU is taken as
1,000 examples a second of 512 + 384 positions: 1 × means that eight cores make batches just as fast.
"""

import argparse
import gc
import itertools
import json
import os
import resource
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
from bench import harness  # noqa: E402  (run as a script)

LENGTHS = {'128/96': (128, 96), '512/384': (512, 384)}
GPU_POSITIONS = 1000 * (512 + 384)  # a second: the base model on one H200 at 50 to 60 % MFU, computed
GPU_CORES = 8
TEXTS = 32  # of a batch, about; with packing that many in fewer rows
FAR = 10**6  # steps


def config_of(corpus: Path, pack: bool):
    """The config of a run on this corpus, resolved, whose batches have about TEXTS texts."""
    from configs import pretrain
    from input_pipeline.pretraining import batches

    config = pretrain.get_config('cpu')
    config.data.corpus, config.data.pack = os.fspath(corpus), pack
    config.batch_size = TEXTS // batches.PACKED_ROW if pack else TEXTS
    return batches.resolve(config, corpus)


def measure_rate(corpus: Path, pack: bool, texts: int) -> dict:
    """Seconds for each 1,000 texts, by the clock and of all cores' work, after a warm-up."""
    from input_pipeline.pretraining import batches

    stream = batches.batches(config_of(corpus, pack))
    for _ in range(20):
        next(stream)
    out: dict = {'seconds': [], 'cpu_seconds': [], 'tokens': 0, 'positions': 0, 'texts': 0}
    for _ in range(5):
        clock, cpu, made = time.perf_counter(), time.process_time(), 0
        while made < texts / 5:
            batch = next(stream)
            views = batch['char_ids'], batch['word_ids']
            made += int((batch['sop_labels'] >= 0).sum())
            out['tokens'] += int(sum(map(np.count_nonzero, views)))
            out['positions'] += sum(view.size for view in views)
        out['seconds'].append(1000 * (time.perf_counter() - clock) / made)
        out['cpu_seconds'].append(1000 * (time.process_time() - cpu) / made)
        out['texts'] += made
    return out


def measure_start(corpus: Path, pack: bool, step: int) -> dict:
    """Seconds from a resolved config to its first batch; of it the making of the graph, and Python's garbage
    collection, whose first pass over all that was imported falls into it."""
    config = config_of(corpus, pack)
    from input_pipeline.pretraining import batches

    collecting = [0.0]

    def count(phase: str, _: dict) -> None:
        collecting[0] += time.perf_counter() * (1 if phase == 'stop' else -1)

    gc.callbacks.append(count)
    start = time.perf_counter()
    stream = batches.batches(config, start_step=step)
    made = time.perf_counter()
    next(stream)
    done = time.perf_counter()
    return {'seconds': [done - start], 'graph': made - start, 'garbage': collecting[0]}


def measure_reading(corpus: Path, cold: bool, records: int) -> dict:
    """Seconds for each 1,000 records in random order, TEXTS at a time; cold: the page cache is emptied of the
    corpus's files before each 1,000."""
    from input_pipeline.corpus import record_source

    source = record_source.open_split(corpus, 'train')
    numbers = np.random.default_rng(0).integers(len(source), size=(records // TEXTS, TEXTS)).tolist()
    if not cold:
        for drawn in numbers:
            source.__getitems__(drawn)
    seconds = []
    blocks = np.array_split(np.arange(len(numbers)), 5)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_inblock
    for block in blocks:
        for file in corpus.glob('*.array_record*') if cold else ():
            with file.open('rb') as opened:
                os.fsync(opened.fileno())
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        start = time.perf_counter()
        for k in block:
            source.__getitems__(numbers[k])
        seconds.append(1000 * (time.perf_counter() - start) / (len(block) * TEXTS))
    return {'seconds': seconds, 'disk_blocks': resource.getrusage(resource.RUSAGE_SELF).ru_inblock - faults}


def make_corpora(work: Path, data: Path, megabytes: float) -> dict[str, Path]:
    """A corpus for each of LENGTHS from the first megabytes of each text file; those that are there already
    are used again."""
    from input_pipeline.corpus import corpus_builder, vocab_builder

    files = sorted(data.glob('pretrain/*.txt'))
    if not files:
        sys.exit(f'error: {data}/pretrain has no text; set CLOWER_DATA, or give --corpus')
    folder = work / f'{megabytes:g}MB'
    text = folder / 'text'
    text.mkdir(parents=True, exist_ok=True)
    for file in files:
        with file.open('rb') as stream:
            (text / file.name).write_bytes(stream.read(int(megabytes * 1e6)).rpartition(b'\n')[0])
    vocab = folder / 'vocab.txt'
    if not vocab.is_file():
        vocab_builder.build(os.fspath(text), vocab, data / 'vocab' / 'bert_base_chinese_vocab.txt', 20_000)
    corpora = {name: folder / name.replace('/', '-') for name in LENGTHS}
    for name, corpus in corpora.items():
        if not corpus.is_dir():
            corpus_builder.build(os.fspath(text), vocab, corpus, *LENGTHS[name])
    return corpora


def median(launches: list[dict], key: str) -> float:
    """Of a figure, over all launches and all of its values in each."""
    return float(np.median([value for launch in launches for value in np.atleast_1d(launch[key])]))


def rate_table(corpora: dict[str, Path], launches: harness.Launches) -> str:
    """Texts and tokens a second and core, and the share of the computed positions that they are."""
    rows = []
    for name in corpora:
        pair = {kind: launches[f'{name} {kind}'] for kind in ('one text a row', 'packed')}
        ratios = harness.speedups(pair, 'one text a row')
        for kind, runs in pair.items():
            texts = sum(run['texts'] for run in runs)
            per_core = 1000 / median(runs, 'cpu_seconds')
            tokens, positions = (sum(run[key] for run in runs) / texts for key in ('tokens', 'positions'))
            cells = [name, kind, f'{1000 / median(runs, "seconds"):,.0f}', f'{per_core:,.0f}']
            cells += [
                f'{per_core * tokens / 1e6:.2f} M',
                f'{tokens / positions:.1%}',
                harness.span(ratios[kind]),
            ]
            rows.append([*cells, f'{GPU_CORES * per_core * positions / GPU_POSITIONS:.0f} ×'])
    header = ['corpus', 'rows', 'texts/s', 'texts/s/core', 'tokens/s/core', 'filled']
    return harness.table([*header, 'speed per text', f'{GPU_CORES} cores against a GPU'], rows)


def start_table(launches: harness.Launches) -> str:
    """Seconds to the first batch and what they are spent on."""
    rows = []
    for name, runs in launches.items():
        seconds = harness.span(harness.quartiles([run['seconds'][0] for run in runs]))
        rows.append([name, seconds, f'{median(runs, "graph"):.2f}', f'{median(runs, "garbage"):.2f}'])
    return harness.table(
        ['start', 'seconds to the first batch', 'of it until the graph is made', 'of it garbage collection'],
        rows,
    )


def reading_table(launches: harness.Launches) -> str:
    """Records a second in random order."""
    ratios = harness.speedups(launches, 'cold')
    return harness.table(
        ['page cache', 'records/s', 'ratio', 'blocks read from disk'],
        [
            [
                name,
                f'{1000 / median(runs, "seconds"):,.0f}',
                harness.span(ratios[name]),
                f'{median(runs, "disk_blocks"):,.0f}',
            ]
            for name, runs in launches.items()
        ],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n')[0])
    parser.add_argument('--corpus', type=Path, help='instead of the two that are made')
    parser.add_argument('--work', type=Path, default=Path('runs/bench-loader'), help='where they are made')
    parser.add_argument('--megabytes', type=float, default=2.0, help='of each text file')
    parser.add_argument('--texts', type=int, default=20_000, help='measured in each process')
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--json', type=Path)
    parser.add_argument('--measure', choices=('rate', 'start', 'reading'), help=argparse.SUPPRESS)
    parser.add_argument('--pack', action='store_true', help=argparse.SUPPRESS)
    parser.add_argument('--cold', action='store_true', help=argparse.SUPPRESS)
    parser.add_argument('--step', type=int, default=0, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.measure:
        corpus = flags.corpus
        measured = {
            'rate': lambda: measure_rate(corpus, flags.pack, flags.texts),
            'start': lambda: measure_start(corpus, flags.pack, flags.step),
            'reading': lambda: measure_reading(corpus, flags.cold, flags.texts),
        }[flags.measure]()
        print(json.dumps(measured), flush=True)
        return

    data = Path(os.environ.get('CLOWER_DATA', '.'))
    corpora = (
        {flags.corpus.name: flags.corpus} if flags.corpus else make_corpora(flags.work, data, flags.megabytes)
    )
    for corpus in corpora.values():
        measure_start(corpus, True, 0)  # plans its rows, once

    def command(measure: str, corpus: Path, *more: str) -> list[str]:
        own = [sys.executable, __file__, '--measure', measure, '--corpus', os.fspath(corpus)]
        return [*own, '--texts', str(flags.texts), *more]

    last = list(corpora.values())[-1]
    kinds = {'one text a row': [], 'packed': ['--pack']}
    rates = {
        f'{name} {kind}': command('rate', corpus, *more)
        for (name, corpus), (kind, more) in itertools.product(corpora.items(), kinds.items())
    }
    starts = {
        f'{kind}, step {step:,}': command('start', last, '--step', str(step), *more)
        for (kind, more), step in itertools.product(kinds.items(), (0, FAR))
    }
    readings = {'cold': command('reading', last, '--cold'), 'warm': command('reading', last)}
    launches = harness.alternate(rates | starts | readings, flags.rounds)
    rate, start, reading = ({name: launches[name] for name in group} for group in (rates, starts, readings))
    print(rate_table(corpora, rate), start_table(start), reading_table(reading), sep='\n\n')
    harness.save(flags.json, launches=launches)


if __name__ == '__main__':
    main()
