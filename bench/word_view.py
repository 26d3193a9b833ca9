"""Trains the systems of the experiment 'does the word view help?' (docs/results/plan.md), several at a time.

    python bench/word_view.py --corpus DIR --output runs/word_view [--plan gpu] [--slots 3] [--seconds 560]

Each run is a `run.py` of its own, with nothing chosen by its outcome: the systems in the order of RUNS, the
same steps, batches and data for all. Where `--seconds` end, what is not finished is stopped and saved; the
same command goes on. `clower_late` goes on from `half`, an mm_bert_sop with half of the steps. A finished
run is exported, rounded to bf16, with its metrics beside it:

    OUTPUT/runs/NAME          the workdir
    OUTPUT/exports/NAME       a Hugging Face folder of the character encoder, bf16, config.json of the run and
                              metrics.jsonl beside it; of the first CLOWER also NAME-word

`--pack DIR` writes the exports that are not packed yet into DIR, a tar file in pieces of at most 15 MiB.
`--report DIR` trains nothing: it writes what the finished runs measured (runs.json) and held-out MLM against
characters read (mlm.png) into DIR.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import ml_dtypes
from safetensors.numpy import load_file, save_file

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from bench import harness  # noqa: E402

PIECE_BYTES = 15 << 20
SECOND_STAGE = 100  # added to the seed of a run that goes on from another
CHARACTERS_A_ROW = 100.45  # 33,580,445 character tokens in 334,299 rows of the corpus of the plan

# What every run of a plan is given; a plan's size is chosen before its first result.
PLANS = {
    'gpu': {
        'variant': 'cpu',  # 4 layers of 256
        'total_steps': 2500,  # set from the speed of a trial, see the plan
        'batch_size': 512,
        'optim.learning_rate': 1e-3,
        'optim.warmup_steps': 400,
        'dtype': 'bfloat16',
        'model.attention': 'cudnn',
        'eval_every': 400,
        'log_every': 50,
    },
    'smoke': {
        'variant': 'cpu',
        'model.num_layers': 1,
        'model.hidden_size': 32,
        'model.intermediate_size': 64,
        'model.num_heads': 2,
        'total_steps': 6,
        'batch_size': 16,
        'optim.learning_rate': 1e-3,
        'optim.warmup_steps': 2,
        'dtype': 'bfloat16',
        'eval_every': 3,
        'log_every': 2,
    },
}
COMMON = {
    'optim.schedule': 'wsd',
    'loss.mlm_candidates': 'branch',
    'model.dropout': 0.0,
    'model.attention_dropout': 0.0,
    'data.eval_examples': 0,
    'checkpoint_every': 0,
    'keep_checkpoints': 1,
}


class System(NamedTuple):
    """A variant of configs/pretrain.py, what else is changed, and the system whose weights it goes on from:
    each of such two has half of the steps."""

    variant: str
    changes: dict[str, Any] = {}
    after: str = ''


SYSTEMS = {
    'clower': System(''),
    'mm_bert_sop': System('mm_bert_sop'),
    'bert_wwm_sop': System('bert_wwm_sop'),
    'clower_other_words': System('', {'loss.same_word_negatives': False}),
    'no_tcl': System('no_tcl'),
    'no_scl': System('no_scl'),
    'clower_weak': System('', {'loss.contrast_weight': 0.1}),
    'clower_late': System('', after='half'),
    'half': System('mm_bert_sop', {'optim.schedule': 'constant'}),
}


class Run(NamedTuple):
    """One pre-training."""

    system: str
    seed: int

    @property
    def name(self) -> str:
        return f'{self.system}-{self.seed}'

    @property
    def before(self) -> 'Run | None':
        """The run that it goes on from."""
        after = SYSTEMS[self.system].after
        return Run(after, self.seed) if after else None

    def steps(self, flags: argparse.Namespace) -> int:
        """Of its own."""
        total = flags.steps or PLANS[flags.plan]['total_steps']
        is_half = self.before or any(system.after == self.system for system in SYSTEMS.values())
        return total // 2 if is_half else total


GROUPS = (
    ('clower', 'mm_bert_sop', 'bert_wwm_sop'),
    ('clower_other_words', 'no_tcl', 'no_scl'),
    ('half', 'clower_weak', 'clower_late'),
)
RUNS = [Run(system, seed) for group in GROUPS for seed in (0, 1) for system in group]


def command(run: Run, flags: argparse.Namespace) -> list[str]:
    """The command line of a run."""
    system = SYSTEMS[run.system]
    plan = dict(PLANS[flags.plan])
    variant = ','.join(filter(None, (plan.pop('variant'), system.variant)))
    settings = COMMON | plan | {'seed': run.seed, 'data.corpus': flags.corpus} | system.changes
    settings['total_steps'] = run.steps(flags)
    if run.before:  # other batches than that run's, and a short warm-up
        settings |= {'init_from': flags.output / 'runs' / run.before.name, 'seed': run.seed + SECOND_STAGE}
        settings['optim.warmup_steps'] //= 8
    return [
        sys.executable,
        'run.py',
        f'--config=configs/pretrain.py:{variant}',
        f'--workdir={flags.output / "runs" / run.name}',
        *(f'--config.{key}={value}' for key, value in settings.items()),
    ]


def export(run: Run, flags: argparse.Namespace) -> None:
    """Hugging Face folders of a finished run, in bf16."""
    workdir = flags.output / 'runs' / run.name
    for encoder in ('char', 'word') if run.name == RUNS[0].name else ('char',):
        name = run.name if encoder == 'char' else f'{run.name}-word'
        partial, folder = workdir / name, flags.output / 'exports' / name
        told = subprocess.run(
            [
                *(sys.executable, '-m', 'clower_jax.convert', 'export', '--overwrite'),
                *(f'--checkpoint={workdir}', f'--output={partial}', f'--encoder={encoder}'),
            ],
            cwd=ROOT, env=os.environ | {'JAX_PLATFORMS': 'cpu'}, capture_output=True, text=True,
        )  # fmt: skip
        if told.returncode:
            raise RuntimeError(f'{run.name}: no export: {told.stdout[-500:]}{told.stderr[-500:]}')
        weights = load_file(partial / 'model.safetensors')
        rounded = {key: value.astype(ml_dtypes.bfloat16) for key, value in weights.items()}
        save_file(rounded, partial / 'model.safetensors', metadata={'format': 'pt'})
        for file in ('metrics.jsonl', 'config.json'):
            shutil.copy(workdir / file, partial / f'run_{file}')
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial.rename(folder)


def train(flags: argparse.Namespace) -> None:
    """Runs what is not finished, `slots` at a time, until the time is over."""
    runs = [run for run in RUNS if not flags.only or run.name in flags.only]
    waiting = [run for run in runs if not exported(run, flags)]
    end = time.monotonic() + flags.seconds
    going: dict[Run, subprocess.Popen] = {}
    logs = flags.output / 'logs'
    logs.mkdir(parents=True, exist_ok=True)
    env = os.environ | {'XLA_PYTHON_CLIENT_MEM_FRACTION': f'{0.9 / flags.slots:.2f}'}
    stopped = False
    while True:
        for run, process in list(going.items()):
            if process.poll() is None:
                continue
            del going[run]
            text = (logs / f'{run.name}.txt').read_text(errors='replace')
            if process.returncode == 0 and finished(run, flags):
                export(run, flags)
                print(f'{run.name}: done', flush=True)
            else:
                print(f'{run.name}: ended with {process.returncode}: …{text[-400:]}', flush=True)
        ready = [run for run in waiting if not run.before or exported(run.before, flags)]
        for run in ready[: flags.slots - len(going)]:
            waiting.remove(run)
            with (logs / f'{run.name}.txt').open('a') as log:
                going[run] = subprocess.Popen(
                    command(run, flags), cwd=ROOT, env=env, stdout=log, stderr=subprocess.STDOUT
                )
        if not going:  # what still waits goes on from a run that failed
            break
        if time.monotonic() > end and not stopped:
            stopped, waiting = True, []
            for run, process in going.items():
                print(f'{run.name}: time is over, stopping', flush=True)
                process.send_signal(signal.SIGTERM)
        time.sleep(0.5)


def finished(run: Run, flags: argparse.Namespace) -> bool:
    """Whether the last step of a run is in its metrics."""
    path = flags.output / 'runs' / run.name / 'metrics.jsonl'
    return any(json.loads(line)['step'] >= run.steps(flags) for line in path.read_text('utf-8').splitlines())


def exported(run: Run, flags: argparse.Namespace) -> bool:
    """Whether a run is done."""
    return (flags.output / 'exports' / run.name).is_dir()


def pack(output: Path, target: Path, most: int) -> None:
    """Tar files of the exports that are not packed yet, cut into pieces; together at most `most` bytes."""
    target.mkdir(parents=True, exist_ok=True)
    packed = output / 'packed.txt'
    before = packed.read_text().split() if packed.is_file() else []
    chosen, size = [], 0
    for folder in sorted((output / 'exports').glob('*'), key=lambda path: path.stat().st_mtime):
        own = sum(file.stat().st_size for file in folder.rglob('*') if file.is_file())
        if folder.name not in before and size + own <= most:
            chosen.append(folder)
            size += own
    whole = output / 'exports.tar'
    with tarfile.open(whole, 'w') as tar:
        for folder in chosen:
            tar.add(folder, folder.name)
    subprocess.run(['xz', '-1', '-T0', '-f', str(whole)], check=True)
    content = Path(f'{whole}.xz').read_bytes()
    for number in range(0, len(content), PIECE_BYTES):
        (target / f'exports-{number // PIECE_BYTES}').write_bytes(content[number : number + PIECE_BYTES])
    packed.write_text('\n'.join([*before, *(folder.name for folder in chosen)]) + '\n')
    print(f'packed {", ".join(folder.name for folder in chosen)}: {len(content) / 2**20:.1f} MiB')


def report(output: Path, target: Path) -> None:
    """runs.json and mlm.png of the exports."""
    runs = {}
    for run in RUNS:
        folder = output / 'exports' / run.name
        if not folder.is_dir():
            continue
        rows = [json.loads(line) for line in (folder / 'run_metrics.jsonl').read_text('utf-8').splitlines()]
        held_out = [row for row in rows if row['split'] == 'validation']
        rates = sorted(row['examples_per_s'] for row in rows if row['split'] == 'train')
        runs[run.name] = {
            'config': _without_paths(json.loads((folder / 'run_config.json').read_text('utf-8'))),
            'validation': [{key: _rounded(value) for key, value in row.items()} for row in held_out],
            'examples_per_s_median': round(rates[len(rates) // 2]),
        }
    target.mkdir(parents=True, exist_ok=True)
    (target / 'runs.json').write_text(json.dumps(runs, indent=1) + '\n', encoding='utf-8')
    figure, axes = plt.subplots(figsize=(7, 4.2), layout='constrained')
    colors = dict(zip(SYSTEMS, plt.get_cmap('tab10').colors))
    for run in RUNS:
        if run.name not in runs:
            continue
        config, rows = runs[run.name]['config'], runs[run.name]['validation']
        read = runs[run.before.name]['config']['total_steps'] if run.before else 0
        millions = [(read + row['step']) * config['batch_size'] * CHARACTERS_A_ROW / 1e6 for row in rows]
        axes.plot(
            millions,
            [row['loss_mlm_char'] for row in rows],
            color=colors[run.system],
            linestyle='-' if run.seed == 0 else '--',
            marker='.',
            label=run.system if run.seed == 0 else None,
        )
    axes.set(xlabel='characters read, millions', ylabel='held-out MLM, nats a character')
    axes.grid(alpha=0.3)
    axes.legend(title='seed 0 solid, seed 1 dashed')
    figure.savefig(target / 'mlm.png', dpi=130)
    print(f'{len(runs)} runs: {target}/runs.json, {target}/mlm.png')


def _without_paths(config: dict) -> dict:
    kept = {key: value for key, value in config.items() if key != 'data'}
    return kept | {'init_from': Path(config['init_from']).name}


def _rounded(value):
    return float(f'{value:.5g}') if isinstance(value, float) else value


def main() -> None:
    """Trains, then packs if asked to; or reports."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n')[0])
    parser.add_argument('--report', type=Path, help='where runs.json and mlm.png of the finished runs go')
    parser.add_argument('--corpus', default='', help='a folder of build_corpus')
    parser.add_argument('--output', required=True, type=Path, help='where runs and exports go')
    parser.add_argument('--plan', choices=PLANS, default='gpu')
    parser.add_argument('--slots', type=int, default=3, help='runs at a time')
    parser.add_argument('--seconds', type=float, default=1e9, help='then what runs is stopped and saved')
    parser.add_argument('--steps', type=int, default=0, help='instead of those of the plan')
    parser.add_argument('--only', type=harness.names, help='of the runs, these')
    parser.add_argument('--pack', type=Path, help='where exports are packed to')
    parser.add_argument('--pack_mib', type=int, default=70, help='of exports packed at a time, before xz')
    flags = parser.parse_args()
    flags.output = flags.output.resolve()
    if flags.report:
        report(flags.output, flags.report)
        return
    if not flags.corpus:
        parser.error('--corpus=DIR is missing: a folder that build_corpus wrote')
    flags.corpus = str(Path(flags.corpus).resolve())
    train(flags)
    if flags.pack:
        pack(flags.output, flags.pack, flags.pack_mib << 20)


if __name__ == '__main__':
    main()
