"""What devices say to each other in a training step: collectives of the compiled program, and their bytes.

    python bench/collectives.py [--devices 1,2,4,8] [--size tiny] [--rows 4] [--json FILE]

Compiles the step of configs/pretrain.py for simulated CPU devices, a fixed batch on each (weak scaling), and
reads the program. Bytes are those of the result on one device: what a device receives in a gather, what it
adds up in a reduction.
"""

import argparse
import collections
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import jax  # noqa: E402
from jax.sharding import AxisType  # noqa: E402

from bench import harness  # noqa: E402
from bench.compiled import compiled_step  # noqa: E402
from clower_jax.parallel import sharding  # noqa: E402
from clower_jax.parallel.collectives import collectives as collectives_of  # noqa: E402
from configs import common, pretrain  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n')[0])
    parser.add_argument('--devices', type=harness.integers, default=(1, 2, 4, 8))
    parser.add_argument('--size', default='tiny', choices=common.SIZES)
    parser.add_argument('--rows', type=int, default=4, help='of each device')
    parser.add_argument('--json')
    flags = parser.parse_args()
    jax.config.update('jax_platforms', 'cpu')
    jax.config.update('jax_num_cpu_devices', max(flags.devices))
    rows, raw = [], {}
    for number in flags.devices:
        config = pretrain.get_config('cpu')
        config.model = common.model(flags.size)
        config.batch_size = flags.rows * number
        config.model.vocab_size, config.model.base_vocab_size = 4000, 2000
        config.data.char_length, config.data.word_length = 128, 80
        devices = jax.devices()[:number]
        mesh = jax.make_mesh((number, 1, 1), sharding.AXES, (AxisType.Auto,) * 3, devices=devices)
        step, task, _ = compiled_step(config, mesh)
        collectives = collectives_of(step.as_text())
        shapes = jax.eval_shape(task.init, jax.random.key(0))
        parameters = 4 * sum(leaf.size for leaf in jax.tree.leaves(shapes))
        total: collections.Counter = collections.Counter()
        for one in collectives:
            total[one.operation] += one.bytes
        wide = [one for one in collectives if one.operation == 'all-gather' and len(one.arrays[0][1]) == 2]
        wide = [one for one in wide if one.arrays[0][1][1] == config.model.hidden_size]
        raw[number] = {'bytes': dict(total), 'count': len(collectives), 'parameters': parameters}
        cells = [
            str(number),
            ', '.join(sorted(total)) or 'none',
            f'{len(wide)}, {sum(one.bytes for one in wide):,}',
            f'{total["all-gather"] - sum(one.bytes for one in wide):,}',
            f'{total["all-reduce"]:,} ({total["all-reduce"] / parameters:.2f})',
        ]
        rows.append(cells)
    header = ['devices', 'kinds', 'gathers of vectors, bytes', 'other gathers, bytes']
    print(harness.table([*header, 'reduced, bytes (of the parameters)'], rows))
    harness.save(flags.json, devices=raw)


if __name__ == '__main__':
    main()
