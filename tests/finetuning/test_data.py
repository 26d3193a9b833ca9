"""The door to labelled data: files found, split and refused, rows cut to length, batches, predictions."""

import copy
import itertools
import json
import logging
import math

import numpy as np
import pytest
import transformers
from hypothesis import given
from hypothesis import strategies as st
from ml_collections import ConfigDict

from configs import classify, cmrc, drcd
from helpers import finetuned
from input_pipeline.datasets import catalog, files, hub
from input_pipeline.finetuning import classification
from input_pipeline.finetuning import data as finetuning_data
from input_pipeline.text.vocabulary import Vocabulary, read_tokens

TASKS = tuple(classify.SETTINGS)


def prepared(config: ConfigDict, width_price: float = math.inf):
    config = copy.deepcopy(config)
    config.model.max_positions = config.model.max_positions or 512
    tokens = read_tokens(config.data.vocab)
    return finetuning_data.prepare(config, Vocabulary(tokens, len(tokens)), width_price)


# ---- which files ----


@pytest.mark.parametrize('task', TASKS)
def test_a_missing_data_set_says_what_is_expected_where(task, tmp_path):
    config = classify.get_config(task)
    with pytest.raises(FileNotFoundError) as error:
        files.paths(config)
    message = str(error.value)
    names = (name.format(language='zh') for name in hub.SOURCES[task].files['train'])
    for part in (*names, f'data/{task}', '--config.data.train=', 'hf:'):
        assert part in message


@pytest.mark.parametrize('module', [cmrc, drcd])
def test_a_missing_reading_data_set_too(module):
    config = module.get_config()
    with pytest.raises(FileNotFoundError, match=r'train.*--config\.data\.train=FILE'):
        files.paths(config)


def test_official_files_are_found_and_named_ones_go_first(tmp_path):
    config = classify.get_config('tnews')
    config.data.folder = str(tmp_path)
    for name in ('train.json', 'dev.json', 'test.json', 'mine.json'):
        (tmp_path / name).write_text('{}')

    def found(**changes):
        one = copy.deepcopy(config)
        one.update_from_flattened_dict(changes)
        return {split: path.removeprefix(f'{tmp_path}/') for split, path in files.paths(one).items()}

    official = {'train': 'train.json', 'validation': 'dev.json', 'test': 'test.json'}
    mine = {'data.test': f'{tmp_path}/mine.json'}
    assert found() == official
    assert found(**mine) == official | {'test': 'mine.json'}
    assert found(mode='evaluate') == {'validation': 'dev.json', 'test': 'test.json'}
    assert found(mode='evaluate', **mine) == {'test': 'mine.json'}
    assert found(mode='predict') == {'test': 'test.json'}
    own = {'data.train': f'{tmp_path}/mine.json'}
    assert found(**own) == {'train': 'mine.json'}  # official files are not its dev and test
    with pytest.raises(FileNotFoundError, match='data.dev=no.json: there is no such file'):
        found(**{'data.dev': 'no.json'})
    with pytest.raises(ValueError, match="data.dataset='news' must be empty or one of chnsenticorp"):
        found(**{'data.dataset': 'news'})


# ---- from a config to numbers ----


def test_steps_come_from_epochs(tmp_path):
    config, data = prepared(finetuned.classify_config(tmp_path, num_epochs=2.5, batch_size=10))
    assert (config.total_steps, config.eval_every) == (18, 7)  # 64 rows are 7 batches
    assert config.optim.warmup_steps == 1
    assert config.data.labels == ('bad', 'good')
    assert set(data.splits) == {'train', 'validation', 'test'}
    kept, _ = prepared(finetuned.classify_config(tmp_path, total_steps=5, eval_every=2))
    assert (kept.total_steps, kept.eval_every) == (5, 2)


def test_a_share_of_train_is_kept_for_evaluation(tmp_path, caplog):
    caplog.set_level(logging.INFO, 'input_pipeline')
    config = finetuned.classify_config(tmp_path, **{'data.dev': '', 'data.dev_fraction': 0.25})
    _, data = prepared(config)
    sizes = {name: len(split.rows) for name, split in data.splits.items()}
    assert sizes['train'] + sizes['validation'] == 64 and 5 <= sizes['validation'] <= 30
    assert f'{sizes["validation"]} examples of train are kept for evaluation' in caplog.text
    _, again = prepared(config)
    assert len(again.splits['validation'].rows) == sizes['validation']


