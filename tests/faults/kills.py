"""Rounds of kills: a job is killed some times, then left to its end, which is that of one never killed."""

import random
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import jobs
import moments
import power
import starts

KILLS_OF_A_ROUND = 5
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


def rounds(
    before: dict | None, counted: Counter[str], take: Callable[[int, int], None], wanted: int
) -> Iterator[dict]:
    """Rounds `take(seed, kills)`, which count their kills by phase or victim in `counted`, until there are
    `wanted` more than `before`, the figures of former ones, whose seeds are not taken again. The figures of
    all, after each round."""
    before = before or {'kills': 0, 'by_phase': {}, 'rounds': 0, 'seconds': 0}
    began, seed = time.monotonic(), before['rounds']
    while counted.total() < wanted:
        take(seed, min(KILLS_OF_A_ROUND, wanted - counted.total()))
        seed += 1
        yield {
            'kills': before['kills'] + counted.total(),
            'by_phase': dict(sorted((Counter(before['by_phase']) + counted).items())),
            'rounds': seed,
            'seconds': before['seconds'] + round(time.monotonic() - began),
        }
