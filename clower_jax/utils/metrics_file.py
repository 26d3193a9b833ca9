"""Reading metrics.jsonl."""

import json
from pathlib import Path

EVENT = 'event'  # the split of rows that hold no metrics


def read_metrics(path: str | Path) -> list[dict]:
    """The rows of a metrics.jsonl; [] where there is none. Lines that are none are left out, such as a last
    one cut short by a kill."""
    return read_lines(Path(path))[0]


def read_lines(path: Path) -> tuple[list[dict], list[int]]:
    """The rows, and the numbers of lines before the last that are none."""
    lines = path.read_bytes().removesuffix(b'\n').split(b'\n') if path.is_file() else []
    rows, unreadable = [], []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except ValueError:  # no JSON, or no UTF-8
            row = None
        if isinstance(row, dict) and isinstance(row.get('step'), int) and isinstance(row.get('split'), str):
            rows.append(row)
        elif number < len(lines):
            unreadable.append(number)
    return rows, unreadable


def rows_until(workdir: str | Path, step: int) -> list[dict]:
    """The rows of a workdir's metrics.jsonl up to a step; none where a run begins, at step 0."""
    rows = read_metrics(Path(workdir, 'metrics.jsonl')) if step else []
    return [row for row in rows if row['step'] <= step]


def last_evaluation(workdir: str | Path, step: int) -> dict[str, float]:
    """Metrics of the held-out set at a step, as metrics.jsonl has them; {} where there are none."""
    rows = [row for row in rows_until(workdir, step) if row['split'] == 'validation' and row['step'] == step]
    return {name: value for name, value in rows[-1].items() if name not in ('step', 'split')} if rows else {}
