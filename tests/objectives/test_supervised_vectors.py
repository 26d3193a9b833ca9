"""Supervised vectors: the loss against its formula and against sentence-transformers', and a run from end to
end."""

import json
import math

import jax
import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

from clower_jax import Encoder
from clower_jax.export import bert_folder
from clower_jax.objectives import registry
from configs import supervised_vectors as config_file
from helpers import finetuned, synthetic
from helpers.finetune import go
from helpers.losses import cosine
from input_pipeline.features.buckets import Planned
from input_pipeline.sentence_vectors.supervised_vectors import Triplet, Triplets, triplets
from input_pipeline.text.vocabulary import Vocabulary

VOCABULARY = Vocabulary([*finetuned.SPECIAL, *finetuned.CHARACTERS], 35)
C = ''.join(finetuned.CHARACTERS)
TRIPLETS = [
    Triplet(C[:4], C[4:9], C[9:12]),
    Triplet(C[12:14], C[14:19], C[19:24]),
    Triplet(C[24:27], C[3:6], C[27:30]),
    Triplet(C[8:15], C[20:23], C[:2]),
]


def small_task(variant='', **changes):
    """(task, params) of 1 layer × 32, weights far from 0."""
    config = config_file.get_config(variant)
    sizes = finetuned.SIZES | {'model.vocab_size': len(VOCABULARY), 'loss.temperature': 0.3}
    config.update_from_flattened_dict(sizes | changes)
    task = registry.from_config(config)
    return task, synthetic.random_params(task)


def batch_of(rows, padding=1):
    split = Triplets(rows, VOCABULARY, 16)
    planned, size = Planned(16, np.arange(len(rows))), len(rows) + padding
    return split.rows.batch(planned, size) | split.targets(planned, size)


def vectors_of(task, params, batch, rows):
    """[3, N, D]; zeros where there is no text."""
    evaluate = jax.jit(lambda ids: task.evaluate(params, batch | {'char_ids': ids})[1]['vectors'])
    sides = [batch.get(f'{side}_ids', 0 * batch['char_ids']) for side in ('char', 'other', 'negative')]
    return np.stack([np.float64(evaluate(ids))[:rows] for ids in sides])


def equation_5(rows, vectors, temperature):
    """Gao et al. 2021, arXiv 2104.08821, equation 5, a mean over the pairs, and the share of texts whose
    positive is the nearest. What shares a text with a pair is no negative of it."""
    a, b, c = vectors
    loss = right = 0.0
    for i, own in enumerate(rows):
        scores = [(j == i, cosine(a[i], b[j])) for j, row in enumerate(rows) if j == i or not
                  {own.anchor, own.positive} & {row.anchor, row.positive}]  # fmt: skip
        scores += [
            (False, cosine(a[i], c[j]))
            for j, row in enumerate(rows)
            if row.negative and row.negative not in own[:2]
        ]
        (positive,) = (score for is_positive, score in scores if is_positive)
        total = sum(math.exp(score / temperature) for _, score in scores)
        loss -= math.log(math.exp(positive / temperature) / total) / len(rows)
        right += (positive == max(score for _, score in scores)) / len(rows)
    return loss, right


EQUAL = [
    Triplet(C[:4], C[4:9], C[9:12]),
    Triplet(C[:4], C[12:14], C[14:19]),  # the same text: two positives
    Triplet(C[19:22], C[4:9], None),  # the same positive, and no hard negative
    Triplet(C[24:27], C[:4], C[12:14]),  # a text is another's positive, a positive another's negative
    Triplet(C[8:15], C[20:23], C[9:12]),  # the same hard negative
]


@pytest.mark.slow
@pytest.mark.parametrize('rows', [TRIPLETS, EQUAL, [row._replace(negative=None) for row in EQUAL]])
def test_loss_is_equation_5(rows):
    task, params = small_task()
    batch = batch_of(rows)
    loss, sums = jax.jit(lambda batch: task.loss(params, batch, None))(batch)
    expected, right = equation_5(rows, vectors_of(task, params, batch, len(rows)), 0.3)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_allclose(sums['acc_contrast'], (right * len(rows), len(rows)), rtol=1e-6)
    assert task.total_loss({'loss_contrast': 2.0}) == 2.0
    texts = [text for row in rows for text in row if text]
    assert float(sums['examples'][0]) == len(rows)
    assert float(sums['tokens'][0]) == sum(len(text) + 2 for text in texts)
    assert {'loss', *sums} - {'examples', 'tokens'} == set(task.metrics)


