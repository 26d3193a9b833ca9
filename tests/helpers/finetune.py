"""Runs of fine-tuning that are killed and go on."""

import itertools
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from clower_jax.training import finetune
from clower_jax.training.inherited_settings import resolve_source, with_trained_settings
from clower_jax.utils.metrics_file import read_metrics
from input_pipeline.finetuning import data as finetuning_data


def go(config: ConfigDict, workdir: Path) -> dict:
    """What run.py does, in this process."""
    if config.mode != 'train':
        config = with_trained_settings(config, workdir)
    config, vocabulary = resolve_source(config, workdir)
    config, data = finetuning_data.prepare(config, vocabulary)
    if config.mode != 'train':
        return finetune.apply(config, workdir, data)
    return finetune.run(config, workdir, data, vocabulary)


def killed_after(steps: int, config: ConfigDict, workdir: Path) -> None:
    """A run whose data ends too early."""
    config, vocabulary = resolve_source(config, workdir)
    config, data = finetuning_data.prepare(config, vocabulary)
    batches = data.batches

    def broken(config, start_step=0, split='train', rows=None):
        source = batches(config, start_step, split, rows)
        return itertools.islice(source, steps) if split == 'train' else source

    data.batches = broken
    with pytest.raises(StopIteration):
        finetune.run(config, workdir, data, vocabulary)


def validation_rows(folder: Path) -> list[dict]:
    return [row for row in read_metrics(folder / 'metrics.jsonl') if row['split'] == 'validation']
