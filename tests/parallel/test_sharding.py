"""One step is the same step on one device, on eight, and on two processes of four."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from clower_jax.checkpoints.train_state import TrainState
from clower_jax.objectives.pretraining import Pretrain
from clower_jax.parallel import sharding
from clower_jax.training import optim
from helpers.one_step import loss_and_gradients, shrunk_config

pytestmark = pytest.mark.devices

TESTS = Path(__file__).parents[1]
MESHES = [
    {'data': 8, 'fsdp': 1, 'tensor': 1},
    {'data': 1, 'fsdp': 8, 'tensor': 1},
    {'data': 2, 'fsdp': 2, 'tensor': 2},
    {'data': 4, 'fsdp': 1, 'tensor': 2},
]


def single_device_mesh():
    return jax.make_mesh((1, 1, 1), sharding.AXES, axis_types=(AxisType.Auto,) * 3, devices=jax.devices()[:1])


@pytest.fixture(scope='module')
def on_one_device():
    return loss_and_gradients(shrunk_config(), single_device_mesh())


def assert_same(values, expected):
    assert values.keys() == expected.keys()
    for name in expected:
        # 1e-5 of the largest entry: a gradient's small entries are sums of large terms that cancel.
        scale = max(1.0, float(np.abs(expected[name]).max()))
        np.testing.assert_allclose(values[name], expected[name], rtol=0, atol=1e-5 * scale, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize('mesh', MESHES, ids=str)
def test_eight_devices_equal_one(mesh, on_one_device):
    config = shrunk_config(**mesh)
    assert_same(loss_and_gradients(config, sharding.make_mesh(config)), on_one_device)


@pytest.mark.slow
@pytest.mark.parametrize('mesh', [(2, 2, 2), (8, 1, 1)], ids=str)
def test_two_processes_of_four_devices_equal_one(mesh, on_one_device, tmp_path):
    with socket.socket() as probe:
        probe.bind(('localhost', 0))
        port = probe.getsockname()[1]
    command = [sys.executable, '-m', 'helpers.one_step', str(tmp_path / 'out.npz'), str(port)]
    processes = [
        subprocess.Popen(
            [*command, str(process), '2', *map(str, mesh)],
            cwd=TESTS.parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, 'PYTHONPATH': f'{TESTS.parent}:{TESTS}'},
            text=True,
        )
        for process in range(2)
    ]
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], '\n'.join(outputs)
    assert_same(dict(np.load(tmp_path / 'out.npz')), on_one_device)


@pytest.mark.slow
def test_negatives_are_global_unless_asked_to_be_local(on_one_device):
    config = shrunk_config(data=4, fsdp=2)
    config.loss.contrast_scope = 'local'
    local = loss_and_gradients(config, sharding.make_mesh(config))
    for name in ('metric/loss_tcl', 'metric/loss_scl'):
        # With an eighth of the negatives an untrained model's loss is smaller by about log 8.
        assert on_one_device[name] - local[name] > 1.0, name


def test_parameters_and_moments_are_really_split():
    config = shrunk_config(data=2, fsdp=2, tensor=2)
    mesh = sharding.make_mesh(config)
    task = Pretrain.from_config(config, mesh)
    optimizer = optim.optimizer(config)
    state = jax.eval_shape(lambda: TrainState.create(task.init(jax.random.key(0)), optimizer, config.dtype))
    specs = {
        jax.tree_util.keystr(path, simple=True, separator='/'): place.spec
        for path, place in jax.tree_util.tree_leaves_with_path(sharding.tree_shardings(mesh, state))
    }
    kernel = 'char_encoder/encoder.layer.0/attention.self.query/kernel'
    found = [spec for name, spec in specs.items() if name.endswith(kernel)]
    assert found == [PartitionSpec('fsdp', 'tensor')] * 3  # the parameter and AdamW's two moments
    whole = [name for name, spec in specs.items() if name.endswith('/kernel') and spec == PartitionSpec()]
    assert all('seq_relationship' in name for name in whole), whole


def test_a_dimension_that_does_not_divide_stays_whole():
    mesh = sharding.make_mesh(shrunk_config(data=1, fsdp=2, tensor=4))
    table = {'word_embeddings': {'embedding': jax.ShapeDtypeStruct((61, 32), np.float32)}}
    spec = sharding.tree_shardings(mesh, table)['word_embeddings']['embedding'].spec
    assert spec == PartitionSpec(None, 'fsdp')


@pytest.mark.parametrize(
    ('mesh', 'message'),
    [
        ({'data': 3}, 'must be 8'),
        ({'data': -1, 'fsdp': -1}, 'at most one'),
        ({'data': 0}, 'positive'),
        ({'data': -1, 'tensor': 16}, 'must be 8'),
    ],
)
def test_a_mesh_that_does_not_fit_is_refused(mesh, message):
    with pytest.raises(ValueError, match=message):
        sharding.make_mesh(shrunk_config(**mesh))


def test_matrices_on_several_processes_are_told_apart():
    four_each = np.repeat([0, 1], 4)
    assert sharding.tensor_spans_processes(four_each.reshape(1, 1, 8))
    assert not sharding.tensor_spans_processes(four_each.reshape(2, 2, 2))
    assert not sharding.tensor_spans_processes(four_each.reshape(8, 1, 1))


def test_a_batch_that_does_not_divide_is_refused():
    mesh = sharding.make_mesh(shrunk_config(data=8))
    with pytest.raises(ValueError, match='batch_size=12 is not a multiple'):
        sharding.local_rows(mesh, 12)


@pytest.mark.parametrize(('platform', 'expected'), [('cuda', 'gpu'), ('gpu', 'gpu'), ('tpu', 'tpu')])
def test_devices_that_are_not_there_are_called_as_those_that_are(platform, expected):
    mesh = SimpleNamespace(devices=np.array([[SimpleNamespace(platform=platform)]]))
    assert sharding.mesh_platform(mesh) == expected
