"""What every test shares: simulated devices, quiet libraries, the folder of real text, hypothesis."""

import collections
import gc
import importlib.metadata
import os
import platform
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

# Before anything imports TensorFlow: only its errors are worth a line in a test report.
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')

# The same examples on every run, so that a failure is everybody's failure; a slow machine is not a failure.
hypothesis.settings.register_profile(
    'clower',
    deadline=None,
    derandomize=True,
    max_examples=30,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile('clower')


def pytest_configure(config: pytest.Config) -> None:
    """Chooses JAX's devices before a test touches one: 8 simulated CPUs, or under `-m gpu` the GPU; where no
    test is chosen that needs them, one CPU, for which programs compile sooner. What the tests and the
    processes that they start compile is kept for each other, and for the next run."""
    if 'JAX_COMPILATION_CACHE_DIR' not in os.environ and hasattr(config, 'cache'):
        os.environ['JAX_COMPILATION_CACHE_DIR'] = str(config.cache.mkdir(f'jax-{platform.node()}'))
        os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0')
    wants_gpu = 'gpu' in config.option.markexpr.replace('not gpu', '')
    if not wants_gpu:
        # Compiling takes most of the time of most tests, and half as long without the last optimisations of
        # machine code; the programs are the same. JAX_DISABLE_MOST_OPTIMIZATIONS=0 has all of them.
        os.environ.setdefault('JAX_DISABLE_MOST_OPTIMIZATIONS', '1')
        # Nobody reads which lines of Python an operation of a compiled program came from.
        os.environ.setdefault('JAX_TRACEBACK_IN_LOCATIONS_LIMIT', '0')
    # XLA's older way of making loops takes a third of the time to compile; from 0.11 on this flag is no more.
    if tuple(map(int, importlib.metadata.version('jaxlib').split('.')[:2])) < (0, 11):
        os.environ.setdefault('XLA_FLAGS', '--xla_cpu_use_fusion_emitters=false')
    import jax

    if not wants_gpu and 'JAX_PLATFORMS' not in os.environ:
        os.environ['JAX_PLATFORMS'] = 'cpu'  # for the processes that tests start
        jax.config.update('jax_platforms', 'cpu')
    jax.config.update('jax_num_cpu_devices', 1 if 'not devices' in config.option.markexpr else 8)


def pytest_collection_finish() -> None:
    """What is imported by now stays, and tracing a program makes objects in great numbers that go by
    themselves: to search them for others takes a tenth of the suite's time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 50, 100)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first, then those with many: no process ends with a long one alone."""
    weights = collections.Counter[Path]()
    for item in items:
        weights[item.path] += 1000 if item.get_closest_marker('slow') else 1
    items.sort(key=lambda item: (-weights[item.path], item.path))


@pytest.fixture(scope='session', autouse=True)
def undrawn_curves() -> Iterator[None]:
    """Runs in the tests' own process leave an empty curves.png: to draw takes longer than their steps. Tests
    of `draw_curves` import it by its name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('clower_jax.reports.plots.draw_curves', lambda rows, path: Path(path).touch())
        yield


@pytest.fixture(scope='session')
def data_dir() -> Path:
    """The folder of public Chinese data that `CLOWER_DATA` names; skips the test where that is unset."""
    name = os.environ.get('CLOWER_DATA')
    if not name:
        pytest.skip('needs real text: set CLOWER_DATA to the folder that holds pretrain/ and vocab/')
    path = Path(name).expanduser().resolve()
    if not path.is_dir():
        pytest.fail(f'CLOWER_DATA={name} is not a folder')
    return path


@pytest.fixture(scope='session')
def small_corpus(tmp_path_factory) -> Path:
    """A corpus of short rows made from the embedded text, once for all tests of a process."""
    from input_pipeline.corpus import corpus_builder, from_text, vocab_builder

    folder = tmp_path_factory.mktemp('small')
    text = str(from_text.EMBEDDED / 'everyday.txt')
    vocab_builder.build(text, folder / 'vocab.txt', num_words=300)
    corpus_builder.build(
        text, folder / 'vocab.txt', folder / 'corpus', char_length=32, word_length=24, validation_fraction=0.1
    )
    return folder / 'corpus'