def test_questions_are_kept_by_their_context(tmp_path):
    config = finetuned.span_config(tmp_path, **{'data.dev': '', 'data.dev_fraction': 0.3})
    _, data = prepared(config)
    assert set(data.splits) == {'train', 'validation'}
    with pytest.raises(ValueError, match='one side would be empty.*data.dev=FILE'):
        prepared(finetuned.span_config(tmp_path, **{'data.dev': '', 'data.dev_fraction': 1e-9}))


def test_too_many_positions(tmp_path):
    with pytest.raises(ValueError, match='data.max_length=65, but the model has 64 positions'):
        prepared(finetuned.classify_config(tmp_path, **{'data.max_length': 65}))


def test_texts_and_pairs_do_not_mix(tmp_path):
    config = finetuned.classify_config(tmp_path)
    (tmp_path / 'dev.tsv').write_text('sentence1\tsentence2\tlabel\n一\t二\tgood\n', encoding='utf-8')
    with pytest.raises(ValueError, match='data.dev: pairs, where the training data has single texts'):
        prepared(config)


@pytest.mark.parametrize(
    ('make', 'select', 'choices'),
    [
        (finetuned.classify_config, 'loss', 'acc, macro_f1'),
        (finetuned.span_config, 'acc', 'em, f1'),
    ],
)
def test_a_metric_that_is_not_measured(tmp_path, make, select, choices):
    with pytest.raises(ValueError, match=f"select='{select}' must be empty or one of {choices}"):
        prepared(make(tmp_path, select=select))


def test_what_is_evaluated_does_not_change_what_is_trained(tmp_path):
    """Widths are those that suit the training rows; longer rows elsewhere get one more."""
    long = finetuned.classify_config(tmp_path, **{'data.buckets': 3})
    _, with_test = prepared(long)
    finetuned.write_table(tmp_path / 'test.tsv', [('丁' * 25, 'good'), ('丁', 'bad')])
    config, other = prepared(long)
    for one, two in zip(itertools.islice(with_test.batches(config), 8), other.batches(config)):
        assert one['char_ids'].tolist() == two['char_ids'].tolist()
    widths = {batch['char_ids'].shape[1] for batch in other.batches(config, split='test')}
    assert max(widths) == 32 and not list(other.batches(config, split='other'))


def test_there_are_as_many_widths_as_they_cost_little(tmp_path):
    """500 rows of 8 or 16 tokens: what a second width spares is less than compiling it for one epoch costs,
    and more than that for twenty. The number that was found is the run's from there on."""
    finetuned.write_table(tmp_path / 'many.tsv', finetuned.texts(500, 0))

    def widths(price=2000, **changes):
        changes = {'batch_size': 8, 'data.train': str(tmp_path / 'many.tsv'), 'data.buckets': 0} | changes
        config = finetuned.classify_config(tmp_path, **changes)
        config, data = prepared(config, price)
        return config.data.buckets, {name: len(found) for name, found in data.widths.items()}

    number, found = widths(num_epochs=1.0)
    assert number == 1 and set(found.values()) == {1}
    for longer in ({'num_epochs': 20.0}, {'total_steps': 63 * 20, 'num_epochs': 0.0}, {'price': 0}):
        number, found = widths(**longer)
        assert number == found['train'] == 2
    assert widths(math.inf, num_epochs=20.0)[0] == 1
    number, found = widths(**{'data.buckets': 3})
    assert (number, found['train']) == (3, 2)  # of these texts there are two at most


def test_a_rare_label_is_a_label_on_whichever_side_it_falls(tmp_path):
    rows = [*finetuned.texts(40, 0), *((f'丁{c}', 'rare') for c in finetuned.CHARACTERS[5:6])]
    for fraction in (0.1, 0.5, 0.9):
        config = finetuned.classify_config(tmp_path, **{'data.dev': '', 'data.dev_fraction': fraction})
        finetuned.write_table(tmp_path / 'train.tsv', rows)
        finetuned.write_table(tmp_path / 'test.tsv', rows)
        assert prepared(config)[0].data.labels == ('bad', 'good', 'rare')


