"""Where the time of a training step goes, by class of operation, as a markdown table.

    python bench/profile_step.py --size base --dtype bfloat16 --batch 64 [--set model.remat=qkv] [--json F]

Traces some steps of this project's training step on a synthetic batch (as bench/step.py has it) and adds up
the time of each operation on the device. Classes come from the compiled program: an operation that contains
a matrix product counts as one, whatever is fused with it.
"""

import argparse
import ast
import collections
import re
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import jax  # noqa: E402

from bench import harness, step_case  # noqa: E402
from clower_jax.checkpoints.train_state import TrainState, sharded_state  # noqa: E402
from clower_jax.parallel import (
    precision,  # noqa: E402
    sharding,  # noqa: E402
)
from clower_jax.training import loop  # noqa: E402
from clower_jax.utils import flops  # noqa: E402
from configs import common, pretrain  # noqa: E402

STEPS = 5
VOCABULARY = 41_128, 21_128  # rows in all, of which base rows
# (class, pattern of the opcodes in an operation and in what it calls). The first that matches.
CLASSES = (
    ('communication', r'\b(all-gather|all-reduce|reduce-scatter|collective-permute|all-to-all)'),
    ('matrix products', r'\b(dot|convolution)\(|gemm|cublas|nvjet|cutlass|cudnn'),
    ('gather and scatter', r'\b(gather|scatter|dynamic-slice|dynamic-update-slice)\('),
    ('reductions', r'\breduce(-window)?\('),
    (
        'elementwise',
        r'\b(add|multiply|subtract|divide|select|exponential|convert|maximum|compare|rsqrt|tanh)\(',
    ),
    ('copies and transposes', r'\b(copy|transpose|bitcast|broadcast|concatenate|slice|pad|reshape)\b'),
)


def classes_of(hlo: str) -> dict[str, str]:
    """Instruction name → class, for every instruction of a compiled program."""
    bodies: dict[str, str] = {}
    for header, body in re.findall(r'^(?:ENTRY )?%?([\w.-]+) [^\n]*\{\n(.*?)^\}', hlo, re.M | re.S):
        bodies[header] = body
    found = {}
    for body in bodies.values():
        for line in body.splitlines():
            match = re.match(r'\s*(?:ROOT )?%?([\w.-]+) = (.*)', line)
            if not match:
                continue
            called = re.findall(r'(?:calls|to_apply|branch_computations)=\{?%?([\w.-]+)', match[2])
            text = match[2].split(', metadata=')[0] + ''.join(bodies.get(name, '') for name in called)
            found[match[1]] = next((name for name, pattern in CLASSES if re.search(pattern, text)), 'other')
    return found


def device_times(folder: str, known: dict[str, str]) -> collections.Counter:
    """Operation → nanoseconds, of the operations of the compiled program; on a GPU also other kernels."""
    times: collections.Counter = collections.Counter()
    for path in Path(folder).rglob('*.xplane.pb'):
        for plane in jax.profiler.ProfileData.from_file(str(path)).planes:
            on_gpu = plane.name.startswith('/device:GPU')
            for line in plane.lines:
                if on_gpu and not line.name.startswith('Stream'):
                    continue  # the same time again, by another name
                for event in line.events:
                    operation = dict(event.stats).get('hlo_op') or event.name
                    if on_gpu or operation in known:
                        times[operation] += event.duration_ns
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n')[0])
    parser.add_argument('--size', default='base', choices=common.SIZES)
    parser.add_argument('--dtype', default='bfloat16')
    parser.add_argument('--batch', type=int, default=64)
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
    config.model.vocab_size, config.model.base_vocab_size = VOCABULARY
    config.data.char_length, config.data.word_length = flags.lengths
    for key, _, value in (change.partition('=') for change in filter(None, flags.set.split(','))):
        config.update_from_flattened_dict({key: ast.literal_eval(value) if value[0].isdigit() else value})

    with jax.default_matmul_precision(precision.matmul_precision(config.dtype)):
        evaluator, optimizer, train_step = loop.make_programs(config)
        key = jax.random.key(0)
        state = sharded_state(
            evaluator.mesh, lambda: TrainState.create(evaluator.objective.init(key), optimizer, config.dtype)
        )
        batch = sharding.shard_batch(evaluator.mesh, step_case.synthetic_batch(config), config.batch_size)
        compiled = train_step.lower(state, batch, key).compile()
        for _ in range(2):
            state, _ = jax.block_until_ready(compiled(state, batch, key))
        with tempfile.TemporaryDirectory() as folder:
            with jax.profiler.trace(folder):
                for _ in range(STEPS):
                    state, _ = jax.block_until_ready(compiled(state, batch, key))
            known = classes_of(compiled.as_text())
            times = device_times(folder, known)
    if not times:
        sys.exit('The trace has no operation of the compiled program: this JAX names them otherwise.')
    by_class: collections.Counter = collections.Counter()
    for operation, nanoseconds in times.items():
        named = next((name for name, pattern in CLASSES if re.search(pattern, operation)), 'other')
        by_class[known.get(operation, named)] += nanoseconds
    total = sum(by_class.values())
    device = jax.devices()[0].device_kind
    milliseconds = {name: value / 1e6 / STEPS for name, value in by_class.most_common()}
    rows = [
        [name, f'{value:.2f}', f'{value * 1e6 * STEPS / total:.1%}'] for name, value in milliseconds.items()
    ]
    tokens = ' + '.join(map(str, flags.lengths))
    print(f'{device}, {flags.size}, {flags.dtype}, batch {flags.batch}, {tokens} tokens\n')
    print(harness.table(['class', 'ms a step', 'share'], rows))
    peak = flops.peak_flops()
    if peak:
        print(f'\nMFU of the time in kernels: {flops.step_flops(config) / (total / 1e9 / STEPS) / peak:.1%}')
    rows = [
        [f'`{name}`', known.get(name, ''), f'{value / 1e6 / STEPS:.2f}']
        for name, value in times.most_common(flags.top)
    ]
    print('\n' + harness.table(['operation', 'class', 'ms a step'], rows))
    harness.save(flags.json, device=device, config=config.to_dict(), milliseconds=milliseconds)


if __name__ == '__main__':
    main()
