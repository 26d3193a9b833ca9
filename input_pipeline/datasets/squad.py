"""Reading comprehension data: questions about a context, gold answers checked, Traditional made Simplified.

Offsets count characters (code points) of the context, as CMRC 2018 and DRCD do.
"""

import functools
import json
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from input_pipeline.utils.json_values import one_line
from input_pipeline.utils.text_files import read_utf8

log = logging.getLogger(__name__)

# The names of a field in SQuAD-format files, and in the lists that CMRC 2018 was first published as.
_CONTEXT, _QUESTION, _ID = ('context', 'context_text'), ('question', 'query_text'), ('id', 'query_id')
_LAYOUT = (
    'a file in SQuAD format is {"data": [{"paragraphs": [{"context": …, "qas": [{"id": …, "question": …, '
    '"answers": [{"text": …, "answer_start": …}]}]}]}]}'
)


class Answer(NamedTuple):
    """A gold answer; `start` is the offset of its first character in the context, −1 where unknown."""

    text: str
    start: int


class Question(NamedTuple):
    """A question about a context. `where` is its place: 'file, paragraph 3, question TRIAL_1'."""

    id: str
    question: str
    context: str
    answers: tuple[Answer, ...]
    where: str


class Counts(NamedTuple):
    """What `align` found about the gold answers: `total` is the sum of the others."""

    total: int
    right: int  # the context has the answer where it says
    repaired: int  # it said otherwise, and the context has the answer exactly once
    ambiguous: int  # … more than once: nobody knows which is meant
    absent: int  # … nowhere, or the answer is empty


def read_questions(path: str | Path) -> list[Question]:
    """The questions of a JSON file, in its order; a byte order mark is skipped.

    Reads SQuAD format as CMRC 2018 and DRCD are published in (arXiv 1810.07366, 1806.00920), CMRC's older
    list of `context_text` with `query_text`, and a list of rows with `id`, `context`, `question`. Answers may
    be missing, as they are where a model is to predict on new text.

    Raises FileNotFoundError; ValueError where the file is empty, not UTF-8 or not JSON (with the line), where
    a field is missing or of the wrong type, an id occurs twice (with the place), or there is no question.
    """
    text = read_utf8(path, 'convert the file, for example with iconv')
    if not text.strip():
        raise ValueError(f'{path} is empty; {_LAYOUT}')
    try:
        document = json.loads(text, strict=False)
    except (ValueError, RecursionError) as error:
        line, reason = getattr(error, 'lineno', 1), getattr(error, 'msg', str(error))
        raise ValueError(f'{path}:{line}: not JSON ({reason}); {_LAYOUT}') from error
    return parse_questions(document, str(path))


def parse_questions(document: Any, name: str) -> list[Question]:
    """The questions of a document that is in memory, in any layout of `read_questions`; `name` says where it
    came from. Raises ValueError as `read_questions` does."""
    questions: dict[str, Question] = {}
    for number, paragraph in enumerate(_paragraphs(document, name), 1):
        place = f'{name}, paragraph {number}'
        context = _text(paragraph, _CONTEXT, place)
        # A row of a table is a paragraph with its one question.
        rows = paragraph.get('qas', [paragraph] if any(map(paragraph.get, _QUESTION)) else None)
        if not isinstance(rows, list):
            raise ValueError(f'{place}: the list "qas" is missing; {_LAYOUT}')
        for index, row in enumerate(rows, 1):
            identity = _text(row, _ID, f'{place}, question {index}')
            where = f'{place}, question {one_line(identity)}'
            if identity in questions:
                raise ValueError(
                    f'{where}: this id occurs before, in {questions[identity].where}; predictions are '
                    'written by id, so give every question its own'
                )
            questions[identity] = Question(
                identity, _text(row, _QUESTION, where), context, tuple(_answers(row, where)), where
            )
    if not questions:
        raise ValueError(f'{name} holds no question; {_LAYOUT}')
    return list(questions.values())


def _paragraphs(document: Any, name: str) -> Iterator[Any]:
    articles = document.get('data') if isinstance(document, dict) else document
    if not isinstance(articles, list):
        raise ValueError(f'{name}: the list "data" is missing; {_LAYOUT}')
    for number, article in enumerate(articles, 1):
        paragraphs = article.get('paragraphs', [article]) if isinstance(article, dict) else None
        if not isinstance(paragraphs, list):
            raise ValueError(f'{name}, article {number}: the list "paragraphs" is missing; {_LAYOUT}')
        yield from paragraphs


def _text(row: Any, names: Sequence[str], place: str) -> str:
    """The text under the first of these names that the row has."""
    if not isinstance(row, dict):
        raise ValueError(f'{place}: an object with {names[0]!r} should stand here, not {str(row)[:40]!r}')
    name = next((name for name in names if row.get(name) is not None), None)
    if name is None:
        listed = one_line(', '.join(row))
        raise ValueError(f'{place}: the field {names[0]!r} is missing; it has {listed or "nothing"}')
    value = row[name]
    if isinstance(value, int) and names is _ID:
        value = str(value)
    if not isinstance(value, str):
        raise ValueError(f'{place}: {name!r} should be a text, not {str(value)[:40]!r}')
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f'{place}: character {error.start} of {name!r} is half of a surrogate pair; write the whole one'
        ) from error
    return value


