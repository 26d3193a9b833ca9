"""The small pair of encoders in docs/results/, which the README's example uses."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from clower_jax import Encoder

FOLDERS = {
    name: Path(__file__).parents[2] / 'docs' / 'results' / name
    for name in ('clower-mini', 'clower-mini-word')
}
TEXTS = [
    '法律对合同的解除作了规定。',
    '最高人民法院公布了新的规定。',
    '今天的气温比昨天高。',
    '明天全国多地有雨。',
]


def test_it_is_small():
    files = [path for folder in FOLDERS.values() for path in folder.iterdir()]
    assert sum(path.stat().st_size for path in files) < 15e6
    assert not any(b'/tmp' in path.read_bytes() for path in files if path.suffix in ('.json', '.md'))


@pytest.mark.parametrize(
    'name, texts', [('clower-mini', TEXTS), ('clower-mini-word', ['军队', '士兵', '苹果', '水果'])]
)
def test_like_is_near_like(name, texts):
    """Two pairs of a topic each: both are nearer to their like than to the others."""
    vectors = Encoder.load(FOLDERS[name]).encode(texts)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = vectors @ vectors.T
    across = cosines[:2, 2:].max()
    assert cosines[0, 1] > across and cosines[2, 3] > across, cosines


def test_transformers_gives_the_same_vectors():
    folder = FOLDERS['clower-mini']
    inputs = AutoTokenizer.from_pretrained(folder)(TEXTS, padding=True, return_tensors='pt')
    model = AutoModel.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        hidden = model(**inputs).last_hidden_state.numpy()
    real = inputs['attention_mask'].numpy()[..., None]
    means = (hidden * real).sum(1) / real.sum(1)
    np.testing.assert_allclose(Encoder.load(folder, 'mean').encode(TEXTS), means, atol=1e-4)
