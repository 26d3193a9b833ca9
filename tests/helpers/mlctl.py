"""Networks without layers, whose vectors are known."""

import math

import numpy as np
import pytest

from clower_jax.objectives import registry
from configs import mlctl as config_of_mlctl
from helpers import synthetic
from helpers.losses import cosine, span_mean

VOCAB, D, LENGTH = 14, 4, 8


def embedded(params, ids, segments) -> np.ndarray:
    """Last hidden states of a model without layers: LayerNorm(token + position + segment)."""
    tables = params['embeddings']
    x = tables['word_embeddings']['embedding'][ids] + tables['token_type_embeddings']['embedding'][segments]
    x = x + tables['position_embeddings']['embedding'][: ids.shape[1]]
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-12)
    return x * tables['LayerNorm']['scale'] + tables['LayerNorm']['bias']


def pooled(hidden, ids) -> np.ndarray:
    """The mean over a text's tokens."""
    return np.stack([span_mean(row, 0, int((real != 0).sum())) for row, real in zip(hidden, ids)])


def contrast(a, b, temperature, *, within, with_positive) -> tuple[float, float]:
    """Σ over both directions of −s(x_i, y_i) + log Σ_c exp s(x_i, c), halved; and the number of pairs. c: the
    other y, the positive if it counts, and the other x with `within`; s = cosine / temperature."""
    loss, count = 0.0, 0.0
    for x, y in ((a, b), (b, a)):
        for i in range(len(x)):
            candidates = [y[j] for j in range(len(y)) if with_positive or j != i]
            candidates += [x[j] for j in range(len(x)) if within and j != i]
            if candidates:
                total = sum(math.exp(cosine(x[i], c) / temperature) for c in candidates)
                loss += (math.log(total) - cosine(x[i], y[i]) / temperature) / 2
                count += 0.5
    return loss, count


def task_of(**changes):
    config = config_of_mlctl.get_config()
    sizes = {'vocab_size': VOCAB, 'base_vocab_size': VOCAB, 'hidden_size': D, 'num_layers': 0, 'num_heads': 1}
    config.model.update(sizes | {'intermediate_size': 8, 'max_positions': LENGTH})
    config.update_from_flattened_dict(changes)
    return registry.from_config(config)


@pytest.fixture(scope='module')
def params():
    return synthetic.random_params(task_of(), 1.0)
