"""Questions with their contexts as token windows, and gold answers as token positions in them.

A context that is too long for one input is read through overlapping windows, as in BERT's `run_squad.py`
(arXiv 1810.04805, section 4.2): `[CLS] question [SEP] window [SEP]`, segments 0 and 1.
"""

import functools
import logging
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import tokenizers

from input_pipeline.datasets.squad import Question
from input_pipeline.text.vocabulary import Vocabulary

log = logging.getLogger(__name__)

_TEXTS = 1024  # tokenised at a time: the library's own form of them is large


@dataclass(frozen=True, eq=False)
class Windows:
    """W windows over the contexts of Q questions, in the order of the questions and then of the text.

    `question`: int32 [W], the question's index. `question_length`: int32 [W], tokens of [CLS] question [SEP].
    `first`, `length`: int32 [W], the window's context tokens are `first` … `first + length − 1`.
    `max_context`: int32 [W, 2], from … to (exclusive) the context tokens that have most context in this
    window, that is min(left, right) + length / 100, in the first such window where several have as much;
    these ranges divide the context among its windows.

    By question: `question_ids`, int32 ids of [CLS] question [SEP]; `context_ids`, int32 [T] ids of the whole
    context; `offsets`, int32 [T, 2], the characters from … to (exclusive) of the context that each token
    stands for, in order. Questions about the same context share the latter two.

    `sep`: the id of [SEP]. `questions_cut`: how many questions were longer than allowed.
    """

    question: np.ndarray
    question_length: np.ndarray
    first: np.ndarray
    length: np.ndarray
    max_context: np.ndarray
    question_ids: list[np.ndarray]
    context_ids: list[np.ndarray]
    offsets: list[np.ndarray]
    sep: int
    questions_cut: int

    def __len__(self) -> int:
        return len(self.question)

    @functools.cached_property
    def total_length(self) -> np.ndarray:
        """int32 [W]: tokens of each window with its question and special tokens."""
        return self.question_length + self.length + 1

    def ids(self, window: int) -> np.ndarray:
        """int32 [total_length]: [CLS] question [SEP] window [SEP]."""
        question, first = self.question[window], self.first[window]
        context = self.context_ids[question][first : first + self.length[window]]
        return np.concatenate([self.question_ids[question], context, [self.sep]], dtype=np.int32)


def encode(
    questions: Sequence[Question],
    vocabulary: Vocabulary,
    max_length: int,
    stride: int,
    max_question_length: int = 64,
) -> Windows:
    """Windows of at most `max_length` tokens over every context.

    `stride` is what `run_squad.py` calls doc_stride: the context tokens from the start of one window to the
    start of the next (so neighbours share the rest), never more than a window. A question longer than
    `max_question_length` tokens is cut, which is counted and logged.

    Raises ValueError where a length is not positive, a context is blank, or a question leaves no room for its
    context.
    """
    if min(max_length, stride, max_question_length) < 1:
        raise ValueError(
            f'max_length={max_length}, stride={stride} and max_question_length={max_question_length} count '
            'tokens; each must be at least 1'
        )
    for question in questions:
        if not question.context.strip():
            raise ValueError(f'{question.where}: the context is empty; give it a text, or leave it out')
    wordpiece = vocabulary.wordpiece
    contexts = list(dict.fromkeys(question.context for question in questions))
    encoded = dict(zip(contexts, tokens_of(contexts, wordpiece)))
    question_ids, cut = [], []
    rows: list[tuple[int, ...]] = []
    for index, (question, (ids, _)) in enumerate(
        zip(questions, tokens_of([question.question for question in questions], wordpiece))
    ):
        if len(ids) > max_question_length:
            cut.append(question)
        prefix = [vocabulary.cls, *ids[:max_question_length], vocabulary.sep]
        room = max_length - len(prefix) - 1
        if room < 1:
            raise ValueError(
                f'{question.where}: the question with its special tokens takes {len(prefix) + 1} tokens of '
                f'max_length={max_length} and leaves none for the context; raise max_length or lower '
                f'max_question_length={max_question_length}'
            )
        question_ids.append(np.array(prefix, np.int32))
        num_tokens = len(encoded[question.context][0])
        rows.extend((index, len(prefix), *window) for window in layout(num_tokens, room, stride))
    if cut:
        log.info(
            '%d of %d questions are longer than %d tokens and were cut; the first: %s',
            *(len(cut), len(questions), max_question_length, cut[0].where),
        )
    table = np.array(rows, np.int32).reshape(-1, 6)
    index, question_length, first, length = table[:, :4].T.copy()
    return Windows(
        question=index,
        question_length=question_length,
        first=first,
        length=length,
        max_context=table[:, 4:].copy(),
        question_ids=question_ids,
        context_ids=[encoded[question.context][0] for question in questions],
        offsets=[encoded[question.context][1] for question in questions],
        sep=vocabulary.sep,
        questions_cut=len(cut),
    )


