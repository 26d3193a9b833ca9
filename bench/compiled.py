"""What a step costs on accelerators that are not there: compiled for them, and read from the program.

    make bench-compiled                                              every cell on every chip
    python bench/compiled.py --chips h100 --cells base --batch 96    one of them
    python bench/compiled.py --chips h100 --cells base --largest     at the largest batch that fits

For each cell and chip, in a process of its own: whether it compiles and in how many CPU seconds; memory on
one device by kind; bytes that the kernels of one step move, an example, by group; kernels, library calls,
collectives; and the bound on the time that follows. Products are bounded by their FLOPs or their bytes,
whichever takes longer; all other kernels by their bytes; `overlap` is the bound where the two go on at the
same time, `no overlap` where one waits for the other. On GPUs with attention in kernels `estimate` is what a
step would take that gets as much of the peaks as the one that was measured (REACHED). No time is measured.
"""

import argparse
import functools
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
from jax.sharding import Mesh  # noqa: E402
from ml_collections import ConfigDict  # noqa: E402

from bench import harness, hlo, step_case, topologies  # noqa: E402
from clower_jax.checkpoints.train_state import TrainState, abstract_state  # noqa: E402
from clower_jax.objectives import registry  # noqa: E402
from clower_jax.objectives.base import Objective  # noqa: E402
from clower_jax.parallel import precision, sharding  # noqa: E402
from clower_jax.training import optim  # noqa: E402
from clower_jax.training.train_step import make_train_step  # noqa: E402
from clower_jax.utils import flops  # noqa: E402
from configs import classify, cmrc, common, pretrain  # noqa: E402

CHIPS = ('h100', 'h100:8', 'v5e:4x4', 'v5p:2x2x2', 'v6e:4x4')
USED_MEMORY = 0.9  # of a device's, the most that a step may take: the rest is the allocator's
MARGIN = 0.03  # what a check lets pass
VOCABULARY, BASE_VOCABULARY = 61_128, 21_128  # 40,000 words beside Google's Chinese vocabulary
# Of `base,dropped`, 96 rows, on an H200 (docs/performance.md): of the peak of products and of the bandwidth;
# FLOP/s of attention in kernels that drop weights, and in cuDNN's, both timed alone; seconds between kernels,
# each.
REACHED = {'products': 0.86, 'bandwidth': 0.61, 'cudnn': 174e12, 'dropped': 125e12, 'gap': 1.8e-6}
CONTRAST = r'jit\(_forward\)|_gradient_step|span_means'  # of names in the program
# Of kernels that are no products, by where in the program they come from; the first that matches.
GROUPS = {
    'LayerNorm and residual': 'LayerNorm',
    # With its bias.
    'GELU': r'(layer[._]\d+|BertLayer)/(convert_element_type|mul)$|intermediate.dense.*reduce_sum',
    'sums for biases': r'dense.*reduce_sum|(query|key|value).*reduce_sum',
    'attention': r'attention\b|self\.|BNTS|BNSH|softmax|fmha',
    'dropout': 'dropout',
    'contrast': CONTRAST,
    'MLM loss': r'cross_entropy|_mlm|mlm_|jvp\(\)/(shard_map/)?while',
    'embeddings': 'embeddings',
    'dense layers': r'dense|linear',
    'arrays joined and cut': r'stack|concatenate|dynamic_slice|split',
    'optimiser': r'adam|clip|norm|update|optimizer|select|mul|div|sqrt|add|sub',
}


def _pretraining(variant: str, rows: int) -> Callable[[int], ConfigDict]:
    def of(devices: int) -> ConfigDict:
        config = pretrain.get_config(variant)
        config.batch_size = rows * devices
        config.data.pack, config.model.attention = False, 'own'
        for view, length in (('char', 512), ('word', 384)):
            config.data[f'{view}_length'] = length
        config.model.vocab_size, config.model.base_vocab_size = VOCABULARY, BASE_VOCABULARY
        return config

    return of


def _fused(
    config: Callable[[int], ConfigDict], attention_dropout: float = 0.0
) -> Callable[[int], ConfigDict]:
    """The same with fused attention: cuDNN's, or, where its weights are dropped, our own kernels."""

    def of(devices: int) -> ConfigDict:
        made = config(devices)
        made.model.attention, made.model.attention_dropout = 'auto', attention_dropout
        return made

    return of


