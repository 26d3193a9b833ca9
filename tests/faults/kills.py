"""Rounds of kills: a job is killed some times, then left to its end, which is that of one never killed."""

import random
import shutil
import time
from collections import Counter
from pathlib import Path

import jobs
import moments
import power
import starts

LONGEST = 900  # seconds that a start may take


class Rounds:
    """A job and what it comes to undisturbed, in `folder`."""

    def __init__(self, context, job: jobs.Job, folder: Path):
        self._context, self.job, self._folder = context, job, folder
        folder.mkdir(parents=True)
        self.kills: Counter[str] = Counter()  # by phase
        whole = folder / 'undisturbed'
        # Twice: the first one compiles, and its phases last longer than those of the runs that are killed.
        for log in (folder / 'compiling.log', folder / 'undisturbed.log'):
            shutil.rmtree(whole, ignore_errors=True)
            self._finish(whole, log)
        self.seconds = moments.durations(starts.notes_of(folder / 'undisturbed.log'))
        self.expected = jobs.end_state(whole)

    def round(self, seed: int, kills: int) -> None:
        """Kills a run at moments of a seed until it was killed so often, or came to its end before.

        Raises AssertionError where it does not end as the undisturbed one.
        """
        self._round(seed, kills, self._folder / f'seed-{seed}', None)

    def power_cuts(self, seed: int, cuts: int) -> None:
        """The same, with the power of the disk cut that the run is on."""
        with power.disk(self._folder / f'power-{seed}') as disk:
            self._round(seed, cuts, disk.path / 'run', disk)

    def _round(self, seed: int, kills: int, workdir: Path, disk: power.Disk | None) -> None:
        rng = random.Random(f'{self.job.name} {seed}')
        log = self._folder / f'{"power" if disk else "kills"}-{seed}.log'
        drawn = []
        for _ in range(kills):
            moment = moments.draw(rng, self.job.phases, self.seconds)
            drawn.append(tuple(moment))
            told = f'{self.job.name}, seed {seed}, after {drawn} (see {log})'
            process = starts.start(self._context, self.job.command(workdir), log, moment, disk and disk.path)
            process.join(LONGEST)
            if process.exitcode == 0:
                break
            assert process.exitcode == -9, f'{told}: ended with {process.exitcode}'
            if disk:
                disk.unmount()
                disk.mount()
            self.kills[self._phase(log, workdir)] += 1
        self._finish(workdir, log)
        jobs.assert_same(jobs.end_state(workdir), self.expected, told)
        shutil.rmtree(workdir)

    def _phase(self, log: Path, workdir: Path) -> str:
        """Where a killed run was. A save is what left an unfinished checkpoint, whatever ran beside it."""
        unfinished = any('orbax-checkpoint-tmp' in path.name for path in workdir.rglob('*tmp*'))
        return 'save' if unfinished else moments.last_phase(starts.notes_of(log))

    def _finish(self, workdir: Path, log: Path) -> None:
        process = starts.start(self._context, self.job.command(workdir), log)
        process.join(LONGEST)
        assert process.exitcode == 0, f'{log}: ended with {process.exitcode}'


def soak(rounds: Rounds, kills: int, each: int = 5, power_cuts: bool = False) -> dict:
    """Rounds until so many kills, or power cuts; the figures."""
    began, seed = time.monotonic(), 0
    while rounds.kills.total() < kills:
        wanted = min(each, kills - rounds.kills.total())
        (rounds.power_cuts if power_cuts else rounds.round)(seed, wanted)
        seed += 1
        print(f'{rounds.job.name}: {rounds.kills.total()} of {kills} survived', flush=True)
    return {
        'kills': rounds.kills.total(),
        'by_phase': dict(sorted(rounds.kills.items())),
        'rounds': seed,
        'seconds': round(time.monotonic() - began),
    }
