"""The commands as people type them: a run on one's own text, a look back at a step, and what goes wrong."""

import json
import re
from pathlib import Path

import pytest

from clower_jax import jobs, replay
from clower_jax.utils import command_line
from clower_jax.utils.metrics_file import read_metrics
from configs import classify, cmrc, drcd, pretrain
from helpers import workdirs
from helpers.run import settings, start_run
from input_pipeline.corpus import from_text
from input_pipeline.pretraining import batches

TINY = {
    'total_steps': 4, 'batch_size': 8, 'log_every': 2, 'eval_every': 2, 'optim.warmup_steps': 1,
    'model.hidden_size': 32, 'model.intermediate_size': 64, 'data.num_words': 300,
    'data.char_length': 32, 'data.word_length': 24,
}  # fmt: skip


@pytest.fixture(scope='module')
def own_text(tmp_path_factory):
    """A run on a file of one's own: (workdir, what it printed, and what as errors)."""
    folder = tmp_path_factory.mktemp('own')
    (folder / 'mine.txt').write_text((from_text.EMBEDDED / 'culture.txt').read_text('utf-8'), 'utf-8')
    done = start_run(
        'pretrain.py', f'--workdir={folder}/run', **TINY, **{'data.text': f'{folder}/*.txt', 'seed': 3}
    )
    assert done.returncode == 0, done.stderr
    return folder / 'run', done.stdout, done.stderr


def test_the_embedded_corpus_is_large_and_varied_enough():
    texts = [path.read_text('utf-8') for path in sorted(from_text.EMBEDDED.glob('*.txt'))]
    documents = [document.strip() for text in texts for document in text.split('\n\n') if document.strip()]
    assert len(set(documents)) == len(documents) >= 100
    assert sum('\u4e00' <= char <= '\u9fff' for text in texts for char in text) >= 20_000
    assert all(sum(document.count(mark) for mark in '。！？') >= 4 for document in documents)


@pytest.mark.slow
def test_a_run_on_own_text_leaves_its_files_and_says_what_is_next(own_text):
    workdir, output, _ = own_text
    for name in (
        *('config.json', 'vocab.txt', 'metrics.jsonl', 'curves.png'),
        *('corpus/manifest.json', 'report.html'),
    ):
        assert (workdir / name).stat().st_size > 0, name
    assert (workdir / 'checkpoints' / '4').is_dir()
    assert list((workdir / 'tensorboard').iterdir())
    rows = [(row['step'], row['split']) for row in read_metrics(workdir / 'metrics.jsonl')]
    assert rows == [(2, 'train'), (2, 'validation'), (4, 'train'), (4, 'validation')]
    results = json.loads((workdir / 'results.json').read_text('utf-8'))
    documents = results['documents']
    assert documents['read'] == documents['kept'] + sum(documents['dropped'].values()) > 0
    assert (results['steps'], results['rows_read'], results['skipped_steps']) == (
        4,
        4 * TINY['batch_size'],
        0,
    )
    assert results['held_out']['loss'] > 0
    assert f'4 batches with {results["rows_read"]} rows' in output and 'documents read' in output
    assert output.startswith(f'Corpus: making {workdir}/corpus from ')
    last = output.strip().splitlines()[-1]
    assert last.startswith('Next: ') and 'configs/pretrain.py' in last
    assert f'--config.data.corpus={workdir}/corpus' in last


@pytest.mark.slow
def test_progress_outside_a_terminal_is_plain_lines(own_text):
    """One every `log_every` steps, also where the first of them was spent compiling."""
    _, output, errors = own_text
    assert '\r' not in output + errors and 'step/s' not in errors
    lines = [line for line in output.splitlines() if re.match(r'step \d+ of 4:', line)]
    assert [line.split(':')[0] for line in lines] == ['step 2 of 4', 'step 4 of 4']
    number = r'[\d.,e+-]+'
    for line in lines:
        assert re.fullmatch(
            rf'step \d of 4:  loss {number}  lr {number}  {number} tokens/s  0:\d\d:\d\d left', line
        ), line


@pytest.mark.slow
def test_replay_shows_the_batch_of_a_step(own_text):
    workdir, *_ = own_text
    batch, tokens = replay.load(workdir, 3)
    text = replay.describe(batch, tokens, 0)
    chars, words = (line for line in text.splitlines() if line.startswith(('  char:', '  word:')))
    assert chars.startswith('  char: [CLS] ') and words.startswith('  word: [CLS] ')
    assert text.count('«') == sum((batch[f'{view}_mlm_labels'][0] >= 0).sum() for view in ('char', 'word'))
    again, _ = replay.load(workdir, 3)
    assert all((again[name] == batch[name]).all() for name in batch)
    with pytest.raises(ValueError, match='steps 1 to 4'):
        replay.load(workdir, 5)


@pytest.mark.parametrize('variant', ['mini', 'cpu', 'small', 'base', 'paper'])
def test_a_missing_corpus_is_explained(variant, tmp_path):
    with pytest.raises(ValueError, match='input_pipeline.build_corpus --input'):
        batches.resolve(pretrain.get_config(variant), tmp_path)


