"""Other masks than CLOWER's: MacBERT's n-grams and similar words, and disjoint masks of one text."""

import copy
import itertools
import json

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clower_jax import jobs
from clower_jax.export.bert_folder import export
from clower_jax.objectives.pretraining import Pretrain
from configs import pretrain
from helpers import synthetic
from helpers.batches import make_config, text
from helpers.masking import BASE, MASK, SIZE, chosen_positions, ragged, random_records, run
from helpers.tasks import shallow_config
from input_pipeline.pretraining import baseline_masks, batches, masking, word_selection
from input_pipeline.text import constants
from input_pipeline.utils.tensorflow import tf

BERT = masking.Recipe(views=('char',), anchors=False, swap=False)
MASKS = 4
EXPLORED = BERT._replace(selection=baseline_masks.DisjointMasks(MASKS))


def spans_of(records, examples):
    """For each record the [start, end) of every whole word in the character view without swapping, by what
    the unmasked layout of another recipe says: words lie end to end, [SEP] at the sentence boundary."""
    batch = run(records, examples=examples, recipe=BERT, mask_rate=0.02)
    found = []
    for record, segments in zip(records, batch['char_segments'], strict=True):
        middle = int(segments.argmax()) - 1  # of the first [SEP]
        ends = np.cumsum(np.array(record['word_char_len']))
        ends = ends[np.cumsum(record['whole_word_tokens']) - 1]
        starts = np.concatenate([[0], ends[:-1]])
        shift = 1 + (starts >= middle - 1)
        found.append(list(zip(starts + shift, ends + shift, strict=True)))
    return found


# ---- n-grams ----


def in_ngrams(sizes, u, length_u, limit):
    """The sentence of the docstring, one n-gram at a time."""
    chosen, left = np.zeros(len(sizes), bool), limit
    for first in np.argsort(u):
        length = 1 + int(np.sum(length_u[first] >= np.cumsum(word_selection.NGRAMS)[:-1]))
        for word in range(first, min(first + length, len(sizes))):
            if sizes[word] == 0:
                break
            if not chosen[word] and sizes[word] <= left:
                chosen[word] = True
                left -= sizes[word]
    return chosen


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=40), st.integers(1, 30), st.integers(0, 2**32 - 1))
def test_ngrams_are_taken_as_a_loop_would(sizes, limit, seed):
    rng = np.random.default_rng(seed)
    rows = np.array([sizes] * 3)
    u, length_u = rng.random((2, *rows.shape))
    limits = np.array([limit, 1, 1000], np.int32)
    order = word_selection.ngram_order(tf.constant(rows, tf.int32), tf.constant(u), tf.constant(length_u))
    assert all(len(set(row)) == len(row) for row in order.numpy().tolist())
    got = word_selection.fill_budget(tf.constant(rows, tf.int32), order, tf.constant(limits)).numpy()
    for b, limit in enumerate(limits):
        np.testing.assert_array_equal(got[b], in_ngrams(sizes, u[b], length_u[b], limit))


def test_lengths_of_ngrams():
    """The n-gram that is taken first has 1, 2, 3 or 4 words in 40, 30, 20 and 10 % of the cases."""
    rows, words = 4000, 40
    rng = np.random.default_rng(0)
    u = rng.random((rows, words))
    u[:, 20] = -1
    ones = tf.ones([rows, words], tf.int32)
    order = word_selection.ngram_order(ones, tf.constant(u), tf.constant(rng.random((rows, words))))
    taken = word_selection.fill_budget(ones, order, tf.fill([rows], 4)).numpy()
    # Four words are taken: the first n-gram, then what other n-grams give. How long it was the order says.
    assert taken[:, 20].all() and (taken.sum(1) == 4).all()
    length = (order.numpy()[:, 20:24] == np.arange(4)).sum(1)
    shares = np.bincount(length, minlength=5)[1:] / rows
    np.testing.assert_allclose(shares, word_selection.NGRAMS, atol=4 * 0.5 / np.sqrt(rows))


# ---- MacBERT ----


def macbert(similar):
    return BERT._replace(replacement=baseline_masks.SimilarWords(similar))


def similar_table():
    """Every even word of the block has a similar one of 2, 3 or 4 base tokens, which is its own length or
    not; base tokens below 200 have one, too."""
    table = np.full((SIZE, 4), -1, np.int32)
    for row in range(BASE, SIZE, 2):
        length = 2 + row // 2 % 3
        table[row, :length] = [5 + (row + i) % 90 for i in range(length)]
    table[5:200, 0] = np.arange(100, 295)
    return table


