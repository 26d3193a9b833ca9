"""Weights, vocabularies and folders of others: Hugging Face, Google's TensorFlow checkpoints."""
