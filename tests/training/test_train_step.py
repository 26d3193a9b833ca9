"""One step and the loop around it: loss scale, steps that are skipped, schedule, decay, means, files."""

import contextlib
import functools
import json
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from clower_jax.checkpoints.train_state import TrainState
from clower_jax.interop import init_weights
from clower_jax.objectives.pretraining import Pretrain
from clower_jax.parallel import precision
from clower_jax.reports import plots
from clower_jax.reports.plots import draw_curves, select_panels
from clower_jax.training import evaluate, optim, progress, run_log
from clower_jax.training.loop import _summary, check_not_skipped, make_programs, train
from clower_jax.training.run_log import Writer
from clower_jax.training.train_step import make_train_step
from clower_jax.utils.metrics_file import read_metrics
from helpers import synthetic

SHORT = {
    'log_every': 2, 'eval_every': 0, 'checkpoint_every': 0, 'optim.warmup_steps': 0, 'model.num_layers': 0,
}  # fmt: skip


class Projection:
    """The smallest task: the product w·x with a batch's `x`, computed in `dtype`, plus noise from the key."""

    def __init__(self, dtype='float32'):
        self.dtype = dtype

    def loss(self, params, batch, key):
        loss = (params['w']['kernel'].astype(self.dtype) * batch['x'].astype(self.dtype)).sum()
        sums = {'loss': (loss.astype(jnp.float32), 1.0), 'noise': (jax.random.uniform(key), 1.0)}
        return loss.astype(jnp.float32), sums


def projection(dtype='float32', seed=0, **changes):
    """(train step, first state) of a Projection with w = (1, 1)."""
    config = synthetic.tiny_config(**{'total_steps': 100, 'optim.warmup_steps': 0, **changes})
    optimizer = optim.optimizer(config)
    params = {'w': {'kernel': jnp.ones(2)}}
    step = make_train_step(Projection(dtype), optimizer, optim.learning_rate(config))
    step = functools.partial(step, key=jax.random.key(seed))
    return step, TrainState.create(params, optimizer, dtype)


def batch_of(*x):
    return {'x': np.array(x, np.float32)}


def run(config: ConfigDict, workdir):
    return train(config, workdir, lambda **at: synthetic.batches(config, **at), synthetic.Vocabulary())


def frozen(state: TrainState):
    """The state on the host, which a donated step leaves alone."""
    return jax.device_get({'params': state.params, 'opt_state': state.opt_state})


# ---- loss scale ----


def after(scale: precision.LossScale, *finite: bool) -> precision.LossScale:
    for value in finite:
        scale = scale.update(jnp.asarray(value))
    return scale


def test_loss_scale_halves_and_stops_at_its_floor():
    scale = after(precision.LossScale.create('float16'), False, False)
    assert scale.scale == precision.FP16_INITIAL_SCALE / 4 and scale.finite_steps == 0
    assert after(scale, *[False] * 20).scale == precision.FP16_FLOOR == 1


def test_loss_scale_doubles_after_its_interval_up_to_its_ceiling():
    almost = precision.LossScale.create('float16').replace(
        finite_steps=jnp.asarray(precision.GROWTH_INTERVAL - 2)
    )
    assert after(almost, True).scale == precision.FP16_INITIAL_SCALE
    grown = after(almost, True, True)
    assert (grown.scale, grown.finite_steps) == (2 * precision.FP16_INITIAL_SCALE, 0)
    # A step that is not finite begins the count anew.
    assert after(almost, True, False, True).finite_steps == 1
    top = almost.replace(scale=jnp.asarray(precision.FP16_CEILING))
    assert after(top, True, True).scale == precision.FP16_CEILING


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_loss_scale_is_for_fp16_only(dtype):
    assert after(precision.LossScale.create(dtype), False, *[True] * 3).scale == 1


