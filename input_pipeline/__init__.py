"""From Chinese text to batches: segmentation, vocabulary, corpus, masks. What leaves is NumPy arrays."""

import os

# TensorFlow only reads data here: it need not speak of its CPU kernels. Set before anything imports it.
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '0')