def tokens_of(texts: Sequence[str], wordpiece: tokenizers.Tokenizer) -> list[tuple[np.ndarray, np.ndarray]]:
    """int32 ids [T] and offsets [T, 2] of each text: the characters from … to (exclusive) that a token stands
    for, combining marks after it included."""
    encoded = []
    for start in range(0, len(texts), _TEXTS):
        batch = texts[start : start + _TEXTS]
        for text, encoding in zip(batch, wordpiece.encode_batch(batch, add_special_tokens=False)):
            offsets = np.array(encoding.offsets, np.int32).reshape(-1, 2)
            _take_marks(offsets, text)
            encoded.append((np.array(encoding.ids, np.int32), offsets))
    return encoded


def _take_marks(offsets: np.ndarray, text: str) -> None:
    """Lets each token end after the combining marks that follow it, in place.

    BERT drops them as accents, and the library counts them to no token where they end a word; but a letter
    without its mark is not what the text says.
    """
    limits = np.append(offsets[1:, 0], len(text))  # the next token's start
    for token in np.flatnonzero(offsets[:, 1] < limits):
        end = offsets[token, 1]
        while end < limits[token] and unicodedata.category(text[end]) == 'Mn':
            end += 1
        offsets[token, 1] = end


@functools.lru_cache(maxsize=1 << 16)
def layout(num_tokens: int, room: int, stride: int) -> list[tuple[int, int, int, int]]:
    """(first, length, max_context from, to) of the windows over a context of so many tokens, as `Windows` has
    them; windows of at most `room` tokens, whose starts are at most `stride` apart."""
    step = min(stride, room)
    first = np.arange(0, max(num_tokens - room, 0) + step, step)
    length = np.minimum(num_tokens - first, room)
    # Of the tokens that two neighbours share, the first ones have most context in the earlier window, the
    # others in the later. Scores, [shared] and [w − 1, shared], are in hundredths.
    shared = np.arange(room - step)
    earlier = 100 * np.minimum(step + shared, room - step - 1 - shared) + room
    later = 100 * np.minimum(shared, length[1:, None] - 1 - shared) + length[1:, None]
    bounds = [0, *(first[1:] + (later <= earlier).sum(axis=1)).tolist(), num_tokens]
    return list(zip(first.tolist(), length.tolist(), bounds, bounds[1:]))


def targets(windows: Windows, questions: Sequence[Question]) -> np.ndarray:
    """int32 [W, 2]: positions in the window of the first and last token of the gold answer.

    The answer is the question's first aligned one (see `squad.align`), its tokens the fewest that cover
    it. (0, 0), that is [CLS], where the window does not hold all of them. Logs how many answers are not
    exactly what their tokens stand for, such as part of a Latin word, and how many no window holds.
    """
    spans = np.full((len(questions), 2), -1, np.int32)  # in tokens of the context
    inexact, aligned = 0, np.zeros(len(questions), bool)
    for index, (question, offsets) in enumerate(zip(questions, windows.offsets, strict=True)):
        answer = next((answer for answer in question.answers if answer.start >= 0), None)
        if answer:
            aligned[index] = True
            start, end = answer.start, answer.start + len(answer.text)
            first = np.searchsorted(offsets[:, 1], start, 'right')
            last = np.searchsorted(offsets[:, 0], end, 'left') - 1
            if first <= last:  # else it is nothing but space
                spans[index] = first, last
                inexact += (offsets[first, 0], offsets[last, 1]) != (start, end)
    span = spans[windows.question] - windows.first[:, None]  # [W, 2]
    held = (span[:, 0] >= 0) & (span[:, 1] < windows.length)
    lost = aligned & (np.bincount(windows.question[held], minlength=len(questions)) == 0)
    if inexact:
        log.info(
            '%d answers have white space around them or begin or end inside a token; whole tokens are learnt',
            inexact,
        )
    if lost.any():
        place = questions[int(lost.argmax())].where
        log.info('%d answers are in no window as a whole; the first: %s', lost.sum(), place)
    return np.where(held[:, None], span + windows.question_length[:, None], 0)
