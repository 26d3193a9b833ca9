"""Whether glibc gives memory back to the system between training steps."""

import ctypes
import importlib.util
import os
import sys

# Parameters of mallopt and their values (malloc.h): no array is mapped by itself, the heap is never cut, and
# all threads share it.
SETTINGS = {'M_MMAP_MAX': (-4, 0), 'M_TRIM_THRESHOLD': (-1, -1), 'M_ARENA_MAX': (-8, 1)}


def keep_freed_memory() -> None:
    """Has the C library keep what is freed, where JAX computes on a CPU: the arrays of a step that go back to
    the system come again as pages to be zeroed, a quarter of a step's time (docs/performance.md).

    For commands that train, before JAX has a backend, whose threads else have heaps of their own. Changes
    nothing where JAX has an accelerator's plugin, where the environment sets glibc's allocator
    (MALLOC_…, GLIBC_TUNABLES), and under another C library.
    """
    if sys.platform != 'linux' or not _computes_on_cpu() or _is_set_by_user():
        return
    library = ctypes.CDLL(None)
    if hasattr(library, 'mallopt'):
        for parameter, value in SETTINGS.values():
            library.mallopt(parameter, value)


def _computes_on_cpu() -> bool:
    """As far as it can be known without making the backend."""
    if platforms := os.environ.get('JAX_PLATFORMS'):
        return platforms == 'cpu'
    return not any(map(importlib.util.find_spec, ('jax_plugins', 'libtpu')))


def _is_set_by_user() -> bool:
    return any(name.startswith('MALLOC_') or name == 'GLIBC_TUNABLES' for name in os.environ)