def test_fp16_finds_a_scale_that_fits():
    """A gradient of 100 fits fp16 (at most 65504) under a scale of 512 and no more: 6 steps are skipped."""
    step, state = projection('float16')
    start = frozen(state)
    for skipped in range(6):
        state, measured = step(state, batch_of(100, -100))
        assert measured['bad_steps'] == skipped + 1 == state.bad_steps
        assert measured['sums']['loss_scale'][0] == 2.0 ** (15 - skipped)
        jax.tree.map(np.testing.assert_array_equal, frozen(state), start)
    state, measured = step(state, batch_of(100, -100))
    assert (measured['bad_steps'], state.loss_scale.scale, state.loss_scale.finite_steps) == (0, 512, 1)
    assert measured['sums']['grad_norm'][0] == pytest.approx(100 * 2**0.5, rel=1e-3)  # not scaled
    w = state.params['w']['kernel']
    assert w[0] < 1 < w[1] and state.step == 7


@pytest.mark.slow
@pytest.mark.parametrize('power', [24, 12])
def test_fp16_starts_at_the_scale_that_is_asked_for(tmp_path, power):
    """From the largest one down to where it trains; the first gradient tells."""
    config = synthetic.tiny_config(
        **SHORT, total_steps=40, dtype='float16', **{'optim.initial_loss_scale': 2.0**power}
    )
    run(config, tmp_path)
    rows = [row for row in read_metrics(tmp_path / 'metrics.jsonl') if row['split'] == 'train']
    skipped, scales = [row['skipped_steps'] for row in rows], [row['loss_scale'] for row in rows]
    assert (sum(skipped) > 0) == (power == 24)
    assert 2.0 ** (power - sum(skipped)) <= scales[-1] <= scales[0] <= 2.0**power
    losses = [row['loss'] for row in rows if 'loss' in row]  # an interval without a step has none
    assert 0 < losses[-1] < losses[0]


# ---- steps that are skipped ----


@pytest.mark.parametrize('bad', [np.nan, np.inf, -np.inf])
def test_a_gradient_that_is_not_finite_changes_nothing_and_is_counted(bad):
    step, state = projection()
    state, _ = step(state, batch_of(1, 2))
    before = frozen(state)
    for count in (1, 2):
        state, measured = step(state, batch_of(bad, 1))
        assert measured['bad_steps'] == count
        jax.tree.map(np.testing.assert_array_equal, frozen(state), before)
    assert state.step == 3  # the data goes on
    # It has no say in any mean.
    assert evaluate.means(jax.device_get([measured['sums']])) == {}
    state, measured = step(state, batch_of(1, 2))
    assert measured['bad_steps'] == 0
    assert not np.array_equal(state.params['w']['kernel'], before['params']['w']['kernel'])


@pytest.mark.parametrize(
    'changes',
    [
        {'optim.learning_rate': np.nan},
        {'optim.learning_rate': np.inf},
        {'optim.learning_rate': 3e38},  # each number of the update is finite, their squares are not
        {'optim.weight_decay': np.nan},
    ],
    ids=str,
)
def test_an_update_that_is_not_finite_changes_nothing_and_is_counted(changes):
    step, state = projection(**changes)
    before = frozen(state)
    for count in (1, 2):
        state, measured = step(state, batch_of(1, 2))
        assert measured['bad_steps'] == count
        jax.tree.map(np.testing.assert_array_equal, frozen(state), before)
    assert evaluate.means(jax.device_get([measured['sums']])) == {}


def test_a_gradient_whose_square_overflows_is_skipped():
    """Adam's second moment would be infinite, and every later update 0."""
    step, state = projection(**{'optim.clip_norm': 0.0})
    state, measured = step(state, batch_of(1e20, 1))
    assert measured['bad_steps'] == 1
    before = frozen(state)
    state, _ = step(state, batch_of(1, 2))
    assert not np.array_equal(state.params['w']['kernel'], before['params']['w']['kernel'])


