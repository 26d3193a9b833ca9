"""Token classification from files to entities: what a batch holds, windows, scores, a run and its export."""

import copy
import json
import logging
from pathlib import Path

import numpy as np
import pytest
import seqeval.metrics
import transformers
from hypothesis import given
from hypothesis import strategies as st
from ml_collections import ConfigDict

from clower_jax.export.bert_folder import export
from clower_jax.training import init_state
from clower_jax.training.inherited_settings import resolve_source
from configs import tag
from helpers import finetuned, workdirs
from helpers.finetune import go
from input_pipeline.datasets import catalog, tag_schemes, tagged
from input_pipeline.datasets.tag_schemes import Span
from input_pipeline.datasets.tagged import TaggedText
from input_pipeline.features.buckets import Planned
from input_pipeline.finetuning import data as finetuning_data
from input_pipeline.finetuning.tagging import Tagging, token_spans
from input_pipeline.text.vocabulary import Vocabulary

LABELS = tag_schemes.all_tags(['x', 'y'], 'BIO')


def split_of(*texts, max_length=12, stride=4, labels=LABELS):
    """Texts with spans, over the base vocabulary of `workdirs`, which spells Latin words in letters."""
    vocabulary = Vocabulary(workdirs.BASE, len(workdirs.BASE))
    data = ConfigDict({'max_length': max_length, 'stride': stride})
    return Tagging([TaggedText(text, spans, 'a:1') for text, spans in texts], labels, vocabulary, data)


def prepared(config):
    config, vocabulary = resolve_source(config, Path('nowhere'))
    return finetuning_data.prepare(config, vocabulary)


def batches(split, batch_size=3, width=12):
    """Of all rows, with padding at the end."""
    for start in range(0, len(split.rows), batch_size):
        planned = Planned(width, np.arange(start, min(start + batch_size, len(split.rows))))
        yield split.rows.batch(planned, batch_size) | split.targets(planned, batch_size)


def perfect(split):
    """What a model that is always right gives: the tags of the batches; of no token that has none."""
    return [{'example': batch['example'], 'tags': np.maximum(batch['tags'], 0)} for batch in batches(split)]


def test_what_a_batch_holds():
    split = split_of(('我们用iPhone打', (Span(0, 2, 'y'), Span(3, 9, 'x'))), ('好', ()), ('好', None))
    (batch,) = batches(split)
    tokens = [workdirs.BASE[i] for i in batch['char_ids'][0]]
    assert tokens[:5] == ['[CLS]', '我', '们', '用', 'i'] and tokens[9:12] == ['##e', '打', '[SEP]']
    names = ['-' if i < 0 else LABELS[i] for i in batch['tags'][0]]
    assert names == ['-', 'B-y', 'I-y', 'O', 'B-x', *['I-x'] * 5, 'O', '-']
    assert batch['tags'].dtype == np.int32
    assert batch['tags'][1].tolist() == [-1, 0] + 10 * [-1] and (batch['tags'][2] == -1).all()


@st.composite
def long_texts(draw):
    """Up to 40 characters, with entities that do not overlap; letters are one token each."""
    text = ''.join(draw(st.lists(st.sampled_from('我们去公园a。 '), max_size=40)))
    cuts = sorted(draw(st.sets(st.integers(0, len(text)), max_size=12)))
    spans = [Span(a, b, draw(st.sampled_from('xy'))) for a, b in zip(cuts, cuts[1:]) if draw(st.booleans())]
    return text, tuple(span for span in spans if text[span.start].strip() and text[span.end - 1].strip())


@given(st.lists(long_texts(), min_size=1, max_size=3), st.integers(1, 12), st.sampled_from(['BIO', 'BIOES']))
def test_every_token_has_its_tag_in_one_window_and_perfect_tags_are_the_entities(texts, stride, scheme):
    split = split_of(*texts, stride=stride, labels=tag_schemes.all_tags('xy', scheme))
    count = sum(int((batch['tags'] >= 0).sum()) for batch in batches(split))
    assert count == sum(len(''.join(text.split())) for text, _ in texts)
    assert split.decode(perfect(split)) == [list(spans) for _, spans in texts]