def _answers(row: dict[str, Any], where: str) -> Iterator[Answer]:
    answers = row.get('answers') or []
    if isinstance(answers, dict):  # two columns, as tables have it
        columns = answers.get('text'), answers.get('answer_start')
        if not all(isinstance(column, list) for column in columns) or len({*map(len, columns)}) != 1:  # type: ignore[arg-type]
            raise ValueError(f'{where}: "answers" needs the lists "text" and "answer_start", equally long')
        answers = [{'text': text, 'answer_start': start} for text, start in zip(*columns)]  # type: ignore[arg-type]
    if not isinstance(answers, list):
        raise ValueError(f'{where}: "answers" should be a list, not {str(answers)[:40]!r}')
    for number, answer in enumerate(answers, 1):
        place = f'{where}, answer {number}'
        if isinstance(answer, str):
            answer = {'text': answer}
        text, start = _text(answer, ('text',), place), answer.get('answer_start')
        if not isinstance(start, int | None):
            raise ValueError(f'{place}: "answer_start" should be a whole number, not {str(start)[:40]!r}')
        yield Answer(text, -1 if start is None else max(start, -1))


def align(questions: Sequence[Question]) -> tuple[list[Question], Counts]:
    """Checks every gold answer against its context, and repairs what can be repaired.

    An answer that the context does not have at `start` is moved to the only place where the context has it,
    if need be without its outer white space, which no scorer counts. Where there is no such place or more
    than one, `start` becomes −1. Afterwards `context[start:start + len(text)] == text` for every answer with
    `start` ≥ 0. Logs the counts.
    """
    counts: Counter[str] = Counter()
    aligned, first = [], ''
    for question in questions:
        alignments = [_align(answer, question.context) for answer in question.answers]
        counts.update(kind for _, kind in alignments)
        aligned.append(question._replace(answers=tuple(answer for answer, _ in alignments)))
        if not first and any(answer.start < 0 for answer, _ in alignments):
            first = f'; the first that cannot be aligned: {question.where}'
    result = Counts(counts.total(), *(counts[kind] for kind in Counts._fields[1:]))
    if result.total:
        log.info(
            '%d gold answers: %d where they say, %d repaired, %d ambiguous, %d not in their context%s',
            *result,
            first,
        )
    return aligned, result


def _align(answer: Answer, context: str) -> tuple[Answer, str]:
    """The answer with its true start, and its kind, a field of `Counts`."""
    stripped = answer.text.strip()
    if not stripped:
        return answer._replace(start=-1), 'absent'
    if answer.start >= 0 and context.startswith(answer.text, answer.start):
        return answer, 'right'
    for text in (answer.text, stripped):
        start = context.find(text)
        if start >= 0:
            if context.find(text, start + 1) >= 0:
                return answer._replace(start=-1), 'ambiguous'
            return Answer(text, start), 'repaired'
    return answer._replace(start=-1), 'absent'


def trainable(questions: Sequence[Question]) -> tuple[list[Question], int]:
    """The questions with at least one aligned answer, and how many others there are: training drops those,
    evaluation never does. To be called after `align`. Logs the count."""
    kept = [question for question in questions if any(answer.start >= 0 for answer in question.answers)]
    dropped = len(questions) - len(kept)
    if dropped:
        log.info(
            '%d of %d questions have no answer that is in their context; training leaves them out',
            dropped,
            len(questions),
        )
    return kept, dropped


def simplify(questions: Sequence[Question]) -> list[Question]:
    """Traditional to Simplified characters by OpenCC, character for character, so that every offset stays.

    `tw2s` reads Taiwan's standard, in which DRCD is written: 著 becomes 着 where it is a particle and stays
    in 著名; `t2s` leaves it everywhere. `tw2sp` would also replace Taiwan's words (資訊 by 信息), and change
    lengths. An answer that stands where it says becomes what its context has there, hence stays verbatim;
    any other is converted by itself.
    """
    contexts: dict[str, str] = {}
    simplified = []
    for question in questions:
        old = question.context
        context = contexts.get(old) or contexts.setdefault(old, _simplified(old))
        answers = tuple(
            answer._replace(text=context[answer.start : answer.start + len(answer.text)])
            if answer.start >= 0 and old.startswith(answer.text, answer.start)
            else answer._replace(text=_simplified(answer.text))
            for answer in question.answers
        )
        simplified.append(
            question._replace(question=_simplified(question.question), context=context, answers=answers)
        )
    return simplified


@functools.cache
def _converter() -> Any:
    import opencc  # only DRCD needs it

    return opencc.OpenCC('tw2s')


def _simplified(text: str) -> str:
    """No entry of these dictionaries changes a length; where one does some day, or the text holds U+0000,
    which ends a text to OpenCC, each character is converted alone or else kept."""
    convert = _converter().convert
    converted = convert(text)
    if len(converted) != len(text):
        alone = {character: convert(character) for character in set(text)}
        converted = ''.join(alone[c] if len(alone[c]) == 1 else c for c in text)
    return converted
