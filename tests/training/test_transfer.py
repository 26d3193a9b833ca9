"""Zero-shot transfer: languages chosen by config, XNLI's and PAWS-X's files, and what ML-CTL does for it."""

import json

import numpy as np
import pytest

from clower_jax import jobs
from configs import classify, mlctl, transfer
from helpers import finetuned
from input_pipeline.datasets import files
from input_pipeline.finetuning import data as finetuning_data
from input_pipeline.text.vocabulary import Vocabulary

HALF = 15  # characters of either language; the one's translation is HALF places further on
CHARACTERS = finetuned.CHARACTERS
VOCABULARY = Vocabulary([*finetuned.SPECIAL, *CHARACTERS], 35)


def translated(text: str) -> str:
    return ''.join(CHARACTERS[CHARACTERS.index(character) + HALF] for character in text)


def write_lines(path, rows) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(''.join('\t'.join(row) + '\n' for row in rows), encoding='utf-8')
    return str(path)


@pytest.fixture
def xnli(tmp_path):
    """xnli.{dev,test}.tsv in three languages, and a training file for each of two."""
    columns = ('language', 'gold_label', 'sentence1_binary_parse', 'sentence1', 'sentence2')
    labels = ('entailment', 'neutral', 'contradiction')
    for split, count in (('dev', 2), ('test', 4)):
        rows = [
            (language, labels[n % 3], '', f'一{n}', '丁')
            for language, size in (('en', count), ('zh', count + 1), ('de', count + 2))
            for n in range(size)
        ]
        write_lines(tmp_path / f'xnli.{split}.tsv', [columns, *rows])
    for language, count in (('en', 5), ('zh', 6)):
        rows = [(f'七{n}', '丁', ('contradictory', 'neutral')[n % 2]) for n in range(count)]
        write_lines(tmp_path / f'multinli.train.{language}.tsv', [('premise', 'hypo', 'label'), *rows])
    return tmp_path


def sizes_of(config) -> dict[str, int]:
    _, data = finetuning_data.prepare(config, VOCABULARY)
    return {name: len(split.rows) for name, split in data.splits.items()}


def test_xnlis_languages_are_chosen_by_config(xnli):
    config = transfer.get_config('xnli')
    config.data.folder, config.model.max_positions = str(xnli), 128
    assert sizes_of(config) == {'train': 5, 'validation': 2, 'test': 5}
    config.data.test_language = 'zh,de,en'
    assert sizes_of(config) == {'train': 5, 'validation': 2, 'test': 15}
    config.data.language = 'zh'
    assert sizes_of(config)['train'] == 6
    config.data.language = 'fr'
    with pytest.raises(FileNotFoundError, match='multinli.train.fr.tsv'):
        files.paths(config)
    chinese = classify.get_config('xnli')
    chinese.data.folder, chinese.model.max_positions = str(xnli), 128
    assert sizes_of(chinese) == {'train': 6, 'validation': 3, 'test': 5}


def test_pawsxs_languages_are_folders(tmp_path):
    header = ('id', 'sentence1', 'sentence2', 'label')
    for language, count in (('en', 6), ('zh', 4), ('de', 3)):
        rows = [(str(n), f'一{n}', '丁', str(n % 2)) for n in range(count)]
        for name in ('train', 'dev_2k', 'test_2k'):
            write_lines(tmp_path / language / f'{name}.tsv', [header, *rows])
    config = transfer.get_config('pawsx')
    config.data.folder, config.model.max_positions = str(tmp_path), 128
    assert sizes_of(config) == {'train': 6, 'validation': 6, 'test': 4}
    config.data.test = f'{tmp_path}/{{language}}/test_2k.tsv'
    config.data.train, config.data.dev = (f'{tmp_path}/en/{name}.tsv' for name in ('train', 'dev_2k'))
    config.data.test_language = 'zh,de'
    config, data = finetuning_data.prepare(config, VOCABULARY)
    assert config.data.labels == ('0', '1') and len(data.splits['test'].rows) == 7
    logits = np.tile([1.0, 0.0], (7, 1))  # says 0 of every pair
    scores = data.splits['test'].score(logits)
    assert scores.keys() == {'macro_f1', 'acc_zh', 'acc_de'}
    assert scores['acc_zh'] == 1 / 2 and scores['acc_de'] == pytest.approx(2 / 3)
    config.data.language = config.data.test_language = ''
    with pytest.raises(ValueError, match='of which language'):
        finetuning_data.prepare(config, VOCABULARY)


def test_variants():
    with pytest.raises(ValueError, match='variants xnli, pawsx'):
        transfer.get_config('cmrc')


@pytest.mark.slow
def test_translations_carry_a_classifier_over(tmp_path):
    """A classifier of one language does better on the other from an encoder that ML-CTL has trained."""
    rng = np.random.default_rng(0)
    texts = [''.join(rng.choice(CHARACTERS[:HALF], rng.integers(3, 8))) for _ in range(400)]
    pairs = write_lines(tmp_path / 'pairs.tsv', [(text, translated(text)) for text in dict.fromkeys(texts)])
    vocab = {'data.vocab': str(finetuned.write_vocab(tmp_path)), 'data.max_length': 16}
    config = mlctl.get_config()
    config.update_from_flattened_dict(finetuned.SIZES | vocab)
    changes = {'data.train': pairs, 'num_epochs': 8.0, 'optim.learning_rate': 1e-2, 'eval_every': 1000}
    config.update_from_flattened_dict(changes | {'batch_size': 32, 'data.segmenter': 'jieba'})
    jobs.fine_tuning(jobs.Job(config, 'configs/mlctl.py', tmp_path / 'mlctl'))
    retrieval = json.loads((tmp_path / 'mlctl' / 'results.json').read_text('utf-8'))['mean']['validation']
    assert retrieval['last']['acc_ab'] > 0.8

    def write(name, language, count):
        """Pairs whose label is which of two characters the first text begins with."""
        rows = [('sentence1', 'sentence2', 'label')]
        for number in range(count):
            first, second = (''.join(rng.choice(CHARACTERS[2:HALF], 3)) for _ in range(2))
            texts = CHARACTERS[number % 2] + first, second
            rows.append((*(map(translated, texts) if language == 'zh' else texts), str(number % 2)))
        write_lines(tmp_path / language / f'{name}.tsv', rows)

    write('train', 'en', 256), write('dev_2k', 'en', 64), write('test_2k', 'zh', 64)
    accuracy = {}
    for name, source in (('random', {}), ('mlctl', {'init_from': str(tmp_path / 'mlctl')})):
        config = transfer.get_config('pawsx')
        config.update_from_flattened_dict(finetuned.SIZES | vocab | source)
        config.update_from_flattened_dict({'data.folder': str(tmp_path), 'num_epochs': 10.0})
        _, results = jobs.finetuned(config, tmp_path / f'transfer-{name}')
        assert results['mean']['validation']['best']['acc'] > 0.9
        accuracy[name] = results['mean']['test']['best']['acc']
    assert accuracy['mlctl'] > 0.8 and accuracy['mlctl'] > accuracy['random'] + 0.1
