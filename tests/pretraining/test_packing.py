"""Plans of rows, and rows against their texts: every text once, none changed, none seen by another."""

import functools
import logging
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.loader import LENGTHS, Memory, assert_same, serialize, source, take
from helpers.masking import VOCABULARY, random_records
from input_pipeline.corpus import corpus_builder, record_source, vocab_builder
from input_pipeline.pretraining import batches, loader, masking, packing
from input_pipeline.utils.tensorflow import tf

ROW = (256, 192)
IGNORED = {'char_mlm_labels': -100, 'word_mlm_labels': -100, 'sop_labels': -1}


def assert_plan_holds(plan, lengths, capacity, max_texts):
    """Every text once, from the left, no row over its capacity, and the patterns are those of the rows."""
    lengths = np.asarray(lengths)
    present = plan.rows >= 0
    np.testing.assert_array_equal(np.sort(plan.rows[present]), np.arange(len(lengths)))
    assert (present == (np.arange(plan.rows.shape[1]) < present.sum(1)[:, None])).all()
    assert 1 <= present.sum(1).min() and present.sum(1).max() <= max_texts
    shapes = np.where(present[..., None], lengths[plan.rows], 0)
    assert (shapes.sum(1) <= capacity).all()
    np.testing.assert_array_equal(shapes, np.repeat(plan.patterns, plan.copies, axis=0))
    np.testing.assert_allclose(plan.filled(), lengths.sum(0) / (len(plan) * np.array(capacity)))


@pytest.mark.slow
@given(st.data(), st.integers(1, 60), st.integers(1, 60), st.integers(1, 6))
def test_every_text_is_in_one_row_that_holds_it(data, chars, words, max_texts):
    text = st.tuples(st.integers(1, chars), st.integers(1, words))
    lengths = np.array(data.draw(st.lists(text, min_size=1, max_size=60)))
    plan = packing.plan(lengths, (chars, words), max_texts)
    assert_plan_holds(plan, lengths, (chars, words), max_texts)
    again = packing.plan(lengths, (chars, words), max_texts)
    np.testing.assert_array_equal(plan.rows, again.rows)


def windows(count, chars, words, seed=0):
    """Lengths as windows of sentences have them: most nearly full, some from the ends of documents; genres of
    0.5 to 0.7 words for each character."""
    rng = np.random.default_rng(seed)
    lengths = np.where(rng.random(count) < 0.8, rng.normal(0.88, 0.08, count), rng.uniform(0.1, 1, count))
    ratio = rng.choice([0.5, 0.6, 0.7], count) + rng.normal(0, 0.04, count)
    both = np.stack([lengths, lengths * ratio], axis=1) * chars
    return np.clip(np.rint(both), 8, [chars, words]).astype(int)


