"""Seconds from the command to the first training step, and what they are spent on, as a markdown table.

    python bench/startup.py [--config configs/pretrain.py] [--rounds 3] [--json FILE] [-- FLAGS OF run.py]

Runs `run.py` for one step in a fresh workdir on a corpus made before: with an empty compilation cache, then
with a full one. Imports are timed alone; compiling is what the full cache saves.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from bench import harness  # noqa: E402


def seconds(command: list[str], cache: Path) -> float:
    """What a command takes, with its compiled programs kept in `cache`."""
    start = time.perf_counter()
    env = os.environ | {'JAX_COMPILATION_CACHE_DIR': str(cache)}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    if done.returncode:
        sys.exit(
            f'{" ".join(command)} ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}'
        )
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n')[0])
    parser.add_argument('--config', default='configs/pretrain.py')
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--json')
    parser.add_argument('more', nargs='*', help='flags of run.py')
    flags = parser.parse_args()
    found: dict[str, list[float]] = {name: [] for name in ('imports', 'first start', 'second start')}
    with tempfile.TemporaryDirectory() as folder:

        def run(workdir: str, cache: str) -> float:
            schedule = ['--config.total_steps=1', '--config.optim.warmup_steps=0', '--config.eval_every=0']
            command = [sys.executable, 'run.py', f'--config={flags.config}', f'--workdir={folder}/{workdir}']
            corpus = f'--config.data.corpus={folder}/corpus/corpus'
            known = [] if workdir == 'corpus' or any('data.corpus' in x for x in flags.more) else [corpus]
            return seconds(
                [*command, *schedule, '--config.data.eval_examples=1', *known, *flags.more],
                Path(folder, cache),
            )

        if not any('data.corpus' in x for x in flags.more):
            run('corpus', 'unused')
        for round_ in range(flags.rounds):
            found['imports'].append(seconds([sys.executable, '-c', 'import run'], Path(folder, 'none')))
            found['first start'].append(run(f'first-{round_}', f'cache-{round_}'))
            found['second start'].append(run(f'second-{round_}', f'cache-{round_}'))
    medians = {name: statistics.median(values) for name, values in found.items()}
    compiling = medians['first start'] - medians['second start']
    rest = medians['second start'] - medians['imports']
    rows = [
        ['imports', f'{medians["imports"]:.1f}', f'{medians["imports"]:.1f}'],
        ['compiling, less what loading takes', f'{compiling:.1f}', '0'],
        ['data, weights, tracing, one step, one evaluation, saving', f'{rest:.1f}', f'{rest:.1f}'],
        ['all', f'{medians["first start"]:.1f}', f'{medians["second start"]:.1f}'],
    ]
    print(harness.table(['seconds of', 'first start', 'second start'], rows))
    harness.save(flags.json, seconds=found)


if __name__ == '__main__':
    main()
