"""Data of multiple choice: questions with choices → token rows for each choice, logits → answers."""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from input_pipeline.datasets import choices, files, labelled
from input_pipeline.datasets.choices import Choice
from input_pipeline.features import buckets
from input_pipeline.features.buckets import Outputs, Planned, Rows
from input_pipeline.text.vocabulary import Vocabulary
from input_pipeline.utils import counts, output_file
from input_pipeline.utils.counts import NOT_COUNTED, Ledger

log = logging.getLogger(__name__)

NO_ANSWER = -1


class ChoiceRows:
    """Token rows of N questions with up to C choices; a question is as long as its longest row.

    ids: of each question the rows of its choices; first: of each row the tokens in segment 0.
    """

    def __init__(self, ids: Sequence[Sequence[np.ndarray]], first: Sequence[Sequence[int]]):
        self._choices = max(map(len, ids))
        absent = [np.zeros(0, np.int32)]
        rows = [row for question in ids for row in [*question, *absent * (self._choices - len(question))]]
        firsts = [n for question in first for n in [*question, *[0] * (self._choices - len(question))]]
        self._rows = Rows(rows, np.array(firsts))
        self.lengths = self._rows.lengths.reshape(-1, self._choices).max(axis=1)

    def __len__(self) -> int:
        return len(self.lengths)

    def batch(self, planned: Planned, batch_size: int) -> dict[str, np.ndarray]:
        """`char_ids`, `char_segments` [batch_size, C, width], `example` [batch_size], int32. A choice that
        there is not, and a row that completes the batch, is all 0."""
        each = planned.rows[:, None] * self._choices + np.arange(self._choices)
        batch = self._rows.batch(planned._replace(rows=each.ravel()), batch_size * self._choices)
        batch['example'] = buckets.completed(np.arange(len(self)), planned, batch_size, NO_ANSWER)
        shape = batch_size, self._choices, planned.width
        return {name: value if name == 'example' else value.reshape(shape) for name, value in batch.items()}


class Choosing:
    """One split of a multiple choice data set, for each choice a row [CLS] text [SEP] question choice [SEP];
    where the text has a blank, [MASK] stands there, and the choice alone is the second part.

    A row that is too long loses tokens of its text: at the end, or, where there is a blank, at both ends, so
    that the blank stays in the middle.

    Args:
      questions: in file order; a question's number is its place here.
      max_length: tokens of a row, special ones included.
    """

    metrics = ('acc',)
    thresholds = None

    def __init__(self, questions: Sequence[Choice], vocabulary: Vocabulary, max_length: int):
        self._questions = questions
        self._gold = np.array([NO_ANSWER if q.answer is None else q.answer for q in questions], np.int32)
        encoder = vocabulary.wordpiece

        def encoded(texts: list[str]) -> list[list[int]]:
            return [encoding.ids for encoding in encoder.encode_batch_fast(texts, add_special_tokens=False)]

        before, asked = encoded([q.before for q in questions]), encoded([q.question for q in questions])
        after = encoded([q.after or '' for q in questions])
        ids, first, cut = [], [], 0
        for number, question in enumerate(questions):
            rows, firsts = [], []
            for choice in encoded(list(question.choices)):
                second = [*asked[number], *choice][: max_length // 2]
                room = max_length - 3 - len(second)
                text = before[number]
                if question.after is not None:
                    text = _around(before[number], [vocabulary.mask], after[number], room)
                cut += len(before[number]) + len(after[number]) + (question.after is not None) > room
                rows.append(vocabulary.row_of(text[:room], second))
                firsts.append(len(text[:room]) + 2)
            ids.append(rows)
            first.append(firsts)
        self.rows = ChoiceRows(ids, first)
        if cut:
            log.info('%d rows of choices are longer than %d tokens and were cut', cut, max_length)

    def targets(self, planned: Planned, batch_size: int) -> dict[str, np.ndarray]:
        """`labels` int32 [batch_size], the place of the answer; −1 where it is not known."""
        return {'labels': buckets.completed(self._gold, planned, batch_size, NO_ANSWER)}

    def decode(self, outputs: Outputs) -> np.ndarray:
        """int64 [N]: the likeliest choice of each question, of a pass's logits [B, C]."""
        chosen = np.zeros(len(self._questions), np.int64)
        for out in outputs:
            real = out['example'] >= 0
            chosen[out['example'][real]] = out['logits'][real].argmax(axis=1)
        return chosen

    def score(self, chosen: np.ndarray) -> dict[str, float]:
        """{}: the accuracy is a mean, which the objective has."""
        return {}

    def confusion(self, chosen: np.ndarray) -> None:
        """None: choices are no classes."""

    def write_predictions(self, folder: Path, chosen: np.ndarray) -> None:
        """predictions.json as CLUE takes it: of CHID {blank: place}, else an object a line, `id` and `label`,
        the place of the choice; with it the `choice`, and `where` the question stands."""
        pairs = list(zip(self._questions, chosen.tolist(), strict=True))
        if all(question.after is not None for question in self._questions):
            text = json.dumps({question.id: place for question, place in pairs}, indent=1) + '\n'
        else:
            lines = (
                {'id': q.id, 'label': place, 'choice': q.choices[place], 'where': Path(q.where).name}
                for q, place in pairs
            )
            text = ''.join(json.dumps(line, ensure_ascii=False) + '\n' for line in lines)
        output_file.write_text(folder / 'predictions.json', text)


def _around(before: list[int], blank: list[int], after: list[int], room: int) -> list[int]:
    """`room` tokens, or all, around the blank: as many on both sides, or more where the other is short."""
    left = min(len(before), max((room - len(blank)) // 2, room - len(blank) - len(after)))
    right = min(len(after), room - len(blank) - left)
    return [*before[len(before) - left :], *blank, *after[:right]]


def _context(question: Choice) -> str:
    """The same for questions about one text; of one with blanks, its place in the file."""
    return question.before if question.after is None else question.where.rpartition(':')[2]


def read(
    config: ConfigDict, vocabulary: Vocabulary, ledgers: Mapping[str, Ledger] = NOT_COUNTED
) -> dict[str, Choosing]:
    """The splits that `config.mode` needs, as far as there are any. `ledgers` count by split.

    Raises ValueError or FileNotFoundError where a file is missing or wrong.
    """
    data, questions = config.data, {}
    for name, path in files.paths(config).items():
        answered = config.mode == 'evaluate' or config.mode == 'train' and name != 'test'
        asked: list[Choice] = []
        for file in files.files_of(path):
            asked += choices.read(file, answered, ledgers[name], len(asked))
        questions[name] = [q._replace(answer=None) for q in asked] if config.mode == 'predict' else asked
        files.check_size(data, name, len(asked))
    if config.mode == 'train' and 'validation' not in questions and data.dev_fraction:
        train, validation = labelled.split_off(questions['train'], data.dev_fraction, text=_context)
        questions |= {'train': train, 'validation': validation}
        counts.move(ledgers, 'questions', len(validation), 'train', 'validation')
        log.info('No dev file: %d questions of train are kept for evaluation', len(validation))
    return {name: Choosing(split, vocabulary, data.max_length) for name, split in questions.items()}
