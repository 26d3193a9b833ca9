"""The worked example of the quick start, block by block as it stands there, only with fewer steps."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SMALLER = {
    'configs/pretrain.py': '--config.total_steps=4 --config.optim.warmup_steps=1 --config.eval_every=0 '
    '--config.data.num_words=500 --config.model.num_layers=1',
    'configs/classify.py': '--config.total_steps=4 --config.data.buckets=1 --config.data.max_length=64',
}


def blocks() -> list[tuple[str, str]]:
    """(language, text) of the blocks between the two comments."""
    example = (ROOT / 'docs' / 'quick_start.md').read_text('utf-8').split('<!-- worked example')[1]
    return re.findall(r'```(\w+)\n(.*?)```', example.split('<!-- end of the worked example')[0], re.DOTALL)


@pytest.mark.slow
def test_the_worked_example_works(tmp_path):
    for name in ('run.py', 'configs', 'clower_jax', 'input_pipeline'):
        (tmp_path / name).symlink_to(ROOT / name)
    environment = os.environ | {
        'PATH': f'{Path(sys.executable).parent}:{os.environ["PATH"]}',
        'HF_HUB_OFFLINE': '1',
        'PYTHONPATH': str(tmp_path),
    }

    def execute(command, **options):
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600, **options
        )
        assert done.returncode == 0, f'{command}\n{done.stdout}\n{done.stderr}'
        return done

    languages = [language for language, _ in blocks()]
    assert languages == ['bash', 'python', 'bash', 'python']
    for language, text in blocks():
        if language == 'python':
            last = execute([sys.executable, '-c', text])
            continue
        for command in text.replace('\\\n', ' ').strip().splitlines():
            if command.startswith('pip install'):
                continue
            smaller = next((flags for config, flags in SMALLER.items() if config in command), '')
            execute(f'{command} {smaller}', shell=True)
    label, score = re.search(r"'label': '(\w+)', 'score': ([\d.]+)", last.stdout).groups()
    assert label in {'culture', 'everyday', 'science', 'technology'}
    assert 0.25 <= float(score) <= 1
    assert 'Warning' not in last.stderr and 'not initialized' not in last.stderr
