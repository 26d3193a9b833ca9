"""The long form of the tests of faults: make soak, or a part of it, make soak SOAK='--parts=kills,power'.

Prints what it does, and keeps the figures of each part in --output as soon as the part is done.
"""

import argparse
import json
import os
import shutil
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
    'eval_every': 0,
}  # fmt: skip


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--parts', default=','.join(PARTS), help='of what there is: ' + ', '.join(PARTS))
    parser.add_argument('--kills', type=int, default=100, help='of run.py; of builds a quarter more')
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

    for part in flags.parts.split(','):
        if part == 'kills':
            for name, share in SHARES.items():
                rounds = kills.Rounds(context, every_job[name], folder / name)
                keep(f'kills, {name}', kills.soak(rounds, round(share * flags.kills)))
        elif part == 'corpus':
            builds = corpora.Builds(materials, folder / 'corpora')
            keep('kills, corpus', corpora.soak(builds, round(flags.kills / 4)))
        elif part == 'power' and power.can_be_cut():
            rounds = kills.Rounds(context, every_job['pretrain'], folder / 'power')
            keep('power cuts, pretrain', kills.soak(rounds, flags.power_cuts, power_cuts=True))
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
