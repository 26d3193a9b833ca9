"""Data of token classification: texts with entities → token rows with tags, predicted tags → entities."""

import json
import logging
import operator
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from input_pipeline.datasets import catalog, files, labelled, tag_schemes, tagged
from input_pipeline.datasets.tag_schemes import Span
from input_pipeline.datasets.tagged import TaggedText
from input_pipeline.features import buckets, reading_windows
from input_pipeline.features.buckets import Outputs, Rows
from input_pipeline.metrics.entities import entity_scores
from input_pipeline.text.vocabulary import Vocabulary
from input_pipeline.utils import counts, output_file
from input_pipeline.utils.counts import NOT_COUNTED, Ledger

log = logging.getLogger(__name__)

NO_TAG = -1
Entities = list[list[Span]]  # of each text, in characters


class Tagging:
    """One split of a token classification data set, as token rows [CLS] window [SEP].

    A text that is too long for one row is read through overlapping windows, and each of its tokens has a tag,
    and gets its prediction, in the window that gives it most context (`reading_windows.layout`).

    Args:
      texts: in file order; a text's number is its place here.
      labels: every tag; a logit's place is its tag's place here.
      data: `config.data`: `max_length` (tokens of a row, special ones included) and `stride`.
    """

    metrics = ('acc_tag', 'entity_f1', 'entity_precision', 'entity_recall', 'entity_macro_f1')
    thresholds = None

    def __init__(
        self,
        texts: Sequence[TaggedText],
        labels: Sequence[str],
        vocabulary: Vocabulary,
        data: ConfigDict,
    ):
        self._texts = texts
        self._labels = [tag_schemes.normalised(label) for label in labels]
        encoded = reading_windows.tokens_of([text.text for text in texts], vocabulary.wordpiece)
        self._offsets = [offsets for _, offsets in encoded]
        windows = [
            (number, *window)
            for number, (ids, _) in enumerate(encoded)
            for window in reading_windows.layout(len(ids), data.max_length - 2, data.stride)
        ]
        self._windows = np.array(windows, np.int32)  # [W, 5]: text, first, length, most context from, to
        ids = [
            vocabulary.row_of(encoded[number][0][first : first + length])
            for number, first, length, *_ in windows
        ]
        self.rows = Rows(ids, np.fromiter(map(len, ids), np.int64, len(ids)))
        self._tags = self._target_rows()

    def _target_rows(self) -> list[np.ndarray]:
        """int32 [length + 2] of each window: places of its tokens' tags, or `NO_TAG`."""
        place = {label: index for index, label in enumerate(self._labels)}
        scheme, types = tag_schemes.scheme_of(self._labels), set(tag_schemes.types_of(self._labels))
        per_text, inexact = [], 0
        for text, offsets in zip(self._texts, self._offsets, strict=True):
            if text.spans is None:
                per_text.append(np.full(len(offsets), NO_TAG, np.int32))
                continue
            flat = tag_schemes.without_overlaps(span for span in text.spans if span.type in types)
            spans, rounded = token_spans(flat, offsets)
            inexact += rounded
            tags = tag_schemes.tags_of(spans, len(offsets), scheme)
            per_text.append(np.array([place.get(tag, NO_TAG) for tag in tags], np.int32))
        if inexact:
            log.info('%d entities begin or end inside a token; whole tokens are learnt', inexact)
        rows = []
        for number, first, length, start, stop in self._windows:
            row = np.full(length + 2, NO_TAG, np.int32)
            row[1 + start - first : 1 + stop - first] = per_text[number][start:stop]
            rows.append(row)
        return rows

    def targets(self, planned: buckets.Planned, batch_size: int) -> dict[str, np.ndarray]:
        """`tags` int32 [batch_size, width], the place of each token's tag; −1 where a token has none."""
        tags = np.full((batch_size, planned.width), NO_TAG, np.int32)
        for place, row in enumerate(planned.rows):
            tags[place, : len(self._tags[row])] = self._tags[row]
        return {'tags': tags}

    def decode(self, outputs: Outputs) -> Entities:
        """The entities in the predicted `tags` int [B, L] of a pass's windows."""
        tags = [np.zeros(len(offsets), np.int32) for offsets in self._offsets]
        for out in outputs:
            for window, row in zip(out['example'], out['tags']):
                if window >= 0:
                    number, first, _, start, stop = self._windows[window]
                    tags[number][start:stop] = row[1 + start - first : 1 + stop - first]
        return [
            [
                Span(int(offsets[first, 0]), int(offsets[last - 1, 1]), type_)
                for first, last, type_ in tag_schemes.entities(self._labels[tag] for tag in text_tags)
            ]
            for text_tags, offsets in zip(tags, self._offsets, strict=True)
        ]

    def score(self, predicted: Entities) -> dict[str, float]:
        """`entity_scores` over all texts; {} where not every text has its entities."""
        gold = [text.spans for text in self._texts if text.spans is not None]
        return entity_scores(gold, predicted) if len(gold) == len(self._texts) else {}

    def confusion(self, predicted: Entities) -> None:
        """None: a matrix of tags would say little of entities."""

    def write_predictions(self, folder: Path, predicted: Entities) -> None:
        """predictions.json, an object a line in file order, as CLUENER takes them: `id` (the file's, or the
        text's number), `text`, `label`, {type: {entity: [[first, last]]}}, the last character included; and
        `where` the text stands."""
        lines = []
        for number, (text, spans) in enumerate(zip(self._texts, predicted, strict=True)):
            label: dict[str, dict[str, list]] = {}
            for start, end, type_ in spans:
                label.setdefault(type_, {}).setdefault(text.text[start:end], []).append([start, end - 1])
            name = number if text.id is None else text.id
            line = {'id': name, 'text': text.text, 'label': label, 'where': Path(text.where).name}
            lines.append(json.dumps(line, ensure_ascii=False) + '\n')
        output_file.write_text(folder / 'predictions.json', ''.join(lines))


