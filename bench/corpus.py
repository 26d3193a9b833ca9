"""Speed of building a corpus against jieba alone on the same text, characters a second a core.

    CLOWER_DATA=../shared/data python bench/corpus.py [--megabytes 4] [--rounds 3] [--json FILE] [files …]

Without files it reads the beginning of each of $CLOWER_DATA/pretrain/*.txt, all of them the same number of
bytes; give it as many megabytes as there is time for. Every contender is a process of its own (harness.py)
and times what it does after its imports and a small job that loads dictionaries; two workers are started
within that time. Building runs on the text and on four times as much of it: the difference is what a
character costs, without what a job costs once.
Then: how far the words agree, what each stage takes, memory, and what 72 billion characters would take.
"""

import argparse
import json
import os
import resource
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

import harness
from segmentation import agreement

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from input_pipeline.corpus import (
    corpus_builder,  # noqa: E402
    record_files,  # noqa: E402
    vocab_builder,  # noqa: E402
)
from input_pipeline.corpus import windows as corpus_windows  # noqa: E402
from input_pipeline.documents import sources  # noqa: E402
from input_pipeline.documents.report import Report  # noqa: E402
from input_pipeline.text import segmenters as text_segmenters  # noqa: E402
from input_pipeline.text import sentences  # noqa: E402
from input_pipeline.text.dual_tokenizer import Tokenizer  # noqa: E402
from input_pipeline.text.vocabulary import Vocabulary  # noqa: E402

PAPER = 72e9  # characters, arXiv 2208.10844, section 4.1
CHUNK_BYTES = 1 << 20  # so that a few megabytes are work for two
TWO = '--direct_running_mode=multi_processing,--direct_num_workers=2'
ROW = {'char_length': 512, 'word_length': 384}


# The contenders: each returns seconds and what else is to be reported


def lines_of(folder: Path) -> list[str]:
    return list(chain.from_iterable(p.read_text('utf-8').splitlines() for p in sorted(folder.glob('*.txt'))))


def segmenters() -> dict[str, Callable[[str], list[str]]]:
    """jieba is what a user calls: `jieba.lcut`, its dictionary loaded, guessing on."""
    return {
        'jieba': text_segmenters._jieba().lcut,
        'rjieba': text_segmenters.segmenter('rjieba'),
        'ours': text_segmenters.segmenter('jieba'),
    }


def cut_lines(folder: Path, name: str) -> dict:
    """Line by line; ours many lines at a time, as the corpus builder does it."""
    lines, cut = lines_of(folder), segmenters()[name]
    characters = sum(map(len, lines))
    if name == 'ours':
        batches = sentences.in_batches(lines, lambda line: [line])
        lines = [sentences.END.join(batch) for batch in batches]
    cut('先加载词典 Wi-Fi')
    start = time.perf_counter()
    for line in lines:
        cut(line)
    return {'seconds': [time.perf_counter() - start], 'characters': characters}


