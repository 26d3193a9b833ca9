"""Means out of sums."""

import os
from collections.abc import Iterable, Mapping

import jax
import numpy as np


def means(sums: Iterable[Mapping[str, tuple]]) -> dict[str, float]:
    """Several batches' {name: (sum, count)} → {name: Σ sum / Σ count}; a name never counted is absent."""
    totals: dict[str, np.ndarray] = {}
    for batch in sums:
        for name, pair in batch.items():
            totals[name] = totals.get(name, 0) + np.asarray(pair, np.float64)
    return {name: float(total / count) for name, (total, count) in totals.items() if count > 0}


def memory() -> int:
    """Bytes of memory of all devices together, as far as they may be used; of CPUs that of their machines."""
    stats_per_device = [device.memory_stats() or {} for device in jax.local_devices()]
    if all('bytes_limit' in stats for stats in stats_per_device):
        total = sum(stats['bytes_limit'] for stats in stats_per_device)
    else:
        total = os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
    return total * jax.process_count()
