"""From start and end logits to answers: the best spans of a context over all its windows, and the files that
official scorers read."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from input_pipeline.datasets.squad import Question
from input_pipeline.features.reading_windows import Windows


class Candidate(NamedTuple):
    """A possible answer: `text` is `context[start:end]`, `score` the sum of its two logits, `probability` the
    softmax of the scores of its question's candidates."""

    text: str
    start: int
    end: int
    score: float
    probability: float


def best_answers(
    windows: Windows,
    questions: Sequence[Question],
    start_logits: np.ndarray | Sequence[np.ndarray],
    end_logits: np.ndarray | Sequence[np.ndarray],
    n_best: int = 20,
    max_answer_length: int = 30,
) -> list[list[Candidate]]:
    """For each question its `n_best` spans, best first, of at most `max_answer_length` tokens.

    Every span that some window holds is scored in one of them: the one with most context for the span's first
    token, as in BERT's `run_squad.py` (arXiv 1810.04805, section 4.2), among those that hold it all, where
    `run_squad.py` loses the span if it is not the best of all. All spans are compared, not only those of the
    best few starts and ends. Spans of the same characters count once, with their best score; among equal
    scores the earlier and then the shorter goes first. Every question gets a candidate: where the context has
    no token, the empty text with score −inf and probability 0.

    Args:
      start_logits, end_logits: one row per window, [W, L] or a list of W rows; position 0 is [CLS], and what
        follows the window's own tokens is padding.

    Raises ValueError where rows are missing or too short, where a logit of the context is not finite, or
    where `n_best` or `max_answer_length` is not positive.
    """
    if min(n_best, max_answer_length) < 1:
        raise ValueError(f'n_best={n_best} and max_answer_length={max_answer_length} must be at least 1')
    if not len(start_logits) == len(end_logits) == len(windows):
        raise ValueError(
            f'{len(windows)} windows need as many rows of logits, not {len(start_logits)} and '
            f'{len(end_logits)}'
        )
    bounds = np.searchsorted(windows.question, np.arange(len(questions) + 1))
    best = []
    for index, question in enumerate(questions):
        offsets = windows.offsets[index]
        if len(offsets) == 0:
            best.append([Candidate('', 0, 0, -np.inf, 0.0)])
            continue
        # scores[i, j] is that of the span from token i to token i + j.
        scores = np.full((len(offsets), min(max_answer_length, len(offsets))), -np.inf)
        for window in range(bounds[index], bounds[index + 1]):
            _score(scores, windows, window, start_logits[window], end_logits[window], question.where)
        best.append(_candidates(scores, offsets, question.context, n_best))
    return best


def _score(
    scores: np.ndarray, windows: Windows, window: int, starts: np.ndarray, ends: np.ndarray, where: str
) -> None:
    """Adds the spans of one window that no earlier one holds; `scores` [T, width] has −inf where none did."""
    question_length, total = windows.question_length[window], windows.total_length[window]
    if min(len(starts), len(ends)) < total:
        raise ValueError(
            f'{where}: its window of {total} tokens has only {len(starts)} start logits and {len(ends)} end '
            'logits'
        )
    starts, ends = (np.asarray(logits[question_length : total - 1], np.float64) for logits in (starts, ends))
    if not (np.isfinite(starts).all() and np.isfinite(ends).all()):
        raise ValueError(f'{where}: its logits are not all finite numbers; the model is broken')
    # Tokens with most context in a later window are left to it.
    first, stop = windows.first[window], windows.max_context[window, 1]
    rows, width = scores[first:stop], scores.shape[1]
    ends = sliding_window_view(np.concatenate([ends, np.full(width, -np.inf)]), width)[: len(rows)]
    np.copyto(rows, starts[: len(rows), None] + ends, where=np.isneginf(rows))


def _candidates(scores: np.ndarray, offsets: np.ndarray, context: str, n_best: int) -> list[Candidate]:
    """The best spans by `scores` [T, width], −inf where there is none."""
    num_spans = int(np.isfinite(scores).sum())
    flat, width = scores.ravel(), scores.shape[1]
    wanted = n_best
    score_of: dict[tuple[int, int], float] = {}  # characters → score
    while True:
        wanted = min(wanted, num_spans)
        worst = np.partition(flat, flat.size - wanted)[flat.size - wanted]
        spans = np.flatnonzero(flat >= worst)
        for span in spans[np.argsort(-flat[spans], kind='stable')]:
            first, more = divmod(int(span), width)
            # Two tokens may stand for one character, as the letters of a Korean syllable do.
            score_of.setdefault((int(offsets[first, 0]), int(offsets[first + more, 1])), float(flat[span]))
            if len(score_of) == n_best:
                break
        if len(score_of) == n_best or wanted == num_spans:
            break
        wanted *= 2
    weights = np.exp(np.array(list(score_of.values())) - max(score_of.values()))
    return [
        Candidate(context[start:end], start, end, score, float(probability))
        for ((start, end), score), probability in zip(score_of.items(), weights / weights.sum())
    ]


def predictions(questions: Sequence[Question], best: Sequence[Sequence[Candidate]]) -> dict[str, str]:
    """{id: best text}, what the scorers of CMRC 2018 and DRCD read as JSON."""
    return {question.id: candidates[0].text for question, candidates in zip(questions, best, strict=True)}


def nbest_json(
    questions: Sequence[Question], best: Sequence[Sequence[Candidate]]
) -> dict[str, list[dict[str, Any]]]:
    """{id: candidates, best first, as objects} for a JSON file, which has no −inf: `score` is null there."""
    return {
        question.id: [
            candidate._asdict() | {'score': candidate.score if np.isfinite(candidate.score) else None}
            for candidate in candidates
        ]
        for question, candidates in zip(questions, best, strict=True)
    }
