"""The long form of the tests of faults: make soak, or a part of it, make soak SOAK='--parts=kills,power'.

Prints what it does, and keeps the figures in --output: of kills after each round, added to those that it has
already, with whose next seed it goes on.
"""

import argparse
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import corpora
import damaged
import jobs
import kills
import long_run
import power
import starts

PARTS = ('kills', 'corpus', 'power', 'damage', 'long')
SHARES = {'pretrain': 0.5, 'finetune': 0.3, 'grid': 0.2}  # of the kills of run.py
LONG = {
    'total_steps': 10_000_000, 'checkpoint_every': long_run.EVERY, 'log_every': long_run.EVERY,
    'eval_every': 20 * long_run.EVERY,
}  # fmt: skip


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--parts', default=','.join(PARTS), help='of what there is: ' + ', '.join(PARTS))
    parser.add_argument('--kills', type=int, default=100, help='of run.py, more; of builds a quarter of that')
    parser.add_argument(
        '--jobs', default=','.join(SHARES), help='those that are killed, of ' + ', '.join(SHARES)
    )
    parser.add_argument('--power_cuts', type=int, default=24)
    parser.add_argument('--seconds', type=float, default=7200, help='of the long run')
    parser.add_argument('--folder', default='runs/soak', help='is emptied first')
    parser.add_argument('--output', default='', help='default: soak.json in the folder')
    flags = parser.parse_args()
    folder = Path(flags.folder).absolute()
    output = Path(flags.output or folder / 'soak.json').absolute()
    cache = folder / 'compiled'
    for path in folder.glob('*'):
        if path.is_dir() and path != cache:
            shutil.rmtree(path)
    folder.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(cache))
    context = starts.server()
    materials = folder / 'materials'
    jobs.make_materials(materials)
    every_job = jobs.all_jobs(materials)
    figures = json.loads(output.read_text('utf-8')) if output.exists() else {}

    def keep(name: str, found: dict) -> None:
        figures[name] = found
        output.write_text(json.dumps(figures, indent=1) + '\n', 'utf-8')
        print(f'{name}: {json.dumps({key: found[key] for key in found if key != "lines"})}', flush=True)

    def go_on(name: str, counted: Counter[str], take: Callable[[int, int], None], wanted: int) -> None:
        for found in kills.rounds(figures.get(name), counted, take, wanted):
            keep(name, found)

    for part in flags.parts.split(','):
        if part == 'kills':
            chosen = {name: SHARES[name] for name in flags.jobs.split(',')}
            for name, share in chosen.items():
                rounds = kills.Rounds(context, every_job[name], folder / name)
                wanted = round(share / sum(chosen.values()) * flags.kills)
                go_on(f'kills, {name}', rounds.kills, rounds.round, wanted)
        elif part == 'corpus':
            builds = corpora.Builds(materials, folder / 'corpora')
            go_on('kills, corpus', builds.kills, builds.round, round(flags.kills / 4))
        elif part == 'power' and power.can_be_cut():
            rounds = kills.Rounds(context, every_job['pretrain'], folder / 'power')
            go_on('power cuts, pretrain', rounds.kills, rounds.power_cuts, flags.power_cuts)
        elif part == 'damage':
            keep('damage, checkpoints', damaged.of_checkpoints(folder / 'damage' / 'checkpoints'))
            keep('damage, corpus', damaged.of_corpora(materials / 'corpus', folder / 'damage' / 'corpus'))
        elif part == 'long':
            workdir = folder / 'long' / 'run'
            workdir.parent.mkdir()
            job = every_job['pretrain'].command(workdir)
            arguments = [*job, *(f'--config.{key}={value}' for key, value in LONG.items())]
            every = max(5.0, flags.seconds / 240)
            log = folder / 'long' / 'log'
            lines = long_run.measure(context, arguments, workdir, log, flags.seconds, every)
            saves = lines[-1]['step'] // long_run.EVERY
            found = {
                'seconds': flags.seconds,
                'saves': saves,
                'last_over_second_tenth': long_run.growth(lines),
            }
            keep('long run', found | {'lines': lines})
            assert not long_run.what_grew(lines), long_run.what_grew(lines)


if __name__ == '__main__':
    main()
