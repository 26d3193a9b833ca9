"""Held-out MLM of several pre-trained character encoders, paired record by record.

    python bench/held_out.py --corpus DIR --models NAME=FOLDER,NAME=FOLDER --reference NAME --json FILE

Each model is a Hugging Face folder with its MLM head (`clower_jax.convert export`) over the corpus's base
vocabulary. All see the same held-out records under the same masks; the loss is the mean over masked
characters, in nats, among the base rows. Intervals are of the difference to the reference: 95 %, from 2,000
bootstrap samples of documents' records (a record is drawn with its masked characters).
"""

import argparse
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from bench import harness  # noqa: E402
from clower_jax.interop import (
    init_weights,  # noqa: E402
    weight_sources,  # noqa: E402
)
from clower_jax.objectives import registry  # noqa: E402
from configs import pretrain  # noqa: E402
from input_pipeline.pretraining import batches  # noqa: E402

SAMPLES = 2000


def per_record(folder: str, corpus: str, batch_size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """fp64 [records] sums of nats and of right characters, and how many are masked, of a model."""
    config = pretrain.get_config('cpu,bert_wwm_sop')
    config.data.corpus, config.data.eval_examples, config.batch_size = corpus, 0, batch_size
    config.init_from = folder
    info = weight_sources.source_info(folder)
    config.model.update({key: info.model[key] for key in ('hidden_size', 'num_layers', 'num_heads')})
    config.model.intermediate_size = info.model['intermediate_size']
    config = batches.resolve(config, Path('nowhere'))
    vocabulary = batches.vocabulary(config)
    task = registry.from_config(config)
    params, report = init_weights.load_initial(
        task.init(jax.random.key(0)), folder, vocabulary, config.model.num_heads
    )
    if missing := [name for name in report.random if '_sop' not in name]:
        raise ValueError(f'{folder} does not have {", ".join(missing)}: it needs its MLM head')

    @jax.jit
    def nats(params, batch):
        model, variables = task.model, {'params': params}
        hidden = model.apply(variables, 'char', batch, None, method='encode_batch')
        positions, labels = batch['char_mlm_positions'], batch['char_mlm_labels']
        logits = model.apply(variables, 'char', hidden, positions, method='mlm_logits')
        masked, gold = labels >= 0, jnp.maximum(labels, 0)
        picked = jnp.take_along_axis(logits, gold[..., None], -1)[..., 0]
        loss = jax.nn.logsumexp(logits, -1) - picked
        right = picked >= logits.max(-1)
        return ((loss * masked).sum(1), (right & masked).sum(1), masked.sum(1))

    sums_of_batches = [
        nats(params, {name: batch[name] for name in batch if name.startswith('char_')})
        for batch in batches.batches(config, split='validation')
    ]
    sums, right, count = (
        np.concatenate([np.asarray(x, np.float64) for x in part]) for part in zip(*sums_of_batches)
    )
    real = count > 0
    return sums[real], right[real], count[real]


def paired(sums: np.ndarray, reference: np.ndarray, count: np.ndarray, samples: int) -> tuple[float, ...]:
    """(difference of the means, low, high): 95 % of bootstrap samples of the records, drawn together.

    sums, reference: fp [N] of two models; count: [N], tokens that both have.
    """
    rng = np.random.default_rng(0)
    difference = sums - reference
    drawn = rng.integers(0, len(count), (samples, len(count)))
    means = difference[drawn].sum(1) / count[drawn].sum(1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(difference.sum() / count.sum()), float(low), float(high)


def main() -> None:
    """Prints the table, writes the figures."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n')[0])
    parser.add_argument('--corpus', required=True, help='a folder of build_corpus')
    parser.add_argument('--models', required=True, help='NAME=FOLDER,NAME=FOLDER')
    parser.add_argument('--reference', required=True, help='the name of the model to compare with')
    parser.add_argument('--batch_size', type=int, default=64)
    parser.add_argument('--json', help='where the figures go')
    flags = parser.parse_args()
    models = dict(part.split('=', 1) for part in flags.models.split(','))
    if flags.reference not in models:
        parser.error(f'--reference={flags.reference} is none of {", ".join(models)}')
    per_model = {}
    for name in sorted(models, key=lambda name: name != flags.reference):
        per_model[name] = per_record(models[name], flags.corpus, flags.batch_size)
        sums, right, count = per_model[name]
        print(
            f'{name}: {sums.sum() / count.sum():.4f} nats, {right.sum() / count.sum():.2%} right', flush=True
        )
    reference, _, count = per_model[flags.reference]
    figures, rows = {}, []
    for name in models:
        sums, right, own = per_model[name]
        assert np.array_equal(own, count), 'the masks are not the same'
        difference = paired(sums, reference, count, SAMPLES)
        figures[name] = {
            'nats': sums.sum() / count.sum(),
            'right': right.sum() / count.sum(),
            'difference': difference,
        }
        shown = '—' if name == flags.reference else '{:+.3f} ({:+.3f} to {:+.3f})'.format(*difference)
        rows.append((name, f'{figures[name]["nats"]:.3f}', f'{figures[name]["right"]:.1%}', shown))
    harness.save(
        flags.json, records=len(count), masked=int(count.sum()), reference=flags.reference, models=figures
    )
    print(harness.table(('model', 'nats', 'right', f'difference to {flags.reference} (95 %)'), rows))


if __name__ == '__main__':
    main()
