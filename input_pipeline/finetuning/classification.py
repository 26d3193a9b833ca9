"""Data of classification tasks, of texts and of pairs: files → token rows with labels, logits → results."""

import functools
import json
import logging
import operator
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
from ml_collections import ConfigDict

from input_pipeline.datasets import catalog, files, labelled
from input_pipeline.datasets.labelled import Example
from input_pipeline.features import buckets, word_inputs
from input_pipeline.features.buckets import Outputs, Rows
from input_pipeline.features.word_inputs import WordRows
from input_pipeline.metrics import classification
from input_pipeline.text.model_inputs import CHARACTERS, ModelInputs
from input_pipeline.text.vocabulary import Vocabulary
from input_pipeline.utils import counts, output_file
from input_pipeline.utils.counts import NOT_COUNTED, Ledger
from input_pipeline.utils.problem_types import REGRESSION, SINGLE_LABEL

log = logging.getLogger(__name__)

NO_LABEL = -1
SCORE = 'score'  # the name of the one number of a regression


class Classification:
    """One split of a classification data set, as token rows [CLS] a [SEP] or [CLS] a [SEP] b [SEP].

    A row that is too long loses tokens from the end of its longer text, one at a time, as in BERT.

    Args:
      examples: in file order; an example's number is its place here.
      labels: every label; a logit's place is its label's place here.
      max_length: tokens of a row, special ones included.
      codes: label → what the data set's own files call it, where that differs.
      inputs: what the model reads: characters, words, or characters with words beside them.
      data: `config.data`, whose `segmenter` and `hmm` say what cuts words; None where none are read.

    Raises ValueError where an example has a label that is none of `labels`.
    """

    metrics: tuple[str, ...] = ('acc', 'macro_f1')  # what a pass over it measures, beside the loss
    thresholds: dict[str, float] | None = None  # where several labels are given, from which probability on

    def __init__(
        self,
        examples: Sequence[Example],
        labels: Sequence[str],
        vocabulary: Vocabulary,
        max_length: int,
        codes: Mapping[str, str] = MappingProxyType({}),
        inputs: ModelInputs = CHARACTERS,
        data: ConfigDict | None = None,
    ):
        self.labels = tuple(labels)
        self._codes = codes
        self._examples = examples
        self._gold = self._gold_of(examples)
        self.rows, cut = _encode(examples, vocabulary, max_length, inputs, data)
        if cut:
            log.info('%d of %d rows are longer than %d tokens and were cut', cut, len(examples), max_length)

    def _gold_of(self, examples: Sequence[Example]) -> np.ndarray:
        """What the logits should tell, with a row for each example."""
        if any(example.label is not None for example in examples):
            return labelled.label_index(examples, self.labels)
        return np.full(len(examples), NO_LABEL, np.int32)

    def targets(self, planned: buckets.Planned, batch_size: int) -> dict[str, np.ndarray]:
        """`labels` int32 [batch_size]; −1 where there is none."""
        return {'labels': buckets.completed(self._gold, planned, batch_size, NO_LABEL)}

    def decode(self, outputs: Outputs) -> np.ndarray:
        """A pass's logits, fp32 [N, C], in file order."""
        logits = np.full((len(self.rows), len(self.labels)), np.nan, np.float32)
        for out in outputs:
            real = out['example'] >= 0
            logits[out['example'][real]] = out['logits'][real]
        return logits

    def score(self, logits: np.ndarray) -> dict[str, float]:
        """`macro_f1` of the logits [N, C], over the examples that have a label; {} where none has one. Where
        they are in several languages also `acc_<language>` for each."""
        known = self._gold != NO_LABEL
        if not known.any():
            return {}
        predicted = logits.argmax(axis=1)
        scores = {'macro_f1': classification.macro_f1(self._gold[known], predicted[known], len(self.labels))}
        languages = np.array([example.language for example in self._examples])
        for language in sorted(set(languages[known])) if len(set(languages)) > 1 else ():
            rows = known & (languages == language)
            scores[f'acc_{language or "other"}'] = float(np.mean(predicted[rows] == self._gold[rows]))
        return scores

    def confusion(self, logits: np.ndarray) -> np.ndarray | None:
        """int64 [C, C] counts: rows are the true labels; None where no example has a label."""
        known = self._gold != NO_LABEL
        predicted = logits.argmax(axis=1)
        return (
            classification.confusion_matrix(self._gold[known], predicted[known], len(self.labels))
            if known.any()
            else None
        )

    def mistakes(self, logits: np.ndarray, count: int) -> list[dict[str, str]]:
        """The `count` examples whose label is another than the likeliest, those of which the model was surest
        first."""
        probabilities = _softmax(logits)
        predicted = probabilities.argmax(axis=1)
        wrong = np.flatnonzero((self._gold != NO_LABEL) & (predicted != self._gold))
        worst = wrong[np.argsort(-probabilities[wrong, predicted[wrong]], kind='stable')][:count]
        return [
            self._shown(number, self.labels[self._gold[number]], self.labels[predicted[number]])
            | {'probability': f'{probabilities[number, predicted[number]]:.3f}'}
            for number in worst.tolist()
        ]

    def _id(self, number: int) -> int | str:
        """What predictions.json calls an example."""
        name = self._examples[number].id
        return number if name is None else name

    def _shown(self, number: int, label: str, predicted: str) -> dict[str, str]:
        example = self._examples[number]
        text, where = ' ⧸ '.join(filter(None, example[:2])), Path(example.where).name
        return {'text': text, 'label': label, 'predicted': predicted, 'where': where}

    def write_predictions(self, folder: Path, logits: np.ndarray) -> None:
        """predictions.json, an object a line in file order, as CLUE takes them: `id`, the file's or the
        example's number, `label` (as the data set's own files call it; then `label_desc` is our name for it);
        and the label's `probability`, and `where` the text stands."""
        probability = _softmax(logits).max(axis=1)
        path = folder / 'predictions.json'
        with output_file.atomic_write(path) as partial, partial.open('w', encoding='utf-8') as out:
            for number, (index, p) in enumerate(zip(logits.argmax(axis=1), probability)):
                label = self.labels[index]
                line = {'id': self._id(number), 'label': self._codes.get(label, label)}
                line |= {'label_desc': label} if label in self._codes else {}
                where = Path(self._examples[number].where).name
                line |= {'probability': round(float(p), 6), 'where': where}
                out.write(json.dumps(line, ensure_ascii=False) + '\n')


