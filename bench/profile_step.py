"""Where the time of a training step goes, by group of kernels, as a markdown table.

    python bench/profile_step.py --size base --dtype bfloat16 --batch 96 [--set model.remat=qkv] [--json F]

Traces some steps of this project's training step on a synthetic batch (as bench/step.py has it) and adds up
the time of each group of kernels beside the bytes that the compiled program says they move: an operation that
contains a matrix product counts as one, whatever is fused with it.
"""

import argparse
import collections
import sys
import tempfile
from collections.abc import Container
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import jax  # noqa: E402

from bench import compiled, harness, hlo, step_case  # noqa: E402
from clower_jax.checkpoints.train_state import TrainState, sharded_state  # noqa: E402
from clower_jax.parallel import (
    precision,  # noqa: E402
    sharding,  # noqa: E402
)
from clower_jax.training import loop  # noqa: E402
from clower_jax.utils import flops  # noqa: E402
from configs import common, pretrain  # noqa: E402

STEPS = 5
Times = dict[str, tuple[float, int]]  # operation → (nanoseconds, runs)


class Spent(NamedTuple):
    """Of the kernels of a group in one step: time, how many ran, and the bytes that their program says they
    move."""

    seconds: float
    kernels: float
    bytes: int


def device_times(folder: str, known: Container[str]) -> Times:
    """(nanoseconds, runs) by operation, of the operations of the compiled program; on a GPU also other
    kernels."""
    times: Times = collections.defaultdict(lambda: (0, 0))
    for path in Path(folder).rglob('*.xplane.pb'):
        for plane in jax.profiler.ProfileData.from_file(str(path)).planes:
            on_gpu = plane.name.startswith('/device:GPU')
            for line in plane.lines:
                if on_gpu and not line.name.startswith('Stream'):
                    continue  # the same time again, by another name
                for event in line.events:
                    operation = dict(event.stats).get('hlo_op') or event.name
                    if on_gpu or operation in known:
                        nanoseconds, runs = times[operation]
                        times[operation] = nanoseconds + event.duration_ns, runs + 1
    return times


def by_group(times: Times, program: hlo.Program, steps: int) -> dict[str, Spent]:
    """What each group of kernels (GROUPS of bench/compiled.py, products, attention) took of one step, the
    longest first; 'no kernel of the program': copies that the runtime makes."""
    kernels = {kernel.instruction.name: kernel for kernel in program.kernels}
    groups: dict[str, Spent] = {}
    for operation, (nanoseconds, runs) in times.items():
        kernel = kernels.get(operation)
        group = hlo.group_of(kernel, compiled.GROUPS) if kernel else 'no kernel of the program'
        seconds, count, size = groups.get(group, Spent(0, 0, 0))
        moved = kernel.bytes * kernel.times if kernel else 0
        groups[group] = Spent(seconds + nanoseconds / 1e9 / steps, count + runs / steps, size + moved)
    return dict(sorted(groups.items(), key=lambda item: -item[1].seconds))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n')[0])
    parser.add_argument('--size', default='base', choices=common.SIZES)
    parser.add_argument('--dtype', default='bfloat16')
    parser.add_argument('--batch', type=int, default=96)
    parser.add_argument('--lengths', type=int, nargs=2, default=(512, 384), metavar=('CHAR', 'WORD'))
    parser.add_argument('--dropout', type=float, default=0.1)
    parser.add_argument('--set', default='', help='other config keys: key=value,…')
    parser.add_argument('--top', type=int, default=15, help='operations listed one by one')
    parser.add_argument('--json')
    flags = parser.parse_args()
    config = pretrain.get_config('base')
    config.model = common.model(flags.size)
    config.dtype, config.batch_size, config.init_from = flags.dtype, flags.batch, ''
    config.model.dropout = config.model.attention_dropout = flags.dropout
    config.model.vocab_size = compiled.VOCABULARY
    config.model.base_vocab_size = compiled.BASE_VOCABULARY
    config.data.char_length, config.data.word_length = flags.lengths
    harness.set_keys(config, filter(None, flags.set.split(',')))

    with jax.default_matmul_precision(precision.matmul_precision(config.dtype)):
        evaluator, optimizer, train_step = loop.make_programs(config)
        key = jax.random.key(0)
        state = sharded_state(
            evaluator.mesh, lambda: TrainState.create(evaluator.objective.init(key), optimizer, config.dtype)
        )
        batch = sharding.shard_batch(evaluator.mesh, step_case.synthetic_batch(config), config.batch_size)
        step = train_step.lower(state, batch, key).compile()
        for _ in range(2):
            state, _ = jax.block_until_ready(step(state, batch, key))
        with tempfile.TemporaryDirectory() as folder:
            with jax.profiler.trace(folder):
                for _ in range(STEPS):
                    state, _ = jax.block_until_ready(step(state, batch, key))
            program = hlo.Program(step.as_text())
            known = {one.name for computation in program.computations.values() for one in computation}
            times = device_times(folder, known)
    if not times:
        sys.exit('The trace has no operation of the compiled program: this JAX names them otherwise.')
    groups = by_group(times, program, STEPS)
    total = sum(spent.seconds for spent in groups.values())
    device = jax.devices()[0].device_kind
    tokens = ' + '.join(map(str, flags.lengths))
    print(f'{device}, {flags.size}, {flags.dtype}, batch {flags.batch}, {tokens} tokens\n')
    rows = [
        [name, f'{1e3 * spent.seconds:.2f}', f'{spent.seconds / total:.1%}', f'{spent.kernels:.0f}']
        + [f'{spent.bytes / 1e9:.2f}', f'{spent.bytes / 1e9 / spent.seconds:,.0f}']
        for name, spent in groups.items()
    ]
    print(harness.table(['kernels', 'ms a step', 'share', 'number', 'GB', 'GB/s'], rows))
    if peak := flops.peak_flops():
        print(f'\nMFU of the time in kernels: {flops.step_flops(config) / total / peak:.1%}')
    longest = sorted(times.items(), key=lambda item: -item[1][0])[: flags.top]
    rows = [[f'`{name}`', f'{nanoseconds / 1e6 / STEPS:.2f}'] for name, (nanoseconds, _) in longest]
    print('\n' + harness.table(['operation', 'ms a step'], rows))
    spent = {name: spent._asdict() for name, spent in groups.items()}
    harness.save(flags.json, device=device, config=config.to_dict(), groups=spent)


if __name__ == '__main__':
    main()
