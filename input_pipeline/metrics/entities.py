"""Precision, recall and F1 of entities, as conlleval and seqeval count them."""

from collections import Counter
from collections.abc import Collection, Hashable, Sequence

# Start, end and type; what stands for a place is of no account.
Entity = tuple[Hashable, Hashable, str]


def entity_scores(
    gold: Sequence[Collection[Entity]], predicted: Sequence[Collection[Entity]]
) -> dict[str, float]:
    """`entity_precision`, `entity_recall`, `entity_f1` over all entities, and `entity_macro_f1`, the mean F1
    of the types that are in either; 0 to 1, and 0 where there is nothing to divide by.

    `gold`, `predicted`: the entities of each of N texts. One is right where start, end and type are. Equal to
    seqeval's `precision_score`, `recall_score` and `f1_score` with `average='micro'`, and `'macro'`.

    Raises ValueError where there are not as many texts in both.
    """
    counts = {name: Counter[str]() for name in ('right', 'gold', 'predicted')}
    for truth, answer in zip(map(set, gold), map(set, predicted), strict=True):
        for name, entities in (('right', truth & answer), ('gold', truth), ('predicted', answer)):
            counts[name].update(type_ for _, _, type_ in entities)
    right, in_gold, in_predicted = counts['right'], counts['gold'], counts['predicted']
    by_type = [_f1(right[type_], in_gold[type_], in_predicted[type_]) for type_ in in_gold | in_predicted]
    total, gold_total, predicted_total = (counter.total() for counter in counts.values())
    return {
        'entity_precision': total / max(predicted_total, 1),
        'entity_recall': total / max(gold_total, 1),
        'entity_f1': _f1(total, gold_total, predicted_total),
        'entity_macro_f1': sum(by_type) / max(len(by_type), 1),
    }


def _f1(right: int, gold: int, predicted: int) -> float:
    return 2 * right / max(gold + predicted, 1)
