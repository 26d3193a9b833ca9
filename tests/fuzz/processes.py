"""An attack in a process of its own, whose end, whatever it is, is an outcome."""

import atexit
import dataclasses
import mmap
import multiprocessing
import os
import queue
import struct
import tempfile
from pathlib import Path

from fuzz import engine, targets


def _attack(name: str, count: int, seed: int, last: str, outcomes: multiprocessing.Queue) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libraries write what they think of an input
    with open(last, 'r+b') as file:
        outcome = engine.attack(targets.find(name), count, seed, mmap.mmap(file.fileno(), 0))
    outcomes.put(dataclasses.asdict(outcome))
    atexit._run_exitfuncs()  # which multiprocessing leaves out: folders of the targets are removed


def attack_apart(name: str, count: int, seed: int) -> dict:
    """The outcome of a target in a process of its own, whatever becomes of that."""
    context = multiprocessing.get_context('forkserver')  # what the targets import is imported once
    context.set_forkserver_preload(['fuzz.data_targets', 'fuzz.folders'])
    outcomes = context.Queue()
    with tempfile.NamedTemporaryFile() as last:
        last.truncate(engine.LARGEST + 4)
        process = context.Process(target=_attack, args=(name, count, seed, last.name, outcomes))
        process.start()
        while True:
            try:
                outcome = outcomes.get(timeout=5)
                break
            except queue.Empty:
                if not process.is_alive():
                    data = Path(last.name).read_bytes()
                    (size,) = struct.unpack('<I', data[:4])
                    problem = f'the process ended with {process.exitcode}'
                    failure = {'problem': problem, 'input': data[4 : 4 + size].hex()}
                    outcome = dataclasses.asdict(engine.Outcome(failures=[failure]))
                    break
        process.join()
    return outcome
