"""Questions drawn at random, their windows, and where the answers are."""

from fractions import Fraction

from helpers.tokenizer import BASE
from input_pipeline.datasets.squad import Answer, Question
from input_pipeline.text.vocabulary import Vocabulary

VOCABULARY = Vocabulary(BASE, len(BASE))


def question(context: str, *answers: tuple[str, int], text: str = '中国') -> Question:
    return Question('q', text, context, tuple(Answer(*answer) for answer in answers), 'f, question q')


def context_score(window: tuple[int, int], token: int) -> Fraction | None:
    """How much context a token has in a window (first, length), by run_squad.py; None: it is not in it."""
    first, length = window
    if not first <= token < first + length:
        return None
    return min(token - first, first + length - 1 - token) + Fraction(length, 100)
