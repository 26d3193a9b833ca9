"""Text as characters and as words, and one vocabulary for both. Needs no TensorFlow."""
