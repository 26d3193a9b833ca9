"""From text to batches: whole, resumed, split, padded; and what is said when something is wrong."""

import copy
import itertools
import shutil

import numpy as np
import pytest
from ml_collections import ConfigDict

from clower_jax.utils.run_config import upgrade_config
from configs import pretrain
from helpers.batches import LENGTHS, make_config, records_of, text
from helpers.loader import assert_same
from helpers.masking import check_batch
from input_pipeline.corpus import record_source
from input_pipeline.pretraining import batches, loader, masking
from input_pipeline.text.vocabulary import is_chinese


def changed(config, **data):
    config = copy.deepcopy(config)
    config.data.update(data)
    return config


def take(config, count, **kwargs):
    return list(itertools.islice(batches.batches(config, **kwargs), count))


def test_resolve_fills_in_what_the_corpus_knows(config):
    vocabulary = batches.vocabulary(config)
    assert config.model.vocab_size == len(vocabulary) > config.model.base_vocab_size == vocabulary.base_size
    assert (config.data.char_length, config.data.word_length) == (64, 48)
    again = batches.resolve(changed(config, char_length=0, word_length=60), 'unused')
    assert (again.data.char_length, again.data.word_length) == (64, 60)


def test_little_text_is_said(config, monkeypatch, caplog):
    batches.warn_of_little_text(config)
    assert not caplog.messages
    train = len(record_source.open_split(config.data.corpus, 'train'))
    for size, masks, said in ((train, 1, 0), (train + 1, 1, 1), (2 * train, 2, 0), (2 * train + 2, 2, 1)):
        other = changed(config, explored_masks=masks)
        other.batch_size = size
        caplog.clear()
        batches.warn_of_little_text(other)
        assert len(caplog.messages) == said
    assert f'{train} training records and a batch {train + 1}: each is in a batch more' in caplog.text
    assert caplog.text.rstrip().endswith(f'--config.batch_size={2 * train}')
    caplog.clear()
    monkeypatch.setattr(batches, 'read_manifest', lambda _: {'records': {'train': 99, 'validation': 0}})
    batches.warn_of_little_text(config)
    assert 'holds nothing out, so there is no evaluation: that takes a second document' in caplog.text


@pytest.mark.slow
def test_training_batches_are_the_shuffled_records_with_masks(config):
    size = len(record_source.open_split(config.data.corpus, 'train'))
    steps = 2 * size // config.batch_size  # two epochs, the last batch aside
    numbers = loader.record_numbers(np.arange(steps * config.batch_size), size, config.seed).numpy()
    for step, batch in enumerate(take(config, steps)):
        drawn = numbers[step * config.batch_size : (step + 1) * config.batch_size]
        check_batch(
            records_of(config, 'train', drawn), batch, **LENGTHS, vocabulary=batches.vocabulary(config)
        )