def _softmax(logits: np.ndarray) -> np.ndarray:
    """[N, C] logits → probabilities."""
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


def _encode(
    examples: Sequence[Example],
    vocabulary: Vocabulary,
    max_length: int,
    inputs: ModelInputs = CHARACTERS,
    data: ConfigDict | None = None,
) -> tuple[Rows, int]:
    """The token rows, and how many of them had to be cut."""
    texts = [example.text_a for example in examples], [example.text_b or '' for example in examples]
    views = []
    view, *beside = inputs.views  # of whose tokens the rows are
    if inputs != CHARACTERS:
        views = [word_inputs.encode(side, vocabulary, data) for side in texts]
        tokens = operator.attrgetter(f'{view}_ids')
        first, second = ([tokens(text).tolist() for text in side] for side in views)
    else:
        encode = functools.partial(vocabulary.wordpiece.encode_batch_fast, add_special_tokens=False)
        first, second = ([encoding.ids for encoding in encode(side)] for side in texts)
    pairs = [example.text_b is not None for example in examples]
    ids, kept, cut = [], [], 0
    for pair, a, b in zip(pairs, first, second):
        room = max_length - 3 if pair else max_length - 2
        if len(a) + len(b) > room:
            a, b = cut_longest_first(a, b, room)
            cut += 1
        ids.append(vocabulary.row_of(a, b if pair else None))
        kept.append((len(a), len(b)))
    segment_a = np.array([n + 2 for n, _ in kept])
    if not (beside or inputs.char_words):
        return Rows(ids, segment_a, view), cut
    read = word_inputs.word_of_each if inputs.char_words else word_inputs.whole_words
    words = [(read(a, n), read(b, m)) for a, b, (n, m) in zip(*views, kept)]
    rows = [vocabulary.row_of(a, b if pair else None) for (a, b), pair in zip(words, pairs)]
    words_a = None if inputs.char_words else np.array([len(a) + 2 for a, _ in words])
    return WordRows(ids, segment_a, rows, words_a), cut