def test_a_header_that_is_not_known_is_no_example(tmp_path):
    config = finetuned.classify_config(tmp_path)
    (tmp_path / 'train.tsv').write_text('评价内容\t情感\n一丁\t0\n丁七\t1\n丂\t1\n七\t0\n', encoding='utf-8')
    with pytest.raises(
        ValueError, match=r"train\.tsv:1: the label '情感' is here alone: is this row a header"
    ):
        prepared(config)


def test_evaluation_needs_labels_and_prediction_ignores_them(tmp_path):
    config = finetuned.classify_config(tmp_path, mode='evaluate', **{'data.labels': ('good', 'bad')})
    (tmp_path / 'test.tsv').write_text('text\tlable\n一丁\tgood\n', encoding='utf-8')
    with pytest.raises(ValueError, match='there is no label column.*text, lable'):
        prepared(config)
    finetuned.write_table(tmp_path / 'test.tsv', [('一丁', '?'), ('丁七', '')])
    config.mode = 'predict'
    _, data = prepared(config)
    assert next(data.batches(config, split='test'))['labels'].tolist() == [-1] * 16
    (tmp_path / 'test.tsv').write_text('text_a\ttext_b\n一丁\t丁\n', encoding='utf-8')
    config.data.pairs = False
    with pytest.raises(ValueError, match='data.test: pairs, where the training data has single texts'):
        prepared(config)


def test_lists_on_the_command_line(tmp_path):
    changes = {'data.labels': ('good,bad',), 'data.text_columns': ('text',)}
    config, _ = prepared(finetuned.classify_config(tmp_path, **changes))
    assert config.data.labels == ('good', 'bad') and config.data.text_columns == ('text',)


def test_questions_without_answers(tmp_path):
    config = finetuned.span_config(tmp_path)
    document = finetuned.questions(4, 0)
    document['data'][0]['paragraphs'][2]['qas'][0].pop('answers')
    (tmp_path / 'dev.json').write_text(json.dumps(document), encoding='utf-8')
    with pytest.raises(ValueError, match='dev.json, paragraph 3, question q2: the question has no answer'):
        prepared(config)
    for paragraph in document['data'][0]['paragraphs']:
        paragraph['qas'][0].pop('answers', None)
    (tmp_path / 'train.json').write_text(json.dumps(document), encoding='utf-8')
    with pytest.raises(ValueError, match='no question of the training set has an answer'):
        prepared(config)


def test_a_label_not_in_the_set(tmp_path):
    config = finetuned.classify_config(tmp_path)
    finetuned.write_table(tmp_path / 'dev.tsv', [('一丁', 'good'), ('丁七', 'ugly')])
    with pytest.raises(ValueError, match=r"dev\.tsv:3: .*'ugly'.*bad, good"):
        prepared(config)


def test_rows_seen_in_train_are_counted(tmp_path, caplog):
    config = finetuned.classify_config(tmp_path)
    finetuned.write_table(tmp_path / 'dev.tsv', finetuned.texts(64, 0)[:5] + [('丁' * 30, 'good')])
    prepared(config)
    assert '5 of 6 validation examples are in train word for word' in caplog.text


# ---- rows ----


@given(st.integers(0, 12), st.integers(0, 12), st.integers(1, 24))
def test_cutting_takes_from_the_longer_text(a, b, room):
    """Against the loop that removes one token at a time."""
    first, second = list(range(a)), list(range(100, 100 + b))
    while len(first) + len(second) > room:
        (first if len(first) > len(second) else second).pop()
    cut = classification.cut_longest_first(list(range(a)), list(range(100, 100 + b)), room)
    if a + b > room:
        assert cut == (first, second)


