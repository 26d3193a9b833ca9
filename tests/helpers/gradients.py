"""Gradients compared: to rounding, whatever the processor adds up first."""

from typing import Any

import jax
import numpy as np


def assert_close(values: Any, expected: Any, tolerance: float = 1e-5) -> None:
    """Two trees of arrays, to `tolerance` of each array's largest entry; a key's bias of its kernel's.

    The derivative by a key's bias is 0, for it adds the same to all scores of a row, which softmax does not
    notice; what is computed is the rounding of the terms that cancel out.
    """
    others = dict(jax.tree_util.tree_leaves_with_path(jax.device_get(values)))
    leaves = dict(jax.tree_util.tree_leaves_with_path(jax.device_get(expected)))
    assert others.keys() == leaves.keys()
    for path, leaf in leaves.items():
        name = jax.tree_util.keystr(path)
        is_zero = name.endswith("['attention.self.key']['bias']")
        terms = leaves[*path[:-1], jax.tree_util.DictKey('kernel')] if is_zero else leaf
        scale = max(np.abs(terms).max(), 1e-2)
        assert np.abs(others[path] - leaf).max() <= tolerance * scale, name
