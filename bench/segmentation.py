"""Speed of jieba and rjieba on one core, and how far they agree, as a markdown table.

    CLOWER_DATA=../shared/data python bench/segmentation.py [--characters 600000] [files …]

Without files it reads $CLOWER_DATA/pretrain/*.txt. Agreement: the share of lines with the same words, and
word F1 (a word agrees where both put the same span).
"""

import argparse
import os
import sys
import time
from itertools import accumulate
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from input_pipeline.text import segmenters  # noqa: E402  (run as a script)


def spans(words: list[str]) -> set[tuple[int, int]]:
    """(start, stop) of every word in its line."""
    stops = list(accumulate(map(len, words)))
    return set(zip([0, *stops], stops))


def agreement(reference: list[list[str]], other: list[list[str]]) -> tuple[float, float]:
    """(share of equal lines, word F1); both are lists of lines of words."""
    equal = sum(map(list.__eq__, reference, other))
    common = sum(len(spans(a) & spans(b)) for a, b in zip(reference, other))
    words = sum(map(len, reference)) + sum(map(len, other))
    return equal / max(len(reference), 1), 2 * common / max(words, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n')[0])
    parser.add_argument('files', nargs='*', type=Path)
    parser.add_argument('--characters', type=int, default=600_000, help='read from the start of each file')
    flags = parser.parse_args()
    files = flags.files or sorted(Path(os.environ.get('CLOWER_DATA', '.'), 'pretrain').glob('*.txt'))
    if not files:
        sys.exit('error: no text; set CLOWER_DATA or name files')
    print('| text | HMM | jieba, characters/s | rjieba, characters/s | equal lines | word F1 |')
    print('|---|---|---|---|---|---|')
    for file in files:
        with file.open(encoding='utf-8') as stream:
            lines = stream.read(flags.characters).splitlines()
        for hmm in (True, False):
            speeds, words = {}, {}
            for name in ('jieba', 'rjieba'):
                cut = segmenters.segmenter(name, hmm)
                cut('先加载词典')
                start = time.perf_counter()
                words[name] = [cut(line) for line in lines]
                speeds[name] = sum(map(len, lines)) / (time.perf_counter() - start)
            equal, f1 = agreement(words['jieba'], words['rjieba'])
            cells = [file.name, 'on' if hmm else 'off', *(f'{speed:,.0f}' for speed in speeds.values())]
            print('|', ' | '.join([*cells, f'{equal:.2%}', f'{f1:.3%}']), '|')


if __name__ == '__main__':
    main()
