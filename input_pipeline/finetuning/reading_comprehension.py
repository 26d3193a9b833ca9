"""Data of reading comprehension: files → windows with the answer's place, logits → answers and scores."""

import json
import logging
import operator
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from input_pipeline.datasets import files as datasets_files
from input_pipeline.datasets import hub, labelled, squad
from input_pipeline.datasets.squad import Question
from input_pipeline.features import buckets, reading_windows, word_inputs
from input_pipeline.features.buckets import Outputs, Rows
from input_pipeline.features.word_inputs import WordRows
from input_pipeline.finetuning import span_decoding
from input_pipeline.metrics import em_f1
from input_pipeline.text.model_inputs import CHARACTERS, ModelInputs, inputs_of
from input_pipeline.text.vocabulary import Vocabulary
from input_pipeline.utils import counts, output_file
from input_pipeline.utils.counts import NOT_COUNTED, Ledger

log = logging.getLogger(__name__)

Best = list[list[span_decoding.Candidate]]  # for each question its answers, the best first


class Reading:
    """One split of a reading comprehension data set, as token rows [CLS] question [SEP] window [SEP].

    Args:
      originals: the questions as their file has them; predictions are text of theirs.
      asked: the same questions as the model reads them, character for character (DRCD: in Simplified
        characters), with aligned answers.
      data: `config.data`: `max_length`, `stride`, `max_question_length` (tokens of a question), `n_best`,
        `max_answer_length` (tokens of an answer), `scorer` ('cmrc' or 'drcd').
      inputs: what the model reads: characters, or a word beside each (cut as `data.segmenter` and `data.hmm`
        say).
    """

    thresholds = None

    def __init__(
        self,
        originals: Sequence[Question],
        asked: Sequence[Question],
        vocabulary: Vocabulary,
        data: ConfigDict,
        inputs: ModelInputs = CHARACTERS,
    ):
        self._originals, self._asked, self._data = originals, asked, data
        self._windows = reading_windows.encode(
            asked, vocabulary, data.max_length, data.stride, data.max_question_length
        )
        self._spans = reading_windows.targets(self._windows, asked)
        unknown = [all(answer.start < 0 for answer in question.answers) for question in asked]
        self._spans[np.array(unknown)[self._windows.question]] = -1
        ids = [self._windows.ids(window) for window in range(len(self._windows))]
        self.rows = Rows(ids, self._windows.question_length)
        if inputs.char_words:
            words = _words(self._windows, asked, vocabulary, data)
            self.rows = WordRows(ids, self._windows.question_length, words, None)

    @property
    def metrics(self) -> tuple[str, ...]:
        """What `score` gives."""
        return ('em', 'f1') if self._data.scorer == 'cmrc' else ('em', 'f1_drcd', 'em_cmrc', 'f1_cmrc')

    def targets(self, planned: buckets.Planned, batch_size: int) -> dict[str, np.ndarray]:
        """`span` int32 [batch_size, 2]; −1 where no answer is known."""
        return {'span': buckets.completed(self._spans, planned, batch_size, -1)}

    def decode(self, outputs: Outputs) -> Best:
        """For each question its best answers, in the text of the file."""
        logits: dict[str, list] = {}
        for name in ('start_logits', 'end_logits'):
            logits[name] = [None] * len(self.rows)
            for out in outputs:
                for window, values in zip(out['example'], out[name]):
                    if window >= 0:
                        logits[name][window] = values
        data = self._data
        best = span_decoding.best_answers(
            self._windows, self._asked, **logits, n_best=data.n_best, max_answer_length=data.max_answer_length
        )
        return [
            [
                candidate._replace(text=question.context[candidate.start : candidate.end])
                for candidate in candidates
            ]
            for question, candidates in zip(self._originals, best)
        ]

    def score(self, best: Best) -> dict[str, float]:
        """Exact match and F1 in percent over all questions; {} where not every question has an answer.

        By CMRC 2018's scorer `em`, `f1`; by DRCD's `em`, `f1_drcd` (its own, of bags of characters) and
        by CMRC's `em_cmrc`, `f1_cmrc`, because papers report either.
        """
        gold = {q.id: [answer.text for answer in q.answers] for q in self._originals}
        if not all(gold.values()):
            return {}
        predicted = span_decoding.predictions(self._originals, best)
        score = em_f1.score_cmrc if self._data.scorer == 'cmrc' else em_f1.score_drcd
        scores = score(gold, predicted)
        return {name: scores[name] for name in self.metrics}

    def confusion(self, best: Best) -> None:
        """None: there are no classes."""

    def mistakes(self, best: Best, count: int) -> list[dict[str, str]]:
        """The `count` answers with the lowest F1 by the scorer, of those that are no exact match."""
        drcd = self._data.scorer == 'drcd'
        match = em_f1.drcd_exact_match if drcd else em_f1.cmrc_exact_match
        overlap = em_f1.drcd_f1 if drcd else em_f1.cmrc_f1
        predicted = span_decoding.predictions(self._originals, best)
        wrong = []
        for question in self._originals:
            gold, answer = [answer.text for answer in question.answers], predicted[question.id]
            if gold and not match(gold, answer):
                wrong.append((overlap(gold, answer), question, ' ⧸ '.join(dict.fromkeys(gold)), answer))
        wrong.sort(key=operator.itemgetter(0))
        return [
            {'question': question.question, 'answer': gold, 'predicted': answer, 'f1': f'{f1:.2f}'}
            | {'context': question.context}
            for f1, question, gold, answer in wrong[:count]
        ]

    def write_predictions(self, folder: Path, best: Best) -> None:
        """predictions.json, {id: answer}, as the official scorers read it; nbest.json, {id: candidates}."""
        for name, content in (
            ('predictions.json', span_decoding.predictions(self._originals, best)),
            ('nbest.json', span_decoding.nbest_json(self._originals, best)),
        ):
            text = json.dumps(content, ensure_ascii=False, indent=1)
            output_file.write_text(folder / name, text + '\n')


