"""Runs the job that a config describes: python run.py --config=configs/pretrain.py[:variant].

Any config value can be set on the command line: --config.batch_size=64. See configs/ for the jobs.
"""

import functools
import logging
import sys
from pathlib import Path

import absl.logging
import jax
from absl import app, flags
from jax.experimental import multihost_utils
from ml_collections import ConfigDict, config_flags

from clower_jax import start, train
from input_pipeline import batches

CONFIG = config_flags.DEFINE_config_file(
    'config', None, 'The job: configs/<job>.py[:variant].', lock_config=True
)
WORKDIR = flags.DEFINE_string('workdir', None, 'Where the run lives; default runs/<job>[-<variant>].')
COORDINATOR = flags.DEFINE_string('coordinator', None, 'Several processes: host:port of the first one.')
NUM_PROCESSES = flags.DEFINE_integer('num_processes', None, 'Several processes: how many.')
PROCESS_ID = flags.DEFINE_integer('process_id', None, 'Several processes: which one this is, from 0.')
CLUSTER = flags.DEFINE_bool('cluster', False, 'Several processes, found out from Slurm, MPI or a TPU pod.')


def default_workdir(config_file: str) -> Path:
    """'configs/pretrain.py:small' → runs/pretrain-small."""
    job, _, variant = config_file.partition(':')
    return Path('runs', '-'.join(x for x in (Path(job).stem, variant) if x))


def speak() -> None:
    """Lets the project's own messages through as plain lines; of other libraries, only warnings (see -v)."""
    if not flags.FLAGS['verbosity'].present:
        absl.logging.set_verbosity(absl.logging.WARNING)
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter('%(message)s'))
    for name in ('clower_jax', 'input_pipeline'):
        logger = logging.getLogger(name)
        logger.setLevel(logging.INFO)
        logger.addHandler(handler)
        logger.propagate = False


def main(argv: list[str]) -> None:
    """Resolves the config and hands it to the one call that it names."""
    if len(argv) > 1:
        raise app.UsageError(f'unknown arguments: {" ".join(argv[1:])}')
    speak()
    if not (COORDINATOR.value or CLUSTER.value) and (NUM_PROCESSES.value or PROCESS_ID.value is not None):
        raise app.UsageError('--num_processes and --process_id need --coordinator=host:port (or --cluster)')
    if COORDINATOR.value or CLUSTER.value:
        jax.distributed.initialize(COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value)
    job = config_flags.get_config_filename(flags.FLAGS['config'])
    workdir = Path(WORKDIR.value or default_workdir(job))
    try:
        start.check(CONFIG.value)
        # One process builds what is missing, the others then find it.
        if jax.process_index() == 0:
            config = batches.resolve(CONFIG.value, workdir)
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices('corpus')
            config = batches.resolve(CONFIG.value, workdir)
        vocabulary = batches.vocabulary(config)
        held_out = train.train(config, workdir, functools.partial(batches.batches, config), vocabulary)
    except (ValueError, FloatingPointError, OSError, ImportError) as error:
        absl.logging.debug('The traceback:', exc_info=True)
        sys.exit(f'\nrun.py: {error}\n(For the traceback add -v=1.)')
    if jax.process_index() == 0:
        print(farewell(job, config, workdir, held_out))


def farewell(job: str, config: ConfigDict, workdir: Path, held_out: dict[str, float]) -> str:
    """What came of the run and what to do next."""
    text = f'Curves: {workdir}/curves.png · every figure: {workdir}/metrics.jsonl'
    if 'acc_tcl' in held_out:
        text += (
            f'\nHeld out, a word finds its own characters among {held_out["anchors"]:.0f} words in '
            f'{held_out["acc_tcl"]:.1%} of the cases (chance: {1 / held_out["anchors"]:.1%}).'
        )
    if config.data.text == 'embedded':
        what, source = 'your own text', "--config.data.text='my/*.txt' --workdir=runs/mine"
    else:
        what = 'another run from these weights'
        source = f'--config.data.corpus={config.data.corpus} --config.init_from={workdir} --workdir=runs/next'
    return f'{text}\nNext: {what}, python run.py --config={job} {source}'


if __name__ == '__main__':
    flags.mark_flag_as_required('config')
    app.run(main)