@pytest.mark.slow
def test_macbert_replaces_whole_words():
    """80 % of the words that have a similar one become that as a whole, 10 % are random, 10 % kept."""
    table, records = similar_table(), random_records(11, 400)
    examples = np.arange(len(records))
    batch = run(records, recipe=macbert(table))
    assert not (batch['char_ids'] == MASK).any()
    share = {'similar': 0, 'other': 0, 'kept': 0}
    had_none = 0
    for b, (record, spans) in enumerate(zip(records, spans_of(records, examples), strict=True)):
        chosen = set(chosen_positions(batch, 'char', b).tolist())
        first = np.concatenate([[0], np.cumsum(record['whole_word_tokens'])])
        labels = dict(zip(batch['char_mlm_positions'][b], batch['char_mlm_labels'][b], strict=True))
        for word, (start, end) in enumerate(spans):
            place = set(range(start, end))
            assert place <= chosen or not place & chosen
            if not place <= chosen:
                continue
            now = batch['char_ids'][b, start:end].tolist()
            before = [int(labels[p]) for p in range(start, end)]
            spelled = table[record['word_ids'][first[word]]]
            spelled = spelled[spelled >= 0].tolist()
            has = record['whole_word_tokens'][word] == 1 and len(spelled) == end - start
            if has:
                share['kept' if now == before else 'similar' if now == spelled else 'other'] += 1
            else:
                had_none += 1
                assert now == before or now != spelled or end - start == 1
                assert all(5 <= token < BASE for token in now)
    total = sum(share.values())
    assert total > 150 and had_none > 300
    for name, expected in (('similar', 0.8), ('other', 0.1), ('kept', 0.1)):
        assert abs(share[name] / total - expected) < 4 * np.sqrt(expected * (1 - expected) / total), name


@pytest.mark.slow
def test_a_word_without_a_similar_one_is_replaced_at_random_and_each_word_as_one():
    none = np.full((SIZE, 4), -1, np.int32)
    records = [
        {
            'char_ids': list(range(10, 70)),
            'word_ids': [400] * 20,
            'word_char_len': [3] * 20,
            'sentence_words': [10, 10],
            'whole_word_tokens': [1] * 20,
        }
    ] * 800
    batch = run(records, recipe=macbert(none)._replace(swap=True), word_length=24)
    real = batch['char_mlm_labels'] != constants.IGNORED_LABEL
    assert (real.sum(1) == 9).all()
    now = np.take_along_axis(batch['char_ids'], batch['char_mlm_positions'], 1)[real].reshape(-1, 3)
    kept = now == batch['char_mlm_labels'][real].reshape(-1, 3)
    # A kept word is kept as a whole; a random token is the token itself in one of 295 cases.
    assert abs(kept.all(1).mean() - 0.1) < 4 * 0.3 / np.sqrt(len(kept))
    assert (kept.any(1) & ~kept.all(1)).mean() < 4 * 3 / (BASE - 5)
    drawn = now[~kept]
    assert drawn.min() >= 5 and drawn.max() < BASE
    assert abs(drawn.mean() - (5 + BASE - 1) / 2) < 4 * (BASE - 5) / np.sqrt(12 * len(drawn))
    assert abs(batch['sop_labels'].mean() - 0.5) < 4 * 0.5 / np.sqrt(len(records))


# ---- disjoint masks ----


def copies_of(records):
    """Each record under all of its masks."""
    return [record for record in records for _ in range(MASKS)]