def _words(
    chosen: reading_windows.Windows, asked: Sequence[Question], vocabulary: Vocabulary, data: ConfigDict
) -> list[np.ndarray]:
    """For each token of each window the row of the word that it is in, as `word_inputs.word_of_each`."""
    contexts = dict(zip([question.context for question in asked], chosen.context_ids))
    read = word_inputs.words_beside([*contexts], [*contexts.values()], vocabulary, data)
    in_context = dict(zip(contexts, read))
    texts = [question.question for question in asked]
    whole = [encoding.ids for encoding in vocabulary.wordpiece.encode_batch(texts, add_special_tokens=False)]
    in_question = word_inputs.words_beside(texts, whole, vocabulary, data)
    rows = []
    for question, first, length in zip(chosen.question, chosen.first, chosen.length):
        row = chosen.question_ids[question].copy()  # [CLS] question [SEP]
        row[1:-1] = in_question[question][: len(row) - 2]
        words = in_context[asked[question].context][first : first + length]
        rows.append(np.concatenate([row, words, [vocabulary.sep]], dtype=np.int32))
    return rows


def read(
    config: ConfigDict, vocabulary: Vocabulary, ledgers: Mapping[str, Ledger] = NOT_COUNTED
) -> dict[str, Reading]:
    """The splits that `config.mode` needs, as far as there are any. `ledgers` count by split.

    Raises ValueError or FileNotFoundError where a file is missing or wrong.
    """
    files = {}
    for name, path in datasets_files.paths(config).items():
        rows = hub.is_name(path)
        files[name] = squad.parse_questions(hub.fetch(path), path) if rows else squad.read_questions(path)
        ledgers[name].add('questions', len(files[name]), len(files[name]), {})
        datasets_files.check_size(config.data, name, len(files[name]))
    if config.mode == 'train' and 'validation' not in files and config.data.dev_fraction:
        files['train'], files['validation'] = labelled.split_off(
            files['train'], config.data.dev_fraction, text=operator.attrgetter('context')
        )
        counts.move(ledgers, 'questions', len(files['validation']), 'train', 'validation')
        log.info('No dev file: %d questions of train are kept for evaluation', len(files['validation']))
    inputs, splits = inputs_of(config).of_task(config.task), {}
    for name, questions in files.items():
        asked, gold = squad.align(questions)
        off = {'ambiguous': gold.ambiguous, 'not in the context': gold.absent}
        ledgers[name].add('answers', gold.total, gold.right + gold.repaired, off)
        if name == 'train':
            asked, dropped = squad.trainable(asked)
            questions = asked
            ledgers[name].drop('questions', 'no answer that is in its context', dropped)
            if not questions:
                raise ValueError('no question of the training set has an answer that is in its context')
        without = next((question for question in questions if not question.answers), None)
        if without and (config.mode == 'evaluate' or name == 'validation'):
            raise ValueError(f'{without.where}: the question has no answer; to be evaluated on it needs one')
        if config.data.simplify:
            asked = squad.simplify(asked)
        splits[name] = Reading(questions, asked, vocabulary, config.data, inputs)
        ledgers[name].add('windows', len(splits[name].rows), len(splits[name].rows), {})
    return splits
