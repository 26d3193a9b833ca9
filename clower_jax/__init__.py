"""CLOWER in JAX: two encoders, one over characters and one over words, taught by contrast to agree."""