def token_spans(spans: Iterable[Span], offsets: np.ndarray) -> tuple[list[Span], int]:
    """Spans in characters that do not overlap, in order, as spans in tokens, the fewest that cover each.

    A token goes to the first entity that has a part of it; an entity of which no token is left is left out.

    Args:
      offsets: int [T, 2], the characters from … to (exclusive) that each token stands for, in order.

    Returns:
      The spans, and how many are not exactly their tokens.
    """
    in_tokens, inexact, free = [], 0, 0
    for start, end, type_ in spans:
        first = max(free, int(np.searchsorted(offsets[:, 1], start, 'right')))
        stop = int(np.searchsorted(offsets[:, 0], end, 'left'))
        if first < stop:
            in_tokens.append(Span(first, stop, type_))
            free = stop
        inexact += first >= stop or (offsets[first, 0], offsets[stop - 1, 1]) != (start, end)
    return in_tokens, inexact


def read(
    config: ConfigDict, vocabulary: Vocabulary, ledgers: Mapping[str, Ledger] = NOT_COUNTED
) -> dict[str, Tagging]:
    """The splits that `config.mode` needs, as far as there are any; sets `config.data.labels`, the tags.
    `ledgers` count by split.

    Raises ValueError or FileNotFoundError where a file is missing or wrong.
    """
    data = config.data
    texts: dict[str, list[TaggedText]] = {}
    for name, path in files.paths(config).items():
        needs_tags = config.mode == 'evaluate' or config.mode == 'train' and name != 'test'
        texts[name] = tagged.read(path, needs_tags, ledgers[name])
        files.check_size(data, name, len(texts[name]))
    if config.mode == 'predict':  # whatever a file says, it is not known
        texts = {name: [text._replace(spans=None) for text in split] for name, split in texts.items()}
    train = texts.get('train', [])
    if train and 'validation' not in texts and data.dev_fraction:
        train, validation = labelled.split_off(train, data.dev_fraction, text=operator.attrgetter('text'))
        texts |= {'train': train, 'validation': validation}
        counts.move(ledgers, 'texts', len(validation), 'train', 'validation')
        entities = sum(len(text.spans or ()) for text in validation)
        counts.move(ledgers, 'entities', entities, 'train', 'validation')
        log.info('No dev file: %d texts of train are kept for evaluation', len(validation))
    if train:
        texts['train'] = train = [text._replace(spans=_flat(text, ledgers['train'])) for text in train]
        _set_labels(data, train)
    known, seen = set(tag_schemes.types_of(data.labels)), {text.text for text in train}
    for name in set(texts) - {'train'}:
        split = texts[name]
        if others := sorted({span.type for text in split for span in text.spans or ()} - known):
            log.warning('%s: entities of types that train has not, all missed: %s', name, ', '.join(others))
        if repeated := sum(text.text in seen for text in split):
            log.warning('%d of %d %s texts are in train word for word', repeated, len(split), name)
    splits = {name: Tagging(split, data.labels, vocabulary, data) for name, split in texts.items()}
    for name, made in splits.items():
        ledgers[name].add('windows', len(made.rows), len(made.rows), {})
    return splits


def _flat(text: TaggedText, ledger: Ledger) -> tuple[Span, ...]:
    """The spans that one sequence of tags can have; `ledger` counts the others as dropped."""
    spans = tuple(tag_schemes.without_overlaps(text.spans or ()))
    ledger.drop('entities', 'overlaps another', len(text.spans or ()) - len(spans))
    return spans


def _set_labels(data: ConfigDict, train: Sequence[TaggedText]) -> None:
    """Sets `data.labels` where it is empty: the tags, in `data.scheme`, of a data set's types, or of those in
    train. Raises ValueError where they are not enough for what train has."""
    source = data.train or data.dataset
    types = sorted({span.type for text in train for span in text.spans or ()})
    if not types:
        raise ValueError(f'{source}: there is no entity to learn in the training texts')
    if not data.labels:
        data.labels = tag_schemes.all_tags(catalog.ENTITY_TYPES.get(data.dataset, types), data.scheme)
    given = [tag_schemes.normalised(label) for label in data.labels]
    if missing := sorted(set(tag_schemes.all_tags(types, tag_schemes.scheme_of(given))) - set(given)):
        raise ValueError(
            f'{source} has entities of the types {", ".join(types)}: --config.data.labels lacks '
            f'{", ".join(missing)}; it is {",".join(data.labels)}'
        )
