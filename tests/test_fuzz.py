"""A slice of the fuzzing: each target takes some hundred inputs that nobody meant. `make fuzz` takes more."""

import random

import pytest
from fuzz import data_targets, engine
from fuzz.engine import Target
from hypothesis import given
from hypothesis import strategies as st

TARGETS = data_targets.targets()  # folders: test_fuzz_folders.py
COUNTS = {'command_line': 15, 'record': 60}


@pytest.mark.parametrize('name', TARGETS)
def test_inputs_are_read_or_refused_in_one_line(name):
    outcome = engine.attack(TARGETS[name], COUNTS.get(name, 120), seed=1)
    problems = [
        f'{failure["problem"]} {bytes.fromhex(failure["input"])[:300]!r}' for failure in outcome.failures
    ]
    assert not problems
    assert outcome.read + outcome.refused == outcome.inputs and outcome.read > 0


@pytest.mark.parametrize('name', [name for name in TARGETS if name not in COUNTS])
@given(
    data=st.binary(max_size=80) | st.text(max_size=40).map(lambda text: text.encode(errors='surrogatepass'))
)
def test_anything_at_all(name, data):
    target = TARGETS[name]
    try:
        target.run(data)
    except target.refusals as error:
        assert '\n' not in str(error).strip() and target.place in str(error)


def fails(data: bytes) -> None:
    if b'a' in data:
        raise KeyError('a')
    if b'b' in data:
        raise ValueError('two\nlines')
    if b'c' in data:
        raise ValueError('somewhere')
    if b'd' in data:
        raise ValueError('file: d')


def test_failures_are_found():
    """Every kind of them, once, with the input that led to it."""
    outcome = engine.attack(Target(fails, (b'', b'a', b'aa', b'b', b'c', b'd'), place='file'), 6)
    assert [failure['problem'].split(' at ')[0].split(':')[0] for failure in outcome.failures] == [
        'KeyError', 'more than a line', 'no place',
    ]  # fmt: skip
    assert [failure['input'] for failure in outcome.failures] == ['61', '62', '63']
    assert (outcome.inputs, outcome.read, outcome.refused) == (6, 1, 3)


def test_a_slow_input_is_a_failure(monkeypatch):
    monkeypatch.setattr(engine, 'SECONDS', 0.01)
    outcome = engine.attack(Target(lambda data: sum(range(2_000_000)) and None, (b'',)), 1)
    assert outcome.failures[0]['problem'].startswith('slow')


def test_the_same_seed_makes_the_same_inputs():
    target = Target(fails, (b'one', b'{"two": 2}'))
    made = [list(engine.inputs(target, 300, seed)) for seed in (0, 0, 1)]
    assert made[0] == made[1] != made[2] and len(made[0]) == 300
    assert len(set(made[0])) > 200
    rng = random.Random(0)
    assert all(len(engine.mutated((b'x' * engine.LARGEST,), rng)) <= engine.LARGEST for _ in range(20))
