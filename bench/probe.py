"""What a frozen encoder knows of a task: ridge regression on the mean of its vectors.

    python bench/probe.py --config=configs/classify.py:tnews --config.init_from=W --train_rows=5000

prints the accuracy on the development set with the token embeddings and with the last hidden states, averaged
over each text, of random weights and of those of `init_from`. Each is for the best of a few strengths of the
penalty on that set itself, so only differences say something.
"""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

sys.path.insert(0, str(Path(__file__).parent.parent))
import run  # noqa: E402
from clower_jax import initial, tasks  # noqa: E402
from input_pipeline import buckets, finetuning  # noqa: E402

PENALTIES = (1.0, 10.0, 100.0, 1000.0)


def features(task, params, split, batch_size: int, widths: tuple[int, ...]) -> tuple[dict, np.ndarray]:
    """{name: fp32 [N, D]} and int [N] labels of a split, in file order."""

    @jax.jit
    def means(ids, segments):
        embedded = params['embeddings']['word_embeddings']['embedding'][ids]
        hidden = task.model.apply({'params': params}, ids, segments, True, method='encode')
        real = (ids != 0)[..., None]
        return [(x * real).sum(1) / jnp.maximum(real.sum(1), 1) for x in (embedded, hidden)]

    found = {name: np.zeros((len(split.rows), 0), np.float32) for name in ('embeddings', 'hidden states')}
    labels = np.zeros(len(split.rows), np.int64)
    for planned in buckets.epoch(split.rows.lengths, widths, batch_size, None):
        batch = split.rows.batch(planned, batch_size) | split.targets(planned, batch_size)
        rows = batch['example'][batch['example'] >= 0]
        labels[rows] = batch['labels'][: len(rows)]
        for name, values in zip(found, means(batch['char_ids'], batch['char_segments'])):
            if not found[name].shape[1]:
                found[name] = np.zeros((len(split.rows), values.shape[1]), np.float32)
            found[name][rows] = np.asarray(values)[: len(rows)]
    return found, labels


def ridge_accuracy(train, labels, held_out, gold) -> float:
    """Of one-against-all ridge regression on standardised features, the best over PENALTIES."""
    mean, spread = train.mean(0), train.std(0) + 1e-6
    x, y = ((np.c_[(z - mean) / spread, np.ones(len(z))]) for z in (train, held_out))
    target = 2.0 * (labels[:, None] == np.arange(labels.max() + 1)) - 1
    solve = (np.linalg.solve(x.T @ x + penalty * np.eye(x.shape[1]), x.T @ target) for penalty in PENALTIES)
    return max(float(((y @ w).argmax(1) == gold).mean()) for w in solve)


TRAIN_ROWS = flags.DEFINE_integer('train_rows', 1000, 'Rows of the training set that are used.')


def main(_):
    """Prints the table."""
    config, vocabulary = run.with_source(run.CONFIG.value, Path('nowhere'))
    config, data = finetuning.prepare(config, vocabulary)
    task = tasks.from_config(config, 1)
    random = task.init(jax.random.key(config.seed))
    loaded, _ = initial.load_initial(random, config.init_from, vocabulary, config.model.num_heads)
    for weights, params in (('random', random), (Path(config.init_from).name, loaded)):
        found = {
            name: features(task, params, data.splits[name], config.batch_size, data.widths[name])
            for name in ('train', 'validation')
        }
        (train, labels), (held_out, gold) = found['train'], found['validation']
        chosen = np.random.default_rng(0).permutation(len(labels))[: TRAIN_ROWS.value]
        for name in train:
            accuracy = ridge_accuracy(train[name][chosen], labels[chosen], held_out[name], gold)
            print(f'{weights:>20}  {name:>13}  {accuracy:.1%}')


if __name__ == '__main__':
    app.run(main)
