"""Vectors of texts: transformers' own, in the order given, whatever is batched with what."""

import itertools
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from clower_jax import Encoder, encode
from clower_jax.export.bert_folder import export
from clower_jax.inference import encoder
from helpers import workdirs

ROOT = Path(__file__).parents[2]
TEXTS = [
    *workdirs.TEXTS,
    '',
    '今天',
    '[MASK]很好',
    '今天[PAD]天气很好[PAD]',
    '今天天气很好。',
    '亚洲第一大河' * 20,
    ' 用 iPhone\t打电话',
]


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
    """(workdir, its export)."""
    folder = tmp_path_factory.mktemp('encoder')
    workdirs.make(folder / 'run', 'pretrain')
    return folder / 'run', export(folder / 'run', folder / 'exported', heads='none')


@pytest.fixture(scope='module')
def exported(folders):
    return Encoder.load(folders[1])


def reference(folder, texts, pooling, max_length=workdirs.MODEL['max_positions']):
    """What transformers makes of the texts, one by one."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder, add_pooling_layer=False).eval()
    rows = []
    for text in texts:
        batch = tokenizer(text, truncation=True, max_length=max_length, return_tensors='pt')
        with torch.no_grad():
            hidden = model(**batch).last_hidden_state[0]
        rows.append(hidden.mean(0) if pooling == 'mean' else hidden[0])
    return torch.stack(rows).numpy()


@pytest.mark.slow
def test_pooling_is_that_of_training_where_it_is_known(folders, tmp_path):
    folder = shutil.copytree(folders[1], tmp_path / 'cls')
    config = json.loads((folder / 'config.json').read_text('utf-8'))
    config['clower_jax']['pooling'] = 'cls'
    (folder / 'config.json').write_text(json.dumps(config))
    for one, expected in ((folder, 'cls'), (folders[1], 'mean')):
        vectors = Encoder.load(one).encode(TEXTS)
        np.testing.assert_array_equal(vectors, Encoder.load(one, expected).encode(TEXTS))


@pytest.mark.slow
def test_several_poolings_stand_side_by_side(folders):
    made = Encoder.load(folders[1], 'cls,mean,embeddings')
    found = made.encode(TEXTS)
    assert found.shape == (len(TEXTS), made.size) == (len(TEXTS), 3 * workdirs.MODEL['hidden_size'])
    tokenizer = transformers.AutoTokenizer.from_pretrained(folders[1])
    table = transformers.AutoModel.from_pretrained(
        folders[1], add_pooling_layer=False
    ).embeddings.word_embeddings
    rows = [
        table(tokenizer(text, truncation=True, max_length=64, return_tensors='pt')['input_ids'][0])
        for text in TEXTS
    ]
    embedded = torch.stack([row.mean(0) for row in rows]).detach().numpy()
    expected = [reference(folders[1], TEXTS, 'cls'), reference(folders[1], TEXTS, 'mean'), embedded]
    np.testing.assert_allclose(found, np.concatenate(expected, axis=1), atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize(('pooling', 'max_length'), [('mean', None), ('cls', 9)])
def test_vectors_are_those_of_transformers(folders, pooling, max_length):
    expected = reference(folders[1], TEXTS, pooling, max_length or workdirs.MODEL['max_positions'])
    found = Encoder.load(folders[1], pooling, max_length=max_length).encode(TEXTS)
    assert found.dtype == np.float32 and np.ptp(expected) > 1
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_what_is_too_long_loses_its_end_but_not_its_sep(folders, caplog):
    short = Encoder.load(folders[1], max_length=9)
    with workdirs.warnings_of('clower_jax.inference.encoder') as logged:
        cut, same = short.encode(['亚洲第一大河' * 20, '亚洲第一大河亚'])
    assert logged == ['1 of 2 texts were cut to 9 tokens']
    np.testing.assert_array_equal(cut, same)


@pytest.mark.slow
def test_a_workdir_is_its_export(folders, exported):
    np.testing.assert_array_equal(Encoder.load(folders[0]).encode(TEXTS), exported.encode(TEXTS))


@pytest.mark.slow
def test_a_fine_tuned_workdir(tmp_path):
    workdirs.make(tmp_path / 'run', 'classify')
    folder = export(tmp_path / 'run', tmp_path / 'exported')
    found = Encoder.load(tmp_path / 'run').encode(TEXTS[:3])
    np.testing.assert_allclose(found, reference(folder, TEXTS[:3], 'mean'), rtol=0, atol=1e-5)


def test_a_folder_without_tokenizer_json(folders, exported, tmp_path):
    for path in folders[1].iterdir():
        if path.name not in ('tokenizer.json', 'tokenizer_config.json'):
            (tmp_path / path.name).write_bytes(path.read_bytes())
    np.testing.assert_array_equal(Encoder.load(tmp_path).encode(TEXTS), exported.encode(TEXTS))


@pytest.mark.slow
def test_capitals_stay_where_the_folder_keeps_them(folders, exported, tmp_path):
    """And no warning, for nothing is lower-cased."""
    for path in folders[1].iterdir():
        if path.name != 'tokenizer.json':
            (tmp_path / path.name).write_bytes(path.read_bytes())
    settings = {'do_lower_case': False, 'tokenizer_class': 'BertTokenizer'}
    (tmp_path / 'tokenizer_config.json').write_text(json.dumps(settings))
    with workdirs.warnings_of('clower_jax') as logged:
        (cased,) = Encoder.load(tmp_path).encode(['IPHONE很好'])
    (lower,) = exported.encode(['IPHONE很好'])
    (unknown,) = exported.encode(['[UNK]很好'])
    assert logged == []
    np.testing.assert_allclose(cased, unknown, rtol=0, atol=1e-5)
    assert np.abs(cased - lower).max() > 0.1


def test_bfloat16_is_near(folders, exported):
    found, exact = Encoder.load(folders[1], dtype='bfloat16').encode(TEXTS), exported.encode(TEXTS)
    assert found.dtype == np.float32
    assert np.abs(found - exact).max() < 0.05 * np.ptp(exact) and np.abs(found - exact).max() > 0


def test_no_text_and_texts_of_length_one(exported):
    assert exported.encode([]).shape == (0, exported.size)
    lengths = np.linalg.norm(exported.encode(TEXTS, normalize=True), axis=1)
    np.testing.assert_allclose(lengths, 1, rtol=1e-6)


@pytest.mark.slow
@given(st.lists(st.sampled_from(TEXTS), max_size=40), st.sampled_from([None, 1, 3]), st.integers(1, 7))
@settings(max_examples=8)
def test_order_and_duplicates(exported, texts, batch_size, together):
    """Whatever shares a batch, a text's vector is its own; tokenised in parts of any size."""
    alone = dict(zip(TEXTS, exported.encode(TEXTS)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoder, 'CHUNK_SIZE', together)
        found = exported.encode(texts, batch_size=batch_size)
    assert found.shape == (len(texts), exported.size)
    for text, vector in zip(texts, found, strict=True):
        np.testing.assert_allclose(vector, alone[text], rtol=0, atol=1e-5)


@given(
    st.lists(st.text('今天气很好我们去公园', max_size=70), unique=True, max_size=60),
    st.integers(1, 50),
    st.sampled_from([0, 30, 1e6]),
    st.sampled_from([None, 1, 5]),
)
def test_batches_hold_every_text_once_and_have_few_shapes(exported, texts, together, costs, batch_size):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoder, 'CHUNK_SIZE', together)
        patch.setattr(exported, '_batch_tokens', 128)
        patch.setattr(exported, '_width_price', costs)
        patch.setattr(exported, '_compiled', set())
        batches = list(exported._make_batches(texts, batch_size))
        widths = {batch.rows[0].shape[1] for batch in batches}
        assert exported._compiled == widths
        again = {batch.rows[0].shape[1] for batch in exported._make_batches(texts, batch_size)}
        assert again == widths
    assert sorted(number for batch in batches for number in batch.numbers) == list(range(len(texts)))
    assert len(widths) <= 1 or costs < 1e6
    tokenised = exported._tokenize(texts)[0] if texts else []
    for batch in batches:
        ids, segment_ids, text_starts = batch.rows
        for number, row, slot in zip(batch.numbers, *batch.places, strict=True):
            mask = segment_ids[row] == slot + 1
            assert ids[row, mask].tolist() == tokenised[number] and mask.argmax() == text_starts[row, slot]
        assert (segment_ids > 0).sum() == sum(len(tokenised[number]) for number in batch.numbers)
        assert not ids[segment_ids == 0].any()
        full = max(1, 128 // ids.shape[1])
        assert len(batch.numbers) <= (batch_size or len(texts))
        assert len(ids) <= full and (len(ids) == full or len(ids).bit_count() == 1)


@given(
    st.lists(st.integers(2, 32), min_size=1, max_size=40),
    st.sets(st.sampled_from([8, 16, 24, 40]), max_size=3),
    st.integers(0, 60),
)
def test_widths_cost_least(exported, lengths, compiled, costs):
    """By trying every set of widths."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exported, '_compiled', compiled)
        patch.setattr(exported, '_width_price', costs)
        found = exported._choose_widths(np.array(lengths))

    rounded = [encoder._round_up_width(length, 64) for length in lengths]
    least = max(*rounded, 64 if sum(lengths) >= 512 else 0)

    def cost(widths):
        if least > max(widths):
            return math.inf
        tokens = 0
        for length in rounded:
            width = min(width for width in widths if width >= length)
            tokens += width / (width // length) * (1 + width / (2 * workdirs.MODEL['hidden_size']))
        return tokens + costs * len(set(widths) - compiled)

    candidates = compiled | {*rounded, least}
    subsets = [s for n in range(1, len(candidates) + 1) for s in itertools.combinations(candidates, n)]
    assert found == sorted(set(found)) and set(found) <= candidates
    assert cost(found) == pytest.approx(min(map(cost, subsets)))


@pytest.mark.slow
def test_lists_of_short_texts_share_a_program(folders):
    """However long the texts and the list, within what rows of the first list hold."""
    made = Encoder.load(folders[1])
    characters = np.random.default_rng(0)
    texts = [
        ''.join(characters.choice(list('今天气很好我们去公园'), length))
        for length in characters.integers(1, 60, 2000)
    ]
    made.encode(sorted(texts, key=len)[:400])  # of 13 characters at most
    assert made._forward._cache_size() == 1
    made.encode(texts)
    assert made._forward._cache_size() == 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(made, '_width_price', 0)  # as if compiling took no time
        made.encode(texts)
    assert made._forward._cache_size() > 1


def test_more_tokens_than_characters(exported):
    """As where a character is taken apart: then a width is wanted that was not foreseen."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exported, '_compiled', set())
        assert exported._select_width(20, [12]) == 20 and exported._select_width(10, [12]) == 12
        assert exported._compiled == {12, 20}


def test_widths():
    for length in range(1, 513):
        width = encoder._round_up_width(length, 512)
        assert width % 4 == 0 and length <= width < length + max(4, length / 8 + 1)
    assert len({encoder._round_up_width(length, 512) for length in range(1, 513)}) == 40
    assert encoder._round_up_width(61, 62) == 62


def test_errors_say_what_was_wrong(folders, exported, tmp_path):
    with pytest.raises(ValueError, match='single string'):
        exported.encode('今天')
    with pytest.raises(ValueError, match='batch_size=0'):
        exported.encode(TEXTS, batch_size=0)
    with pytest.raises(ValueError, match='max_length=65 must be from 3 .* to 64'):
        Encoder.load(folders[1], max_length=65)
    with pytest.raises(ValueError, match="pooling='max'"):
        Encoder.load(folders[1], pooling='max')
    with pytest.raises(ValueError, match='neither a workdir'):
        Encoder.load(tmp_path)
    other = tmp_path / 'other'
    other.mkdir()
    for path in folders[1].iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    tokenizer = transformers.AutoTokenizer.from_pretrained(other)
    tokenizer.add_tokens(['新词'])
    tokenizer.save_pretrained(other)
    with pytest.raises(ValueError, match='other tokens than the model'):
        Encoder.load(other)


@pytest.mark.slow
def test_the_command(folders, exported, tmp_path):
    lines = ['今天天气很好。', '', '我们\u2028去公园。', '今天天气很好。', '最后一行\r']
    (tmp_path / 'texts.txt').write_bytes(b'\xef\xbb\xbf' + '\n'.join(lines).encode())
    command = [sys.executable, '-m', 'clower_jax.encode', '--model', str(folders[1]), '--normalize']
    command += ['--input', str(tmp_path / 'texts.txt'), '--output', str(tmp_path / 'out' / 'v.npy')]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert '5 vectors of 32 numbers' in done.stdout
    assert os.listdir(tmp_path / 'out') == ['v.npy']
    expected = exported.encode([line.rstrip('\r') for line in lines], normalize=True)
    np.testing.assert_allclose(np.load(tmp_path / 'out' / 'v.npy'), expected, rtol=0, atol=1e-6)


def test_a_file_is_encoded_a_part_at_a_time(exported, tmp_path, monkeypatch):
    (tmp_path / 'texts.txt').write_text('\n'.join(TEXTS[:5]) + '\n', encoding='utf-8')
    monkeypatch.setattr(encode, 'LINES', 2)
    assert encode.encode_file(exported, tmp_path / 'texts.txt', tmp_path / 'v.npy') == (
        5,
        32,
    )  # U+2028 ends none
    whole = exported.encode((tmp_path / 'texts.txt').read_text('utf-8').removesuffix('\n').split('\n'))
    np.testing.assert_allclose(np.load(tmp_path / 'v.npy'), whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ('content', 'message'), [(b'', 'no text'), ('好\n'.encode() + b'\xff\xfe\n', 'texts.txt:2 is not UTF-8')]
)
def test_a_file_that_cannot_be_read_leaves_nothing(exported, tmp_path, content, message):
    (tmp_path / 'texts.txt').write_bytes(content)
    with pytest.raises(ValueError, match=message):
        encode.encode_file(exported, tmp_path / 'texts.txt', tmp_path / 'v.npy')
    assert os.listdir(tmp_path) == ['texts.txt']


def test_the_package_itself_is_cheap_to_import():
    code = 'import sys, clower_jax; print(sorted({"jax", "orbax", "tensorflow", "numpy"} & set(sys.modules)))'
    done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == '[]', done.stderr


@pytest.mark.slow
def test_what_takes_long_to_import_is_imported_where_it_is_needed():
    code = """
import sys, clower_jax.encode
print(sorted({"orbax", "optax"} & set(sys.modules)))
import clower_jax.jobs
slow = {"scipy.stats", "matplotlib", "huggingface_hub", "PIL", "tensorboardX", "torch", "tensorflow"}
print(sorted(slow & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.split() == ['[]', '[]'], done.stdout + done.stderr


# ---- what a folder says of its tokenizer ----

ODD = ['Café的IPHONE很好', '今天a天气b很好', 'I喜欢É', '[MASK]很好']


@pytest.mark.parametrize('has_json', [True, False], ids=['tokenizer.json', 'vocab.txt'])
@pytest.mark.parametrize(
    'settings',
    [
        None,
        {'tokenizer_class': 'BertTokenizer'},
        {'do_lower_case': False},
        {'do_lower_case': False, 'tokenizer_class': 'BertTokenizerFast'},
        {'do_lower_case': True, 'strip_accents': False},
        {'do_lower_case': False, 'strip_accents': True},
        {'tokenize_chinese_chars': False},
        {'model_max_length': 7},
        {'model_max_length': 1e30},
    ],
    ids=str,
)
def test_a_folders_tokenizer_is_that_of_transformers(folders, tmp_path, settings, has_json):
    folder = shutil.copytree(folders[1], tmp_path / 'copy')
    (folder / 'tokenizer_config.json').unlink()
    if settings is not None:
        (folder / 'tokenizer_config.json').write_text(json.dumps(settings))
    if not has_json:
        (folder / 'tokenizer.json').unlink()
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    loaded = Encoder.load(folder)
    assert loaded.max_length == min(theirs.model_max_length, 64)
    expected = [theirs(text, truncation=True, max_length=loaded.max_length).input_ids for text in ODD]
    assert loaded._tokenize(ODD)[0] == expected


def test_a_tokenizer_of_another_class_is_its_json_or_refused(folders, tmp_path):
    folder = shutil.copytree(folders[1], tmp_path / 'copy')
    made = json.loads((folder / 'tokenizer.json').read_text('utf-8'))
    made['normalizer']['lowercase'] = False
    (folder / 'tokenizer.json').write_text(json.dumps(made))
    settings = {'tokenizer_class': 'PreTrainedTokenizerFast', 'do_lower_case': True}
    (folder / 'tokenizer_config.json').write_text(json.dumps(settings))
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    assert Encoder.load(folder)._tokenize(ODD)[0] == [theirs(text).input_ids for text in ODD]
    (folder / 'tokenizer.json').unlink()
    (folder / 'tokenizer_config.json').write_text('{"tokenizer_class": "BertJapaneseTokenizer"}')
    with pytest.raises(ValueError, match='tokenizer_class BertJapaneseTokenizer and no tokenizer.json'):
        Encoder.load(folder)


def test_a_fine_tuned_workdir_reads_as_much_as_its_export(tmp_path):
    workdirs.make(tmp_path / 'run', 'classify')
    folder = export(tmp_path / 'run', tmp_path / 'exported')
    lengths = {Encoder.load(path).max_length for path in (tmp_path / 'run', folder)}
    assert lengths == {workdirs.config_of('classify').data.max_length}


@pytest.mark.parametrize(
    ('texts', 'message'),
    [
        (['好', None], r'texts\[1\] is None, no string'),
        ([float('nan'), '好'], r'texts\[0\] is nan, no string'),
        ([b'abc'], r"texts\[0\] is b'abc', no string"),
        (['好', '天\ud83d气'], r"texts\[1\] has half of a character \('.ud83d', a lone surrogate\) at 1"),
        (None, 'texts is None: give a list'),
        ('今天', 'texts is a single string'),
    ],
    ids=str,
)
def test_what_is_no_text(exported, texts, message):
    with pytest.raises(ValueError, match=message):
        exported.encode(texts)


def test_texts_of_any_collection(exported):
    expected = exported.encode(TEXTS[:3])
    for texts in (np.array(TEXTS[:3]), tuple(TEXTS[:3]), dict.fromkeys(TEXTS[:3]), iter(TEXTS[:3])):
        np.testing.assert_array_equal(exported.encode(texts), expected)


# ---- models that cannot be used ----


def changed(folder, tmp_path, **settings):
    """A copy of a folder whose config.json says something else."""
    copy = shutil.copytree(folder, tmp_path / 'changed')
    config = json.loads((copy / 'config.json').read_text('utf-8'))
    (copy / 'config.json').write_text(json.dumps(config | settings))
    return copy


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (None, "changed' is neither a workdir"),
        ({'model_type': 'roberta'}, "describes another encoder than ours: model_type is 'roberta' there"),
        (
            {'max_position_embeddings': 512},
            r'\(64, 32\), the model wants \(512, 32\) .*the weights are of another model',
        ),
        ({'num_hidden_layers': 3}, r'config.json says that there are 3 layers, and \S+ has 2: correct'),
        ({'num_hidden_layers': 1}, r'config.json says that there are 1 layers, and \S+ has 2: correct'),
    ],
    ids=str,
)
def test_the_command_names_no_flag_that_it_has_not(folders, tmp_path, settings, message):
    folder = tmp_path / 'changed'
    if settings is not None:
        changed(folders[1], tmp_path, **settings)
    (tmp_path / 'texts.txt').write_text('好')
    command = ['--model', str(folder), '--input', str(tmp_path / 'texts.txt'), '--output', 'none.npy']
    with pytest.raises(SystemExit, match=f'encode: .*{message}') as error:
        encode.main(command)
    assert '--config' not in str(error.value)


@pytest.mark.parametrize(('name', 'value'), [('do_lower_case', 'no'), ('model_max_length', '512')])
def test_settings_of_a_wrong_type(folders, tmp_path, name, value):
    folder = shutil.copytree(folders[1], tmp_path / 'copy')
    (folder / 'tokenizer_config.json').write_text(json.dumps({name: value}))
    with pytest.raises(ValueError, match=f"tokenizer_config.json: {name} is '{value}', and should be"):
        Encoder.load(folder)
