"""The table of kinds of models against what each reads."""

import pytest

from clower_jax.models.kinds import KINDS
from helpers.tasks import shallow_config
from input_pipeline.text.model_inputs import CHARACTERS, MODEL_INPUTS, inputs_of


def test_every_kind_of_inputs_has_a_model():
    assert KINDS.keys() == MODEL_INPUTS.keys()
    for name, kind in KINDS.items():
        assert kind.inputs is MODEL_INPUTS[name]
        assert kind.views == tuple(kind.parts)  # a view without parameters, or parameters of no view


def test_words_are_read_in_the_tasks_that_say_so():
    assert [name for name, inputs in MODEL_INPUTS.items() if inputs.of_task('span') != CHARACTERS] == [
        'lichee'
    ]
    assert MODEL_INPUTS['word'].of_task('classify').views == ('word',)
    assert MODEL_INPUTS['clower'].of_task('classify') == CHARACTERS


def test_an_unknown_kind_is_refused():
    config = shallow_config()
    config.model.kind = 'gpt'
    with pytest.raises(ValueError, match=r"model\.kind='gpt' must be one of clower, ambert"):
        inputs_of(config)
