"""Each word's most similar word of as many characters: what MacBERT puts in a masked word's place.

    python -m input_pipeline.similar_words --corpus DIR --output similar.txt [--vectors FILE]

Cui et al. 2020 (arXiv 2004.13922) take similar words from word vectors. Here these are trained on the words
of the corpus (Word2Vec of gensim: pip install 'clower-jax[words]'), or read from a file in word2vec's text
format. The table has a line `word⇥similar word` for every Chinese character and every word of 2 to 4 of them
in the corpus's vocabulary that has a vector, if another one of its length has one, too.
"""

import argparse
import logging
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
from tqdm import tqdm

from input_pipeline.corpus import record_source
from input_pipeline.metrics.retrieval import unit
from input_pipeline.pretraining import loader
from input_pipeline.text.vocabulary import Vocabulary, is_chinese
from input_pipeline.utils import output_file
from input_pipeline.utils.tensorflow import tf
from input_pipeline.utils.text_files import read_utf8

log = logging.getLogger(__name__)

LONGEST = 4  # characters of a word that has a similar one
RECORDS, WORDS = 1024, 2048  # looked at together: of the corpus, of the vocabulary


def build(
    corpus: str | Path,
    output: str | Path,
    vectors: str | Path | None = None,
    dimensions: int = 100,
    window: int = 5,
    min_count: int = 5,
    epochs: int = 5,
    seed: int = 0,
) -> dict[str, int]:
    """Writes the table `output`; the same arguments write the same bytes.

    Args:
      corpus: a folder that build_corpus wrote.
      vectors: a file in word2vec's text format; None: Word2Vec (skip-gram, 5 negatives) of the training
        records' words, with the arguments that follow.
      dimensions: of a vector. window: words on either side. min_count: a rarer word has no vector.

    Returns:
      `words`: those that could have a line; `without_vector` of them; `alone`: with one, but no other of
      their length has one; `written`.

    Raises:
      ValueError: the corpus or the file of vectors cannot be read, or no word of the vocabulary is in it.
      ImportError: gensim is missing.
    """
    vocabulary = Vocabulary.load(Path(corpus, 'vocab.txt'))
    length_of = lengths(vocabulary)
    names = {vocabulary.tokens[row]: row for row in np.flatnonzero(length_of).tolist()}
    if vectors is None:
        word_vectors = trained(
            corpus,
            vocabulary.tokens,
            dimensions,
            window=window,
            min_count=min_count,
            epochs=epochs,
            seed=seed,
        )
        rows = [row for row in names.values() if vocabulary.tokens[row] in word_vectors]
        matrix = np.array([word_vectors[vocabulary.tokens[row]] for row in rows], np.float32)
    else:
        read = read_vectors(vectors, names)
        rows = sorted(read)
        matrix = np.array([read[row] for row in rows], np.float32)
    if not rows:
        source = vectors or f'{corpus} with min_count={min_count}'
        raise ValueError(f'no word of {corpus}/vocab.txt has a vector by {source}')
    nearest = most_similar(matrix, length_of[rows])
    lines = [
        f'{vocabulary.tokens[row]}\t{vocabulary.tokens[rows[other]]}\n'
        for row, other in zip(rows, nearest.tolist())
        if other >= 0
    ]
    output = Path(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    output_file.write_text(output, ''.join(lines))
    return {
        'words': len(names),
        'without_vector': len(names) - len(rows),
        'alone': len(rows) - len(lines),
        'written': len(lines),
    }


def lengths(vocabulary: Vocabulary) -> np.ndarray:
    """int [V]: the characters of each token that may have a similar word, else 0: those that are 1 to 4
    Chinese characters, each a token of the base block."""
    length_of = np.zeros(len(vocabulary), int)
    used = {token: row for row, token in enumerate(vocabulary.tokens)}  # of equal rows BERT uses the last
    for row, token in enumerate(vocabulary.tokens[: vocabulary.base_size]):
        length_of[row] = len(token) == 1 and is_chinese(token) and used[token] == row
    for row, pieces in enumerate(vocabulary.pieces(), vocabulary.base_size):
        token = vocabulary.tokens[row]
        plain = len(pieces) == len(token) <= LONGEST and vocabulary.unk not in pieces
        length_of[row] = len(token) if plain and all(map(is_chinese, token)) else 0
    return length_of


def most_similar(vectors: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """int [N]: for each row of vectors [N, D], the other row of its group [N] with the highest cosine; −1
    where it has no other."""
    units = unit(vectors)
    nearest = np.full(len(vectors), -1)
    for group in np.unique(groups):
        members = np.flatnonzero(groups == group)
        if len(members) < 2:
            continue
        for first in range(0, len(members), WORDS):
            some = members[first : first + WORDS]
            cosines = units[some] @ units[members].T
            cosines[np.arange(len(some)), first + np.arange(len(some))] = -np.inf
            nearest[some] = members[cosines.argmax(axis=1)]
    return nearest


def read_vectors(path: str | Path, rows: Mapping[str, int]) -> dict[int, np.ndarray]:
    """The vectors of these words, by their row, out of a file in word2vec's text format: a line `words
    dimensions` (it may be missing), then `word x₁ x₂ …`. The first of several lines of a word counts.

    Raises ValueError for a line that is not like this, or not like the others.
    """
    vectors: dict[int, np.ndarray] = {}
    size = 0
    with Path(path).open('rb') as file:
        for number, line in enumerate(file, 1):
            name, *values = line.rstrip(b'\r\n ').split(b' ')
            try:
                if number == 1 and len(values) == 1:
                    size = int(values[0])
                    continue
                word, vector = name.decode(), None
                if word in rows and rows[word] not in vectors:
                    vector = np.array(values, np.float32)
                    if not values:
                        raise ValueError('there are none')
            except ValueError as error:
                raise ValueError(f'{path}:{number} is no word and its numbers ({error})') from error
            if vector is not None:
                if not np.isfinite(vector).all():
                    raise ValueError(f'{path}:{number} has numbers that are not finite')
                size = size or len(vector)
                if len(vector) != size:
                    raise ValueError(f'{path}:{number} has {len(vector)} numbers, those before have {size}')
                vectors[rows[word]] = vector
    return vectors


def write_vectors(path: str | Path, vectors: Mapping[str, np.ndarray], words: Iterable[str]) -> None:
    """Writes the vectors of those of `words` that have one, as `read_vectors` reads them."""
    kept = [word for word in words if word in vectors]
    with output_file.atomic_write(Path(path)) as partial, partial.open('w', encoding='utf-8') as file:
        file.write(f'{len(kept)} {len(vectors[kept[0]]) if kept else 0}\n')
        for word in kept:
            file.write(f'{word} {" ".join(map(str, vectors[word]))}\n')


def load(path: str | Path, vocabulary: Vocabulary) -> np.ndarray:
    """int32 [V]: the id of each token's similar word by a table that `build` or somebody else wrote; −1 where
    it has none. Lines with a word that the vocabulary has not are left out, and counted in the log.

    Raises ValueError, with its place, for a line that is no pair, or one of words that differ in their number
    of base tokens.
    """
    ids = {token: row for row, token in enumerate(vocabulary.tokens)}
    spelled = _spelled(vocabulary)
    similar = np.full(len(vocabulary), -1, np.int32)
    unknown = 0
    for number, line in enumerate(read_utf8(path, 'a table of similar words is a UTF-8 text').split('\n'), 1):
        if not line.strip():
            continue
        words = line.rstrip('\r').split('\t')
        if len(words) != 2:
            raise ValueError(f'{path}:{number} must be a word, a tab and a similar word: {line[:60]!r}')
        if not (words[0] in ids and words[1] in ids):
            unknown += 1
            continue
        word, other = map(ids.__getitem__, words)
        if len(spelled[word]) != len(spelled[other]):
            raise ValueError(
                f'{path}:{number}: {words[0]} has {len(spelled[word])} tokens and {words[1]} has '
                f'{len(spelled[other])}; a word is replaced in its place, so they must be as many'
            )
        similar[word] = other
    log.info(
        'Similar words: %d in %s, %d left out (not in the vocabulary)', (similar >= 0).sum(), path, unknown
    )
    return similar


def pieces(similar: np.ndarray, vocabulary: Vocabulary) -> np.ndarray:
    """int32 [V, 4]: the base ids that spell each token's similar word (`load`), −1 after them and where there
    is none, or it has more than 4."""
    table = np.full((len(vocabulary), LONGEST), -1, np.int32)
    spelled = _spelled(vocabulary)
    for row in np.flatnonzero(similar >= 0):
        ids = spelled[similar[row]]
        if len(ids) <= LONGEST:
            table[row, : len(ids)] = ids
    return table


def _spelled(vocabulary: Vocabulary) -> list[tuple[int, ...]]:
    """The base ids of every token."""
    return [(row,) for row in range(vocabulary.base_size)] + list(vocabulary.pieces())


class _Sentences:
    """The words of every training record, anew for each iteration; `passes` of them fill the bar."""

    def __init__(self, corpus: str | Path, tokens: list[str], passes: int):
        self._source, self._tokens = record_source.open_split(corpus, 'train'), np.array(tokens, object)
        self.bar = tqdm(total=passes * len(self._source), desc='word vectors', unit='text', unit_scale=True)

    def __iter__(self) -> Iterator[list[str]]:
        size = len(self._source)

        def read(first: int) -> list[np.ndarray]:
            records = self._source.__getitems__(list(range(first, min(first + RECORDS, size))))
            words = tf.io.parse_example(records, {'word_ids': tf.io.RaggedFeature(tf.int64)})['word_ids']
            return np.split(words.values.numpy(), words.row_splits.numpy()[1:-1])

        for records in loader.prefetch(read, range(0, size, RECORDS)):
            for ids in records:
                yield self._tokens[ids].tolist()
            self.bar.update(len(records))


def trained(
    corpus: str | Path, tokens: list[str], dimensions: int, **settings: int
) -> Mapping[str, np.ndarray]:
    """By word, the vectors [D] that Word2Vec (skip-gram, 5 negatives) makes of the words of a corpus's
    training records; the same arguments make the same ones.

    Args:
      tokens: of its vocabulary, by id. dimensions: D. settings: `window`, `min_count`, `epochs` and `seed`,
        as `build` has them.

    Raises ValueError where the corpus cannot be read, ImportError where gensim is missing.
    """
    try:
        from gensim.models import Word2Vec
    except ImportError as error:
        raise ImportError(
            "word vectors need gensim: pip install 'clower-jax[words]'; or give --vectors FILE"
        ) from error
    # One thread: with more the order of the updates, and so the table, would be another each time.
    model = Word2Vec(vector_size=dimensions, sg=1, workers=1, **settings)
    sentences = _Sentences(corpus, tokens, settings['epochs'] + 1)
    with sentences.bar:
        model.build_vocab(sentences)
        if not len(model.wv):
            return {}
        model.train(sentences, total_examples=model.corpus_count, epochs=model.epochs)
    return model.wv


def main(arguments: list[str] | None = None) -> None:
    """The command line; `arguments` None: the process's own."""
    parser = argparse.ArgumentParser(
        prog='python -m input_pipeline.similar_words', description=__doc__.split('\n\n')[0]
    )
    parser.add_argument('--corpus', required=True, help='a folder that build_corpus wrote')
    parser.add_argument('--output', required=True, help='the table to write')
    parser.add_argument('--vectors', help="word vectors in word2vec's text format, instead of training some")
    parser.add_argument('--dimensions', type=int, default=100)
    parser.add_argument('--window', type=int, default=5, help='words on either side')
    parser.add_argument('--min_count', type=int, default=5, help='a rarer word has no vector')
    parser.add_argument('--epochs', type=int, default=5)
    parser.add_argument('--seed', type=int, default=0)
    flags = parser.parse_args(arguments)
    try:
        counts = build(**vars(flags))
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f'similar_words: {error}')
    print(
        f'{flags.output}: {counts["written"]:,} of {counts["words"]:,} words; '
        f'{counts["without_vector"]:,} have no vector, {counts["alone"]:,} no other word of their length'
    )
