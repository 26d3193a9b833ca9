"""Where words stand in a corpus: some sentences that each of them occurs in."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from input_pipeline.corpus import record_source
from input_pipeline.pretraining import loader
from input_pipeline.utils.tensorflow import tf

RECORDS = 4096  # read together
Ids = tuple[int, ...]


class Contexts(NamedTuple):
    """Sentences, int32 [L] each, ids of the corpus's base block without special tokens; and occurrences of
    words in them, int [S] each: of which word, in which sentence, its first token, its number of tokens."""

    sentences: list[np.ndarray]
    word: np.ndarray
    sentence: np.ndarray
    start: np.ndarray
    length: np.ndarray

    def of(self, words: Sequence[int]) -> 'Contexts':
        """Those of some words, which are numbered anew, in the order of `words`."""
        renumbered = {word: number for number, word in enumerate(words)}
        selected = np.isin(self.word, words)
        word = np.array([renumbered[word] for word in self.word[selected].tolist()], np.int64)
        used, sentence = np.unique(self.sentence[selected], return_inverse=True)
        sentences = [self.sentences[number] for number in used]
        return Contexts(sentences, word, sentence, self.start[selected], self.length[selected])


def find(
    corpus: str | Path, split: str, words: Mapping[Ids, int], most: int, seed: int = 0, longest: int = 510
) -> Contexts:
    """Up to `most` occurrences of each word in a split, drawn at random, each in its sentence.

    An occurrence is where the segmenter cut the text at both ends of the word and nowhere within.

    Args:
      words: the base ids that spell each word → its number.
      longest: tokens of a sentence; occurrences in a longer one do not count.

    Raises ValueError as `record_source.open_split`.
    """
    source = record_source.open_split(corpus, split)
    by_length: dict[int, np.ndarray] = {}
    for size in {len(spelled) for spelled in words if spelled}:
        by_length[size] = np.unique(_hashes(np.array([ids for ids in words if len(ids) == size], np.int64)))

    def read(first: int) -> list[tuple[int, np.ndarray, int, int]]:
        serialized = source.__getitems__(list(range(first, min(first + RECORDS, len(source)))))
        flat = {
            key: rows.values.numpy() for key, rows in record_source.parse(tf.constant(serialized)).items()
        }
        ids, token_length = flat['char_ids'], flat['word_char_len']
        length = _sums(token_length, flat['whole_word_tokens'])  # of each word, in characters
        start = np.cumsum(length) - length
        sentence_length = _sums(token_length, flat['sentence_words'])
        sentence_start = np.cumsum(sentence_length) - sentence_length
        occurrences = []
        for size, wanted in by_length.items():
            starts = start[length == size]
            spelled = ids[starts[:, None] + np.arange(size)].astype(np.int64)
            for at in np.flatnonzero(np.isin(_hashes(spelled), wanted)):
                word = words.get(tuple(spelled[at].tolist()))
                if word is None:
                    continue  # of another word, with the same hash
                sentence = int(np.searchsorted(sentence_start, starts[at], 'right')) - 1
                begin, count = int(sentence_start[sentence]), int(sentence_length[sentence])
                if count <= longest:
                    occurrences.append((word, ids[begin : begin + count], int(starts[at]) - begin, size))
        return occurrences

    # A sample of fixed size that does not depend on how many there will be (Vitter 1985, algorithm R).
    random = np.random.default_rng(seed)
    seen: dict[int, int] = {}
    kept: dict[int, list] = {}
    firsts = range(0, len(source), RECORDS)
    bar = tqdm(desc=f'words in {split}', total=len(firsts), unit=f' x {RECORDS} texts')
    with bar:
        for occurrences in loader.prefetch(read, firsts):
            for word, *occurrence in occurrences:
                seen[word] = seen.get(word, 0) + 1
                if seen[word] <= most:
                    kept.setdefault(word, []).append(occurrence)
                elif (place := int(random.integers(seen[word]))) < most:
                    kept[word][place] = occurrence
            bar.update(1)
    return _together(kept)


def _together(kept: Mapping[int, Sequence]) -> Contexts:
    """The occurrences, by word, with each distinct sentence once."""
    number: dict[bytes, int] = {}
    sentences: list[np.ndarray] = []
    rows = []
    for word in sorted(kept):
        for ids, start, length in kept[word]:
            key = ids.tobytes()
            if key not in number:
                number[key] = len(sentences)
                sentences.append(ids.copy())
            rows.append((word, number[key], start, length))
    return Contexts(sentences, *np.array(rows, np.int64).reshape(-1, 4).T)


def _sums(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Of the first counts[0] values, of the counts[1] after them, and so on; each count is at least 1."""
    return np.add.reduceat(values, np.cumsum(counts) - counts) if len(counts) else counts


def _hashes(ids: np.ndarray) -> np.ndarray:
    """uint64 [N]: of rows of ids [N, n]."""
    hashes = np.zeros(len(ids), np.uint64)
    for column in ids.T.astype(np.uint64):
        hashes = hashes * np.uint64(1_000_003) + column
    return hashes
