"""The training step of this project against the same step in PyTorch, as a markdown table.

    python bench/step.py --sizes small,medium --dtypes float32,bfloat16 --rounds 3 [--json FILE]    CPU
    python bench/step.py --device gpu [--json FILE]                                                one GPU

About 10 minutes on two cores, 20 on a GPU; there `--batches ours=256,plain=64,best=128 --best compile` leaves
out the search, for what a run before has found.

Same batch, same lengths, same losses, AdamW, clipping and schedule for

  ours    this project: the step of `clower_jax.training.loop`, with a config of configs/pretrain.py
  plain   PyTorch and transformers as a user writes it: two BertForMaskedLM, logits at every position
  best    the best PyTorch that we can write, see bench/torch_steps.py; of its options (--best) the fastest,
          which one launch of each shows before the rounds

Speed is useful tokens a second: of both views, padding left out. MFU is of the FLOPs of `flops.step_flops`
(heads at the masked positions only) for every contender. On a GPU each contender has the batch that it is
fastest with, found by doubling until memory is out. The time to compile is the first step's less a later
one's, with empty caches and with full ones. Peak memory is that of the process on a CPU, that of the
framework's arrays on a GPU.

Random ids by default, in full rows; --corpus DIR takes the first batch of a real corpus instead. A variant of
this project runs beside it with --ours 'data.pack=True,…' (config keys; may be given several times).
"""

import argparse
import itertools
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from ml_collections import ConfigDict  # noqa: E402

from bench import harness, step_case  # noqa: E402
from clower_jax.utils import flops  # noqa: E402
from configs import common, pretrain  # noqa: E402

VARIANTS = {'tiny': '', 'small': 'cpu', 'medium': 'small', 'base': 'base'}  # of configs/pretrain.py
SIZES = {'cpu': 'small,medium', 'gpu': 'base'}
LENGTHS = {'base': (512, 384)}
CPU_LENGTHS = (128, 80)
BASE_ROWS = 21_128  # of Google's Chinese vocabulary
LARGEST_BATCH = 4096
OPTIONS = {  # of `best`, to choose from
    ('cpu', 'float32'): ('', 'compile'),
    ('cpu', 'bfloat16'): ('master', 'compile', 'compile,master'),
    ('gpu', 'float32'): ('', 'compile'),
    ('gpu', 'bfloat16'): ('compile', 'compile,master', 'compile,cudnn', 'compile,master,cudnn'),
}
# glibc gives freed blocks of this size back to the system, and zeroing them anew every step costs both
# frameworks a fifth of the time on a CPU. Whoever tunes either sets this, or another allocator.
MALLOC = ('MALLOC_MMAP_MAX_=0', 'MALLOC_TRIM_THRESHOLD_=68719476736', 'MALLOC_ARENA_MAX=1')
HERE = Path(__file__).resolve().parent


class Cell(NamedTuple):
    """One comparison."""

    size: str
    dtype: str
    dropout: float

    def __str__(self) -> str:
        return f'{self.size} {self.dtype} dropout {self.dropout:g}'


class Contender(NamedTuple):
    """What takes part: `ours` with changed config keys, `plain`, or `best` with options."""

    kind: str
    details: str = ''

    def __str__(self) -> str:
        return f'{self.kind} ({self.details})' if self.details else self.kind