def _paper(devices: int) -> ConfigDict:
    """The whole batch of 960, in micro-batches of 120 rows at most on a device."""
    config = _pretraining('paper', 960 // devices)(devices)
    config.data.word_length = 512
    config.microbatches = max(1, 960 // (120 * devices))
    return config


def _finetuning(base: ConfigDict) -> Callable[[int], ConfigDict]:
    def of(devices: int) -> ConfigDict:
        config = ConfigDict(base)
        config.model = common.model('base')
        config.model.vocab_size = config.model.base_vocab_size = BASE_VOCABULARY
        config.model.classify_from, config.model.attention = 'pooler', 'own'
        config.dtype, config.total_steps, config.optim.warmup_steps = 'bfloat16', 1000, 100
        config.batch_size *= devices
        if config.task == 'classify':
            config.data.labels = tuple(map(str, range(15)))
        return config

    return of


# Name: the config of so many devices, rows of a device as given where there is no --batch.
CELLS: dict[str, Callable[[int], ConfigDict]] = {
    'small': _pretraining('small', 64),
    'base': _pretraining('base', 32),
    'base,cudnn': _fused(_pretraining('base', 96)),
    'base,dropped': _fused(_pretraining('base', 96), attention_dropout=0.1),
    'paper': _paper,
    'paper,cudnn': _fused(_paper),
    'tnews': _finetuning(classify.get_config('tnews')),
    'chnsenticorp': _finetuning(classify.get_config('chnsenticorp')),
    'thucnews': _finetuning(classify.get_config('thucnews')),
    'cmrc': _finetuning(cmrc.get_config()),
}


def abstract_batch(config: ConfigDict, mesh: Mesh) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of the batch of a config, on the mesh."""
    rows, place = config.batch_size, sharding.batch_sharding(mesh)
    if config.task == 'pretrain':
        one = ConfigDict(config)
        one.batch_size = 1
        shapes = {name: array.shape[1:] for name, array in step_case.synthetic_batch(one).items()}
    else:
        length = (config.data.max_length,)
        shapes = {'char_ids': length, 'char_segments': length, 'example': (), 'labels': (), 'span': (2,)}
    return {
        name: jax.ShapeDtypeStruct((rows, *shape), jnp.int32, sharding=place)
        for name, shape in shapes.items()
    }


def compiled_step(config: ConfigDict, mesh: Mesh) -> tuple[Any, Objective, float]:
    """(the compiled training step of a config whose sizes are known, its objective, CPU seconds that tracing
    and compiling took, of all threads and processes)."""
    with jax.default_matmul_precision(precision.matmul_precision(config.dtype)):
        task, optimizer = registry.from_config(config, mesh), optim.optimizer(config)
        state = abstract_state(
            mesh, lambda: TrainState.create(task.init(jax.random.key(0)), optimizer, config.dtype)
        )
        key = jax.eval_shape(lambda: jax.random.key(0))
        step = make_train_step(task, optimizer, optim.learning_rate(config))
        began = _cpu_seconds()
        # Pallas asks it which GPU it writes kernels for.
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            compiled = step.lower(state, abstract_batch(config, mesh), key).compile()
        return compiled, task, _cpu_seconds() - began


def _cpu_seconds() -> float:
    return sum(os.times()[:4])


def measure(
    cell: str, chip: str, batch: int = 0, text_file: str | None = None, changes: Sequence[str] = ()
) -> dict[str, Any]:
    """The figures of one cell on one chip; `batch`: rows of a device, 0: the cell's own; `text_file`: where
    the program's text goes; `changes`: of the config, as key=value."""
    mesh = topologies.mesh(chip)
    config = CELLS[cell](mesh.size)
    if batch:
        config.batch_size = batch * mesh.size
    harness.set_keys(config, changes)
    compiled, task, seconds = compiled_step(config, mesh)
    memory = compiled.memory_analysis()
    key = jax.eval_shape(lambda: jax.random.key(0))
    text = compiled.as_text()
    if text_file:
        Path(text_file).write_text(text)
    program = hlo.Program(text)
    rows = config.batch_size // mesh.size
    # Of fine-tuning, whose steps differ in length, those of the encoder over rows that are full.
    step_flops = task.step_flops(config) / mesh.size
    if not step_flops:
        step_flops = 3 * rows * flops.encoder_flops(config, config.data.max_length)
    kernels = [kernel for kernel in program.kernels if not kernel.collective]
    libraries: dict[str, int] = {}
    for kernel in kernels:
        if kernel.library:
            libraries[kernel.library] = libraries.get(kernel.library, 0) + kernel.times
    figures = {
        'cell': ', '.join((cell, *changes)),
        'chip': chip,
        'devices': mesh.size,
        'parameters': sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(task.init, key))),
        'batch': rows,
        'compile_cpu_seconds': round(seconds, 1),
        'memory': {
            'arguments': memory.argument_size_in_bytes,
            'temporaries': memory.temp_size_in_bytes,
            'outputs': memory.output_size_in_bytes - memory.alias_size_in_bytes,
            'program': memory.generated_code_size_in_bytes,
        },
        'kernels': sum(kernel.times for kernel in kernels),
        'libraries': libraries,
        'traffic': program.traffic,
        'groups': program.other(GROUPS),
        'collectives': program.collectives,
        'flops': step_flops,
        'executed_flops': step_flops * _repeated(config),
        'product_flops': program.product_flops(),
        'attention_flops': rows * attention_flops(config) * _repeated(config),
        'contrast_flops': program.product_flops(CONTRAST),
        'jax': jax.__version__,
    }
    return figures | {'bound': bound(figures)}


