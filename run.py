"""Runs the job that a config describes: python run.py --config=configs/pretrain.py[:variant].

Any config value can be set on the command line: --config.batch_size=64. See configs/ for the jobs.
"""

import logging
import sys
from pathlib import Path

from absl import app, flags
from ml_collections import config_flags

from clower_jax.utils import allocator, command_line
from input_pipeline.utils import garbage

CONFIG = config_flags.DEFINE_config_file(
    'config', None, 'The job: configs/<job>.py[:variant].', lock_config=True
)
WORKDIR = flags.DEFINE_string('workdir', None, 'Where the run lives; default runs/<job>[-<variant>].')
COORDINATOR = flags.DEFINE_string('coordinator', None, 'Several processes: host:port of the first one.')
NUM_PROCESSES = flags.DEFINE_integer('num_processes', None, 'Several processes: how many.')
PROCESS_ID = flags.DEFINE_integer('process_id', None, 'Several processes: which one this is, from 0.')
CLUSTER = flags.DEFINE_bool('cluster', False, 'Several processes, found out from Slurm, MPI or a TPU pod.')

if __name__ == '__main__':  # before the libraries are imported, which takes seconds
    garbage.collect_seldom()
    allocator.keep_freed_memory()
    command_line.parse(sys.argv, __doc__)
    if (NUM_PROCESSES.value or PROCESS_ID.value is not None) and not (COORDINATOR.value or CLUSTER.value):
        command_line.refuse('--num_processes and --process_id need --coordinator=host:port (or --cluster)')

import absl.logging
import jax

from clower_jax import jobs
from clower_jax.parallel import lost_process, processes
from clower_jax.training import init_state
from clower_jax.utils import compile_cache
from configs import pretrain


def log_to_console() -> None:
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
    log_to_console()
    compile_cache.keep_compiled()
    brief = absl.logging.get_verbosity() <= absl.logging.WARNING
    if COORDINATOR.value or CLUSTER.value:
        try:
            processes.join(COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value, brief)
        except ConnectionError as error:
            absl.logging.debug('The traceback:', exc_info=True)
            sys.exit(f'run.py: {error}')
    name = config_flags.get_config_filename(flags.FLAGS['config'])
    job = jobs.Job(
        config=CONFIG.value,
        name=name,
        workdir=Path(WORKDIR.value or command_line.default_workdir(name)),
        overrides=config_flags.get_override_values(flags.FLAGS['config']),
        systems=pretrain.SYSTEMS,
    )
    try:
        text = jobs.run(job)
    except (ValueError, FloatingPointError, OSError, ImportError) as error:
        absl.logging.debug('The traceback:', exc_info=True)
        processes.end(f'\nrun.py: {error}\n(For the traceback add -v=1.)')
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        if init_state.is_out_of_memory(error):
            first = str(error).partition('\n')[0]
            hint = 'lower batch_size, lengths, model.*; raise microbatches'
            processes.end(f'\nrun.py: out of memory ({first}): {hint}')
        # Of one process alone it is its own mistake; of several it is what a collective ends with whose other
        # side is gone.
        if jax.process_count() == 1 or not brief:
            raise
        lost_process.leave(str(error))
    except KeyboardInterrupt:
        processes.end(130)  # what shells call the end of a process by Ctrl-C
    if jax.process_index() == 0:
        print(text)
    sys.exit(job.stop.status)


if __name__ == '__main__':
    app.run(main, flags_parser=lambda argv: argv[:1])  # they are parsed, see above
