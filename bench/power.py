"""How many seeds a difference in accuracy takes, from the scatter of seeds in a grid of results.

    python bench/power.py docs/results/archive/tables_cpu/tables.json

For each task the standard deviation of a cell's seeds, pooled over the models; and the seeds in each of two
arms with which a two-sided t-test at 5 % finds a difference of 0.5, 1 and 2 points four times out of five.
"""

import json
import math
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
from scipy import stats

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from bench import harness  # noqa: E402

DIFFERENCES = (0.5, 1.0, 2.0)  # points
LEVEL, POWER = 0.05, 0.8


def seeds_needed(difference: float, deviation: float) -> int:
    """The smallest n an arm at which a two-sided two-sample t-test at LEVEL has POWER; both in points."""
    n = 2
    while power(n, difference, deviation) < POWER:
        n = max(n + 1, math.floor(1.02 * n))
    while n > 2 and power(n - 1, difference, deviation) >= POWER:
        n -= 1
    return n


def power(n: int, difference: float, deviation: float) -> float:
    """Of that test with n seeds an arm: the noncentral t distribution beyond the critical values."""
    freedom, shift = 2 * n - 2, difference / deviation * math.sqrt(n / 2)
    edge = stats.t.ppf(1 - LEVEL / 2, freedom)
    return float(stats.nct.sf(edge, freedom, shift) + stats.nct.cdf(-edge, freedom, shift))


def main() -> None:
    """Prints the table."""
    cells = defaultdict(list)
    for cell in json.loads(Path(sys.argv[1]).read_text('utf-8')):
        cells[cell['task']].append(np.asarray(cell['values']))
    rows = []
    for task, values in cells.items():
        several = [x for x in values if len(x) > 1]
        constant = sum(np.ptp(x) == 0 for x in several)
        deviation = math.sqrt(np.mean([x.var(ddof=1) for x in several if np.ptp(x)] or [0.0]))
        needed = [f'{seeds_needed(d, deviation):,}' if deviation else '—' for d in DIFFERENCES]
        rows.append((task, f'{len(several)}', f'{constant}', f'{deviation:.2f}', *needed))
    header = ('task', 'cells', 'of them the same for every seed', 'σ, points')
    print(harness.table((*header, *(f'seeds an arm for {d:g} points' for d in DIFFERENCES)), rows))
    fixed = [(f'{s:g}', *(f'{seeds_needed(d, s):,}' for d in DIFFERENCES)) for s in (0.3, 0.5, 1.0, 2.0)]
    print()
    print(harness.table(('σ, points', *(f'{d:g} points' for d in DIFFERENCES)), fixed))


if __name__ == '__main__':
    main()
