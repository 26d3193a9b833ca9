"""A run in a process of its own."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def start_run(config, *flags, **settings):
    command = [sys.executable, 'run.py', f'--config=configs/{config}', *flags]
    command += [f'--config.{key}={value}' for key, value in settings.items()]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


def settings(config):
    """As table 1 has them: tokens, batch size, learning rate, epochs."""
    return config.data.max_length, config.batch_size, config.optim.learning_rate, config.num_epochs
