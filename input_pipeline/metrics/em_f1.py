"""How good answers are: the scorers of CMRC 2018 and of DRCD.

Papers report two different numbers as DRCD's F1. `score_drcd` gives both, each under its own name.
"""

import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from difflib import SequenceMatcher
from typing import TypeVar

from input_pipeline.metrics.nltk_words import word_tokenize

T = TypeVar('T')

# What CMRC's scorer leaves out. Its list has '……' too, but is asked for single characters, so '…' stays in;
# so do '‘', '.' and ','.
_CMRC_PUNCTUATION = str.maketrans('', '', '-:_*^/\\~`+=，。：？！“”；’《》·、「」（）－～『』')
_CMRC_CHINESE = re.compile('([\u4e00-\u9fa5])')
# SQuAD's, and those that DRCD's authors added.
_DRCD_PUNCTUATION = str.maketrans('', '', string.punctuation + '《》？，。、；：')
_ARTICLE = re.compile(r'\b(?:a|an|the)\b')


# ---- CMRC 2018: cmrc2018_evaluate.py of ymcui/cmrc2018, version 6, which is version 5 in Python 3 ----


def cmrc_tokens(text: str) -> list[str]:
    """The scorer's "mixed segmentation", punctuation left out: a Chinese character (U+4E00 to U+9FA5) is a
    token, what stands between two of them is cut by NLTK's `word_tokenize`, all in lower case."""
    parts = _CMRC_CHINESE.split(_cmrc_normalised(text))
    tokens = []
    for other, chinese in zip(parts[::2], [*parts[1::2], None]):
        tokens += word_tokenize(other)
        tokens += [chinese] if chinese else []
    return tokens


def cmrc_exact_match(answers: Sequence[str], prediction: str) -> int:
    """1 where the prediction is one of the answers but for case and punctuation, else 0."""
    return int(_cmrc_normalised(prediction) in map(_cmrc_normalised, answers))


def cmrc_f1(answers: Sequence[str], prediction: str) -> float:
    """The best F1, 0 to 1, against any of the answers; what two texts share is their longest common run of
    tokens (contiguous, not a subsequence).

    Text that has no token scores 0, even where the other has none either and they match exactly.
    Raises ValueError for no answers.
    """
    return _best_f1(answers, prediction, cmrc_tokens, _run_f1)


def score_cmrc(gold: Mapping[str, Sequence[str]], predictions: Mapping[str, str]) -> dict[str, float]:
    """CMRC 2018's official scores: `f1`, `em` and their mean `average` in percent; `total` questions, and
    `skip`, those without a prediction, which score 0.

    `gold`: each question's answers, by its id. `predictions`: a text for each id. Equal to the script's
    numbers to the last bit where it runs on NLTK 3.10.4. Up to 3.9.2 NLTK leaves dashes inside words
    ('1939–1945'), so the F1 of the few answers that have one may differ from older papers'.

    Raises ValueError where there is no question, or a question without answers.
    """
    _check_answers(gold)
    f1, em = (_percent(score, gold, predictions) for score in (cmrc_f1, cmrc_exact_match))
    skipped = sum(key not in predictions for key in gold)
    return {'f1': f1, 'em': em, 'average': (em + f1) * 0.5, 'total': len(gold), 'skip': skipped}


def _cmrc_normalised(text: str) -> str:
    # In the script's order: white space that only punctuation kept inside stays.
    return text.lower().strip().translate(_CMRC_PUNCTUATION)


def _run_f1(answer: list[str], predicted: list[str]) -> float:
    matcher = SequenceMatcher(None, answer, predicted, autojunk=False)
    return _f1(matcher.find_longest_match().size, len(answer), len(predicted))


# ---- DRCD: arXiv 1806.00920; the details are its authors', from issue 6 of DRCKnowledgeTeam/DRCD ----


def drcd_exact_match(answers: Sequence[str], prediction: str) -> int:
    """1 where the prediction is one of the answers but for case, punctuation, English articles and runs of
    white space, else 0: SQuAD 1.1's scorer with the full-width marks 《》？，。、；： left out too."""
    return int(_drcd_normalised(prediction) in map(_drcd_normalised, answers))


def drcd_f1(answers: Sequence[str], prediction: str) -> float:
    """The best F1, 0 to 1, against any of the answers as bags of characters, normalised as for
    `drcd_exact_match`; a space left between Latin words is a character of the bag.

    Raises ValueError for no answers.
    """
    return _best_f1(answers, prediction, _drcd_normalised, _bag_f1)


def score_drcd(gold: Mapping[str, Sequence[str]], predictions: Mapping[str, str]) -> dict[str, float]:
    """Both scorers that papers use for DRCD, in percent; `total` and `skip` as in `score_cmrc`.

    `f1_drcd` and `em` are those of DRCD's authors (bags of characters). `f1_cmrc` and `em_cmrc` are what CMRC
    2018's script says of the same predictions, which Chinese BERT papers report. Arguments and errors as
    `score_cmrc`.
    """
    cmrc = score_cmrc(gold, predictions)
    return {
        'f1_cmrc': cmrc['f1'],
        'em_cmrc': cmrc['em'],
        'f1_drcd': _percent(drcd_f1, gold, predictions),
        'em': _percent(drcd_exact_match, gold, predictions),
        'total': cmrc['total'],
        'skip': cmrc['skip'],
    }


def _drcd_normalised(text: str) -> str:
    return ' '.join(_ARTICLE.sub(' ', text.lower().translate(_DRCD_PUNCTUATION)).split())


def _bag_f1(answer: str, predicted: str) -> float:
    return _f1((Counter(answer) & Counter(predicted)).total(), len(answer), len(predicted))


# ---- both ----


def _best_f1(
    answers: Sequence[str], prediction: str, tokens: Callable[[str], T], f1: Callable[[T, T], float]
) -> float:
    """The best `f1` of a prediction's tokens against those of any of the answers."""
    if not answers:
        raise ValueError(f'no answers to compare the prediction {prediction!r} with')
    predicted = tokens(prediction)
    return max(f1(tokens(answer), predicted) for answer in answers)


def _f1(common: int, answer_length: int, predicted_length: int) -> float:
    """In the scripts' order of operations, so that the last bit is theirs."""
    if not common:
        return 0.0
    precision, recall = common / predicted_length, common / answer_length
    return 2 * precision * recall / (precision + recall)


def _percent(
    score: Callable[[Sequence[str], str], float],
    gold: Mapping[str, Sequence[str]],
    predictions: Mapping[str, str],
) -> float:
    """100 × the mean score of all questions; one without a prediction has 0."""
    total = 0.0  # by hand: since Python 3.12 `sum` makes up for rounding, the scripts do not
    for key, answers in gold.items():
        if key in predictions:
            total += score(answers, predictions[key])
    return 100.0 * total / len(gold)


def _check_answers(gold: Mapping[str, Sequence[str]]) -> None:
    if not gold:
        raise ValueError('there is nothing to score: no questions')
    for key, answers in gold.items():
        if not answers:
            raise ValueError(f'question {key!r} has no answers to compare its prediction with')
