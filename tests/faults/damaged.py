"""What becomes of damaged checkpoints and corpora: the same end as undamaged, or one line that says why."""

import functools
import json
import logging
import shutil
from pathlib import Path

import damage
import jobs

from clower_jax.training.loop import make_programs, train
from configs import pretrain
from helpers import synthetic
from input_pipeline.corpus import corpus_files, record_source
from input_pipeline.pretraining import batches

SHORT = {
    'total_steps': 6, 'log_every': 1, 'eval_every': 0, 'checkpoint_every': 2, 'keep_checkpoints': 3,
    'model.num_layers': 0,
}  # fmt: skip
ERRORS = (ValueError, OSError, FloatingPointError)  # that run.py tells in one line


class _Said(logging.Handler):
    def __init__(self):
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def _outcome(expected, use) -> str:
    """'refused' by an error that names the place, 'noticed' by a warning, else 'harmless'. Raises
    AssertionError where the outcome is another than the expected one."""
    said = _Said()
    loggers = [logging.getLogger(name) for name in ('clower_jax', 'input_pipeline', 'absl')]
    for logger in loggers:
        logger.addHandler(said)
    try:
        got = use()
    except ERRORS as error:
        # Below its line, an error may have the commands that help.
        line = str(error).strip().partition('\n')[0]
        assert 'damaged/' in line or line.endswith('damaged'), f'the place is not told: {error!r}'
        return 'refused'
    finally:
        for logger in loggers:
            logger.removeHandler(said)
    assert got == expected, 'used in silence' if not said.lines else f'used, after {said.lines}'
    return 'noticed' if said.lines else 'harmless'


def of_checkpoints(scratch: Path, every: int = 1, seed: int = 0) -> dict[str, int]:
    """Damages every file of the newest of two checkpoints, and goes on from what is left."""
    config = synthetic.tiny_config(**SHORT)
    programs = make_programs(config)

    def go_on(workdir: Path) -> dict[str, str]:
        source = functools.partial(synthetic.batches, config)
        train(config, workdir, source, synthetic.Vocabulary(), programs=programs)
        state = jobs.end_state(workdir)
        return {name: value for name, value in state.items() if ': [' in name or 'metrics' in name}

    whole = scratch / 'whole'
    expected = go_on(whole)
    shutil.rmtree(whole / 'checkpoints' / '6')  # as if it had been killed before it was saved
    return damage.of_every_file(
        whole, 'checkpoints/4', scratch, lambda copy: _outcome(expected, lambda: go_on(copy)), seed, every
    )


def of_corpora(corpus: Path, scratch: Path, every: int = 1, seed: int = 0) -> dict[str, int]:
    """Damages every file of a corpus and reads an epoch of it, as a run does. What is read to other batches
    must at least be found by the digests, which are compared on demand: 'by digest'."""
    shutil.copytree(corpus, scratch / 'whole')

    def read(folder: Path) -> str:
        config = pretrain.get_config()
        config.batch_size = 8
        config.data.update({'corpus': str(folder), 'text': ''})
        resolved = batches.resolve(config, scratch / 'run')
        tokens = batches.vocabulary(resolved).tokens
        steps = len(record_source.open_split(str(folder), 'train')) // 8
        stream = batches.batches(resolved)
        drawn = [{name: value.tobytes().hex() for name, value in next(stream).items()} for _ in range(steps)]
        return json.dumps([drawn, list(tokens)])

    expected = read(scratch / 'whole')

    def use(copy: Path) -> str:
        try:
            return _outcome(expected, lambda: read(copy))
        except AssertionError:
            try:
                corpus_files.verify(copy)
            except ValueError:
                return 'by digest'
            raise

    return damage.of_every_file(scratch / 'whole', '.', scratch, use, seed, every)
