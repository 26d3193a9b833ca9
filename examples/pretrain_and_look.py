# %% [markdown]
# # Pre-train on your text and look at the neighbours of words
#
# CLOWER trains two encoders at once, one over characters and one over words, and pulls each word's vector
# towards the mean of its characters' vectors. Here a tiny pair learns from the text that comes with the
# project, in a few minutes of two CPU cores. Your own: `config.data.text = 'my/*.txt'`.

# %%
import json
import os
import sys
from pathlib import Path

import numpy as np

# In a clone of the project, from whatever folder of it: configs/ is read from there.
root = next(path for path in (Path.cwd(), *Path.cwd().parents) if (path / 'run.py').is_file())
os.chdir(root)
sys.path.insert(0, str(root))

import clower_jax
from configs import pretrain

config = pretrain.get_config()
config.total_steps = int(os.environ.get('STEPS', 400))
config.optim.warmup_steps = config.total_steps // 7
workdir = Path(os.environ.get('WORKDIR', 'runs/notebook'))
results = clower_jax.pretrain(config, workdir)
results['held_out']

# %% [markdown]
# Interrupted, the same cell goes on from the last checkpoint. `curves.png` in the folder shows what was
# learned: the accuracy of masked characters and words, of the order of sentences, and of both contrasts.

# %%
rows = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text('utf-8').splitlines()]
for row in rows:
    if row['split'] == 'validation':
        print(row['step'], round(row['loss_mlm_char'], 3), round(row['loss_mlm_word'], 3))

# %% [markdown]
# ## Neighbours
#
# A word's vector is here the mean of what the character encoder makes of its characters. Words near each
# other share characters or, after more training than this, meaning.

# %%
vocabulary = (workdir / 'vocab.txt').read_text('utf-8').split('\n')
words = [token for token in vocabulary if len(token) == 2 and token.isalpha() and not token.isascii()][:2000]
encoder = clower_jax.Encoder.load(workdir)
vectors = encoder.encode(words)
vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)


def neighbours(word: str, count: int = 5) -> list[tuple[str, float]]:
    """The nearest words to one, by cosine."""
    cosines = vectors @ vectors[words.index(word)]
    return [(words[i], round(float(cosines[i]), 3)) for i in np.argsort(-cosines)[1 : count + 1]]


for word in words[:5]:
    print(word, neighbours(word))

# %% [markdown]
# ## With an encoder that has seen more
#
# `docs/results/clower-mini` comes with the project: the same size, 36 million characters of text.

# %%
shipped = clower_jax.Encoder.load('docs/results/clower-mini')
vectors = shipped.encode(words)
vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
for word in words[:5]:
    print(word, neighbours(word))
