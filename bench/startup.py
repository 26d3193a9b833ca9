"""Seconds from the command to the first training step, and what they are spent on, as a markdown table.

    CLOWER_DATA=../shared/data python bench/startup.py [--jobs pretrain,finetune] [--rounds 3] [--json FILE]

Starts `run.py` in fresh workdirs: with an empty cache of compiled programs, then with a full one. `pretrain`
is the demo's model on a corpus made before, `finetune` a BERT of 4 × 256 with random weights on 640 reviews
of ChnSentiCorp. The first step is there when its line is on the console. On a busy machine the process's CPU
time says more (Linux alone has it). `imports` are timed alone.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from bench import harness  # noqa: E402

JOBS = ('pretrain', 'finetune')
IMPORTS = [sys.executable, '-c', 'import run']


class Launch(NamedTuple):
    """Seconds to the line of the first step (of `IMPORTS` to the end) and to the end; the same of CPU."""

    first_step: float
    first_step_cpu: float
    whole: float
    whole_cpu: float


def launch(command: list[str], cache: Path) -> Launch:
    """What a command takes, with its compiled programs kept in `cache`. Exits with its last lines where it
    failed."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    env = os.environ | {'JAX_COMPILATION_CACHE_DIR': str(cache)}
    lines, first_step, first_step_cpu = [], None, None
    with subprocess.Popen(
        command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        for line in process.stdout or ():
            lines.append(line)
            if first_step is None and line.startswith('step 1 of'):
                first_step, first_step_cpu = time.perf_counter() - start, cpu_seconds(process.pid)
    whole = time.perf_counter() - start
    if process.returncode or (first_step is None and command is not IMPORTS):
        sys.exit(f'{" ".join(command)} ended with {process.returncode}:\n{"".join(lines[-15:])}')
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Launch(first_step or whole, first_step_cpu or cpu, whole, cpu)


def cpu_seconds(pid: int) -> float:
    """What a process has used so far."""
    fields = Path(f'/proc/{pid}/stat').read_text(encoding='utf-8').rpartition(')')[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')


def pretraining(folder: Path) -> list[str]:
    """The command of a pre-training of one step, without its workdir."""
    command = ['--config=configs/pretrain.py', '--config.data.eval_examples=1']
    launch(run(command, folder / 'made'), folder / 'unused')
    return [*command, f'--config.data.corpus={folder}/made/corpus']


def finetuning(folder: Path, data: Path) -> list[str]:
    """The command of a fine-tuning of one step, without its workdir."""
    from bench import finetune

    model = finetune.write_model(folder / 'bert', 'small', data / 'vocab' / 'bert_base_chinese_vocab.txt')
    flags = argparse.Namespace(rows=None, device='cpu', epochs=1)
    case = finetune.write_case(folder, 'chnsenticorp', 'float32', model, data / 'finetune', flags)
    settings = json.loads(case.read_text(encoding='utf-8'))
    changes = [f'--config.{key}={value}' for key, value in settings['changes'].items()]
    return [f'--config={settings["config"]}', *changes]


def run(command: list[str], workdir: Path) -> list[str]:
    """The whole command line: one step, which is logged."""
    schedule = ['--config.total_steps=1', '--config.optim.warmup_steps=0', '--config.log_every=1']
    return [sys.executable, 'run.py', f'--workdir={workdir}', *command, *schedule, '--config.eval_every=0']


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n')[0])
    parser.add_argument('--jobs', type=harness.names, default=JOBS)
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--data', type=Path, default=os.environ.get('CLOWER_DATA'))
    parser.add_argument('--json')
    flags = parser.parse_args()
    if 'finetune' in flags.jobs and not flags.data:
        parser.error('there is no data: set CLOWER_DATA, or give --data=FOLDER or --jobs=pretrain')
    launches_of: dict[str, list[Launch]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        commands = {
            job: pretraining(folder) if job == 'pretrain' else finetuning(folder, flags.data)
            for job in flags.jobs
        }
        for number in range(flags.rounds):
            launches_of.setdefault('imports', []).append(launch(IMPORTS, folder / 'none'))
            for job, command in commands.items():
                for cache in ('empty', 'full'):
                    one = launch(
                        run(command, folder / f'{job}-{cache}-{number}'), folder / f'cache-{job}-{number}'
                    )
                    launches_of.setdefault(f'{job}, {cache} cache', []).append(one)
    rows = [
        [name, *(f'{statistics.median(values):.1f}' for values in zip(*launches, strict=True))]
        for name, launches in launches_of.items()
    ]
    print(harness.table(['', 'to the first step, s', 'CPU, s', 'whole command, s', 'CPU, s'], rows))
    harness.save(
        flags.json, launches={name: [one._asdict() for one in ones] for name, ones in launches_of.items()}
    )


if __name__ == '__main__':
    main()
