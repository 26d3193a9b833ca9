"""What a step costs on accelerators that are not there: compiled for them, and read from the program.

    make bench-compiled                                              every cell on every chip
    python bench/compiled.py --chips h100 --cells base --batch 96    one of them

For each cell and chip, in a process of its own: whether it compiles and in how many seconds; memory on one
device by kind; bytes that the kernels of one step move, an example, by group;
kernels, library calls, collectives; and the bound on the time that follows. Products are bounded by their
FLOPs or their bytes, whichever takes longer; all other kernels by their bytes; `overlap` is the bound where
the two go on at the same time, `no overlap` where one waits for the other. No time is measured.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
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
VOCABULARY, BASE_VOCABULARY = 61_128, 21_128  # 40,000 words beside Google's Chinese vocabulary
# Of kernels that are no products, by where in the program they come from; the first that matches.
GROUPS = {
    'LayerNorm and residual': 'LayerNorm',
    'sums for biases': r'dense.*reduce_sum|(query|key|value).*reduce_sum',
    'GELU': r'gelu|erf',
    'attention': r'attention\b|self\.|BNTS|BNSH|softmax|fmha',
    'dropout': 'dropout',
    'MLM loss': r'cross_entropy|_mlm|mlm_',
    'contrast': r'nt_xent|_contrast|span_means',
    'embeddings': 'embeddings',
    'dense layers': r'dense|linear',
    'layers stacked and unstacked': r'while|scan|stack|concatenate|dynamic_slice',
    'optimiser': r'adam|clip|norm|update|optimizer|select|mul|div|sqrt|add|sub',
}


def _pretraining(variant: str, rows: int) -> Callable[[int], ConfigDict]:
    def of(devices: int) -> ConfigDict:
        config = pretrain.get_config(variant)
        config.batch_size = rows * devices
        config.data.pack = False
        for view, length in (('char', 512), ('word', 384)):
            config.data[f'{view}_length'] = length
        config.model.vocab_size, config.model.base_vocab_size = VOCABULARY, BASE_VOCABULARY
        return config

    return of


def _fused(config: Callable[[int], ConfigDict]) -> Callable[[int], ConfigDict]:
    """The same with cuDNN's attention, which has no dropout of its weights."""

    def of(devices: int) -> ConfigDict:
        made = config(devices)
        made.model.attention, made.model.attention_dropout = 'cudnn', 0.0
        return made

    return of