def test_skipped_steps_leave_the_schedule_where_it_is():
    step, state = projection(**{'optim.warmup_steps': 10, 'optim.learning_rate': 1.0})
    rates = []
    for x in (1, 1, np.nan, 1):
        state, measured = step(state, batch_of(x, x))
        rates.append(tuple(float(part) for part in measured['sums']['lr']))
    assert rates == [(0, 1), (pytest.approx(0.1), 1), (0, 0), (pytest.approx(0.2), 1)]
    assert optim.update_count(state.opt_state) == 3


@pytest.mark.slow
def test_training_stops_after_max_bad_steps(tmp_path):
    """No update by an infinite learning rate is finite."""
    config = synthetic.tiny_config(
        **SHORT, total_steps=20, max_bad_steps=3, **{'optim.learning_rate': float('inf')}
    )
    message = r'not finite in 4 steps in a row, from step 1 on.*clower_jax\.replay --workdir .* --step 1\.'
    with pytest.raises(FloatingPointError, match=message):
        run(config, tmp_path)
    rows = read_metrics(tmp_path / 'metrics.jsonl')
    assert [(row['step'], row['skipped_steps']) for row in rows] == [(2, 2)]


@pytest.mark.parametrize(
    ('steps', 'message'),
    [
        ('+++-', None),
        ('-+--+', 'in 3 of 5 steps, 0 of them'),
        ('++++++--', None),
        ('+++++++---', 'in 3 of 10 steps, 3 of them at its end'),
        ('-', 'in 1 of 1 steps'),
    ],
)
def test_what_is_too_little_to_have_learned(steps, message):
    step, state = projection()
    for kind in steps:
        state, _ = step(state, batch_of(1 if kind == '+' else np.nan, 1))
    with pytest.raises(FloatingPointError, match=message) if message else contextlib.nullcontext():
        check_not_skipped(state, 'runs/w')


@pytest.mark.slow
@pytest.mark.parametrize('rate', [1e30, float('nan')])
def test_a_run_that_learned_nothing_ends_with_an_error(tmp_path, rate):
    """Though it is shorter than `max_bad_steps`. Nothing is saved as if it were finished."""
    config = synthetic.tiny_config(**SHORT, total_steps=6, **{'optim.learning_rate': rate})
    message = rf'^The run in {tmp_path} learned too little: in \d of 6 steps, \d of them at its end, [^\n]*$'
    with pytest.raises(FloatingPointError, match=message):
        run(config, tmp_path)
    assert not init_weights.has_checkpoint(tmp_path)


@pytest.mark.slow
def test_rates_are_of_steps_that_were_done(tmp_path):
    """Not of those that the device was only asked for."""
    config = synthetic.tiny_config(
        **{'total_steps': 4, 'log_every': 4, 'eval_every': 0, 'checkpoint_every': 0, 'model.num_layers': 0}
    )
    programs = make_programs(config)

    def slowly(x):
        time.sleep(0.2)
        return np.asarray(x)

    slow = jax.jit(lambda x: jax.pure_callback(slowly, jax.ShapeDtypeStruct(x.shape, x.dtype), x))

    def train_step(state, batch, key):
        state, measured = programs.train_step(state, batch, key)
        return state, measured | {'bad_steps': slow(measured['bad_steps'])}

    train(
        config, tmp_path, lambda **at: synthetic.batches(config, **at), synthetic.Vocabulary(),
        programs=programs._replace(train_step=train_step),
    )  # fmt: skip
    (row,) = (row for row in read_metrics(tmp_path / 'metrics.jsonl') if row['split'] == 'train')
    assert row['examples_per_s'] <= config.batch_size / 0.2


# ---- learning rate, weight decay, dropout ----


