"""Every key of every config is declared, with a range that the value is in; what is in none is refused by its
key, value and range. Configs of earlier versions are read as today's."""

import importlib
import math
import re
from pathlib import Path

import pytest

from clower_jax.utils import command_line, config_checks, config_keys
from clower_jax.utils.config_checks import flatten
from clower_jax.utils.run_config import upgrade_config

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
    for key, value in flatten(config.to_dict()).items():
        if isinstance(value, int | float | tuple) and not isinstance(value, bool) and value != ():
            yield key, value


def test_every_key_is_declared_and_every_declared_key_is_of_some_job():
    keys = {job: flatten(config_of(job).to_dict()) for job in CONFIGS}
    undeclared = [
        (job, key) for job, values in keys.items() for key in values if not config_keys.find(key).about
    ]
    assert not undeclared
    used = {key for values in keys.values() for key in values}
    assert not set(config_keys.KEYS) - used


@pytest.mark.parametrize('job', CONFIGS)
def test_every_number_of_a_config_has_a_range_and_is_in_it(job):
    config = config_of(job)
    config_checks.check_job(config)
    assert not [key for key, _ in numbers(config) if config_keys.find(key).high == config_keys.LARGEST]


@pytest.mark.parametrize('job', CONFIGS)
def test_what_is_in_no_range_is_refused(job):
    config = config_of(job)
    for key, value in numbers(config):
        bad = (math.nan, math.inf, -math.inf) if isinstance(value, float) else (-2, HIGHEST, 10**12)
        for number in bad:
            declared = config_keys.find(key)
            message = re.escape(f'{key}={number} must be from {declared.low} to {declared.high}')
            with pytest.raises(ValueError, match=f'^{message}$'):
                config_checks.check_numbers({key: (number,) if isinstance(value, tuple) else number})


def test_a_negative_rate_or_weight_is_refused():
    config = config_of('pretrain')
    for key in (
        *('optim.learning_rate', 'optim.weight_decay', 'optim.clip_norm', 'loss.temperature'),
        *('loss.contrast_weight', 'loss.sop_weight', 'model.dropout', 'data.validation_fraction'),
    ):
        wrong = config.copy_and_resolve_references()
        wrong.update_from_flattened_dict({key: -0.1})
        with pytest.raises(ValueError, match=rf'^{key}=-0.1 must be from '):
            config_checks.check_job(wrong)


def test_a_value_that_is_no_choice_is_refused_also_within_a_grid():
    config = config_of('tables')
    config.finetune.tnews.optim.schedule = 'sine'
    with pytest.raises(ValueError, match="^optim.schedule='sine' must be one of linear, cosine"):
        config_checks.check_job(config)


def test_a_key_without_a_range_is_finite():
    config_checks.check_numbers({'loss.mine': -5.0, 'loss.other': 'nan', 'loss.flag': True})
    with pytest.raises(ValueError, match='loss.mine=nan must be a finite number'):
        config_checks.check_numbers({'loss.mine': math.nan})
    with pytest.raises(ValueError, match='loss.mine=1e\\+39 must be a finite number'):
        config_checks.check_numbers({'loss.mine': 1e39})  # infinite in fp32


def test_a_key_of_a_job_in_a_job_is_the_same_key():
    assert config_keys.find('pretrain.optim.clip_norm') is config_keys.KEYS['optim.clip_norm']
    assert config_keys.find('finetune.tnews.seed') is config_keys.KEYS['seed']
    assert config_keys.find('data.tnews.max_length') is config_keys.KEYS['data.max_length']
    assert config_keys.find('mesh.data') is config_keys.KEYS['mesh.data']
    assert config_keys.find('mine') is config_keys.UNKNOWN


def test_an_old_config_gets_what_its_run_did_and_nothing_else():
    old = {'model': {'hidden_size': 8}, 'data': {'mask_rate': 0.2, 'max_anchor_length': 9}, 'loss': {}}
    assert upgrade_config(old) == {
        'task': 'pretrain',
        'model': {'hidden_size': 8, 'kind': 'clower'},
        'data': {
            'mask_rate': 0.2, 'max_anchor_length': 9, 'pack': False, 'masking': 'words', 'num_chars': 0,
            'explored_masks': 1, 'explore_whole': False,
        },
        'loss': {'contrast_on': 'both'},
    }  # fmt: skip
    assert old['loss'] == {}
    classifier = {'task': 'classify', 'model': {}, 'data': {}}
    assert upgrade_config(classifier) == classifier | {
        'model': {'classify_from': 'pooler', 'new_pooler': False}
    }


@pytest.mark.parametrize('job', CONFIGS)
def test_a_config_of_today_is_as_it_should_be(job):
    config = config_of(job).to_dict()
    assert upgrade_config(config) == config
