"""What TensorStore gives as JSON stays in memory; so a save asks for it as seldom as can be.

Of every dict and list that TensorStore makes of JSON, each value keeps one reference too many and is never
freed (0.1.71 to 0.1.86; `sys.getrefcount` of a value of `KvStore.Spec.to_json()` is 4, not 3). In every save
Orbax asks once per array for the same two descriptions of folders, and four times for metrics, of which it
makes lines of a log that is off. docs/reliability.md has the figures.
"""

import collections
import copy
import functools
from typing import Any

import tensorstore as ts

REMEMBERED = 8  # folders: those of one save are fewer


@functools.cache
def contain(orbax_metrics: Any) -> None:
    """Once a process: JSON is made of equal `KvStore.Spec`s once, and Orbax counts no bytes.

    orbax_metrics: its module that asks for metrics, None where it is not known.
    """
    to_json = ts.KvStore.Spec.to_json
    made: collections.deque[tuple[ts.KvStore.Spec, Any]] = collections.deque(maxlen=REMEMBERED)

    def remembered(self: ts.KvStore.Spec, include_defaults: bool = False) -> Any:
        if include_defaults:
            return to_json(self, include_defaults)
        for spec, value in tuple(made):
            if spec == self:
                return copy.deepcopy(value)
        value = to_json(self)
        made.append((self, value))
        return copy.deepcopy(value)

    ts.KvStore.Spec.to_json = remembered  # type: ignore[method-assign]
    if orbax_metrics is not None:
        orbax_metrics.get_tensorstore_raw_bytes = lambda *_: 0