@pytest.mark.slow
def test_errors_are_messages_not_tracebacks(tmp_path):
    done = start_run('pretrain.py:base', f'--workdir={tmp_path}', **{'data.corpus': tmp_path / 'none'})
    assert done.returncode == 1
    assert 'none does not exist' in done.stderr and 'Traceback' not in done.stderr


@pytest.mark.parametrize('task', ['classify', 'span'])
def test_a_workdir_of_another_task_is_refused_before_any_work(tmp_path, task):
    workdirs.make(tmp_path, task)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ValueError, match=f"is of the task '{task}', the config of 'pretrain'"):
        jobs.pretraining(jobs.Job(pretrain.get_config(), 'configs/pretrain.py', tmp_path))
    assert sorted(tmp_path.iterdir()) == before


def test_other_batches_are_refused_before_any_work(tmp_path):
    workdirs.make(tmp_path, 'pretrain', seed=7)
    with pytest.raises(ValueError, match=r'decide its batches or what is made of them: seed: 7 → 0'):
        jobs.pretraining(jobs.Job(pretrain.get_config(), 'configs/pretrain.py', tmp_path))
    assert not (tmp_path / 'corpus').exists()


def test_a_source_that_does_not_fit_is_refused_before_any_work(tmp_path):
    workdirs.make(tmp_path / 'source', 'pretrain')
    config = pretrain.get_config()
    for init_from, message in (('source', 'hidden_size=32.*--config.model.hidd'), ('no', 'neither')):
        config.init_from = str(tmp_path / init_from)
        with pytest.raises(ValueError, match=message):
            jobs.pretraining(jobs.Job(config, 'configs/pretrain.py', tmp_path / 'run'))
    assert not (tmp_path / 'run').exists()


def test_the_last_words_go_with_the_data_that_were_given():
    config = pretrain.get_config()
    assert "--config.data.text='my/*.txt'" in jobs._after_pretraining(
        jobs.Job(config, 'configs/pretrain.py', Path('w')), {}
    )
    config.data.corpus = 'mine'
    said = jobs._after_pretraining(jobs.Job(config, 'configs/pretrain.py', Path('w')), {})
    assert '--config.data.corpus=mine --config.init_from=w' in said and 'my/*.txt' not in said


def test_an_unknown_variant_lists_the_known_ones():
    with pytest.raises(ValueError, match='cpu, small, base, paper'):
        pretrain.get_config('large')


def test_the_papers_values():
    config = pretrain.get_config('paper')
    assert (config.batch_size, config.total_steps, config.optim.learning_rate) == (960, 300_000, 2e-5)
    assert (config.loss.sop_weight, config.loss.contrast_weight, config.loss.temperature) == (1, 1, 0.05)
    assert (config.data.mask_rate, config.data.max_anchors) == (0.15, 20)
    assert (config.model.hidden_size, config.model.num_layers, config.model.num_heads) == (768, 12, 12)
    assert config.model.intermediate_size == 3072 and config.loss.mlm_candidates == 'shared'
    assert config.loss.same_word_negatives and config.loss.contrast_scope == 'global'


@pytest.mark.parametrize(
    'config, expected',
    [
        (classify.get_config('chnsenticorp'), (256, 32, 3e-5, 10)),
        (classify.get_config('thucnews'), (512, 16, 3e-5, 10)),
        (classify.get_config('tnews'), (128, 32, 3e-5, 10)),
        (classify.get_config('bq'), (128, 64, 3e-5, 10)),
        (classify.get_config('lcqmc'), (128, 64, 3e-5, 10)),
        (classify.get_config('ocnli'), (128, 32, 3e-5, 10)),
        (classify.get_config('xnli'), (128, 64, 3e-5, 10)),
        (cmrc.get_config(), (512, 8, 3e-5, 5)),
        (drcd.get_config(), (512, 8, 3e-5, 5)),
    ],
    ids=lambda value: value.data.dataset if hasattr(value, 'data') else '',
)
def test_the_papers_table_1(config, expected):
    assert settings(config) == expected


def test_what_is_not_in_table_1_has_settings_of_its_own():
    assert settings(classify.get_config('afqmc')) == (128, 64, 2e-5, 3)
    assert settings(classify.get_config()) == (128, 64, 2e-5, 3)
    assert 'afqmc' not in classify.TABLE_1
    others = set(classify.SETTINGS) - set(classify.TABLE_1)
    named = re.search(r'or ([a-z, ]+), which are not in the paper', ' '.join(classify.__doc__.split()))
    assert set(named[1].split(', ')) == others
    assert all('--config.seeds=5' in module.__doc__ for module in (classify, cmrc, drcd))


def test_default_workdir():
    assert command_line.default_workdir('configs/pretrain.py') == Path('runs/pretrain')
    assert command_line.default_workdir('configs/pretrain.py:small') == Path('runs/pretrain-small')