def test_rows_are_berts(tmp_path, caplog):
    """[CLS] a [SEP] b [SEP], as Hugging Face's tokenizer makes them, cut rows too."""
    caplog.set_level(logging.INFO, 'input_pipeline')
    config = finetuned.classify_config(tmp_path, **{'data.max_length': 9, 'data.test': ''})
    pairs = [('一丁丂', '七丄'), ('一丁丂七丄丅', '丆'), ('一', '丁丂七丄丅丆'), ('丁七丁', '丂丄丅七')]
    for name in ('train', 'dev'):
        lines = ''.join(f'{a}\t{b}\t{i % 2}\n' for i, (a, b) in enumerate(pairs))
        (tmp_path / f'{name}.tsv').write_text('sentence1\tsentence2\tlabel\n' + lines, encoding='utf-8')
    config, data = prepared(config)
    assert '3 of 4 rows are longer than 9 tokens' in caplog.text
    batch = next(data.batches(config, split='validation'))
    tokenizer = transformers.BertTokenizer(str(tmp_path / 'vocab.txt'))
    theirs = tokenizer(*zip(*pairs), max_length=9, truncation='longest_first', padding='max_length')
    order = np.argsort(batch['example'][:4])
    width = batch['char_ids'].shape[1]
    assert batch['char_ids'][order].tolist() == [row[:width] for row in theirs['input_ids']]
    assert batch['char_segments'][order].tolist() == [row[:width] for row in theirs['token_type_ids']]
    assert batch['labels'][order].tolist() == [0, 1, 0, 1]
    assert (batch['example'][4:] == -1).all() and (batch['labels'][4:] == -1).all()


@pytest.mark.parametrize('make', [finetuned.classify_config, finetuned.span_config])
def test_batches_are_a_function_of_the_step(tmp_path, make):
    config, data = prepared(make(tmp_path, **{'data.buckets': 3}))
    source = data.batches(config)
    batches = [next(source) for _ in range(9)]
    later = next(data.batches(config, start_step=7))
    assert all((later[name] == batches[7][name]).all() for name in later)
    half = next(data.batches(config, start_step=7, rows=(4, 8)))
    assert all((half[name] == later[name][4:8]).all() for name in later)
    other = copy.deepcopy(config)
    other.seed = 1
    assert any(
        one['char_ids'].shape != two['char_ids'].shape or (one['char_ids'] != two['char_ids']).any()
        for one, two in zip(batches, data.batches(other))
    )


def test_every_example_once_an_epoch(tmp_path):
    config, data = prepared(finetuned.classify_config(tmp_path, batch_size=10, **{'data.buckets': 3}))
    source = data.batches(config)
    for _ in range(2):
        examples = np.concatenate([next(source)['example'] for _ in range(7)])
        assert sorted(examples[examples >= 0]) == list(range(64))


# ---- outputs ----


def test_predictions_of_tnews_have_the_codes_of_clue(tmp_path):
    config = classify.get_config('tnews')
    rows = [
        {'label': '104', 'sentence': '股票', 'keywords': '股,票'},
        {'label': '116', 'sentence': '游戏', 'keywords': ''},
    ]
    path = tmp_path / 'train.json'
    path.write_text('\n'.join(json.dumps(row, ensure_ascii=False) for row in rows), encoding='utf-8')
    config.data.update(train=str(path), dev=str(path), vocab=str(finetuned.write_vocab(tmp_path)))
    config, data = prepared(config)
    logits = np.zeros((2, 15), np.float32)
    logits[0, config.data.labels.index('news_game')] = 3.0
    logits[1, config.data.labels.index('news_stock')] = 1.0
    outputs = [{'logits': logits[[1, 0]], 'example': np.array([1, 0])}]
    split = data.splits['validation']
    found = split.decode(outputs)
    split.write_predictions(tmp_path, found)
    lines = [json.loads(line) for line in (tmp_path / 'predictions.json').read_text('utf-8').splitlines()]
    assert [(line['id'], line['label'], line['label_desc']) for line in lines] == [
        (0, '116', 'news_game'),
        (1, '114', 'news_stock'),
    ]
    assert lines[0]['probability'] == pytest.approx(np.exp(3) / (np.exp(3) + 14), abs=1e-6)
    assert split.score(found)['macro_f1'] == 0 and np.trace(split.confusion(found)) == 0