@pytest.mark.parametrize('chars,words', [(128, 96), (512, 384)])
def test_rows_of_four_texts_waste_little(chars, words):
    """Texts alone fill three quarters of their rows; packed 97 % and more, though genres differ in their
    words for each character."""
    lengths = windows(6000, chars, words)
    capacity = (4 * chars, int(4 * chars * lengths[:, 1].sum() / lengths[:, 0].sum()) // 8 * 8 + 8)
    plan = packing.plan(lengths, capacity, 16)
    assert_plan_holds(plan, lengths, capacity, 16)
    assert lengths.sum() / (len(lengths) * (chars + words)) < 0.75
    assert np.average(plan.filled(), weights=capacity) > 0.97
    assert '6,000 texts in' in plan.describe()


def test_planning_works_on_shapes_not_on_texts():
    """A thousand times the texts need hardly more patterns, and fill their rows as well."""
    lengths = windows(300, 128, 96)
    few, many = (packing.plan(np.tile(lengths, (n, 1)), (512, 320), 16) for n in (10, 1000))
    assert len(many.copies) < 2 * len(few.copies)
    assert_plan_holds(many, np.tile(lengths, (1000, 1)), (512, 320), 16)
    assert (many.filled() > few.filled() - 0.005).all()


def test_neighbours_in_the_corpus_do_not_share_rows():
    lengths = np.full((1000, 2), 50)
    rows = packing.plan(lengths, (100, 100), 2).rows
    assert rows.shape == (500, 2)
    assert (np.abs(rows[:, 0] - rows[:, 1]) > 5).mean() > 0.95


@pytest.mark.slow
def test_real_text_fills_its_rows(data_dir, tmp_path):
    """The issue's goal: 97 % of what is computed is text, both views together."""
    with (data_dir / 'pretrain' / 'news_xinwenlianbo.txt').open(encoding='utf-8') as file:
        (tmp_path / 'news.txt').write_text(file.read(250_000), 'utf-8')
    with (data_dir / 'pretrain' / 'wiki_zh_sample.txt').open(encoding='utf-8') as file:
        (tmp_path / 'wiki.txt').write_text(file.read(250_000), 'utf-8')
    text, vocab = str(tmp_path / '*.txt'), tmp_path / 'vocab.txt'
    vocab_builder.build(text, vocab, data_dir / 'vocab' / 'bert_base_chinese_vocab.txt', num_words=5000)
    manifest = corpus_builder.build(text, vocab, tmp_path / 'corpus', 128, 96)
    capacity = (512, batches.words_beside(512, manifest))
    plan = loader.plan_rows(tmp_path / 'corpus', 'train', capacity, 16)
    chars, words = plan.filled()
    assert (512 * chars + capacity[1] * words) / sum(capacity) > 0.97
    assert min(chars, words) > 0.96


@pytest.mark.parametrize(
    'lengths,max_texts,message',
    [
        ([[9, 9], [101, 9]], 4, r'record 1 has 101 characters and 9 words.*room for 100 and 50.*char_length'),
        ([[9, 51]], 4, r'record 0 has 9 characters and 51 words'),
        (np.empty((0, 2), int), 4, 'no texts to pack'),
        ([[9, 9]], 0, r'data\.max_texts is 0; it must be 1 or more'),
    ],
)
def test_what_cannot_be_packed(lengths, max_texts, message):
    with pytest.raises(ValueError, match=message):
        packing.plan(np.array(lengths), (100, 50), max_texts)


def test_widths_are_what_the_fullest_rows_need():
    lengths = windows(500, 64, 48)
    plan = packing.plan(lengths, ROW, 7)
    widths = plan.widths(0.15, 5)
    chosen = [
        max(sum(max(1, round(0.15 * (lengths[i][view] - 3))) for i in row if i >= 0) for row in plan.rows)
        for view in (0, 1)
    ]
    assert widths[:5] == (*ROW, plan.rows.shape[1], *chosen)
    free = [
        [lengths[i][1] - 3 - max(1, round(0.15 * (lengths[i][1] - 3))) for i in row if i >= 0]
        for row in plan.rows
    ]
    most = max(sum(min(5, n) for n in row) for row in free)
    assert most <= widths.anchors < most + 8 and widths.anchors % 8 == 0


# Batches: records in memory, packed by the loader, cut apart again.


@functools.cache
def packed(count, mask_rate=0.15, max_anchors=20):
    plan = packing.plan(loader.text_lengths(source(count)), ROW, 6)
    return loader.Packed(plan, plan.widths(mask_rate, max_anchors))


def masks(seed, **kwargs):
    return functools.partial(masking.make_batch, vocabulary=VOCABULARY, seed=seed, **LENGTHS, **kwargs)


def train(count=200, rows=(0, 4), start=0, seed=5, **kwargs):
    make = masks(seed, **kwargs)
    return loader.train_batches(source(count), make, 4, rows, seed, start, packed(count, **kwargs))


def validation(count, rows=(0, 4)):
    return loader.validation_batches(source(count), masks(0), 4, rows, IGNORED, packed=packed(count))


def cut(batch, b, number):
    """Text `number` (from 1) of row b without padding, its positions counted in the text."""
    out = {'sop_labels': batch['sop_labels'][b, number - 1]}
    span = {}
    for view in ('char', 'word'):
        inside = np.flatnonzero(batch[f'{view}_texts'][b] == number)
        span[view] = start, stop = inside[0], inside[-1] + 1
        assert len(inside) == stop - start and start == batch[f'{view}_starts'][b, number - 1]
        for name in (f'{view}_ids', f'{view}_segments'):
            out[name] = batch[name][b, start:stop]
        positions, labels = batch[f'{view}_mlm_positions'][b], batch[f'{view}_mlm_labels'][b]
        own = (labels != -100) & (positions >= start) & (positions < stop)
        out[f'{view}_mlm_positions'], out[f'{view}_mlm_labels'] = positions[own] - start, labels[own]
    at = batch['anchor_word_position'][b]
    own = (batch['anchor_char_length'][b] > 0) & (at >= span['word'][0]) & (at < span['word'][1])
    for name in ('anchor_word_position', 'anchor_char_start', 'anchor_char_length', 'anchor_ids'):
        out[name] = batch[name][b][own]
    out['anchor_word_position'] = out['anchor_word_position'] - span['word'][0]
    out['anchor_char_start'] = out['anchor_char_start'] - span['char'][0]
    return out


def alone(made, lengths, t):
    """Text t of an unpacked batch, without padding."""
    out = {'sop_labels': made['sop_labels'][t]}
    for view, length in zip(('char', 'word'), lengths[t]):
        for name in (f'{view}_ids', f'{view}_segments'):
            out[name] = made[name][t, :length]
        real = made[f'{view}_mlm_labels'][t] != -100
        for name in (f'{view}_mlm_positions', f'{view}_mlm_labels'):
            out[name] = made[name][t][real]
    real = made['anchor_char_length'][t] > 0
    return out | {name: made[name][t][real] for name in made if name.startswith('anchor')}


@pytest.mark.slow
@pytest.mark.parametrize('kwargs', [{}, {'mask_rate': 0.4, 'max_anchors': 3}])
def test_a_text_in_a_row_is_the_text_alone(kwargs):
    """All that is in a batch comes from a text, and each text is what `make_batch` makes of it alone."""
    count = 200
    plan, lengths = packed(count, **kwargs).plan, loader.text_lengths(source(count))
    steps = 2 * len(plan) // 4 + 1  # into the third epoch
    for step, batch in enumerate(take(train(count, **kwargs), steps)):
        examples = step * 4 + np.arange(4)
        texts = plan.rows[loader.record_numbers(examples, len(plan), 5).numpy()]
        numbers = (texts + (examples // len(plan) * count)[:, None])[texts >= 0]
        records = record_source.parse(source(count).__getitems__(texts[texts >= 0].tolist()))
        made = masks(5, **kwargs)(records, tf.constant(numbers, tf.int64))
        made = {name: value.numpy() for name, value in made.items()}
        for t, (b, slot) in enumerate(np.argwhere(texts >= 0)):
            assert_same(cut(batch, b, slot + 1), alone(made, lengths[texts[texts >= 0]], t))
        assert {value.dtype for value in batch.values()} == {np.dtype(np.int32)}
        for name in ('char_mlm_labels', 'word_mlm_labels'):
            assert (batch[name] != -100).sum() == (made[name] != -100).sum()
        assert (batch['anchor_char_length'] > 0).sum() == (made['anchor_char_length'] > 0).sum()
        assert ((batch['sop_labels'] >= 0) == (texts >= 0)).all()
        for view in ('char', 'word'):
            padding = batch[f'{view}_texts'] == 0
            assert not batch[f'{view}_ids'][padding].any() and not batch[f'{view}_segments'][padding].any()
            assert not batch[f'{view}_starts'][texts < 0].any()


@pytest.mark.slow
def test_shapes_are_the_widths():
    widths = packed(200).widths
    batch = take(train(), 1)[0]
    assert {name: value.shape[1] for name, value in batch.items()} == {
        **dict.fromkeys(('char_ids', 'char_segments', 'char_texts'), widths.chars),
        **dict.fromkeys(('word_ids', 'word_segments', 'word_texts'), widths.words),
        **dict.fromkeys(('char_starts', 'word_starts', 'sop_labels'), widths.texts),
        **dict.fromkeys(('char_mlm_positions', 'char_mlm_labels'), widths.char_predictions),
        **dict.fromkeys(('word_mlm_positions', 'word_mlm_labels'), widths.word_predictions),
        **dict.fromkeys(
            ('anchor_word_position', 'anchor_char_start', 'anchor_char_length', 'anchor_ids'), widths.anchors
        ),
    }


@pytest.mark.slow
def test_more_than_the_widths_allow_is_an_error_not_a_loss():
    plan, widths = packed(200)
    texts = plan.rows[plan.rows.max(1).argmax()]
    records, numbers = source(200).__getitems__(texts[texts >= 0].tolist()), texts[texts >= 0]
    made, lengths = loader.compiled(masks(5), None)(records, numbers)
    for name in ('chars', 'words', 'texts', 'char_predictions', 'word_predictions', 'anchors'):
        with pytest.raises(IndexError):
            packing.pack(made, lengths, np.array([len(numbers)]), widths._replace(**{name: 1}))


@pytest.mark.slow
def test_any_start_and_any_rows_give_the_same_batches():
    whole = take(train(), 4)
    for a, b in zip(take(train(start=2), 2), whole[2:], strict=True):
        assert_same(a, b)
    parts = [take(train(rows=rows), 4) for rows in ((0, 1), (1, 4))]
    for k, batch in enumerate(whole):
        assert_same({name: np.concatenate([part[k][name] for part in parts]) for name in batch}, batch)


@pytest.mark.slow
def test_an_epoch_shuffles_the_rows_and_masks_anew():
    rows = len(packed(200).plan)
    stream = np.concatenate([batch['char_ids'] for batch in take(train(), -(-2 * rows // 4))])
    first, second = stream[:rows], stream[rows : 2 * rows]
    lengths = [sorted((epoch > 0).sum(1).tolist()) for epoch in (first, second)]
    assert lengths[0] == lengths[1]
    assert (first != second).any(axis=1).mean() > 0.9
    assert len({row.tobytes() for row in stream[: 2 * rows]}) == 2 * rows


@pytest.mark.slow
def test_validation_is_the_unpacked_one_in_other_places():
    """One pass over the rows, with the masks that each text has unpacked; the rest of a batch is empty."""
    count = 60
    rows = list(validation(count))
    plain = list(loader.validation_batches(source(count), masks(0), 4, (0, 4), IGNORED))
    assert len(rows) == -(-len(packed(count).plan) // 4) < len(plain)
    for name in ('char_ids', 'word_ids', 'char_mlm_labels', 'word_mlm_labels', 'anchor_ids', 'sop_labels'):
        values = [np.concatenate([batch[name].ravel() for batch in part]) for part in (rows, plain)]
        a, b = (np.sort(x[x != IGNORED.get(name, 0)]) for x in values)
        np.testing.assert_array_equal(a, b, err_msg=name)
    parts = [list(validation(count, rows)) for rows in ((0, 3), (3, 4))]  # the last has no text in the end
    for k, batch in enumerate(rows):
        assert_same({name: np.concatenate([part[k][name] for part in parts]) for name in batch}, batch)
    empty = -len(packed(count).plan) % 4
    assert empty
    for name, value in rows[-1].items():
        assert (value[-empty:] == IGNORED.get(name, 0)).all(), name


# Plans kept in the corpus's folder.


def test_a_plan_is_made_once_and_anew_for_another_corpus(small_corpus, tmp_path, caplog):
    folder = shutil.copytree(small_corpus, tmp_path / 'corpus')
    caplog.set_level(logging.INFO)

    def plan(limit=0):
        loader._plan_rows.cache_clear()  # as another process would
        caplog.clear()
        return loader.plan_rows(folder, 'train', (128, 96), 8, limit), 'Packing, train' in caplog.text

    first, made = plan()
    assert made and len(list(folder.glob('rows-*'))) == 1
    again, made = plan()
    assert not made and isinstance(again.rows, np.memmap)
    np.testing.assert_array_equal(again.rows, first.rows)
    np.testing.assert_array_equal(again.copies, first.copies)
    assert again.capacity == first.capacity == (128, 96)
    limited, made = plan(limit=10)
    assert made and sorted(limited.rows[limited.rows >= 0].tolist()) == list(range(10))
    (folder / 'manifest.json').write_text((folder / 'manifest.json').read_text() + ' ')
    assert plan()[1]
    assert not list(folder.glob('*partial*'))
    for file in folder.glob('rows-*/rows.npy'):
        file.write_bytes(b'')
    with pytest.raises(ValueError, match=r'rows-128x96-8-train-\w+ is damaged .*; remove it'):
        plan()


@pytest.mark.parametrize('number', [-2, 1, 1 << 30])
def test_a_plan_with_another_number_is_damaged(tmp_path, number):
    plan = packing.plan(np.full((9, 2), 10), (30, 30), 3)
    plan.save(tmp_path / 'plan')
    np.testing.assert_array_equal(packing.Plan.load(tmp_path / 'plan').rows, plan.rows)
    rows = plan.rows.copy()
    rows[tuple(np.argwhere(rows == 0)[0])] = number
    np.save(tmp_path / 'plan' / 'rows.npy', rows)
    with pytest.raises(ValueError, match='no text has|in no row, or in two'):
        packing.Plan.load(tmp_path / 'plan')


def test_a_folder_that_cannot_be_written(small_corpus, tmp_path, caplog, monkeypatch):
    def fail(*_):
        raise OSError(30, 'Read-only file system')

    folder = shutil.copytree(small_corpus, tmp_path / 'corpus')
    monkeypatch.setattr(packing.Plan, 'save', fail)  # to root, who runs tests too, no folder is read-only
    plan = loader.plan_rows(folder, 'train', (128, 96), 8)
    assert 'cannot be written' in caplog.text and 'Read-only' in caplog.text
    assert loader.plan_rows(folder, 'train', (128, 96), 8) is plan
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        path.name for path in small_corpus.iterdir()
    )


def test_lengths_are_those_of_the_views():
    records = random_records(3, 30, **LENGTHS)
    expected = [[len(r['char_ids']) + 3, len(r['word_ids']) + 3] for r in records]
    held = Memory(serialize(record) for record in records)
    np.testing.assert_array_equal(loader.text_lengths(held), expected)
    np.testing.assert_array_equal(loader.text_lengths(held, limit=7), expected[:7])
