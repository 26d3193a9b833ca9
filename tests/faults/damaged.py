"""What becomes of damaged checkpoints and corpora: the same end as undamaged, or one line that says why."""

import functools
import json
import logging
import shutil
from collections import Counter
from pathlib import Path

import damage
import jobs
import synthetic

from clower_jax.train import programs_of, train
from configs import pretrain
from input_pipeline import batches, loader

SHORT = {
    'total_steps': 6, 'log_every': 1, 'eval_every': 0, 'checkpoint_every': 2, 'model.num_layers': 0,
}  # fmt: skip
ERRORS = (ValueError, OSError, FloatingPointError)  # that run.py tells in one line


class _Said(logging.Handler):
    def __init__(self):
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def _outcome(expected, use) -> str:
    """'refused' by an error of one line, 'noticed' by a warning, else 'harmless'; raises AssertionError where
    the outcome is another than the expected one."""
    said = _Said()
    loggers = [logging.getLogger(name) for name in ('clower_jax', 'input_pipeline', 'absl')]
    for logger in loggers:
        logger.addHandler(said)
    try:
        got = use()
    except ERRORS as error:
        text = str(error)
        assert text and '\n' not in text.strip(), f'no line of its own: {text!r}'
        return 'refused'
    finally:
        for logger in loggers:
            logger.removeHandler(said)
    assert got == expected, 'used in silence' if not said.lines else f'used, after {said.lines}'
    return 'noticed' if said.lines else 'harmless'


def of_checkpoints(scratch: Path, every: int = 1, seed: int = 0) -> dict[str, int]:
    """Damages every file of the newest of two checkpoints, and of what lies beside them, and goes on."""
    config = synthetic.tiny_config(**SHORT)
    programs = programs_of(config)

    def go_on(workdir: Path, steps: int) -> dict[str, str]:
        config.total_steps = steps
        source = functools.partial(synthetic.batches, config)
        train(config, workdir, source, synthetic.Vocabulary(), programs=programs)
        state = jobs.end_state(workdir)
        # What a start writes anew, or sets aside, is not what was trained.
        return {name: value for name, value in state.items() if ': [' in name or 'metrics' in name}

    config.keep_checkpoints = 2
    go_on(scratch / 'whole', 4)
    shutil.copytree(scratch / 'whole', scratch / 'copy')
    expected = go_on(scratch / 'copy', 6)

    def use(copy: Path) -> str:
        return _outcome(expected, lambda: go_on(copy, 6))

    counts: Counter[str] = Counter()
    for part in ('checkpoints/4',):
        counts.update(damage.of_every_file(scratch / 'whole', part, scratch, use, seed, every))
    return dict(counts)


def of_corpora(corpus: Path, scratch: Path, every: int = 1, seed: int = 0) -> dict[str, int]:
    """Damages every file of a corpus and reads an epoch of it, as a run does."""
    shutil.copytree(corpus, scratch / 'whole')

    def read(folder: Path) -> str:
        config = pretrain.get_config()
        config.batch_size = 8
        config.data.update({'corpus': str(folder), 'text': ''})
        resolved = batches.resolve(config, scratch / 'run')
        tokens = batches.vocabulary(resolved).tokens
        steps = len(loader.open_split(str(folder), 'train')) // 8
        stream = batches.batches(resolved)
        drawn = [{name: value.tobytes().hex() for name, value in next(stream).items()} for _ in range(steps)]
        return json.dumps([drawn, list(tokens)])

    expected = read(scratch / 'whole')
    return damage.of_every_file(
        scratch / 'whole', '.', scratch, lambda copy: _outcome(expected, lambda: read(copy)), seed, every
    )
