"""Where JAX keeps what it compiles."""

import os
import platform
from pathlib import Path

import jax


def keep_compiled() -> None:
    """Has JAX keep what it compiles for the next start, under $XDG_CACHE_HOME or ~/.cache, unless it was told
    where: JAX_COMPILATION_CACHE_DIR, empty for nowhere. A folder for each machine: what one compiles for its
    CPU another may not be able to run.

    Programs that take less than a second to compile are kept, too (JAX's own default leaves them out): a
    start has a hundred of them.
    """
    if 'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS' not in os.environ:
        jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)
    if 'JAX_COMPILATION_CACHE_DIR' in os.environ:
        return
    caches = Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache')
    jax.config.update('jax_compilation_cache_dir', str(caches / 'clower_jax' / platform.node()))