def _paper(devices: int) -> ConfigDict:
    """The whole batch of 960, in micro-batches of 60 rows at most on a device."""
    config = _pretraining('paper', 960 // devices)(devices)
    config.data.word_length = 512
    config.microbatches = max(1, 960 // (60 * devices))
    return config


def _finetuning(base: ConfigDict) -> Callable[[int], ConfigDict]:
    def of(devices: int) -> ConfigDict:
        config = ConfigDict(base)
        config.model = common.model('base')
        config.model.vocab_size = config.model.base_vocab_size = BASE_VOCABULARY
        config.model.classify_from = 'pooler'
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
    """(the compiled training step of a config whose sizes are known, its objective, seconds that compiling
    took)."""
    with jax.default_matmul_precision(precision.matmul_precision(config.dtype)):
        task, optimizer = registry.from_config(config, mesh), optim.optimizer(config)
        state = abstract_state(
            mesh, lambda: TrainState.create(task.init(jax.random.key(0)), optimizer, config.dtype)
        )
        key = jax.eval_shape(lambda: jax.random.key(0))
        step = make_train_step(task, optimizer, optim.learning_rate(config))
        began = time.perf_counter()
        compiled = step.lower(state, abstract_batch(config, mesh), key).compile()
        return compiled, task, time.perf_counter() - began


def measure(cell: str, chip: str, batch: int = 0, text_file: str | None = None) -> dict[str, Any]:
    """The figures of one cell on one chip; `batch`: rows of a device, 0: the cell's own; `text_file`: where
    the program's text goes."""
    mesh = topologies.mesh(chip)
    config = CELLS[cell](mesh.size)
    if batch:
        config.batch_size = batch * mesh.size
    compiled, task, seconds = compiled_step(config, mesh)
    memory = compiled.memory_analysis()
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
        'cell': cell,
        'chip': chip,
        'devices': mesh.size,
        'batch': rows,
        'compile_seconds': round(seconds, 1),
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
        'jax': jax.__version__,
    }
    return figures | {'bound': bound(figures)}


def bound(figures: dict[str, Any]) -> dict[str, float]:
    """Seconds of one step at least; see above."""
    chip = topologies.CHIPS[figures['chip'].partition(':')[0]]
    traffic = figures['traffic']
    products = max(figures['flops'] / chip.flops, traffic.get('products', 0) / chip.bandwidth)
    other = (traffic.get('other', 0) + traffic.get('attention', 0)) / chip.bandwidth
    all_bytes = sum(traffic.get(kind, 0) for kind in ('products', 'attention', 'other'))
    overlapped = max(figures['flops'] / chip.flops, all_bytes / chip.bandwidth)
    return {'no_overlap': products + other, 'overlap': overlapped}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n')[0])
    parser.add_argument('--chips', default=','.join(CHIPS))
    parser.add_argument('--cells', default=';'.join(CELLS), help='separated by ;')
    parser.add_argument('--batch', type=int, default=0, help="rows of a device; 0: the cell's own")
    parser.add_argument('--json', help='figures go here')
    parser.add_argument('--hlo', help='with one cell and one chip: its program goes here')
    parser.add_argument('--one', action='store_true', help=argparse.SUPPRESS)
    flags = parser.parse_args()
    cells, chips = flags.cells.split(';'), flags.chips.split(',')
    if flags.one:
        print(json.dumps(measure(cells[0], chips[0], flags.batch, flags.hlo)))
        return
    found: list[dict[str, Any]] = []
    for cell in cells:
        for chip in chips:
            command = [sys.executable, __file__, '--one', '--cells', cell, '--chips', chip]
            command += ['--batch', str(flags.batch)]
            print(f'{cell} on {chip} …', file=sys.stderr, flush=True)
            try:
                figures = harness.launch(f'{cell} on {chip}', command, os.environ | topologies.ENVIRONMENT)
            except RuntimeError as error:  # it does not fit, or cannot be compiled: that is the finding
                figures = {'cell': cell, 'chip': chip, 'error': str(error).strip().splitlines()[-1][:300]}
            found.append(figures)
            harness.save(flags.json, cells=found)
    print(table(found))


def table(found: list[dict[str, Any]]) -> str:
    """The figures of all cells, in markdown."""
    header = [
        'cell',
        'chip',
        'rows',
        'compile, s',
        'temporaries, GiB',
        'GB an example: products',
        'attention',
    ]
    header += ['other', 'kernels', 'collectives, GB', 'bound, ms an example: no overlap', 'overlap']
    rows = []
    for one in found:
        if 'error' in one:
            rows.append([one['cell'], one['chip'], one['error'], *[''] * (len(header) - 3)])
            continue
        batch, traffic = one['batch'], one['traffic']
        moved = [f'{traffic.get(kind, 0) / batch / 1e9:.2f}' for kind in ('products', 'attention', 'other')]
        sent = [f'{count} {name} {size / 1e9:.2f}' for name, (count, size) in one['collectives'].items()]
        bounds = [f'{1e3 * one["bound"][kind] / batch:.2f}' for kind in ('no_overlap', 'overlap')]
        temporaries = f'{one["memory"]["temporaries"] / 2**30:.1f}'
        head = [one['cell'], one['chip'], str(batch), f'{one["compile_seconds"]:.0f}', temporaries]
        rows.append([*head, *moved, str(one['kernels']), ', '.join(sent), *bounds])
    return harness.table(header, rows)


if __name__ == '__main__':
    main()
