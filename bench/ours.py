"""One training step of this project, timed: a contender of bench/step.py, which starts it.

python bench/ours.py CASE [--seconds 6] [--window 1]
"""

import argparse
import json
import os
import sys
from pathlib import Path

# Before JAX is imported: on a GPU it may have almost all of the memory, as torch may.
os.environ.setdefault('XLA_PYTHON_CLIENT_MEM_FRACTION', '0.95')
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import jax  # noqa: E402
from ml_collections import ConfigDict  # noqa: E402

from bench import step_case  # noqa: E402
from clower_jax.checkpoints.train_state import TrainState, sharded_state  # noqa: E402
from clower_jax.parallel import (
    precision,  # noqa: E402
    sharding,  # noqa: E402
)
from clower_jax.training import loop  # noqa: E402


def main() -> None:
    """Prints one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n')[0])
    parser.add_argument('case', type=Path, help='what step_case.write wrote')
    parser.add_argument('--seconds', type=float, default=6.0, help='to spend on timing')
    parser.add_argument('--window', type=int, default=1, help='steps between two waits')
    flags = parser.parse_args()
    settings, batch = step_case.read(flags.case)
    config = ConfigDict(settings)
    with (
        step_case.memory_may_run_out(),
        jax.default_matmul_precision(precision.matmul_precision(config.dtype)),
    ):
        evaluator, optimizer, train_step = loop.make_programs(config)
        key = jax.random.key(config.seed)

        def create() -> TrainState:
            return TrainState.create(evaluator.objective.init(key), optimizer, config.dtype)

        placed = sharding.shard_batch(evaluator.mesh, batch, config.batch_size)
        run = {'state': sharded_state(evaluator.mesh, create)}
        jax.block_until_ready(run)

        def step() -> None:
            run['state'], run['measured'] = train_step(run['state'], placed, key)

        figures = step_case.timed(step, lambda: jax.block_until_ready(run), flags.seconds, flags.window)
        device = jax.devices()[0]
        on_device = (device.memory_stats() or {}).get('peak_bytes_in_use')
        figures |= {
            'device': device.device_kind,
            'tokens': step_case.useful_tokens(batch),
            'examples': config.batch_size,
            'peak_bytes': on_device or step_case.peak_rss(),
            'note': f'jax {jax.__version__}',
        }
        print(json.dumps(figures))


if __name__ == '__main__':
    main()