@pytest.mark.parametrize(
    ('dataset', 'row', 'label'),
    [
        ('iflytek', {'sentence': '丁七'}, '118'),
        ('cmnli', {'sentence1': '丁', 'sentence2': '七'}, 'neutral'),
        ('ocnli', {'sentence1': '丁', 'sentence2': '七', 'prem_id': 'a'}, 'contradiction'),
        ('afqmc', {'sentence1': '丁', 'sentence2': '七'}, '0'),
        ('csl', {'abst': '丁', 'keyword': ['七', '万']}, '1'),
        (
            'wsc',
            {
                'target': {'span1_index': 0, 'span1_text': '丁', 'span2_index': 1, 'span2_text': '七'},
                'text': '丁七',
            },
            'false',
        ),
    ],
)
def test_predictions_of_an_official_test_file_are_what_clue_takes(tmp_path, dataset, row, label):
    """Which has ids and no labels: a line for each row in its order, the label as the files have it."""
    rows = ''.join(json.dumps({'id': number} | row, ensure_ascii=False) + '\n' for number in (4, 5))
    (tmp_path / 'test.json').write_text(rows, encoding='utf-8')
    config = classify.get_config(dataset)
    config.mode, config.data.folder = 'predict', str(tmp_path)
    labels = catalog.DATASETS[dataset].labels
    config.data.update(vocab=str(finetuned.write_vocab(tmp_path)), labels=labels)
    split = prepared(config)[1].splits['test']
    logits = np.eye(len(labels), dtype=np.float32)[[labels.index(label), 0]]
    split.write_predictions(tmp_path, logits)
    lines = [json.loads(line) for line in (tmp_path / 'predictions.json').read_text('utf-8').splitlines()]
    assert [(line['id'], line['label']) for line in lines] == [(4, label), (5, labels[0])]


def test_drcd_is_answered_as_it_is_written(tmp_path):
    """The model reads Simplified characters; answers, offsets and scores are of the Traditional text."""
    context = '臺灣的國語著作'
    document = {'data': [{'paragraphs': [{'context': context, 'qas': [
        {'id': '1', 'question': '何處？', 'answers': [{'text': '臺灣', 'answer_start': 0}]}]}]}]}  # fmt: skip
    path = tmp_path / 'train.json'
    path.write_text(json.dumps(document, ensure_ascii=False), encoding='utf-8')
    vocab = tmp_path / 'vocab.txt'
    vocab.write_text('\n'.join([*finetuned.SPECIAL, *'台湾的国语著作何处？']) + '\n', encoding='utf-8')
    config = drcd.get_config()
    config.data.update(train=str(path), dev=str(path), vocab=str(vocab), max_length=16)
    config, data = prepared(config)
    split = data.splits['validation']
    batch = next(data.batches(config, split='validation'))
    assert finetuned.SPECIAL.index('[UNK]') not in batch['char_ids']
    start, end = np.full((1, 16), -9.0), np.full((1, 16), -9.0)
    (first, last) = batch['span'][0]
    start[0, first] = end[0, last] = 9.0
    outputs = [{'start_logits': start, 'end_logits': end, 'example': np.array([0])}]
    found = split.decode(outputs)
    split.write_predictions(tmp_path, found)
    assert json.loads((tmp_path / 'predictions.json').read_text('utf-8')) == {'1': '臺灣'}
    scores = split.score(found)
    assert scores == {'em': 100.0, 'f1_drcd': 100.0, 'em_cmrc': 100.0, 'f1_cmrc': 100.0}


def test_bad_spans_are_repaired_or_dropped_from_training_only(tmp_path, caplog):
    caplog.set_level(logging.INFO, 'input_pipeline')
    context = '一丁丂七丄丅'
    answers = [('丂七', 2), ('丂七', -1), ('丁丂', 4), ('万万', 0)]  # right, −1, off, absent
    qas = [
        {'id': str(i), 'question': '丄', 'answers': [{'text': text, 'answer_start': start}]}
        for i, (text, start) in enumerate(answers)
    ]
    config = finetuned.span_config(tmp_path)
    path = tmp_path / 'train.json'
    document = {'data': [{'paragraphs': [{'context': context, 'qas': qas}]}]}
    path.write_text(json.dumps(document, ensure_ascii=False), encoding='utf-8')
    config.data.train = config.data.dev = str(path)
    config, data = prepared(config)
    assert len(data.splits['train'].rows) == 3 and len(data.splits['validation'].rows) == 4
    batch = next(data.batches(config, split='validation'))
    spans = dict(zip(batch['example'].tolist(), batch['span'].tolist()))
    assert spans[0] == spans[1] == [5, 6] and spans[2] == [4, 5] and spans[3] == [-1, -1]