def test_learning_rate():
    config = synthetic.tiny_config(**{'total_steps': 10, 'optim.warmup_steps': 4, 'optim.learning_rate': 0.8})
    schedule = optim.learning_rate(config)
    expected = [0, 0.2, 0.4, 0.6, 0.8, 0.8 * 5 / 6, 0.8 * 4 / 6, 0.4, 0.8 * 2 / 6, 0.8 / 6, 0]
    np.testing.assert_allclose([schedule(step) for step in range(11)], expected, atol=1e-7)
    config.optim.warmup_steps = 0
    schedule = optim.learning_rate(config)
    np.testing.assert_allclose([schedule(step) for step in (0, 5, 10)], [0.8, 0.4, 0], atol=1e-7)
    config.optim.schedule = 'constant'
    assert {float(optim.learning_rate(config)(step)) for step in range(11)} == {np.float32(0.8)}
    config.optim.warmup_steps = 4
    schedule = optim.learning_rate(config)
    np.testing.assert_allclose([schedule(step) for step in (0, 2, 4, 10)], [0, 0.4, 0.8, 0.8], atol=1e-7)


def test_schedules_after_the_warm_up():
    changes = {'total_steps': 20, 'optim.warmup_steps': 4, 'optim.learning_rate': 0.8}
    steps = np.arange(21)
    up = 0.8 * steps / 4
    done = (steps - 4) / 16  # of what comes after the warm-up
    expected = {
        'linear': 0.8 * (1 - 0.9 * done),
        'cosine': 0.8 * (0.1 + 0.9 * 0.5 * (1 + np.cos(np.pi * done))),
        'wsd': 0.8 * (1 - 0.9 * np.clip((steps - 16) / 4, 0, 1)),  # the last fifth
        'constant': np.full(21, 0.8),
    }
    for name, after in expected.items():
        config = synthetic.tiny_config(
            **changes, **{'optim.schedule': name, 'optim.final_fraction': 0.1 if name != 'constant' else 0.0}
        )
        schedule = optim.learning_rate(config)
        found = [schedule(step) for step in steps]
        np.testing.assert_allclose(found, np.where(steps < 4, up, after), rtol=1e-6, err_msg=name)


def test_wsd_of_a_longer_run_begins_like_that_of_a_shorter_one():
    rates = []
    for total in (20, 100):
        config = synthetic.tiny_config(
            **{'total_steps': total, 'optim.warmup_steps': 2, 'optim.schedule': 'wsd'}
        )
        schedule = optim.learning_rate(config)
        rates.append([float(schedule(step)) for step in range(17)])
    assert rates[0] == rates[1]


def test_an_unknown_schedule_is_refused():
    config = synthetic.tiny_config(**{'optim.schedule': 'step'})
    with pytest.raises(
        ValueError, match="optim.schedule='step' must be one of linear, cosine, wsd, constant"
    ):
        optim.learning_rate(config)


@pytest.mark.parametrize('warmup', [-1, 10, 11])
def test_a_warm_up_that_does_not_fit_is_refused(warmup):
    config = synthetic.tiny_config(**{'total_steps': 10, 'optim.warmup_steps': warmup})
    with pytest.raises(ValueError, match=f'optim.warmup_steps={warmup} must be .* total_steps=10'):
        optim.learning_rate(config)


def test_weight_decay_is_on_matrices_only():
    task = Pretrain.from_config(synthetic.tiny_config())
    shapes = synthetic.initial_shapes(task)
    decays = {
        jax.tree_util.keystr(k): v
        for k, v in jax.tree_util.tree_leaves_with_path(optim.weight_decay_mask(shapes))
    }
    for name, decayed in decays.items():
        assert decayed == name.endswith(("['kernel']", "['embedding']")), name
    assert 0 < sum(decays.values()) < len(decays)