def greedy_sets(sizes, u, limit):
    """One set after another, each as the loop over the random order would take it from what is left."""
    left, sets = list(sizes), []
    for _ in range(MASKS):
        chosen, budget = [], limit
        for word in np.argsort(u):
            if 0 < left[word] <= budget:
                chosen.append(word)
                budget -= left[word]
        for word in chosen:
            left[word] = 0
        sets.append(set(chosen))
    return sets


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=4, max_size=40), st.integers(1, 8), st.integers(0, 2**32 - 1))
def test_sets_are_those_of_a_loop(sizes, limit, seed):
    u = np.tile(np.random.default_rng(seed).random(len(sizes)), (MASKS, 1))
    rows = tf.constant([sizes] * MASKS, tf.int32)
    got = word_selection.nth_set(
        rows, tf.constant(u), tf.fill([MASKS], limit), tf.range(MASKS), MASKS
    ).numpy()
    assert [set(np.flatnonzero(row)) for row in got] == greedy_sets(sizes, u[0], limit)


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=60), st.integers(0, 2**32 - 1))
def test_sets_that_share_the_whole_text(sizes, seed):
    """Every word is in one of the six, and the sets are as alike in size as whole words let them be."""
    rows, numbers = tf.constant([sizes] * 6, tf.int32), tf.range(6)
    u = tf.constant(np.tile(np.random.default_rng(seed).random(len(sizes)), (6, 1)))
    got = word_selection.nth_set(rows, u, tf.fill([6], 1000), numbers, 6, whole=True).numpy()
    np.testing.assert_array_equal(got.sum(0), np.array(sizes) > 0)
    taken = got @ np.array(sizes)
    assert (taken[:-1] <= [-(-taken[n:].sum() // (6 - n)) for n in range(5)]).all()
    few = word_selection.nth_set(rows, u, tf.fill([6], 3), numbers, 6, whole=True).numpy()
    assert ((few @ np.array(sizes)) <= 3).all() and few.sum(0).max() <= 1


@pytest.mark.slow
@pytest.mark.parametrize('pack', [False, True])
def test_six_masks_cover_the_whole_text(config, pack):
    changes = pretrain.SYSTEMS['fully_explored_whole'] | {'batch_size': 12}
    changes |= {'data.pack': True, 'data.char_length': 0, 'data.word_length': 0} if pack else {}
    whole = batches.resolve(with_changes(config, **changes), 'unused')
    special = {0, batches.vocabulary(whole).cls, batches.vocabulary(whole).sep}
    for batch in itertools.islice(batches.batches(whole), 4):
        for first in (0, 6):
            (text,) = {tuple(unmasked(batch, row)) for row in range(first, first + 6)}
            chosen = [chosen_positions(batch, 'char', row).tolist() for row in range(first, first + 6)]
            tokens = [place for place, token in enumerate(text) if token not in special]
            assert sorted(itertools.chain(*chosen)) == tokens
            assert max(map(len, chosen)) <= -(-len(tokens) // 6) + 4
    one = changes | {'data.explored_masks': 1, 'data.explore_whole': False}
    plain = batches.resolve(with_changes(config, **one), 'unused')
    held_out = [list(batches.batches(c, split='validation')) for c in (whole, plain)]
    for ours, theirs in zip(*held_out, strict=True):
        for name, value in theirs.items():
            np.testing.assert_array_equal(ours[name], value, err_msg=name)


def test_masks_of_a_text_are_disjoint_whole_words_of_one_layout():
    records = random_records(12, 40)
    batch = run(copies_of(records), recipe=EXPLORED)
    alone = run(records, recipe=BERT)
    for b, (record, spans) in enumerate(zip(records, spans_of(records, np.arange(40)), strict=True)):
        rows = range(MASKS * b, MASKS * (b + 1))
        chosen = [set(chosen_positions(batch, 'char', row).tolist()) for row in rows]
        tokens = len(record['char_ids'])
        assert len(set().union(*chosen)) == sum(map(len, chosen)) <= tokens
        limit = max(1, round(0.15 * tokens))
        left = {span: span[1] - span[0] for span in spans}
        for number, places in enumerate(chosen):
            whole = {span for span in left if places >= set(range(*span))}
            assert sum(left[span] for span in whole) == len(places) <= limit, number
            for span in whole:
                del left[span]
            assert all(size > limit - len(places) for size in left.values())  # nothing more would have fitted
        assert chosen[0] == set(chosen_positions(alone, 'char', b).tolist())
        for row in rows:
            assert (batch['char_segments'][row] == alone['char_segments'][b]).all()
            places, real = batch['char_mlm_positions'][row], batch['char_mlm_labels'][row] >= 0
            ids = batch['char_ids'][row].copy()
            ids[places[real]] = batch['char_mlm_labels'][row][real]
            original = alone['char_ids'][b].copy()
            places, real = alone['char_mlm_positions'][b], alone['char_mlm_labels'][b] >= 0
            original[places[real]] = alone['char_mlm_labels'][b][real]
            np.testing.assert_array_equal(ids, original)
    # Each mask draws for itself what stands in for its tokens.
    shares = [(batch['char_ids'][number::MASKS] == MASK).sum(1) for number in range(MASKS)]
    assert len({tuple(share) for share in shares}) == MASKS


def test_a_mask_is_a_function_of_seed_text_and_number():
    records = random_records(13, 6)
    batch = run(copies_of(records), recipe=EXPLORED)
    for row in (0, 7, 23):
        one = run([records[row // MASKS]], examples=[row], recipe=EXPLORED)
        for name, value in one.items():
            np.testing.assert_array_equal(value[0], batch[name][row])
    other = run(copies_of(records), recipe=EXPLORED, seed=8)
    assert (other['char_ids'] != batch['char_ids']).any(1).mean() > 0.9


@pytest.mark.slow
def test_the_gradient_is_the_mean_over_the_masks():
    """One batch with all masks against a loss for each mask, weighted by its number of tokens."""
    changes = pretrain.SYSTEMS['fully_explored']
    task = Pretrain.from_config(shallow_config(**changes))
    params = synthetic.random_params(task)
    records = [
        {
            'char_ids': rng.integers(5, synthetic.BASE_SIZE, 13).tolist(),
            'word_ids': [5] * 13,
            'word_char_len': [1] * 13,
            'sentence_words': [6, 7],
            'whole_word_tokens': [1, 2, 1, 1, 1, 1, 2, 1, 1, 1, 1],
        }
        for rng in map(np.random.default_rng, range(3))
    ]
    made = masking.make_batch(
        ragged(copies_of(records)), tf.range(12, dtype=tf.int64), vocabulary=Small(), seed=3, char_length=24,
        word_length=16, recipe=EXPLORED,
    )  # fmt: skip
    batch = {name: value.numpy() for name, value in made.items()}
    gradient_of = jax.jit(jax.grad(lambda params, batch: task.loss(params, batch, None)[0]))
    whole = gradient_of(params, batch)
    counts = [(batch['char_mlm_labels'][number::MASKS] >= 0).sum() for number in range(MASKS)]
    assert min(counts) > 0
    each = [
        gradient_of(params, {name: value[number::MASKS] for name, value in batch.items()})
        for number in range(MASKS)
    ]
    mean = jax.tree.map(lambda *parts: np.average(np.stack(parts), axis=0, weights=counts), *each)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), whole, mean)


class Small:
    """The special tokens of `synthetic`, and its base block."""

    cls, sep, mask = synthetic.CLS, synthetic.SEP, synthetic.MASK

    def anchor_mask(self, longest):
        return np.zeros(synthetic.VOCAB_SIZE, bool)

    def random_ids(self, base_only):
        assert base_only
        return np.arange(5, synthetic.BASE_SIZE, dtype=np.int32)


# ---- from text to batches, and through a run ----


@pytest.fixture(scope='module')
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp('recipes')
    (folder / 'text.txt').write_text(text(range(40)), 'utf-8')
    return batches.resolve(make_config(text=str(folder / '*.txt')), folder / 'run')


def with_changes(config, **changes):
    config = copy.deepcopy(config)
    config.update_from_flattened_dict(changes)
    return config


def unmasked(batch, row):
    ids, labels = batch['char_ids'][row].copy(), batch['char_mlm_labels'][row]
    ids[batch['char_mlm_positions'][row][labels >= 0]] = labels[labels >= 0]
    return ids.tolist()


@pytest.mark.slow
@pytest.mark.parametrize('pack', [False, True])
def test_explored_batches_hold_each_text_under_all_of_its_masks(config, pack):
    data = {'data.pack': True, 'data.char_length': 0, 'data.word_length': 0} if pack else {}
    explored = with_changes(config, **pretrain.SYSTEMS['fully_explored'], **data)
    explored = batches.resolve(explored, 'unused')
    plain = batches.resolve(with_changes(config, **pretrain.SYSTEMS['bert_wwm'], **data), 'unused')
    steps = list(itertools.islice(batches.batches(explored), 5))
    once = next(batches.batches(plain))  # the texts of four steps
    for row in range(8):
        batch, first = steps[row // 2], row % 2 * MASKS
        rows = range(first, first + MASKS)
        assert {tuple(unmasked(batch, each)) for each in rows} == {tuple(unmasked(once, row))}
        # The first mask is the one that a text has where it has one.
        assert batch['char_mlm_positions'][first].tolist() == once['char_mlm_positions'][row].tolist()
        chosen = [set(chosen_positions(batch, 'char', each).tolist()) for each in rows]
        assert len(set().union(*chosen)) == sum(map(len, chosen))
    halves = [next(batches.batches(explored, start_step=4, rows=rows)) for rows in ((0, 3), (3, 8))]
    for name, value in steps[4].items():
        np.testing.assert_array_equal(np.concatenate([half[name] for half in halves]), value, err_msg=name)
    held_out = [list(batches.batches(c, split='validation')) for c in (explored, plain)]
    for ours, theirs in zip(*held_out, strict=True):  # measured as every other system is
        for name, value in theirs.items():
            np.testing.assert_array_equal(ours[name], value, err_msg=name)


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'data.explored_masks': 2}, 'a model.kind=clower reads its words, too'),
        (pretrain.SYSTEMS['bert_wwm'] | {'data.explored_masks': 7}, 'give at most 6 masks'),
        (pretrain.SYSTEMS['fully_explored'] | {'batch_size': 10}, 'batch_size=10 is not a multiple of.*: 8'),
        (pretrain.SYSTEMS['bert_wwm'] | {'data.explore_whole': True}, 'data.explore_whole=True needs masks'),
        ({'data.masking': 'letters'}, "data.masking='letters' must be one of words, ngrams"),
        (
            pretrain.SYSTEMS['macbert'],
            r"data.similar_words='' is no file.*\n.*--corpus .*/corpus",
        ),
    ],
)
def test_settings_that_do_not_go_together(config, changes, message):
    with pytest.raises(ValueError, match=message):
        batches.resolve(with_changes(config, **changes), 'unused')


@pytest.mark.slow
def test_macbert_from_text_to_hugging_face(config, tmp_path):
    vocabulary = batches.vocabulary(config)
    words = [token for token in vocabulary.tokens[vocabulary.base_size :] if len(token) == 2]
    table = tmp_path / 'similar.txt'
    table.write_text(''.join(f'{a}\t{b}\n' for a, b in zip(words, words[1:])), 'utf-8')
    config = with_changes(config, **pretrain.SYSTEMS['macbert'], **{'data.similar_words': str(table)})
    config.total_steps, config.data.eval_examples, config.optim.warmup_steps = 2, 8, 0
    config.model.update(hidden_size=16, num_layers=1, num_heads=2, intermediate_size=32)
    batch = next(batches.batches(config))
    assert vocabulary.mask not in batch['char_ids'] and {0, 1} == set(batch['sop_labels'].tolist())
    similar, replaced = dict(zip(words, words[1:])), 0
    for row in range(len(batch['char_ids'])):
        places, before = chosen_positions(batch, 'char', row), batch['char_mlm_labels'][row]
        for k in range(len(places) - 1):
            word = ''.join(vocabulary.tokens[token] for token in before[k : k + 2])
            now = batch['char_ids'][row][places[k : k + 2]]
            replaced += similar.get(word) == ''.join(vocabulary.tokens[token] for token in now)
    assert replaced > 5
    workdir = tmp_path / 'macbert'
    jobs.pretraining(jobs.Job(config, 'configs/pretrain.py:macbert', workdir))
    rows = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
    assert {'loss_mlm_char', 'loss_sop'} <= set(rows[-1])
    export(workdir, tmp_path / 'hf')
    card = (tmp_path / 'hf' / 'README.md').read_text('utf-8')
    assert 'MacBERT' in card and 'data.masking' in card


@pytest.mark.slow
def test_fully_explored_through_a_run(config, tmp_path):
    config = with_changes(config, **pretrain.SYSTEMS['fully_explored'])
    config.total_steps, config.data.eval_examples, config.optim.warmup_steps = 2, 8, 0
    config.model.update(hidden_size=16, num_layers=1, num_heads=2, intermediate_size=32)
    jobs.pretraining(jobs.Job(config, 'configs/pretrain.py:fully_explored', tmp_path / 'run'))
    rows = [json.loads(line) for line in (tmp_path / 'run' / 'metrics.jsonl').read_text().splitlines()]
    assert rows[0]['loss_mlm_char'] > 0
    export(tmp_path / 'run', tmp_path / 'hf')
    assert 'under 4 disjoint masks' in (tmp_path / 'hf' / 'README.md').read_text('utf-8')
    config.data.explored_masks = 2
    with pytest.raises(ValueError, match='data.explored_masks: 4 → 2'):
        jobs.pretraining(jobs.Job(config, 'configs/pretrain.py:fully_explored', tmp_path / 'run'))
