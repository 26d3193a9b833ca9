"""What every contender of bench/step.py is given, a config and one batch in a file, and how it is timed."""

import contextlib
import json
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

VIEWS = ('char', 'word')
MASK_ID, FIRST_ORDINARY_ID = 103, 106  # of Google's Chinese vocabulary
IGNORED_LABEL = -100


def write(path: str | Path, config, batch: dict[str, np.ndarray]) -> None:
    """Puts a resolved config (a ConfigDict) and a batch into one .npz file."""
    with Path(path).open('wb') as file:
        np.savez(file, config=np.array(config.to_json()), **batch)


def read(path: str | Path) -> tuple[dict, dict[str, np.ndarray]]:
    """(config, batch) of such a file; the config as a plain dict."""
    with np.load(path) as file:
        arrays = dict(file)
    return json.loads(str(arrays.pop('config'))), arrays


def synthetic_batch(config, fill: float = 1.0, seed: int = 0) -> dict[str, np.ndarray]:
    """A batch of random ids, as docs/architecture.md describes it.

    Args:
      config: resolved, with a vocabulary of more than 106 base rows.
      fill: the mean share of a row that is no padding; lengths are uniform around it. 1: every row is full.

    Every row has `data.max_anchors` anchors of 2–4 characters; `data.mask_rate` of its tokens are masked.
    Raises ValueError where rows of such lengths cannot hold them.
    """
    data, rows = config.data, config.batch_size
    rng = np.random.default_rng(seed)
    batch: dict[str, np.ndarray] = {}
    lengths, free = {}, {}
    for view in VIEWS:
        length, most = data[f'{view}_length'], round(data.mask_rate * data[f'{view}_length'])
        shortest = max(round((2 * fill - 1) * length), round(0.3 * length))
        if not 0 < fill <= 1 or shortest < 2 * data.max_anchors + 4:
            raise ValueError(
                f'rows of {shortest} to {length} tokens (fill {fill}) cannot hold {data.max_anchors} anchors '
                'and the masked tokens: longer rows, a larger fill or fewer anchors'
            )
        vocabulary = config.model.base_vocab_size if view == 'char' else config.model.vocab_size
        lengths[view] = rng.integers(shortest, length, rows, endpoint=True)
        ids = rng.integers(FIRST_ORDINARY_ID, vocabulary, (rows, length))
        positions = np.zeros((rows, most), np.int64)
        labels = np.full((rows, most), IGNORED_LABEL)
        free[view] = []
        for row, real in enumerate(lengths[view]):
            order = rng.permutation(np.arange(1, real - 1))  # [CLS] and [SEP] are not masked
            masked = np.sort(order[: round(data.mask_rate * real)])
            positions[row, : len(masked)] = masked
            labels[row, : len(masked)] = ids[row, masked]
            ids[row, masked] = MASK_ID
            free[view].append(order[len(masked) :])
        column = np.arange(length)
        real = column < lengths[view][:, None]
        batch[f'{view}_ids'] = ids * real
        batch[f'{view}_segments'] = (column >= lengths[view][:, None] // 2) & real
        batch[f'{view}_mlm_positions'], batch[f'{view}_mlm_labels'] = positions, labels
    anchors = data.max_anchors
    words = np.stack([np.sort(order[:anchors]) for order in free['word']])
    batch['anchor_word_position'] = words
    batch['anchor_char_start'] = rng.integers(1, lengths['char'][:, None] - 5, (rows, anchors))
    batch['anchor_char_length'] = rng.integers(2, 4, (rows, anchors), endpoint=True)
    batch['anchor_ids'] = np.take_along_axis(batch['word_ids'], words, axis=1)
    batch['sop_labels'] = rng.integers(0, 2, rows)
    return {name: value.astype(np.int32) for name, value in batch.items()}


def useful_tokens(batch: dict[str, np.ndarray]) -> int:
    """Tokens of both views that are no padding."""
    return int(sum((batch[f'{view}_ids'] != 0).sum() for view in VIEWS))


def timed(step: Callable[[], object], wait: Callable[[], object], seconds: float, window: int = 1) -> dict:
    """Times `step`.

    Args:
      wait: returns when all that was asked for is done.
      seconds: to spend on it, after a first and a second step that do not count; 3 windows at least.
      window: steps between two waits, so that a device need not idle while the next step is being asked for.

    Returns:
      `seconds`, one figure a window: of one step; `compile_seconds`: what the first step took longer.
    """

    def steps(count: int) -> float:
        start = time.perf_counter()
        for _ in range(count):
            step()
        wait()
        return (time.perf_counter() - start) / count

    first = steps(1)
    steps(1)
    window_seconds: list[float] = []
    while len(window_seconds) < 3 or sum(window_seconds) * window < seconds:
        window_seconds.append(steps(window))
    return {'seconds': window_seconds, 'compile_seconds': max(first - statistics.median(window_seconds), 0.0)}


def peak_rss() -> int:
    """Bytes of the most memory that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@contextlib.contextmanager
def memory_may_run_out():
    """Ends the process in order, saying so in its last line, where the batch does not fit into memory."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:  # both frameworks' errors of this kind are RuntimeErrors
        text = f'{type(error).__name__}: {error}'.lower()
        if not any(sign in text for sign in ('out of memory', 'outofmemory', 'resource_exhausted')):
            raise
        print(json.dumps({'out_of_memory': True}))