@pytest.mark.parametrize('clip_norm', [1.0, 0.0])
def test_weight_decay(clip_norm):
    """With a gradient of 0, AdamW only decays: p·(1 − learning rate·decay)."""
    config = synthetic.tiny_config(
        **{'optim.warmup_steps': 0, 'optim.learning_rate': 0.5, 'optim.weight_decay': 0.1,
           'optim.clip_norm': clip_norm}
    )  # fmt: skip
    optimizer = optim.optimizer(config)
    params = {'layer': {name: jnp.ones(2) for name in ('kernel', 'bias', 'scale')}}
    state = optimizer.init(params)
    assert optim.update_count(state) == 0
    updates, state = optimizer.update(jax.tree.map(jnp.zeros_like, params), state, params)
    assert optim.update_count(state) == 1
    np.testing.assert_allclose(updates['layer']['kernel'], -0.05, rtol=1e-6)
    assert not np.any(updates['layer']['bias']) and not np.any(updates['layer']['scale'])


def test_the_gradient_is_clipped_and_its_own_norm_is_reported():
    steps = {}
    for clip_norm in (0.0, 1.0):
        step, state = projection(**{'optim.clip_norm': clip_norm})
        state, measured = step(state, batch_of(30, 40))
        assert measured['sums']['grad_norm'][0] == pytest.approx(50)
        steps[clip_norm] = optax.tree.get(state.opt_state, 'mu')['w']['kernel']
    np.testing.assert_allclose(steps[0.0], [3, 4], rtol=1e-6)  # 0.1 × the gradient, AdamW's first moment
    np.testing.assert_allclose(steps[1.0], [0.06, 0.08], rtol=1e-6)


def test_the_dropout_key_is_a_function_of_seed_and_step():
    def noise(seed):
        step, state = projection(seed=seed)
        out = []
        for _ in range(3):
            state, measured = step(state, batch_of(1, 1))
            out.append(float(measured['sums']['noise'][0]))
        return out

    first, again, other = noise(0), noise(0), noise(1)
    assert first == again
    assert len({*first, *other}) == 6


# ---- means, metrics.jsonl, curves ----


def test_means_are_exact_over_steps():
    steps = [{'a': (6.0, 3), 'b': (0.0, 0)}, {'a': (1.0, 1), 'b': (0.0, 0)}, {'a': (0.0, 0)}]
    assert evaluate.means(steps) == {'a': 7 / 4}
    # Sums are added in float64: in fp32 the 1s would be lost.
    many = [{'a': (np.float32(2**24), np.float32(1))}] + [{'a': (np.float32(1), np.float32(1))}] * 7
    assert evaluate.means(many) == {'a': (2**24 + 7) / 8}


def test_a_restart_drops_the_lines_after_its_step(tmp_path):
    writer = Writer(tmp_path)
    for step in (2, 4, 6):
        writer.scalars(step, 'train', {'loss': step / 10})
    writer.scalars(4, 'validation', {'loss': 0.5})
    writer.close()
    path = tmp_path / 'metrics.jsonl'
    with path.open('a') as out:
        out.write('{"step": 8, "split": "tr')  # killed while writing
    assert [row['step'] for row in read_metrics(path)] == [2, 4, 6, 4]
    writer = Writer(tmp_path, start_step=4)
    writer.scalars(6, 'train', {'loss': 0.25})
    writer.close()
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {'step': 2, 'split': 'train', 'loss': 0.2},
        {'step': 4, 'split': 'train', 'loss': 0.4},
        {'step': 4, 'split': 'validation', 'loss': 0.5},
        {'step': 6, 'split': 'train', 'loss': 0.25},
    ]


def test_there_may_be_no_metrics_yet(tmp_path):
    assert read_metrics(tmp_path / 'metrics.jsonl') == []


@pytest.mark.parametrize('names', [('loss', 'loss_tcl', 'acc_sop', 'lr'), ('loss',)])
def test_curves_are_a_picture(tmp_path, names):
    rows = [
        {'step': step, 'split': split, **{name: 1 / step for name in names}}
        for step in range(1, 5)
        for split in ('train', 'validation')
        if split == 'train' or step == 4
    ]
    draw_curves(rows, tmp_path / 'curves.png')
    assert (tmp_path / 'curves.png').read_bytes().startswith(b'\x89PNG\r\n\x1a\n')


