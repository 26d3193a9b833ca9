"""Questions with several choices: C3's and CHID's files, and a user's own."""

import itertools
import json
import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from input_pipeline.datasets import hub, tables
from input_pipeline.utils.counts import Ledger
from input_pipeline.utils.json_values import one_line

log = logging.getLogger(__name__)

_BLANK = re.compile(r'#idiom\d+#')
OTHER_BLANK = '____'  # what the other blanks of a text of CHID are read as
_CHOICES, _ANSWER = ('choice', 'choices', 'options', 'candidates'), ('answer', 'label')


class Choice(NamedTuple):
    """A question. The text is `before`, or `before`, a blank and `after`; the choice goes with `question`, or
    into the blank. answer: the place of the right one, None where it is not known; id: the file's, or the
    question's number; where: 'file:line', or 'file:object n'."""

    before: str
    after: str | None
    question: str
    choices: tuple[str, ...]
    answer: int | None
    id: int | str
    where: str


def read(path: str, answered: bool = True, ledger: Ledger | None = None, start: int = 0) -> list[Choice]:
    """The questions of a file, in its order, in one of these forms, which is found out:

    C3: one array of [sentences, [{"question", "choice": […], "answer": the choice}], id]. CHID: on each line
    {"content": texts with #idiom000000#, "candidates": […]}, and beside a.json the answers,
    a_answer.json: {"#idiom000000#": the place}. Or objects (.json, .jsonl, 'hf:NAME') with `question`,
    `choices`, `answer`, which is a choice or its place from 0, and `context`, a text or a list, if there is
    one.

    `ledger` gets the 'questions' that were read; `start` is the number of the first.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: with the place: something is missing, fewer than two choices, or an answer that is none of
            them or is not there where it is asked for (`answered`); or the file is none of these.
    """
    if hub.is_name(path):
        rows: Any = [(row, where) for where, row in tables.table(path).rows]
    else:
        text = tables.read_text(path)
        try:
            whole = text.lstrip().startswith('[')
            values = (
                json.loads(text) if whole else [json.loads(line) for line in text.split('\n') if line.strip()]
            )
        except (ValueError, RecursionError) as error:
            raise ValueError(f'{path}: this is not JSON ({error}); one array, or an object a line') from error
        rows = [(value, f'{path}:object {number}') for number, value in enumerate(values, 1)]
    answers = _answers(path)
    numbers = itertools.count(start)
    questions = []
    for row, where in rows:
        try:
            questions += list(_questions(row, where, answers, numbers))
        except (TypeError, KeyError, AttributeError, IndexError, ValueError) as error:
            shown = one_line(str(error))[:80] if isinstance(error, ValueError) else 'something is missing'
            raise ValueError(
                f'{where}: {shown}; a question, two choices or more, and the answer, which is one of them, '
                f'are expected, not {str(row)[:60]!r}'
            ) from error
    unanswered = next((question for question in questions if question.answer is None), None)
    if answered and unanswered:
        hint = f'; those of CHID are in {_answer_file(path)}' if unanswered.after is not None else ''
        raise ValueError(f'{unanswered.where}: the question has no answer{hint}')
    if not questions:
        raise ValueError(f'{path}: there are no questions')
    if ledger is not None:
        ledger.add('questions', len(questions), len(questions), {})
    log.info('%s: %s questions', path, f'{len(questions):,}')
    return questions


def _answer_file(path: str) -> Path:
    return Path(path).with_name(f'{Path(path).stem}_answer.json')


def _answers(path: str) -> Mapping[str, Any]:
    """CHID's; {} where there is no such file."""
    file = _answer_file(path)
    if hub.is_name(path) or not file.is_file():
        return {}
    try:
        answers = json.loads(tables.read_text(str(file)))
    except (ValueError, RecursionError) as error:
        raise ValueError(f'{file} is not JSON: {error}') from error
    if not isinstance(answers, dict):
        raise ValueError(f'{file}: {{"#idiom000000#": the place of the answer}} is expected')
    return answers


def _questions(row: Any, where: str, answers: Mapping[str, Any], numbers: Iterator[int]) -> Iterator[Choice]:
    if isinstance(row, list):
        sentences, asked, *_ = row
        for question in asked:
            yield _question('\n'.join(sentences), question, where, next(numbers))
    elif 'content' in row and 'candidates' in row:
        choices = tuple(map(_text, row['candidates']))
        for text in row['content']:
            for blank in _BLANK.finditer(_text(text)):
                before, after = (
                    _BLANK.sub(OTHER_BLANK, x) for x in (text[: blank.start()], text[blank.end() :])
                )
                answer = _place(answers.get(blank[0]), choices)
                yield Choice(before, after, '', _several(choices), answer, blank[0], where)
    else:
        context = row.get('context') or ''
        context = '\n'.join(map(_text, context)) if isinstance(context, list) else _text(context)
        yield _question(context, row, where, next(numbers))


def _question(context: str, row: Mapping[str, Any], where: str, number: int) -> Choice:
    choices = _several(tuple(map(_text, row[next(filter(row.__contains__, _CHOICES), _CHOICES[0])])))
    answer = _place(next((row[name] for name in _ANSWER if row.get(name) not in (None, '')), None), choices)
    name = tables.row_id(row)
    known = number if name is None else name
    return Choice(_text(context), None, _text(row.get('question', '')), choices, answer, known, where)


def _several(choices: tuple[str, ...]) -> tuple[str, ...]:
    if len(choices) < 2:
        raise ValueError(f'there are {len(choices)} choices')
    return choices


def _place(answer: Any, choices: tuple[str, ...]) -> int | None:
    if answer is None:
        return None
    if type(answer) is int and 0 <= answer < len(choices):
        return answer
    if not isinstance(answer, str) or answer.strip() not in choices:
        raise ValueError(f'the answer {answer!r} is none of the choices')
    return choices.index(answer.strip())


def _text(value: Any) -> str:
    """A text without outer white space."""
    if not isinstance(value, str):
        raise ValueError(f'{value!r} is no text')
    value.encode()
    return value.strip()