@pytest.mark.slow
def test_validation_sees_every_record_once_with_the_same_masks_for_every_seed(config):
    records = records_of(config, 'validation')
    passes = list(batches.batches(config, split='validation'))
    other = copy.deepcopy(config)
    other.seed = 99
    for a, b in zip(passes, batches.batches(other, split='validation'), strict=True):
        assert_same(a, b)
    whole = {name: np.concatenate([batch[name] for batch in passes]) for name in passes[0]}
    assert len(whole['sop_labels']) == -(-len(records) // 8) * 8
    check_batch(records, whole, **LENGTHS, vocabulary=batches.vocabulary(config))
    for name, value in whole.items():
        assert (value[len(records) :] == batches.PADDING.get(name, 0)).all(), name


@pytest.mark.slow
def test_evaluations_of_a_run_share_a_graph(config, monkeypatch):
    traced, make_batch = [], masking.make_batch

    def trace(*args, **kwargs):
        traced.append(args)
        return make_batch(*args, **kwargs)

    monkeypatch.setattr(masking, 'make_batch', trace)
    makers: dict = {}
    first, second = (take(config, 1, split='validation', makers=makers) for _ in range(2))
    assert len(traced) == 1
    assert_same(first[0], second[0])
    train = take(config, 1, makers=makers)
    assert len(traced) == 2 and set(makers) == {'train', 'validation'}
    assert (train[0]['char_ids'] != first[0]['char_ids']).any()


@pytest.mark.slow
def test_eval_examples_limits_the_pass(config):
    whole = take(config, 1, split='validation')
    limited = list(batches.batches(changed(config, eval_examples=3), split='validation'))
    assert len(limited) == 1
    assert (limited[0]['sop_labels'] >= 0).tolist() == [True] * 3 + [False] * 5
    np.testing.assert_array_equal(limited[0]['char_ids'][:3], whole[0]['char_ids'][:3])


@pytest.mark.slow
@pytest.mark.parametrize('split', ['train', 'validation'])
def test_any_start_and_any_rows_give_the_same_batches(config, split):
    whole = take(config, 3, split=split)
    assert_same(take(config, 1, split=split, start_step=1)[0], whole[1])
    parts = [take(config, 3, split=split, rows=rows) for rows in ((0, 2), (2, 4), (4, 8))]
    for k, batch in enumerate(whole):
        assert_same({name: np.concatenate([part[k][name] for part in parts]) for name in batch}, batch)


@pytest.mark.slow
def test_packed_rows_hold_the_same_texts(config):
    """Lengths that are found out, rows longer than the model's positions, the sums of an unpacked pass."""
    packed = batches.resolve(changed(config, pack=True, char_length=0, word_length=0), 'unused')
    assert packed.data.char_length == 4 * 64 and packed.data.word_length % 8 == 0
    texts = [
        [
            len(record[f'{view}_ids']) + 3
            for split in ('train', 'validation')
            for record in records_of(config, split)
        ]
        for view in ('char', 'word')
    ]
    needed = packed.data.char_length * sum(texts[1]) / sum(texts[0])
    assert needed <= packed.data.word_length < needed + 8
    packed.model.max_positions = 64
    assert batches.resolve(packed, 'unused') == packed

    for split, count in (('validation', None), ('train', 2)):
        rows = list(itertools.islice(batches.batches(packed, split=split), count))
        assert {batch['char_texts'].shape for batch in rows} == {(8, 256)}
        assert max(batch['sop_labels'].shape[1] for batch in rows) > 1
        if split == 'validation':
            plain = list(batches.batches(config, split='validation'))
            for name in ('char_mlm_labels', 'word_mlm_labels', 'anchor_ids', 'sop_labels'):
                ids = [sorted(np.concatenate([b[name].ravel() for b in part])) for part in (rows, plain)]
                padding = batches.PADDING.get(name, 0)
                assert [x for x in ids[0] if x != padding] == [x for x in ids[1] if x != padding]
    limited = list(batches.batches(changed(packed, eval_examples=3), split='validation'))
    assert sum((batch['sop_labels'] >= 0).sum() for batch in limited) == 3


def test_a_corpus_of_text_for_packed_rows_has_texts_that_the_model_can_read(tmp_path):
    (tmp_path / 'a.txt').write_text(text(range(20)), 'utf-8')
    config = make_config(text=str(tmp_path / 'a.txt'), pack=True, char_length=160, word_length=0)
    config.model.max_positions = 64
    config.data.word_length = 100
    resolved = batches.resolve(config, tmp_path)
    manifest = batches.read_manifest(resolved.data.corpus)
    assert (manifest['char_length'], manifest['word_length']) == (64, 64)
    assert (resolved.data.char_length, resolved.data.word_length) == (160, 100)
    with pytest.raises(ValueError, match=r'data\.char_length is 64, but the model has 40 positions'):
        resolved.model.max_positions = 40
        batches.resolve(resolved, tmp_path)


@pytest.mark.slow
def test_a_config_from_before_packing(config):
    saved = config.to_dict()
    del saved['data']['pack'], saved['data']['max_texts']
    old = ConfigDict(upgrade_config(saved))
    assert_same(take(batches.resolve(old, 'unused'), 1)[0], take(config, 1)[0])


def test_no_text_and_no_corpus_gives_the_two_commands(tmp_path):
    with pytest.raises(ValueError, match=r'(?s)data\.corpus is empty.*build_vocab.*build_corpus'):
        batches.resolve(make_config(), tmp_path)


@pytest.mark.slow
def test_a_part_of_a_base_vocabulary(config, tmp_path):
    """So many of its Chinese characters; another number is another corpus."""
    (tmp_path / 'a.txt').write_text(text(range(20)), 'utf-8')
    whole = batches.vocabulary(config)
    base = whole.tokens[: whole.base_size]
    (tmp_path / 'bert.txt').write_text(''.join(f'{token}\n' for token in base), 'utf-8')
    made = {'text': str(tmp_path / 'a.txt'), 'base_vocab': str(tmp_path / 'bert.txt')}
    sizes = {}
    for number in (0, 20, 30, 30):
        resolved = batches.resolve(make_config(**made, num_chars=number), tmp_path / 'run')
        vocabulary = batches.vocabulary(resolved)
        part = vocabulary.tokens[: vocabulary.base_size]
        assert part == [token for token in base if token in set(part)]
        sizes[number] = sum(map(is_chinese, filter(lambda token: len(token) == 1, part)))
    assert (sizes[20], sizes[30]) == (20, 30) and sizes[0] > 30


@pytest.mark.parametrize('exists', [False, True])
def test_a_folder_that_is_no_corpus(tmp_path, exists):
    folder = tmp_path / 'corpus'
    if exists:
        folder.mkdir()
    with pytest.raises(
        ValueError, match='(?s)manifest.json.*build_corpus' if exists else '(?s)does not exist.*build'
    ):
        batches.resolve(make_config(corpus=str(folder)), tmp_path)


@pytest.mark.parametrize(
    'data,message',
    [
        ({'char_length': 63}, r'data\.char_length is 63, but the records .* up to 64'),
        ({'word_length': 20}, r'data\.word_length is 20, but the records .* up to 48'),
        ({'char_length': 600}, r'the model has 512 positions'),
        ({'pack': True, 'char_length': 63}, r'data\.char_length is 63, but the records .* up to 64'),
    ],
)
def test_lengths_that_do_not_fit(config, data, message):
    with pytest.raises(ValueError, match=message):
        batches.resolve(changed(config, **data), 'unused')


@pytest.mark.parametrize(
    'data,kwargs,message',
    [
        ({}, {'rows': (4, 9)}, 'rows 4 to 9 are not within a batch of 8'),
        ({}, {'rows': (4, 4)}, 'rows 4 to 4'),
        ({}, {'start_step': -1}, 'start_step is -1'),
        ({}, {'split': 'test'}, "'train' and 'validation'"),
        ({'mask_rate': 0.0}, {}, 'mask_rate'),
        ({'max_anchors': 0}, {}, 'max_anchors'),
        ({'max_anchors': 49}, {}, 'max_anchors'),
        ({'eval_examples': -1}, {}, 'eval_examples'),
        ({'char_length': 0}, {}, 'char_length is 0'),
        ({'pack': True, 'max_texts': 0}, {}, 'max_texts is 0'),
        ({'pack': True, 'char_length': 200, 'word_length': 200, 'max_anchors': 49}, {}, 'max_anchors is 49'),
    ],
)
def test_settings_that_make_no_sense(config, data, kwargs, message):
    with pytest.raises(ValueError, match=message):
        batches.batches(changed(config, **data), **kwargs)


@pytest.mark.slow
def test_a_corpus_that_holds_nothing_out(tmp_path):
    (tmp_path / 'a.txt').write_text(text(range(1)), 'utf-8')
    config = batches.resolve(make_config(text=str(tmp_path / 'a.txt')), tmp_path / 'run')
    assert next(batches.batches(config))['sop_labels'].shape == (config.batch_size,)
    assert list(batches.batches(config, split='validation')) == []


def test_a_vocabulary_of_another_corpus(config, tmp_path):
    folder = shutil.copytree(config.data.corpus, tmp_path / 'corpus')
    vocabulary = batches.vocabulary(config)
    vocabulary.tokens[-1] = '另一个词'
    vocabulary.save(folder / 'vocab.txt')
    with pytest.raises(ValueError, match='not the vocabulary that this corpus was made with'):
        batches.resolve(changed(config, corpus=str(folder)), 'unused')


@pytest.mark.slow
def test_embedded_text_gives_batches(tmp_path):
    config = batches.resolve(pretrain.get_config(), tmp_path)
    vocabulary = batches.vocabulary(config)
    batch = take(config, 1)[0]
    assert batch['char_ids'].shape == (config.batch_size, 128)
    anchors = batch['anchor_char_length'] > 0
    assert anchors.sum(axis=1).mean() > 5  # the contrast has something to work with
    assert vocabulary.anchor_mask()[batch['anchor_ids'][anchors]].all()