def test_tokens_of_entities():
    """Of 'ab c 北京市': tokens ab, c, 北, 京, 市."""
    offsets = np.array([(0, 2), (3, 4), (5, 6), (6, 7), (7, 8)])
    exact = [Span(0, 4, 'x'), Span(5, 7, 'y')]
    assert token_spans(exact, offsets) == ([Span(0, 2, 'x'), Span(2, 4, 'y')], 0)
    inside = [Span(0, 1, 'x'), Span(1, 2, 'y'), Span(2, 3, 'y'), Span(4, 6, 'x')]
    assert token_spans(inside, offsets) == ([Span(0, 1, 'x'), Span(2, 3, 'x')], 4)


@pytest.mark.parametrize('scheme', ['BIO', 'BIOES'])
def test_tags_are_those_of_train(tmp_path, scheme):
    config, data = prepared(finetuned.tag_config(tmp_path, **{'data.scheme': scheme}))
    assert config.data.labels == tag_schemes.all_tags(['long', 'short'], scheme)
    assert set(data.splits) == {'train', 'validation', 'test'}
    counts = data.counts['train']
    assert counts['texts']['kept'] == counts['windows']['kept'] == 64
    assert counts['entities']['read'] == counts['entities']['kept'] > 64


@pytest.mark.parametrize('name', tag.SETTINGS)
def test_a_data_set_has_its_own_types(tmp_path, name):
    config = tag.get_config(name)
    init_state.check(config)
    row = {'text': '北京', 'label': [[0, 2, catalog.ENTITY_TYPES[name][1]]]}
    train = tmp_path / 'mine.json'
    train.write_text(json.dumps(row), encoding='utf-8')
    vocab = str(finetuned.write_vocab(tmp_path))
    config.update_from_flattened_dict(
        {'data.train': str(train), 'data.dev_fraction': 0.0, 'data.vocab': vocab}
    )
    config, _ = prepared(config)
    assert config.data.labels == tag_schemes.all_tags(catalog.ENTITY_TYPES[name], 'BIO')
    config.data.labels = ('O', 'I-book')
    with pytest.raises(
        ValueError, match=r'mine.json has entities of the types \w+: --config.data.labels lacks B-'
    ):
        prepared(config)


def test_entities_that_overlap_or_that_nothing_teaches(tmp_path, caplog):
    caplog.set_level(logging.INFO, 'input_pipeline')
    config = finetuned.tag_config(tmp_path)
    rows = [{'text': '一丁七', 'label': [[0, 2, 'long'], [1, 3, 'long'], [2, 3, 'short']]}]
    for name, more in (('train', []), ('dev', [{'text': '一丁', 'label': [[0, 2, 'other']]}])):
        config.data[name] = str(tmp_path / f'{name}.jsonl')
        lines = '\n'.join(json.dumps(row) for row in [*rows, *more])
        Path(config.data[name]).write_text(lines, encoding='utf-8')
    config, data = prepared(config)
    assert data.counts['train']['entities'] == {'read': 3, 'kept': 2, 'dropped': {'overlaps another': 1}}
    assert data.counts['validation']['entities'] == {'read': 4, 'kept': 4, 'dropped': {}}
    assert 'validation: entities of types that train has not, all missed: other' in caplog.text
    assert '1 of 2 validation texts are in train word for word' in caplog.text
    split = data.splits['validation']
    predicted = [[Span(0, 2, 'long'), Span(2, 3, 'short')], []]
    assert split.score(predicted)['entity_recall'] == 0.5 and split.score(predicted)['entity_precision'] == 1
    Path(config.data.train).write_text('{"text": "一", "label": []}', encoding='utf-8')
    config.data.labels = ()
    with pytest.raises(ValueError, match='train.jsonl: there is no entity to learn'):
        prepared(config)


def test_a_share_of_train_is_kept(tmp_path):
    _, data = prepared(finetuned.tag_config(tmp_path, **{'data.dev': '', 'data.dev_fraction': 0.25}))
    train, validation = (data.counts[name] for name in ('train', 'validation'))
    assert train['texts']['kept'] + validation['texts']['kept'] == 64
    assert validation['entities']['kept'] == train['entities']['dropped']['kept as validation'] > 0


def test_there_is_no_other_scheme(tmp_path):
    with pytest.raises(ValueError, match="data.scheme='IO' must be one of BIO, BIOES"):
        init_state.check(finetuned.tag_config(tmp_path, **{'data.scheme': 'IO'}))
    with pytest.raises(ValueError, match="has no variant 'weibo'; it has cluener, msra"):
        tag.get_config('weibo')