def cut_longest_first(a: list[int], b: list[int], room: int) -> tuple[list[int], list[int]]:
    """Both texts cut at their ends to `room` tokens together, the longer one token by token (b on a tie)."""
    length_a = min(len(a), max(room - len(b), room - room // 2))
    return a[:length_a], b[: room - length_a]


def single_texts(config: ConfigDict) -> dict[str, tuple[list[str], np.ndarray]]:
    """The texts of each split, as `read_examples` finds them, and the numbers of their labels, int32 [N].

    Raises ValueError where they are pairs, have no one label each, or there is no validation; and as
    `read_examples`.
    """
    examples = read_examples(config)
    if config.data.problem_type != SINGLE_LABEL:
        raise ValueError(
            f'{config.data.train} is for {config.data.problem_type}, and texts with one label each are needed'
        )
    if config.data.pairs:
        raise ValueError(
            f'{config.data.dataset or config.data.train} has pairs of texts, and single ones are needed'
        )
    if 'validation' not in examples:
        raise ValueError('there are no development examples: set data.dev, or data.dev_fraction')
    return {
        name: ([x.text_a for x in split_examples], labelled.label_index(split_examples, config.data.labels))
        for name, split_examples in examples.items()
        if name != 'test'
    }


def read_examples(
    config: ConfigDict, ledgers: Mapping[str, Ledger] = NOT_COUNTED
) -> dict[str, list[Example]]:
    """The examples of each split that `config.mode` needs; sets `config.data.labels`, `config.data.pairs` and
    `config.data.problem_type`. `ledgers` count by split.

    Raises ValueError or FileNotFoundError where a file is missing or wrong.
    """
    data = config.data
    spec = catalog.spec_of(data.dataset, data.text_columns, data.label_column)
    if data.dataset in catalog.DATASETS or config.mode != 'train':
        data.problem_type = data.problem_type or SINGLE_LABEL
    examples: dict[str, list[Example]] = {}
    for name, path in files.paths(config).items():
        needs_labels = config.mode == 'evaluate' or config.mode == 'train' and name != 'test'
        kept = spec._replace(problem_type=data.problem_type, separator=data.get('label_separator', ''))
        if config.mode == 'predict':
            kept = kept._replace(drop_labels=())
        parts = files.by_language(path, files.languages(data, name) or spec.languages)
        if not parts:
            raise ValueError(f'{path}: of which language? Give it, --config.data.language=zh')
        examples[name] = [
            example
            for part, part_languages in parts
            for example in labelled.read(
                part, kept._replace(labelled=needs_labels, languages=part_languages), ledgers[name]
            )[0]
        ]
        files.check_size(data, name, len(examples[name]))
        data.problem_type = data.problem_type or labelled.problem_type_of(examples[name])  # of train
        several = next((x for x in examples[name] if x.labels is not None), None)
        if several and data.problem_type == SINGLE_LABEL:
            raise ValueError(
                f'{several.where}: the row has a list of labels, and data.problem_type={data.problem_type}'
            )
    if config.mode == 'predict':  # whatever stands in a label column, it is not known
        examples = {
            name: [x._replace(label=None, labels=None) for x in split_examples]
            for name, split_examples in examples.items()
        }
    for name, split_examples in examples.items():
        pairs = split_examples[0].text_b is not None
        if data.pairs is None:
            data.pairs = pairs
        if data.pairs != pairs:
            given, expected = ('pairs', 'single texts') if pairs else ('single texts', 'pairs')
            raise ValueError(f'data.{files.KEYS[name]}: {given}, where the training data has {expected}')
    train = examples.get('train', [])
    if data.problem_type == REGRESSION:
        data.labels = (SCORE,)
    data.labels = tuple(data.labels) or labelled.labels_of(data.dataset, train)
    if train and 'validation' not in examples and data.dev_fraction:
        train, validation = labelled.split_off(train, data.dev_fraction)
        examples |= {'train': train, 'validation': validation}
        counts.move(ledgers, 'rows', len(validation), 'train', 'validation')
        log.info('No dev file: %d examples of train are kept for evaluation', len(validation))
    for name in set(examples) & {'validation', 'test'}:
        if train and (seen := labelled.overlap(train, examples[name])):
            log.warning('%d of %d %s examples are in train word for word', seen, len(examples[name]), name)
    return examples
