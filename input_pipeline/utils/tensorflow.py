"""TensorFlow without Keras, which it imports at once, with pandas and scikit-learn where they are installed:
half of the time of its import, for nothing that is needed here.

    from input_pipeline.utils.tensorflow import tf

`tf.keras` is there all the same, imported when it is first used.
"""

import os

LEGACY = 'TF_USE_LEGACY_KERAS'  # has TensorFlow import tf_keras instead, if that is installed

_before = os.environ.get(LEGACY)
os.environ[LEGACY] = '1'
try:
    import tensorflow as tf
finally:
    if _before is None:
        del os.environ[LEGACY]
    else:
        os.environ[LEGACY] = _before

__all__ = ['tf']