# ---- a run ----


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """(config, workdir, results) of a run that has learnt its task; its files are of all forms."""
    files, workdir = tmp_path_factory.mktemp('files'), tmp_path_factory.mktemp('work') / 'run'
    config = finetuned.tag_config(files, num_epochs=8.0, eval_every=16)
    return config, workdir, go(config, workdir)


def character_tags(texts, scheme='BIO'):
    return [tag_schemes.tags_of(text.spans, len(text.text), scheme) for text in texts]


@pytest.mark.slow
def test_scores_of_a_run_are_seqevals(run):
    config, workdir, results = run
    best = results['per_seed'][0]['test']['best']
    predicted = tagged.read(str(workdir / 'predictions.json'))
    gold = tagged.read(config.data.test)
    assert [text.text for text in predicted] == [text.text for text in gold]
    tags = character_tags(gold), character_tags(predicted)
    for name in ('precision', 'recall', 'f1'):
        expected = getattr(seqeval.metrics, f'{name}_score')(*tags)
        assert best[f'entity_{name}'] == pytest.approx(expected) and expected > 0.9
    assert best['entity_macro_f1'] == pytest.approx(seqeval.metrics.f1_score(*tags, average='macro'))
    assert best['acc_tag'] > 0.9


@pytest.mark.slow
def test_predictions_are_in_cluener_s_format(run):
    _, workdir, _ = run
    lines = [json.loads(line) for line in (workdir / 'predictions.json').read_text('utf-8').splitlines()]
    assert [line['id'] for line in lines] == list(range(20))
    for line in lines:
        for named in line['label'].values():
            for entity, places in named.items():
                assert all(line['text'][first : last + 1] == entity for first, last in places)


@pytest.mark.slow
def test_a_fine_tuned_tagger_in_use(run, tmp_path):
    """Evaluated on another file as at the end of training; on plain texts it predicts."""
    config, workdir, results = run
    config = copy.deepcopy(config)
    config.mode, config.data.dev = 'evaluate', ''
    assert go(config, workdir) == {'test': results['per_seed'][0]['test']['best']}
    new = tmp_path / 'new.txt'
    a, b, c, *rest = finetuned.CHARACTERS
    new.write_text(f'{rest[0]}{a}{b}{rest[1]}\n{c}\n', encoding='utf-8')
    config.mode, config.data.test = 'predict', str(new)
    assert go(config, workdir) == {'test': {}}
    lines = (workdir / 'predict' / 'predictions.json').read_text('utf-8').splitlines()
    labels = [json.loads(line)['label'] for line in lines]
    assert labels == [{'long': {a + b: [[1, 2]]}}, {'short': {c: [[0, 0]]}}]
    config.data.scheme, config.mode, config.num_epochs = 'BIOES', 'train', 9.0
    with pytest.raises(ValueError, match='data.scheme: BIO → BIOES'):
        go(config, workdir)


@pytest.mark.slow
def test_the_pipeline_finds_the_same(run, tmp_path):
    _, workdir, _ = run
    folder = export(workdir, tmp_path / 'tagger')
    find = transformers.pipeline('token-classification', str(folder), aggregation_strategy='simple')
    lines = [json.loads(line) for line in (workdir / 'predictions.json').read_text('utf-8').splitlines()]
    for line, groups in zip(lines, find([line['text'] for line in lines]), strict=True):
        theirs = {(group['start'], group['end'] - 1, group['entity_group']) for group in groups}
        assert theirs == {
            (first, last, type_)
            for type_, named in line['label'].items()
            for places in named.values()
            for first, last in places
        }
    card = (folder / 'README.md').read_text('utf-8')
    assert 'fine-tuned to find entities in texts: `long`, `short`.' in card
    assert 'pipeline_tag: token-classification' in card and '| test entity_f1 |' in card


def test_a_word_encoder_has_no_tags(tmp_path):
    config = finetuned.tag_config(tmp_path, **{'model.kind': 'lichee'})
    with pytest.raises(
        ValueError, match="a model.kind=lichee reads words, which the task 'tag' does not have"
    ):
        go(config, tmp_path / 'run')