def test_curves_are_drawn_a_minute_after_they_were_and_at_the_end(tmp_path, monkeypatch):
    seconds, drawn = [0], []
    monkeypatch.setattr(plots, 'draw_curves', lambda rows, path: drawn.append(rows[-1]['step']))
    monkeypatch.setattr(run_log.time, 'monotonic', lambda: seconds[0])
    writer = Writer(tmp_path)
    for seconds[0] in (10, 50, 61, 70, 121, 130):
        writer.scalars(seconds[0], 'validation', {'loss': 1.0})
        writer.report(now=seconds[0] == 130)
        writer._finish_report()
    writer.close()
    assert drawn == [61, 130]


def test_a_run_goes_on_while_its_report_is_written(tmp_path, monkeypatch):
    drawing, go_on, drawn = threading.Event(), threading.Event(), []

    def draw(rows, path):
        drawing.set()
        assert go_on.wait(timeout=60)
        drawn.append(rows[-1]['step'])

    monkeypatch.setattr(plots, 'draw_curves', draw)
    monkeypatch.setattr(run_log, 'REDRAWN_AFTER', -1)
    writer = Writer(tmp_path)
    for step in (1, 2, 3):
        writer.scalars(step, 'validation', {'loss': 1.0})
        writer.report(now=False)  # those of steps 2 and 3 are left out: that of step 1 is on its way
        assert drawing.wait(timeout=60) and not drawn
    go_on.set()
    writer.report(now=True)
    writer.close()
    assert drawn == [1, 3] and (tmp_path / 'report.html').is_file()


def test_what_goes_wrong_with_a_report_is_raised(tmp_path, monkeypatch):
    def draw(rows, path):
        raise OSError('no space left')

    monkeypatch.setattr(plots, 'draw_curves', draw)
    writer = Writer(tmp_path)
    writer.report(now=True)
    with pytest.raises(OSError, match='no space left'):
        writer.close()


def test_every_metric_is_drawn_and_said():
    """Also one that nothing here has ever heard of."""
    rows = [{'step': 2, 'split': 'train', 'loss': 1.0, 'lr': 0.1, 'tokens_per_s': 5.0, 'mfu': 0.1}]
    rows += [{'step': 2, 'split': 'validation', 'loss': 1.0, 'acc_new': 0.5, 'bleu': 0.25}]
    panels = select_panels(rows)
    drawn = ['loss', 'lr', 'tokens_per_s', 'acc_new', 'bleu']
    assert [names for _, names in panels] == [(name,) for name in drawn]
    held_out = {'loss': 1.0, 'loss_sop': 0.5, 'anchors': 80.0, 'acc_new': 0.5, 'bleu': 0.25}
    assert _summary(2, held_out, Pretrain.metrics) == 'step 2 held out: loss 1.000  acc_new 0.500  bleu 0.250'


def test_compiling_and_pauses_are_not_in_the_time_that_is_left(monkeypatch):
    """10 steps: one compiles in 100 s, then 4 of 2 s each, an evaluation of 50 s, 5 of 2 s each."""
    now = [0.0]
    monkeypatch.setattr(progress.time, 'perf_counter', lambda: now[0])
    clock = progress.Clock(0.0)
    assert clock.seconds_for(10) is None
    with clock.paused():
        now[0] += 100
        clock.exclude_step()
    now[0] += 8
    with clock.paused():
        now[0] += 50
    now[0] += 10
    steps, seconds = clock.lap(10)
    assert (steps, seconds) == (9, 18) and clock.seconds_for(100) == 200
    assert clock.rates({'examples': 4.0, 'tokens': 30.0}, (steps, seconds))['tokens_per_s'] == 15


def test_there_may_be_nothing_to_draw(tmp_path):
    """As in a run that is stopped before its first log line."""
    draw_curves([], tmp_path / 'curves.png')
    assert (tmp_path / 'curves.png').exists()
