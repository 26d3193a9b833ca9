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

from input_pipeline.utils import garbage

garbage.collect_seldom()  # before what is large is imported, most of it where tests are collected

# Before anything imports TensorFlow: only its errors are worth a line in a test report.
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')

# Each of several processes would give PyTorch every core, and its threads wait for each other at full speed.
os.environ.setdefault('OMP_NUM_THREADS', '1')

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
    settings: dict[str, str | int | bool] = {}
    if 'JAX_COMPILATION_CACHE_DIR' not in os.environ and hasattr(config, 'cache'):
        settings['jax_compilation_cache_dir'] = str(config.cache.mkdir(f'jax-{platform.node()}'))
        settings['jax_persistent_cache_min_compile_time_secs'] = 0
    wants_gpu = 'gpu' in config.option.markexpr.replace('not gpu', '')
    if not wants_gpu:
        settings['jax_platforms'] = 'cpu'
        # A program compiles in a quarter of the time without the last optimisations of machine code, and is
        # the same. JAX_DISABLE_MOST_OPTIMIZATIONS=0 has all of them.
        settings['jax_disable_most_optimizations'] = True
        # Nobody reads which lines of Python an operation of a compiled program came from.
        settings['jax_traceback_in_locations_limit'] = 0
    # XLA's older way of making loops takes a third of the time to compile; from 0.11 on this flag is no more.
    if tuple(map(int, importlib.metadata.version('jaxlib').split('.')[:2])) < (0, 11):
        os.environ.setdefault('XLA_FLAGS', '--xla_cpu_use_fusion_emitters=false')
    import jax

    # JAX reads its variables when it is imported, and the conftest.py of a folder that is named on the
    # command line has imported it by now; the processes that tests start read them.
    for name, value in settings.items():
        if name.upper() not in os.environ:
            os.environ[name.upper()] = str(value)
            jax.config.update(name, value)
    jax.config.update('jax_num_cpu_devices', 1 if 'not devices' in config.option.markexpr else 8)


def pytest_collection_finish() -> None:
    """What is imported by now stays: nobody looks for garbage among it."""
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first, then those with many: no process ends with a long one alone."""
    weights = collections.Counter[Path]()
    for item in items:
        weights[item.path] += 1000 if item.get_closest_marker('slow') else 1
    items.sort(key=lambda item: (-weights[item.path], item.path))


@pytest.fixture(scope='session', autouse=True)
def undrawn_pictures() -> Iterator[None]:
    """Runs in the tests' own process draw no curves and no confusion of classes, which takes longer than
    their steps. Tests of `draw_curves` and `draw_confusion` import them by their names."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ('draw_curves', 'draw_confusion'):
            patch.setattr(
                f'clower_jax.reports.plots.{name}', lambda *args: Path(args[-1]).write_text('undrawn')
            )
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
