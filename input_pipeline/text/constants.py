"""Numbers that every batch shares."""

IGNORED_LABEL = -100  # label of a prediction that is padding; no id is negative


def prediction_width(length: int, mask_rate: float) -> int:
    """Pc or Pw: the most tokens of a view of `length` positions that are ever chosen for prediction."""
    return max(1, round(mask_rate * length))
