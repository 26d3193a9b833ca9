"""Every number of every config has a range, and what is in none is refused by its key, value and range."""

import importlib
import math
import re
from pathlib import Path

import pytest

from clower_jax.utils import command_line, settings

FOLDER = Path(__file__).parents[2] / 'configs'
CONFIGS = sorted(path.stem for path in FOLDER.glob('*.py') if path.name not in command_line.NOT_JOBS)
VARIANTS = {
    'transfer': ['xnli'],
    'vectors': ['similarity'],
    'mirror': ['word'],
}  # of those that have no config without one
HIGHEST = 2**32  # no range of whole numbers goes further


def config_of(job):
    return importlib.import_module(f'configs.{job}').get_config(*VARIANTS.get(job, []))


def numbers(config):
    for key, value in settings.flatten(config.to_dict()).items():
        if isinstance(value, int | float | tuple) and not isinstance(value, bool) and value != ():
            yield key, value


@pytest.mark.parametrize('job', CONFIGS)
def test_every_number_of_a_config_has_a_range_and_is_in_it(job):
    config = config_of(job)
    settings.check_job(config)
    assert not [key for key, _ in numbers(config) if key.rpartition('.')[2] not in settings.RANGES]


@pytest.mark.parametrize('job', CONFIGS)
def test_what_is_in_no_range_is_refused(job):
    config = config_of(job)
    for key, value in numbers(config):
        bad = (math.nan, math.inf, -math.inf) if isinstance(value, float) else (-2, HIGHEST, 10**12)
        for number in bad:
            low, high = settings.RANGES[key.rpartition('.')[2]]
            message = re.escape(f'{key}={number} must be from {low} to {high}')
            with pytest.raises(ValueError, match=f'^{message}$'):
                settings.check_numbers({key: (number,) if isinstance(value, tuple) else number})


def test_a_negative_rate_or_weight_is_refused():
    config = config_of('pretrain')
    for key in (
        *('optim.learning_rate', 'optim.weight_decay', 'optim.clip_norm', 'loss.temperature'),
        *('loss.contrast_weight', 'loss.sop_weight', 'model.dropout', 'data.validation_fraction'),
    ):
        wrong = config.copy_and_resolve_references()
        wrong.update_from_flattened_dict({key: -0.1})
        with pytest.raises(ValueError, match=rf'^{key}=-0.1 must be from '):
            settings.check_job(wrong)


def test_a_key_without_a_range_is_finite():
    settings.check_numbers({'loss.mine': -5.0, 'loss.other': 'nan', 'loss.flag': True})
    with pytest.raises(ValueError, match='loss.mine=nan must be a finite number'):
        settings.check_numbers({'loss.mine': math.nan})
    with pytest.raises(ValueError, match='loss.mine=1e\\+39 must be a finite number'):
        settings.check_numbers({'loss.mine': 1e39})  # infinite in fp32