class Bench:
    """Cases, commands and launches under the flags of the command line."""

    def __init__(self, flags: argparse.Namespace, folder: Path):
        self.flags, self.folder = flags, folder
        self.numbers = itertools.count()
        # What a launch compiles the next one finds; what was there before only where a cache is named.
        caches = {'JAX_COMPILATION_CACHE_DIR': 'jax', 'TORCHINDUCTOR_CACHE_DIR': 'inductor'}
        self.env = {name: str(folder / value) for name, value in caches.items()} | os.environ
        self.compiled: dict[tuple[Cell, Contender, int], float] = {}  # seconds, the first time

    def config(self, cell: Cell, batch_size: int, changes: str = '') -> ConfigDict:
        """The resolved config of a cell; `changes`: 'key=value,…'."""
        flags = self.flags
        config = pretrain.get_config(VARIANTS[cell.size])
        config.model = common.model(cell.size)
        config.dtype, config.batch_size, config.init_from = cell.dtype, batch_size, ''
        config.model.dropout = config.model.attention_dropout = cell.dropout
        config.loss.mlm_candidates = 'shared'
        if 'pack' in config.data:
            config.data.pack = False
        if flags.corpus:
            config.data.corpus, config.data.text = flags.corpus, ''
        else:
            lengths = flags.lengths or LENGTHS.get(cell.size, CPU_LENGTHS)
            config.data.char_length, config.data.word_length = lengths
            config.model.vocab_size = flags.vocab
            config.model.base_vocab_size = BASE_ROWS if flags.vocab > BASE_ROWS else flags.vocab // 2
        harness.set_keys(config, filter(None, changes.split(',')))
        if not flags.corpus:
            return config
        from input_pipeline.pretraining import batches  # TensorFlow, which synthetic batches do not need

        return batches.resolve(config, self.folder)

    def command(self, contender: Contender, config: ConfigDict, seconds: float) -> list[str]:
        """The command line of a launch, its case written."""
        if self.flags.corpus:
            from input_pipeline.pretraining import batches

            batch = next(iter(batches.batches(config)))
        else:
            batch = step_case.synthetic_batch(config, self.flags.fill)
        case = self.folder / f'case-{next(self.numbers)}.npz'
        step_case.write(case, config, batch)
        gpu = self.flags.device == 'gpu'
        timing = ['--seconds', str(seconds), '--window', '5' if gpu else '1']
        command = [sys.executable]
        if not gpu and contender.kind != 'plain' and self.flags.malloc:
            command = ['env', *MALLOC, sys.executable]
        if contender.kind == 'ours':
            return [*command, str(HERE / 'ours.py'), str(case), *timing]
        device = ['--device', 'cuda' if gpu else 'cpu']
        options = ['--options', contender.details] if contender.details else []
        script = [str(HERE / 'torch_steps.py'), contender.kind, str(case)]
        return [*command, *script, *options, *device, *timing]

    def config_for(self, cell: Cell, contender: Contender, batch_size: int) -> ConfigDict:
        """The config of a cell as the contender takes it."""
        return self.config(cell, batch_size, contender.details if contender.kind == 'ours' else '')

    def speed(self, cell: Cell, contender: Contender, batch_size: int) -> float:
        """Useful tokens a second of one short launch, 0 where it fails or memory is out, which is said."""
        config = self.config_for(cell, contender, batch_size)
        command = self.command(contender, config, self.flags.seconds / 3)
        try:
            figures = harness.launch(str(contender), command, self.env)
        except RuntimeError as error:
            say(f'{cell}: {error}')
            return 0.0
        if 'out_of_memory' in figures:
            say(f'{cell}: {contender}, batch {batch_size}: out of memory')
            return 0.0
        speed = figures['tokens'] / statistics.median(figures['seconds'])
        self.compiled[cell, contender, batch_size] = figures['compile_seconds']
        say(f'{cell}: {contender}, batch {batch_size}: {speed:,.0f} useful tokens/s')
        return speed

    def grown(self, cell: Cell, contender: Contender, size: int, best: tuple[float, int] = (0.0, 0)) -> int:
        """The batch that the contender is fastest with, by doubling `size` until memory is out (GPU).

        `best`: (speed, batch) known already. Raises RuntimeError where it does not run at all.
        """
        while size <= LARGEST_BATCH and (speed := self.speed(cell, contender, size)):
            best = max(best, (speed, size))
            size *= 2
        if not best[1]:
            raise RuntimeError(f'{cell}: {contender} does not run with batch {size}; --batch takes less')
        return best[1]

    def takes_part(self, cell: Cell, kind: str, details: str = '') -> tuple[Contender, int]:
        """(contender, its batch): of `best` the options that are fastest in a short launch."""
        contender, size = Contender(kind, details), self.flags.batches.get(kind, self.flags.batch)
        grows = self.flags.device == 'gpu' and kind not in self.flags.batches
        if kind == 'best' and self.flags.best != 'auto':
            contender = Contender(kind, self.flags.best)
        elif kind == 'best':
            # Doubled without compiling, which takes a minute each time and needs no more memory.
            size = self.grown(cell, contender, size) if grows else size
            variants = [Contender(kind, options) for options in OPTIONS[self.flags.device, cell.dtype]]
            speed, contender = max((self.speed(cell, one, size), one) for one in variants)
            return contender, self.grown(cell, contender, 2 * size, (speed, size)) if grows else size
        return contender, self.grown(cell, contender, size) if grows else size

    def compare(self, cell: Cell) -> dict:
        """All contenders of one cell, as what is saved of it."""
        flags = self.flags
        sizes = dict(self.takes_part(cell, kind) for kind in flags.contenders)
        sizes |= dict(self.takes_part(cell, 'ours', changes) for changes in flags.ours)
        configs = {one: self.config_for(cell, one, size) for one, size in sizes.items()}
        names = {one: str(one) if one.kind == 'ours' else one.kind for one in configs}
        launches = harness.alternate(
            {names[one]: self.command(one, config, flags.seconds) for one, config in configs.items()},
            flags.rounds,
            env=self.env,
        )
        for name, runs in launches.items():
            if any('out_of_memory' in run for run in runs):
                raise RuntimeError(f'{cell}: {name} is out of memory; --batch takes less than {flags.batch}')
        per_token = {
            name: [{'seconds': [s / run['tokens'] for s in run['seconds']]} for run in runs]
            for name, runs in launches.items()
        }
        ratios = {reference: harness.speedups(per_token, reference) for reference in launches}
        summaries = {}
        for one, config in configs.items():
            name = names[one]
            summaries[name] = summary(one, config, launches[name])
            summaries[name]['ratios'] = {reference: ratios[reference][name] for reference in launches}
            cold = self.compiled.get((cell, one, sizes[one]), 0.0)
            summaries[name]['compile_seconds_cold'] = max(cold, summaries[name]['compile_seconds_cold'])
        return {'cell': cell._asdict(), 'contenders': summaries, 'launches': launches}


