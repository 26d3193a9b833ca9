r"""Fuzzing the folders guided by coverage, with Atheris (pip install atheris; a wheel for Linux on x86_64):

    python tests/fuzz/coverage.py --seconds 900 --output figure.json [--targets config,index]

Each target has its share of the time, in a process of its own. Half of the inputs are `folders.mutate`'s,
half libFuzzer's. Leaves with status 1 where an input was found that is neither read nor refused in one line,
that took over two seconds of processor time, a minute by the clock, or more than 4 GB of memory; it is kept
beside the figure.
"""

import argparse
import json
import random
import re
import subprocess
import sys
import time
from pathlib import Path

SECONDS = 2.0  # of processor time, for an input
sys.path.insert(0, str(Path(__file__).parents[1]))


def fuzz(target: str, arguments: list[str]) -> None:
    """The loop of one target; libFuzzer leaves the process at its end."""
    import atheris

    with atheris.instrument_imports(include=['clower_jax']):
        from fuzz import folders

    def attempt(data: bytes) -> None:
        began = time.process_time()
        folders.TARGETS[target](data)
        if (took := time.process_time() - began) > SECONDS:
            raise RuntimeError(f'{took:.1f} s of processor time')

    folders.TARGETS[target](folders.SEEDS[target]())  # what is imported and compiled at first is in no input

    def mutated(data: bytes, longest: int, number: int) -> bytes:
        rng = random.Random(number)
        if rng.random() < 0.5:
            return folders.mutate(data, rng)[:longest]
        return atheris.Mutate(data, longest)

    atheris.Setup([sys.argv[0], *arguments], attempt, custom_mutator=mutated)
    atheris.Fuzz()


def run(target: str, seconds: int, kept: Path) -> dict:
    """One target in a process of its own; what libFuzzer says of it."""
    from fuzz import folders

    corpus = kept / target
    corpus.mkdir(parents=True, exist_ok=True)
    (corpus / 'seed').write_bytes(folders.SEEDS[target]())
    flags = (
        f'-max_total_time={seconds}',
        '-timeout=60',
        '-rss_limit_mb=4096',
        f'-artifact_prefix={kept}/{target}-',
    )
    command = [sys.executable, __file__, '--loop', target, str(corpus), *flags, '-max_len=65536']
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, errors='replace')
    found = re.search(r'stat::number_of_executed_units:\s+(\d+)|Done (\d+) runs', done.stderr)
    coverage = re.findall(r'#(\d+)\s+\S+\s+cov: (\d+)', done.stderr)
    inputs = int((found[1] or found[2]) if found else coverage[-1][0] if coverage else 0)
    figure = {'inputs': inputs, 'seconds': round(time.perf_counter() - began), 'status': done.returncode}
    figure['coverage'] = int(coverage[-1][1]) if coverage else 0
    if done.returncode:
        (kept / f'{target}.log').write_text(done.stderr)
    return figure


def main() -> None:
    """See above."""
    if sys.argv[1:2] == ['--loop']:
        fuzz(sys.argv[2], sys.argv[3:])
    from fuzz import folders

    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--seconds', type=int, default=900, help='for all targets together')
    parser.add_argument('--targets', default=','.join(folders.TARGETS))
    parser.add_argument('--output', type=Path, default=Path('runs/fuzz/folders.json'))
    args = parser.parse_args()
    targets = args.targets.split(',')
    figures = {}
    for target in targets:
        figures[target] = run(target, args.seconds // len(targets), args.output.parent / 'folders')
        print(target, figures[target], flush=True)
    total = {'inputs': sum(one['inputs'] for one in figures.values()), 'targets': figures}
    args.output.write_text(json.dumps(total, indent=2) + '\n', encoding='utf-8')
    sys.exit(any(one['status'] for one in figures.values()))


if __name__ == '__main__':
    main()
