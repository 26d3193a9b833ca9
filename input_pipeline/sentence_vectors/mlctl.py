"""Data of ML-CTL: pairs of translations, with the word that each token is of, and aligned words if known."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from ml_collections import ConfigDict

from input_pipeline.datasets import files
from input_pipeline.features import buckets
from input_pipeline.features.buckets import Rows
from input_pipeline.sentence_vectors import sentence_eval, sentences, word_alignment
from input_pipeline.sentence_vectors.sentences import Pair
from input_pipeline.text.segmenters import Segment, segmenter
from input_pipeline.text.vocabulary import Vocabulary
from input_pipeline.utils import counts
from input_pipeline.utils.counts import NOT_COUNTED, Counts, Ledger

log = logging.getLogger(__name__)


class Translations:
    """Pairs of texts to train on, each text as a token row [CLS] text [SEP], cut at its end if too long.

    Args:
      pairs: no text has two partners.
      max_length: tokens of a row, special ones included.
      segment: what cuts Chinese text into words.
      alignment: line of the file of pairs → links of words, from 0; None: the model is to find them.
      max_aligned: the most links of a pair that are used.
      metrics: what an evaluation measures.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        vocabulary: Vocabulary,
        max_length: int,
        segment: Segment,
        alignment: Mapping[int, Sequence[tuple[int, int]]] | None = None,
        max_aligned: int = 20,
        metrics: tuple[str, ...] = (),
    ):
        self.metrics = metrics
        first, words_a = _encode([pair.text_a for pair in pairs], vocabulary, max_length, segment)
        second, words_b = _encode([pair.text_b for pair in pairs], vocabulary, max_length, segment)
        # A batch is as wide as the longer sides want it: the first has their lengths, in padding.
        lengths = np.maximum(*(np.fromiter(map(len, side), np.int64) for side in (first, second)))
        padded = [np.pad(ids, (0, length - len(ids))) for ids, length in zip(first, lengths)]
        self.rows = Rows(padded, lengths)
        self._others = {
            name: Rows(rows, lengths)
            for name, rows in (('other_ids', second), ('char_words', words_a), ('other_words', words_b))
        }
        self._alignment = None
        self.links: Counts | None = None  # of words, that the file of alignments has
        if alignment is not None:
            read = 0
            self._alignment = np.zeros((len(pairs), max_aligned, 2), np.int32)
            left_out: Counter[str] = Counter()
            for row, pair in enumerate(pairs):
                last_words = words_a[row].max(), words_b[row].max()
                links = alignment[word_alignment.line_of(pair.where)]
                read += len(links)
                kept = word_alignment.one_to_one(links, *last_words, max_aligned, left_out)
                self._alignment[row, : len(kept)] = np.reshape(kept, (-1, 2))
            used = int((self._alignment[..., 0] > 0).sum())
            self.links = Counts(read, used, left_out)
            listed = ''.join(f'; left out, {reason}: {count:,}' for reason, count in left_out.items())
            log.info('%s links between words are used%s', f'{used:,}', listed)

    def targets(self, planned: buckets.Planned, batch_size: int) -> dict[str, np.ndarray]:
        """`other_ids`, `other_segments`, `char_words`, `other_words` int32 [batch_size, width], the number of
        the word that a token is of, from 1 (0: of none), and where it is known `alignment` [batch_size,
        max_aligned, 2]."""
        out = {name: rows.batch(planned, batch_size)['char_ids'] for name, rows in self._others.items()}
        out['other_segments'] = np.zeros_like(out['other_ids'])
        if self._alignment is not None:
            out['alignment'] = buckets.completed(self._alignment, planned, batch_size, 0)
        return out


def _encode(
    texts: list[str], vocabulary: Vocabulary, max_length: int, segment: Segment
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The token rows of texts, and for each token the number of its word (0 for [CLS] and [SEP])."""
    ids, words = [], []
    for text, encoding in zip(texts, sentences.encodings(texts, vocabulary, max_length)):
        ids.append(vocabulary.row_of(encoding.ids))
        words.append(np.pad(word_alignment.word_numbers(text, encoding, segment), 1))
    return ids, words


def read(
    config: ConfigDict, vocabulary: Vocabulary, ledgers: Mapping[str, Ledger] = NOT_COUNTED
) -> dict[str, Translations | sentence_eval.Evaluation]:
    """The splits that `config.mode` needs, as far as there are any: the pairs of `data.train`, and
    `sentence_eval.read_evaluations`. Where there is no dev file, `data.dev_fraction` of train is kept for it.
    `ledgers` count by split.

    Raises ValueError or FileNotFoundError where a file is missing or wrong.
    """
    data = config.data
    splits: dict[str, Translations | sentence_eval.Evaluation] = dict(
        sentence_eval.read_evaluations(config, vocabulary, ledgers)
    )
    if config.mode != 'train':
        return splits
    path = files.paths(config)['train']
    pairs = sentences.related_pairs(path, data, ledgers['train'])
    if 'validation' not in splits and data.dev_fraction and data.evaluation == 'retrieval':
        pairs, held_out = sentences.split_off(pairs, data.dev_fraction)
        counts.move(ledgers, 'rows', len(held_out), 'train', 'validation')
        splits = {'validation': sentence_eval.Retrieval(held_out, vocabulary, data.max_length)} | splits
        log.info('No dev file: %s pairs of train are kept for evaluation', f'{len(held_out):,}')
    alignment = word_alignment.read_alignment(data.alignment, path) if data.alignment else None
    train = Translations(
        pairs, vocabulary, data.max_length, segmenter(data.segmenter), alignment, data.max_aligned,
        sentence_eval.metrics_of(config, splits.get('validation')),
    )  # fmt: skip
    if train.links:
        ledgers['train'].add('links', train.links.read, train.links.kept, train.links.dropped)
    return {'train': train} | splits