def summary(contender: Contender, config: ConfigDict, runs: list[dict]) -> dict:
    """The figures of one contender over its launches: medians."""
    seconds = statistics.median(statistics.median(run['seconds']) for run in runs)
    peak = flops.PEAK_FLOPS.get(runs[0]['device'])
    return {
        'options': contender.details,
        'batch_size': config.batch_size,
        'step_seconds': seconds,
        'useful_tokens_per_s': runs[0]['tokens'] / seconds,
        'examples_per_s': runs[0]['examples'] / seconds,
        'mfu': flops.step_flops(config) / seconds / peak if peak else None,
        'peak_bytes': max(run['peak_bytes'] for run in runs),
        'compile_seconds_cold': runs[0]['compile_seconds'],
        'compile_seconds_warm': min(run['compile_seconds'] for run in runs),
        'device': runs[0]['device'],
        'note': runs[0]['note'],
    }


def table(cells: list[dict]) -> str:
    """The cells as a markdown table."""
    header = ('case', 'contender', 'batch', 'step, s', 'useful tokens/s', 'examples/s', 'MFU')
    header += ('peak memory, GB', 'compile, s, cold / warm', '× plain', '× best')
    rows = []
    for cell in cells:
        for name, figures in cell['contenders'].items():
            options = figures['options']
            ratios = (figures['ratios'].get(reference) for reference in ('plain', 'best'))
            rows.append(
                (
                    str(Cell(**cell['cell'])),
                    f'{name} ({options})' if name == 'best' and options else name,
                    f'{figures["batch_size"]}',
                    f'{figures["step_seconds"]:.3f}',
                    f'{figures["useful_tokens_per_s"]:,.0f}',
                    f'{figures["examples_per_s"]:,.1f}',
                    f'{figures["mfu"]:.1%}' if figures['mfu'] else '—',
                    f'{figures["peak_bytes"] / 1e9:.2f}',
                    f'{figures["compile_seconds_cold"]:.0f} / {figures["compile_seconds_warm"]:.0f}',
                    *(harness.span(ratio) if ratio else '—' for ratio in ratios),
                )
            )
    return harness.table(header, rows)