def _repeated(config: ConfigDict) -> float:
    """Micro-batches go through the encoders once more, on the way back."""
    return 4 / 3 if config.get('microbatches', 1) > 1 else 1


def attention_flops(config: ConfigDict) -> float:
    """FLOPs of the two products of attention itself, for one row: 4·L²·D a layer, and twice that backward."""
    lengths = (
        [config.data[f'{view}_length'] for view in ('char', 'word')]
        if config.task == 'pretrain'
        else [config.data.max_length]
    )
    return 12.0 * config.model.num_layers * config.model.hidden_size * sum(length**2 for length in lengths)


def bytes_needed(figures: dict[str, Any]) -> int:
    """Of one device's memory."""
    return sum(figures['memory'].values())


def largest(run: Callable[[int], dict[str, Any]], memory: float) -> dict[str, Any]:
    """The figures at the largest batch that fits, a multiple of 8: straight lines through two sizes say what
    to compile next, until that is nothing new.

    Args:
      run: the figures with so many rows on a device, 0: the cell's own.
      memory: bytes of a device that there are for it.

    Raises:
      RuntimeError: nothing fits, or a program could not be compiled.
    """
    last, fitting = run(0), None
    fits, too_many = 0, sys.maxsize  # rows
    rows = max(8, last['batch'] // 2 // 8 * 8)
    while True:
        for figures in (last, new := run(rows)):
            if bytes_needed(figures) > memory:
                too_many = min(too_many, figures['batch'])
            elif figures['batch'] > fits:
                fits, fitting = figures['batch'], figures
        slope = (bytes_needed(new) - bytes_needed(last)) / (new['batch'] - last['batch'])
        last, rows = new, int((memory - bytes_needed(new)) / slope + new['batch']) // 8 * 8
        rows = min(max(rows, 8), too_many - 8)
        if rows <= fits or rows == last['batch']:
            break
    if fitting:
        return fitting
    raise RuntimeError('not even 8 rows fit')


def bound(figures: dict[str, Any]) -> dict[str, float]:
    """Seconds of one step at least; see above."""
    chip = topologies.CHIPS[figures['chip'].partition(':')[0]]
    traffic = figures['traffic']
    computed = figures['executed_flops'] / chip.flops
    products = max(computed, traffic.get('products', 0) / chip.bandwidth)
    other = (traffic.get('other', 0) + traffic.get('attention', 0)) / chip.bandwidth
    all_bytes = sum(traffic.get(kind, 0) for kind in ('products', 'attention', 'other'))
    overlapped = max(computed, all_bytes / chip.bandwidth)
    return {'no_overlap': products + other, 'overlap': overlapped}


def estimate(figures: dict[str, Any]) -> float | None:
    """Seconds of one step as far as REACHED says, without collectives; None where it says nothing: on TPUs,
    and where attention is no kernel."""
    chip = topologies.CHIPS[figures['chip'].partition(':')[0]]
    products = figures.get('product_flops')
    kinds = {'cudnn': 'fmha', 'dropped': 'triton'}
    kernel = next((kind for kind, name in kinds.items() if name in str(figures['libraries'])), None)
    if chip.platform != 'cuda' or not kernel or not products:
        return None
    attention = figures['attention_flops'] / REACHED[kernel]
    other = figures['traffic']['other'] / (REACHED['bandwidth'] * chip.bandwidth)
    return (
        products / (REACHED['products'] * chip.flops)
        + attention
        + other
        + figures['kernels'] * REACHED['gap']
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n')[0])
    parser.add_argument('--chips', type=harness.names, default=tuple(CHIPS))
    parser.add_argument('--cells', default=';'.join(CELLS), help='separated by ;')
    parser.add_argument('--batch', type=int, default=0, help="rows of a device; 0: the cell's own")
    parser.add_argument('--largest', action='store_true', help='search for the largest batch that fits')
    parser.add_argument('--set', action='append', default=[], help='a change of the config, as key=value')
    parser.add_argument('--json', help='figures go here; those that it has stay')
    parser.add_argument('--check', help='compile what this file has again; fail where it costs more now')
    parser.add_argument('--hlo', help='with one cell and one chip: its program goes here')
    parser.add_argument('--one', action='store_true', help=argparse.SUPPRESS)
    flags = parser.parse_args()
    cells = flags.cells.split(';')
    if flags.hlo and (len(cells), len(flags.chips)) != (1, 1):
        parser.error('--hlo is for the program of one cell on one chip: name them with --cells and --chips')
    if flags.one:
        print(json.dumps(measure(cells[0], flags.chips[0], flags.batch, flags.hlo, flags.set)))
        return
    if flags.check:
        sys.exit(check(flags.check, cells, flags.chips))
    cells_done = _stored(flags.json)
    for cell in cells:
        for chip in flags.chips:
            run = functools.partial(launch, cell, chip, changes=flags.set, text_file=flags.hlo)
            try:
                if flags.largest:
                    memory = topologies.CHIPS[chip.partition(':')[0]].memory
                    figures = largest(run, USED_MEMORY * memory)
                else:
                    figures = run(flags.batch)
            except RuntimeError as error:  # it does not fit, or cannot be compiled: that is the finding
                figures = {'cell': cell, 'chip': chip, 'error': str(error).strip().splitlines()[-1][:300]}
            cells_done.append(figures)
            harness.save(flags.json, cells=cells_done)
    print(table(cells_done))


def launch(
    cell: str, chip: str, rows: int, changes: Sequence[str] = (), text_file: str | None = None
) -> dict[str, Any]:
    """`measure` in a process of its own. RuntimeError where that fails."""
    name = f'{cell} on {chip}, rows: {rows or "its own"}'
    print(f'{name} …', file=sys.stderr, flush=True)
    command = [sys.executable, __file__, '--one', '--cells', cell, '--chips', chip, '--batch', str(rows)]
    command += [f'--set={change}' for change in changes]
    command += [f'--hlo={text_file}'] if text_file else []
    return harness.launch(name, command, os.environ | topologies.ENVIRONMENT)


def check(file: str, cells: Sequence[str], chips: Sequence[str]) -> str | None:
    """Compiles again what the file has of these cells and chips; a message where it costs more than there."""
    worse = []
    for before in _stored(file):
        if 'error' not in before and before['cell'] in cells and before['chip'] in chips:
            now = launch(before['cell'], before['chip'], before['batch'])
            worse += [f'{before["cell"]} on {before["chip"]}: {line}' for line in increases(now, before)]
    return '\n'.join(worse) or None


def increases(now: dict[str, Any], before: dict[str, Any]) -> list[str]:
    """What of memory, traffic, collectives and kernels is by more than MARGIN above what it was."""

    def costs(figures: dict[str, Any]) -> dict[str, int]:
        reduced = {f'bytes of {name}': size for name, (_, size) in figures['collectives'].items()}
        moved = {f'traffic of {kind}': size for kind, size in figures['traffic'].items()}
        return {'memory': bytes_needed(figures), 'kernels': figures['kernels'], **moved, **reduced}

    was = costs(before)
    return [
        f'{name} {cost:,}, before {was.get(name, 0):,}'
        for name, cost in costs(now).items()
        if cost > (1 + MARGIN) * was.get(name, 0)
    ]


def _stored(file: str | None) -> list[dict[str, Any]]:
    return json.loads(Path(file).read_text('utf-8'))['cells'] if file and Path(file).exists() else []


def table(cells: list[dict[str, Any]]) -> str:
    """The figures of all cells, in markdown."""
    header = [
        'cell',
        'chip',
        'rows',
        'compile, CPU s',
        'needs, GiB',
        'of it temporaries',
        'GB an example: products',
        'attention',
    ]
    header += [
        'other',
        'kernels',
        'collectives, GB',
        'bound, ms an example: no overlap',
        'overlap',
        'estimate',
    ]
    rows = []
    for one in cells:
        if 'error' in one:
            rows.append([one['cell'], one['chip'], one['error'], *[''] * (len(header) - 3)])
            continue
        batch, traffic = one['batch'], one['traffic']
        moved = [f'{traffic.get(kind, 0) / batch / 1e9:.2f}' for kind in ('products', 'attention', 'other')]
        sent = [f'{count} {name} {size / 1e9:.2f}' for name, (count, size) in one['collectives'].items()]
        bounds = [f'{1e3 * one["bound"][kind] / batch:.2f}' for kind in ('no_overlap', 'overlap')]
        seconds = estimate(one)
        bounds.append(f'{1e3 * seconds / batch:.2f}' if seconds else '')
        temporaries = f'{one["memory"]["temporaries"] / 2**30:.1f}'
        needed = f'{bytes_needed(one) / 2**30:.1f}'
        head = [
            one['cell'],
            one['chip'],
            str(batch),
            f'{one["compile_cpu_seconds"]:.0f}',
            needed,
            temporaries,
        ]
        rows.append([*head, *moved, str(one['kernels']), ', '.join(sent), *bounds])
    return harness.table(header, rows)


if __name__ == '__main__':
    main()