@pytest.mark.slow
@pytest.mark.parametrize('symmetric', [False, True])
def test_loss_is_that_of_sentence_transformers(tmp_path, symmetric):
    """On the same vectors, of a file without equal texts, for which theirs has no rule."""
    path = tmp_path / 'train.tsv'
    path.write_text(''.join('\t'.join(row) + '\n' for row in TRIPLETS), encoding='utf-8')
    rows = triplets(str(path), config_file.get_config().data)
    task, params = small_task(**{'loss.symmetric': symmetric, 'loss.temperature': 0.05})
    batch = batch_of(rows)
    loss, _ = jax.jit(lambda batch: task.loss(params, batch, None))(batch)
    options = {'directions': ('query_to_doc', 'doc_to_query'), 'partition_mode': 'per_direction'}
    theirs = MultipleNegativesRankingLoss(torch.nn.Identity(), scale=20.0, **(options if symmetric else {}))
    vectors = torch.tensor(vectors_of(task, params, batch, len(rows)))
    expected = theirs.compute_loss_from_embeddings(list(vectors), torch.arange(len(rows)))
    np.testing.assert_allclose(loss, float(expected), rtol=1e-5)


@pytest.mark.slow
def test_simcse_goes_through_the_pooler_in_training_alone():
    task, params = small_task('simcse')
    batch = batch_of(TRIPLETS)
    dense = params['char_encoder']['pooler.dense']
    plain = vectors_of(task, params, batch, len(TRIPLETS))  # [CLS] as it is
    projected = np.tanh(plain @ dense['kernel'] + dense['bias'])
    loss, _ = jax.jit(lambda batch: task.loss(params, batch, None))(batch)
    np.testing.assert_allclose(loss, equation_5(TRIPLETS, projected, 0.3)[0], rtol=1e-5)


# ---- from end to end ----


def run_config(folder, variant='', /, **changes):
    """`configs/supervised_vectors.py` on 40 triplets in `folder`: a text means the same as one that begins as
    it does."""
    rng = np.random.default_rng(0)
    texts = [''.join(row) for row in rng.choice(finetuned.CHARACTERS, (40, 8))]
    rows = [(a, a[:4] + b[:4], b[:4] + a[4:]) for a, b in zip(texts, texts[1:] + texts[:1])]
    (folder / 'train.tsv').write_text(''.join('\t'.join(row) + '\n' for row in rows), encoding='utf-8')
    pairs = [(a, a[:n] + b[n:], n) for a, b, n in zip(texts, reversed(texts), rng.integers(0, 5, 40))]
    (folder / 'dev.tsv').write_text(''.join(f'{a}\t{b}\t{n}\n' for a, b, n in pairs), encoding='utf-8')
    config = config_file.get_config(variant)
    files = {'data.train': str(folder / 'train.tsv'), 'data.dev': str(folder / 'dev.tsv')}
    files |= {'data.vocab': str(finetuned.write_vocab(folder)), 'data.max_length': 16}
    config.update_from_flattened_dict(finetuned.SIZES | files | changes)
    return config


@pytest.mark.slow
@pytest.mark.parametrize(
    ('variant', 'card'), [('', 'multiple negatives ranking'), ('simcse', 'supervised SimCSE')]
)
def test_from_triplets_to_vectors(tmp_path, variant, card):
    changes = {'num_epochs': 10.0, 'microbatches': 2, 'eval_every': 30}
    results = go(run_config(tmp_path, variant, **changes), tmp_path / 'run')
    assert results['data']['train']['rows'] == {'read': 40, 'kept': 40, 'dropped': {}}
    lines = [
        json.loads(line) for line in (tmp_path / 'run' / 'metrics.jsonl').read_text('utf-8').splitlines()
    ]
    losses = [line['loss'] for line in lines if line['split'] == 'train']
    assert losses[-1] < losses[0]
    validation = results['mean']['validation']
    assert validation['last']['spearman'] > validation['before']['spearman']
    folder = bert_folder.export(tmp_path / 'run', tmp_path / 'hf')
    assert card in (folder / 'README.md').read_text('utf-8')
    texts = [''.join(finetuned.CHARACTERS[n : n + 5]) for n in range(4)]
    theirs = SentenceTransformer(str(folder), device='cpu').encode(texts)
    np.testing.assert_allclose(theirs, Encoder.load(folder).encode(texts), atol=1e-5)