def say(text: str) -> None:
    """A line beside the table."""
    print(text, file=sys.stderr, flush=True)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The flags, checked."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n')[0])
    parser.add_argument('--device', choices=('cpu', 'gpu'), default='cpu')
    parser.add_argument('--sizes', type=harness.names, help=f'of {", ".join(VARIANTS)}')
    parser.add_argument('--dtypes', type=harness.names, default=('float32', 'bfloat16'))
    parser.add_argument('--dropout', type=harness.names, help='rates; default 0 on a CPU, 0.1 on a GPU')
    parser.add_argument('--contenders', type=harness.names, default=('ours', 'plain', 'best'))
    parser.add_argument(
        '--ours', action='append', default=[], help='another one of ours, config keys changed'
    )
    parser.add_argument('--best', default='auto', help="options of best; 'auto': the fastest")
    parser.add_argument('--batch', type=int, help='rows; default 16, on a GPU where doubling starts, 64')
    parser.add_argument(
        '--batches', type=harness.names, default=(), help='without doubling: ours=256,plain=64,…'
    )
    parser.add_argument(
        '--lengths', type=harness.integers, help='of both views; default 128,80, for base 512,384'
    )
    parser.add_argument('--vocab', type=int, default=41_128, help='rows of the token table')
    parser.add_argument('--fill', type=float, default=1.0, help='mean share of a row that is no padding')
    parser.add_argument('--corpus', default='', help='a folder of build_corpus, for a real batch')
    parser.add_argument('--rounds', type=int, default=3, help='launches of each contender')
    parser.add_argument('--seconds', type=float, default=6.0, help='of timed steps in a launch')
    parser.add_argument(
        '--malloc', action=argparse.BooleanOptionalAction, default=True, help='keep freed memory (ours, best)'
    )
    parser.add_argument('--json', help='where the figures go')
    flags = parser.parse_args(arguments)
    gpu = flags.device == 'gpu'
    flags.sizes = flags.sizes or harness.names(SIZES[flags.device])
    flags.dropout = [float(rate) for rate in flags.dropout or (0.1 if gpu else 0.0,)]
    flags.batch = flags.batch or (64 if gpu else 16)
    flags.batches = {kind: int(size) for kind, _, size in (part.partition('=') for part in flags.batches)}
    for name, choices in (
        ('sizes', VARIANTS),
        ('dtypes', ('float32', 'bfloat16')),
        ('contenders', ('ours', 'plain', 'best')),
        ('batches', ('ours', 'plain', 'best')),
    ):
        if unknown := set(getattr(flags, name)) - set(choices):
            parser.error(f'--{name} takes {", ".join(choices)}, not {", ".join(sorted(unknown))}')
    return flags


def main() -> None:
    """Runs the cells one after the other and prints the table."""
    flags = parse()
    cells = []
    if (load := os.getloadavg()[0]) > 0.5:
        say(f'The machine is busy (load {load:.1f}). Torch suffers more from that: ratios will favour ours.')
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(flags, Path(folder))
        for cell in itertools.starmap(Cell, itertools.product(flags.sizes, flags.dtypes, flags.dropout)):
            cells.append(bench.compare(cell))
            # After each, so that what is measured is kept should a later one fail.
            ratios = {
                str(Cell(**done['cell'])): {name: one['ratios'] for name, one in done['contenders'].items()}
                for done in cells
            }
            harness.save(flags.json, load_before=load, ratios=ratios, cells=cells)
    print(table(cells))


if __name__ == '__main__':
    main()
