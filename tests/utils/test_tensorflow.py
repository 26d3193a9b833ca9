"""TensorFlow comes without Keras, which is there when it is asked for."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import os, sys
from input_pipeline.utils.tensorflow import tf
print(sorted({'keras', 'sklearn', 'pandas'} & set(sys.modules)), os.environ.get('TF_USE_LEGACY_KERAS'))
print(float(tf.keras.layers.Dense(1, kernel_initializer='ones')(tf.ones([1, 3]))[0, 0]))
"""


@pytest.mark.slow
@pytest.mark.parametrize('before', [None, '0'])
def test_keras_is_imported_when_it_is_used(before):
    environment = os.environ | {'PYTHONPATH': os.pathsep.join(sys.path)}
    environment |= {'TF_USE_LEGACY_KERAS': before} if before else {}
    done = subprocess.run(
        [sys.executable, '-c', PROGRAM], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.stdout.splitlines() == [f'[] {before}', '3.0'], done.stderr