def build(folder: Path, command: str, workers: int) -> dict:
    beam = TWO if workers == 2 else None
    settings = {'chunk_bytes': CHUNK_BYTES, 'beam': beam}

    def run(text: str, scratch: str) -> int:
        if command == 'vocabulary':
            return vocab_builder.build(text, f'{scratch}/vocab.txt', **settings).details['characters']
        made = corpus_builder.build(text, folder.parent / 'vocab.txt', f'{scratch}/corpus', **ROW, **settings)
        return made['characters']

    with tempfile.TemporaryDirectory() as warm, tempfile.TemporaryDirectory() as scratch:
        if workers == 1:
            run(str(folder.parent / 'warm' / '*.txt'), warm)
        start = time.perf_counter()
        characters = run(f'{folder}/*.txt', scratch)
        seconds = time.perf_counter() - start
    return {
        'seconds': [seconds],
        'characters': characters,
        'rss_mb': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def stages(folder: Path) -> dict:
    """Where the time goes when a corpus is built: each stage on its own, the words of the text known."""
    spent: Counter[str] = Counter()

    @contextmanager
    def timed(name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        spent[name] += time.perf_counter() - start

    tokenizer = Tokenizer(Vocabulary.load(folder.parent / 'vocab.txt'))
    cut, pauses = text_segmenters.segmenter('jieba'), corpus_windows.pause_ids(tokenizer)
    lengths = tuple(ROW.values())
    characters = 0
    for warm in (True, False):
        spent.clear()
        for chunk in sources.plan(f'{folder}/*.txt', CHUNK_BYTES):
            with timed('read'):
                documents = list(sources.read(chunk, Report()))
            with timed('hash'):
                for document in documents:
                    corpus_builder._digest(document)
            with (
                tempfile.TemporaryDirectory() as scratch,
                record_files.ShardWriter(Path(scratch, 'x')) as shard,
            ):
                for batch in sentences.in_batches(documents, lambda document: document.paragraphs):
                    texts = [document.paragraphs for document in batch]
                    characters += 0 if warm else sum(map(len, chain.from_iterable(texts)))
                    with timed('sentences'):
                        parts = [sentences.sentences(sentences.END.join(text)) for text in texts]
                        text = sentences.END.join(chain.from_iterable(parts))
                    with timed('segment'):
                        ends = text_segmenters.word_ends(cut, text)
                    with timed('look up words'):
                        tokenizer.numbers_in(text, ends, sentences.END)
                    with timed('tokens and windows'):
                        encoded = corpus_windows.encode_documents(texts, cut, tokenizer, pauses, *lengths)
                    windows = list(chain.from_iterable(made.windows for made in encoded))
                    with timed('serialise'):
                        protos = record_files.examples([window._asdict() for window in windows])
                    with timed('compress and write'):
                        for proto in protos:
                            shard._writer.write(proto)
    for name in ('sentences', 'segment', 'look up words'):  # encode_documents does these again
        spent['tokens and windows'] -= spent[name]
    spent['read'] *= 2  # once to find duplicates
    return {'seconds': [sum(spent.values())], 'characters': characters, 'stages': dict(spent)}


def compare(folder: Path) -> dict:
    lines = lines_of(folder)
    words = {name: list(map(cut, lines)) for name, cut in segmenters().items()}
    agreed = {name: agreement(words['jieba'], words[name]) for name in ('rjieba', 'ours')}
    return {'seconds': [0.0], 'lines': len(lines), 'agreement': agreed}


# The report


def sample(files: list[Path], total: int, folder: Path) -> None:
    """The beginnings of files, whole lines, together about `total` bytes."""
    folder.mkdir()
    for file in files:
        with file.open('rb') as stream:
            data = stream.read(total // len(files))
        (folder / file.name).write_bytes(data[: data.rfind(b'\n') + 1])


def rates(launches: harness.Launches, name: str) -> list[float]:
    """Characters a second of each round; of building, by the difference between the two sizes of text."""
    if name in launches:
        return [one['characters'] / one['seconds'][0] for one in launches[name]]
    return [
        (more['characters'] - one['characters']) / (more['seconds'][0] - one['seconds'][0])
        for one, more in zip(launches[f'{name} ×1'], launches[f'{name} ×4'], strict=True)
    ]


def report(launches: harness.Launches) -> str:
    jieba = rates(launches, 'jieba')
    rows = []
    speeds: dict[str, float] = {}
    for name, cores in {
        **{'jieba': 1, 'rjieba': 1, 'ours': 1},
        **{'vocabulary': 1, 'corpus': 1, 'vocabulary, 2 workers': 2, 'corpus, 2 workers': 2},
    }.items():
        speed = [rate / cores for rate in rates(launches, name)]
        speeds[name] = harness.quartiles(speed)[1]
        ratio = harness.quartiles([ours / theirs for ours, theirs in zip(speed, jieba, strict=True)])
        hours = f'{PAPER / speeds[name] / 3600:,.0f}'
        rows.append([name, f'{speeds[name]:,.0f}', harness.span(ratio), hours])
    both = 1 / (1 / speeds['vocabulary'] + 1 / speeds['corpus'])
    ratio = both / speeds['jieba']
    rows.append(['vocabulary, then corpus', f'{both:,.0f}', f'{ratio:.2f}', f'{PAPER / both / 3600:,.0f}'])
    text = [harness.table(['', 'characters/s/core', '× jieba', 'core-hours for 72 billion'], rows)]

    rows = []
    for name in ('vocabulary', 'corpus'):
        for size in ('×1', '×4'):
            alone, pair = launches[f'{name} {size}'], launches[f'{name}, 2 workers {size}']
            seconds = [[one['seconds'][0] for one in runs] for runs in (alone, pair)]
            rows.append(
                [
                    f'{name} {size}',
                    f'{alone[0]["characters"]:,}',
                    *(f'{harness.quartiles(some)[1]:.1f}' for some in seconds),
                    harness.span(harness.quartiles([a / b for a, b in zip(*seconds, strict=True)])),
                    f'{max(one["rss_mb"] for one in alone):.0f}',
                ]
            )
        ratio = harness.quartiles(
            [b / a for a, b in zip(rates(launches, name), rates(launches, f'{name}, 2 workers'), strict=True)]
        )
        rows.append([f'{name}, the difference', '', '', '', harness.span(ratio), ''])
    header = ['', 'characters', 's, 1 worker', 's, 2 workers', 'speed-up', 'peak memory, 1 worker, MB']
    text.append(harness.table(header, rows))

    shares: Counter[str] = Counter()
    for one in launches['stages']:
        shares.update({name: seconds / one['characters'] for name, seconds in one['stages'].items()})
    total = sum(shares.values())
    rows = [
        [name, f'{1e9 * cost / len(launches["stages"]):.0f}', f'{cost / total:.0%}']
        for name, cost in shares.most_common()
    ]
    text.append(harness.table(['stage', 'ns a character', 'share'], rows))

    [compared] = launches['compare']
    rows = [[name, f'{equal:.3%}', f'{f1:.4%}'] for name, (equal, f1) in compared['agreement'].items()]
    text.append(harness.table([f'words of {compared["lines"]:,} lines', 'lines equal', 'word F1'], rows))
    return '\n\n'.join(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n')[0])
    parser.add_argument('files', nargs='*', type=Path)
    parser.add_argument(
        '--megabytes', type=float, default=4, help='of text; building takes four times it too'
    )
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--json', help='write the raw figures here')
    parser.add_argument('--contender', nargs='+', help=argparse.SUPPRESS)  # a process of this benchmark
    flags = parser.parse_args()
    if flags.contender:
        folder, name, *rest = flags.contender
        functions = {'cut': cut_lines, 'build': build, 'stages': stages, 'compare': compare}
        print(json.dumps(functions[name](Path(folder), *map(_number, rest))))
        return
    files = flags.files or sorted(Path(os.environ.get('CLOWER_DATA', '.'), 'pretrain').glob('*.txt'))
    if not files:
        sys.exit('error: no text; set CLOWER_DATA or name files')
    scratch = Path(tempfile.mkdtemp(prefix='bench-corpus-'))
    try:
        for name, size in {'warm': 0.06, '×1': flags.megabytes, '×4': 4 * flags.megabytes}.items():
            sample(files, int(1e6 * size), scratch / name)
        vocab_builder.build(f'{scratch}/×4/*.txt', scratch / 'vocab.txt', chunk_bytes=CHUNK_BYTES)

        def command(folder: str, *contender: object) -> list[str]:
            return [sys.executable, __file__, '--contender', str(scratch / folder), *map(str, contender)]

        contenders = {name: command('×1', 'cut', name) for name in ('jieba', 'rjieba', 'ours')}
        for name in ('vocabulary', 'corpus'):
            for size in ('×1', '×4'):
                contenders[f'{name} {size}'] = command(size, 'build', name, 1)
                contenders[f'{name}, 2 workers {size}'] = command(size, 'build', name, 2)
        contenders['stages'] = command('×1', 'stages')
        launches = harness.alternate(contenders, flags.rounds)
        launches['compare'] = [harness.launch('compare', command('×1', 'compare'))]
        print(report(launches))
        harness.save(flags.json, launches=launches)
    finally:
        shutil.rmtree(scratch)


def _number(text: str) -> str | int:
    return int(text) if text.isdecimal() else text


if __name__ == '__main__':
    main()
