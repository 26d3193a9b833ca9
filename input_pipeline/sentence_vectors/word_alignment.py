"""Which word each token of a text is of, in any language, and alignments of words that come in a file.

    python -m input_pipeline.word_groups --input pairs.tsv --output words.txt

writes the words of each pair of texts, `a1 a2 ||| b1 b2`, as word aligners (fast_align, eflomal) read them, a
line for every line of the file. What they answer, a line `0-0 1-2` for each, is `data.alignment`.
"""

import argparse
import functools
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tokenizers

from input_pipeline.datasets import tables
from input_pipeline.datasets.tables import Spec, clean
from input_pipeline.text.segmenters import SEGMENTERS, Segment, segmenter
from input_pipeline.text.wordpiece import SPECIAL, wordpiece
from input_pipeline.utils import output_file
from input_pipeline.utils.text_files import read_utf8

_LINK = re.compile(r'(\d{1,9})-(\d{1,9})', re.ASCII)


def word_numbers(text: str, encoding: tokenizers.Encoding, segment: Segment) -> np.ndarray:
    """int32 [n]: the number, from 1, of the word that each token of the text is of.

    Words are the segmenter's, those joined between which BERT sees no boundary: Chinese words, Latin words,
    numbers, punctuation marks. They do not depend on the vocabulary.

    Args:
      encoding: of the text, by a tokenizer with BERT's pre-tokenizer, without special tokens.
      segment: see `segmenters.segmenter`.
    """
    if not len(encoding):
        return np.zeros(0, np.int32)
    starts = np.cumsum([0, *map(len, segment(text))])
    word = np.searchsorted(starts, [first for first, _ in encoding.offsets], 'right')
    basic = np.array(encoding.word_ids, np.int64)
    begins = (np.diff(word) != 0) & (np.diff(basic) != 0)
    return np.concatenate([[1], 1 + np.cumsum(begins)]).astype(np.int32)


def words(text: str, segment: Segment) -> list[str]:
    """The words that `word_numbers` counts, as they stand in the text, without white space inside."""
    encoding = _basic().encode(text, add_special_tokens=False)
    numbers = word_numbers(text, encoding, segment)
    begins = np.flatnonzero(np.diff(numbers, prepend=0))
    ends = np.append(begins[1:], len(numbers)) - 1
    offsets = encoding.offsets
    return [''.join(text[offsets[i][0] : offsets[j][1]].split()) for i, j in zip(begins, ends)]


@functools.cache
def _basic() -> tokenizers.Tokenizer:
    """BERT's pre-tokenizer alone: a token for each of its pieces."""
    return wordpiece({token: row for row, token in enumerate(SPECIAL.values())})


def read_alignment(path: str, texts: str) -> dict[int, list[tuple[int, int]]]:
    """Line → links of a file in Pharaoh format, `0-0 1-2`: numbers of words, from 0.

    Args:
      texts: the file of texts; line n of the one is about line n of the other.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the files have not as many lines; or, with file and line, what is no link.
    """
    rows, expected = _lines(path), len(_lines(texts))
    if len(rows) != expected:
        raise ValueError(
            f'{path} has {len(rows)} lines, {texts} has {expected}: line n is to align the words of line n '
            'as python -m input_pipeline.word_groups writes them'
        )
    links: dict[int, list[tuple[int, int]]] = {}
    for number, row in enumerate(rows, 1):
        matches = [(item, _LINK.fullmatch(item)) for item in row.split()]
        wrong = next((item for item, match in matches if not match), None)
        if wrong is not None:
            raise ValueError(f'{path}:{number}: {wrong!r} is no link of two words, such as 0-1')
        links[number] = [(int(match[1]), int(match[2])) for _, match in matches if match]
    return links


def line_of(where: str) -> int:
    """'pairs.tsv:12' → 12."""
    return int(where[where.rindex(':') + 1 :].removeprefix('object '))


def _lines(path: str) -> list[str]:
    return read_utf8(path, 'links and texts are UTF-8, a line for each pair').removesuffix('\n').split('\n')


def one_to_one(
    links: Sequence[tuple[int, int]], words_a: int, words_b: int, most: int, counts: Counter[str]
) -> list[tuple[int, int]]:
    """The links that can be positives of a contrast, numbers from 1, at most `most`, in their order.

    A word is in one pair, the first that has it: in a second one it would be a negative of its own
    translation. Links to words that were cut off, the text being too long, are left out, too; what is left
    out is added to `counts` by reason.

    Args:
      links: numbers of words, from 0.
      words_a, words_b: words that the two texts have left.
    """
    kept: list[tuple[int, int]] = []
    seen: tuple[set[int], set[int]] = (set(), set())
    distinct = dict.fromkeys(links)
    if len(distinct) < len(links):
        counts['that stands there before'] += len(links) - len(distinct)
    for a, b in distinct:
        if a >= words_a or b >= words_b:
            counts['to a word that the texts do not have or that was cut off'] += 1
        elif a in seen[0] or b in seen[1]:
            counts['of a word that has one already'] += 1
        elif len(kept) == most:
            counts[f'more than data.max_aligned={most}'] += 1
        else:
            kept.append((a + 1, b + 1))
            seen[0].add(a)
            seen[1].add(b)
    return kept


def write_words(path: str, output: str, segment: Segment) -> int:
    """Writes the words of each pair in a file, `a1 a2 ||| b1 b2`. An empty side, and both of a line without a
    pair, such as a header, are `_`: aligners end at an empty one. Returns the number of lines. Raises as
    `tables.table`."""
    table = tables.table(path)
    (first, second), _ = tables.roles(table, Spec(pair=True))
    written = ['_ ||| _'] * len(_lines(path))
    for where, row in table.rows:
        sides = (' '.join(words(clean(str(row[column])), segment)) or '_' for column in (first, second))
        written[line_of(where) - 1] = ' ||| '.join(sides)
    output_file.write_text(Path(output), ''.join(f'{line}\n' for line in written))
    return len(written)


def main() -> None:
    """The command; see above."""
    parser = argparse.ArgumentParser(
        prog='python -m input_pipeline.word_groups',
        description='The words of pairs of texts, for a word aligner.',
    )
    parser.add_argument('--input', required=True, help='pairs of texts: .tsv, .csv, .jsonl')
    parser.add_argument('--output', required=True, help='receives a line `a1 a2 ||| b1 b2` for each line')
    parser.add_argument('--segmenter', default='jieba', choices=SEGMENTERS, help='of Chinese text')
    arguments = parser.parse_args()
    try:
        lines = write_words(arguments.input, arguments.output, segmenter(arguments.segmenter))
    except (ValueError, OSError, ImportError) as error:
        raise SystemExit(f'word_groups: {error}') from error
    print(f'{arguments.output}: {lines:,} lines')
