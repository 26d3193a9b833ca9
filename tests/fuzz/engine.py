"""A target, what is made of its sound inputs, and what is held against it.

An input is read, or refused by an exception that the target agrees to, in one line that names the place. Any
other exception, a second line, two seconds of this process's time or a jump in memory is a failure.
"""

import mmap
import random
import resource
import signal
import struct
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

SECONDS = 2.0  # of processor time, for an input
HANGS = 60.0  # seconds by the clock after which an input is given up
MEGABYTES = 512  # that the process may grow by for one input
LARGEST = 1 << 20  # bytes of an input
# What formats, numbers and decoders are sensitive to.
TOKENS = (
    *(b'\0', b'\n', b'\r\n', b'\t', b'"', b'""', b"'", b',', b';', b':', b'\\', b'/', b'../', b'[', b']'),
    *(b'{', b'}', b'{}', b'[]', b'null', b'true', b'NaN', b'-Infinity', b'1e999', b'-1', b'0', b'9' * 30),
    *(b'9' * 5000, b'[' * 3000, b'{"a":' * 3000, b'\\ud800', b'\\u0000', b'\xed\xa0\x80', b'\xff\xfe'),
    *(b'\xef\xbb\xbf', b'\xff', b'\x1c', b'\x85', b'\x80\0\0\0', b'\xff\xff\xff\x7f', b'\xff' * 8),
    *(b'\x28\xb5\x2f\xfd', b'\x1f\x8b', b'PAR1'),
    *(text.encode() for text in ('\u2028', '\u0301', '\u200b', '\u3000', '。', '💯', '一二三', 'ﷺ', 'İ')),
    *(text.encode() for text in ('①', '٣', '²')),
)  # fmt: skip


class Target(NamedTuple):
    """Something that reads what it is given.

    run: takes an input; what it asserts must hold of what it reads.
    seeds: sound inputs, and others that are worth beginning from.
    refusals: the exceptions that are agreed to.
    place: stands in the message of every refusal.
    share: of all inputs, in relation to other targets: the slower, the fewer.
    """

    run: Callable[[bytes], None]
    seeds: tuple[bytes, ...]
    refusals: tuple[type[BaseException], ...] = (ValueError,)
    place: str = ''
    share: float = 1.0


@dataclass
class Outcome:
    """What came of the inputs that a target was given."""

    inputs: int = 0
    read: int = 0
    refused: int = 0
    slowest_ms: float = 0.0
    peak_growth_mb: float = 0.0
    seconds: float = 0.0
    failures: list[dict[str, Any]] = field(default_factory=list)


def mutated(seeds: tuple[bytes, ...], rng: random.Random) -> bytes:
    """One of the seeds, changed in one to eight places; or, seldom, bytes at random."""
    if rng.random() < 0.03:
        return rng.randbytes(rng.randrange(300))
    data = bytearray(rng.choice(seeds))
    for _ in range(min(1 + int(rng.expovariate(0.7)), 8)):
        at = rng.randrange(len(data) + 1)
        stop = min(len(data), at + 1 + int(rng.expovariate(0.1)))
        action = rng.randrange(8)
        if action == 0 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif action == 1:
            data[at:at] = rng.choice(TOKENS)
        elif action == 2:
            data[at:stop] = rng.choice(TOKENS)
        elif action == 3:
            del data[at:stop]
        elif action == 4:
            data[at:at] = data[at:stop] * rng.choice((1, 2, 50))
        elif action == 5:
            data[at:stop] = rng.randbytes(stop - at)
        elif action == 6:
            other = rng.choice(seeds)
            start = rng.randrange(len(other) + 1)
            data[at:stop] = other[start : start + rng.randrange(40)]
        else:
            del data[at if rng.random() < 0.5 else rng.randrange(len(data) + 1) :]
    return bytes(data[:LARGEST])


def inputs(target: Target, count: int, seed: int) -> Iterator[bytes]:
    """The seeds, then mutations of them; the same for the same seed."""
    rng = random.Random(seed)
    yield from target.seeds[:count]
    for _ in range(count - len(target.seeds)):
        yield mutated(target.seeds, rng)


def attack(target: Target, count: int, seed: int = 0, last: mmap.mmap | None = None) -> Outcome:
    """Gives a target `count` inputs. `last` holds the one on its way, for who survives this process."""
    outcome = Outcome()
    began = time.monotonic()
    seen: set[str] = set()
    signal.signal(signal.SIGALRM, _hangs)
    for data in inputs(target, count, seed):
        if last:
            last[: 4 + len(data)] = struct.pack('<I', len(data)) + data
        before = _peak_mb()
        signal.setitimer(signal.ITIMER_REAL, HANGS)
        start = time.process_time()
        problem = _problem(target, data, outcome)
        seconds = time.process_time() - start
        signal.setitimer(signal.ITIMER_REAL, 0)
        growth = _peak_mb() - before
        outcome.inputs += 1
        outcome.slowest_ms = max(outcome.slowest_ms, round(1000 * seconds, 1))
        outcome.peak_growth_mb = max(outcome.peak_growth_mb, round(growth, 1))
        if seconds > SECONDS:
            problem = problem or f'slow: {seconds:.1f} s'
        if growth > MEGABYTES and outcome.inputs > len(target.seeds):  # the first ones import and compile
            problem = problem or f'memory: {growth:.0f} MB'
        if problem and problem not in seen:
            seen.add(problem)
            outcome.failures.append({'problem': problem, 'input': data.hex()})
    outcome.seconds = round(time.monotonic() - began, 1)
    return outcome


def _problem(target: Target, data: bytes, outcome: Outcome) -> str:
    """What is wrong with how the target took an input, or ''."""
    try:
        target.run(data)
    except target.refusals as error:
        outcome.refused += 1
        message = str(error)
        if '\n' in message.strip() or '\r' in message:
            return f'more than a line: {message[:300]!r}'
        if not message or target.place not in message:
            return f'no place: {message[:300]!r}'
        return ''
    except BaseException as error:  # also what a reader should never raise, such as SystemExit
        if isinstance(error, KeyboardInterrupt):
            raise
        at = traceback.extract_tb(error.__traceback__)[-1]
        place = '/'.join(Path(at.filename).parts[-2:])
        return f'{type(error).__name__} at {place}:{at.lineno}: {str(error)[:200]}'
    outcome.read += 1
    return ''


def _hangs(*_: object) -> None:
    raise TimeoutError(f'nothing came of it in {HANGS:.0f} s')


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
