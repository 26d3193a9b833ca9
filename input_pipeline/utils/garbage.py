"""How often Python looks for garbage, in commands.

Reference counts free nearly everything; what they cannot is looked for among all objects. Imports and tracing
make millions that stay, so that by default a quarter of a short command's time goes into looking among them.
"""

import atexit
import gc

# Objects made until the newest are looked through; how often that happens until those that were left are, and
# how often that until all are (https://docs.python.org/3/library/gc.html#gc.set_threshold).
THRESHOLDS = (200_000, 10, 10)


def collect_seldom() -> None:
    """Has this process look for garbage seldom, and at its end not at all. For commands, before they import
    what is large; a library leaves that to its user."""
    gc.set_threshold(*THRESHOLDS)
    atexit.register(gc.freeze)
