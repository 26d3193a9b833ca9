"""report.html: everything of a run on one page, which needs nothing else and fits windows of any width."""

import html.parser
import json
import re
import shutil
import subprocess

import jax
import numpy as np
import pytest

from clower_jax.objectives.base import ShowsMistakes
from clower_jax.objectives.registry import from_config
from clower_jax.reports import environment, examples, page, run_report
from clower_jax.reports.history import History
from clower_jax.reports.plots import draw_curves
from helpers import synthetic
from input_pipeline.datasets.labelled import Example
from input_pipeline.finetuning.classification import Classification
from input_pipeline.text.vocabulary import Vocabulary

CHROMIUM = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
WIDTHS = (360, 1280)  # a phone's and a screen's
VOCABULARY = synthetic.Vocabulary()
ROWS = [
    {'step': 2, 'split': 'train', 'loss': 9.5, 'lr': 0.1, 'skipped_steps': 1.0},
    {'step': 2, 'split': 'validation', 'loss': 9.25, 'acc_mlm_char': 0.5},
    {'step': 2, 'split': 'event', 'best_lost': 'best/2: a file is missing'},
    {'step': 4, 'split': 'validation', 'loss': 8.125, 'acc_mlm_char': 0.75},
]
MANIFEST = {
    'input': [{'path': '/home/me/<b>mine.txt'}],
    'input_read': {'documents': {'read': 12, 'kept': 11, 'dropped': {'nul': 1}}},
    'documents': {
        'read': 11, 'kept': 9, 'train': 8, 'validation': 1,
        'dropped': {'duplicate': {'count': 2, 'examples': ['mine.txt:3', 'mine.txt:9']}},
    },
    'characters': 12345, 'segmenter': {'name': 'jieba', 'version': '0.42.1'},
}  # fmt: skip


def shown_of(config):
    """What an evaluation gives of the first batch, and the parts that it was made of."""
    objective = from_config(config)
    params = synthetic.random_params(objective)
    batch = next(synthetic.batches(config, split='validation'))
    return objective, params, batch, jax.device_get(jax.jit(objective.evaluate)(params, batch)[1])


@pytest.fixture(scope='module')
def clower():
    return shown_of(synthetic.tiny_config(**{'model.num_layers': 1}))


@pytest.fixture(scope='module')
def folder(tmp_path_factory, clower):
    """A workdir with the report of a pre-training whose rate was changed on the way."""
    workdir = tmp_path_factory.mktemp('work') / '<i>run'
    workdir.mkdir()
    settings = json.loads(synthetic.tiny_config().to_json())
    settings['history'] = [{'until_step': 2, 'settings': {'optim.learning_rate': 0.25}}]
    draw_curves(ROWS, workdir / 'curves.png')
    shown = examples.of_pretraining(VOCABULARY.tokens, [clower[3]])
    run_report.write(workdir, settings, History(ROWS), manifest=MANIFEST, examples=shown)
    return workdir


class Text(html.parser.HTMLParser):
    """The cells of all tables, and what the page would load."""

    def __init__(self, source):
        super().__init__()
        self.rows, self.loads, self.links = [], [], []
        self.feed(source)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.loads += [attributes[name] for name in ('src', 'srcset', 'data') if name in attributes]
        self.links += [attributes['href']] if 'href' in attributes else []
        assert tag not in ('script', 'link', 'iframe', 'object')
        if tag == 'tr':
            self.rows.append([])
        elif tag in ('td', 'th'):
            self.rows[-1].append('')
        self._in_cell = tag in ('td', 'th') or self.rows and getattr(self, '_in_cell', False)

    def handle_endtag(self, tag):
        if tag in ('td', 'th'):
            self._in_cell = False

    def handle_data(self, data):
        if getattr(self, '_in_cell', False):
            self.rows[-1][-1] += data


@pytest.fixture(scope='module')
def parsed(folder):
    return Text((folder / page.NAME).read_text('utf-8'))


@pytest.mark.slow
def test_the_page_loads_nothing_and_runs_nothing(parsed, folder):
    assert all(load.startswith('data:image/png;base64,') for load in parsed.loads) and parsed.loads
    assert all(link.startswith('#') for link in parsed.links if 'arxiv' not in link)
    source = (folder / page.NAME).read_text('utf-8')
    assert "default-src 'none'; img-src data:" in source and not re.search(r'url\(|@import', source)


@pytest.mark.slow
def test_what_files_say_is_shown_not_used(folder):
    source = (folder / page.NAME).read_text('utf-8')
    assert '<i>' not in source and '&lt;i&gt;run' in source
    assert '<b>' not in source and '&lt;b&gt;mine' in source


def test_figures_are_those_of_the_files(parsed):
    rows = parsed.rows
    assert ['4', '8.125', '0.75'] in rows and ['2', '9.25', '0.5'] in rows
    assert ['corpus', 'documents of the input', '12', '11', 'nul 1'] in rows
    assert ['corpus', 'documents, of these', '11', '9', 'duplicate 2'] in rows
    assert ['2', 'optim.learning_rate', '0.25', '0.001'] in rows
    assert ['2', 'best_lost: best/2: a file is missing'] in rows
    batch_size = next(row for row in rows if row[0] == 'batch_size')
    assert batch_size[1] == '8'
    assert ['jax', jax.__version__] in rows


@pytest.mark.slow
def test_guesses_are_the_likeliest_tokens(clower):
    """Against the logits of the whole vocabulary."""
    objective, params, batch, shown = clower
    model, variables = objective.model, {'params': params}
    for view in ('char', 'word'):
        hidden = model.apply(variables, batch)[view]['hidden']
        positions = batch[f'{view}_mlm_positions']
        logits = np.asarray(model.apply(variables, view, hidden, positions, method='mlm_logits'))[:2]
        order = np.argsort(-logits, axis=-1)[..., :3]
        shares = np.exp(logits - logits.max(-1, keepdims=True))
        shares /= shares.sum(-1, keepdims=True)
        np.testing.assert_array_equal(shown[f'{view}_guesses'], order)
        np.testing.assert_allclose(shown[f'{view}_shares'], np.take_along_axis(shares, order, -1), rtol=1e-4)


@pytest.mark.slow
def test_words_are_found_by_their_characters(clower):
    objective, params, batch, shown = clower
    out = objective.model.apply({'params': params}, batch)
    hidden = {view: np.asarray(out[view]['hidden']) for view in ('char', 'word')}
    starts, lengths = batch['anchor_char_start'], batch['anchor_char_length']

    def unit(x):
        return x / np.linalg.norm(x)

    def word(row, anchor):
        return unit(hidden['word'][row, batch['anchor_word_position'][row, anchor]])

    everything = [(b, j) for b, j in np.ndindex(lengths.shape) if lengths[b, j]]
    for row, anchor in [(b, j) for b, j in everything if b < 2]:
        first = starts[row, anchor]
        chars = unit(hidden['char'][row, first : first + lengths[row, anchor]].mean(0))
        found = sorted(((chars @ word(b, j), batch['anchor_ids'][b, j]) for b, j in everything), reverse=True)
        cosines, ids = zip(*found[:5])
        np.testing.assert_allclose(shown['near_cosines'][row, anchor], cosines, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(shown['near_ids'][row, anchor], ids)
        own = shown['anchor_cosines'][row, anchor, anchor]
        assert own == pytest.approx(chars @ word(row, anchor), rel=1e-4)


def test_masked_texts_say_what_was_there(clower):
    _, _, batch, shown = clower
    section = examples.of_pretraining(VOCABULARY.tokens, [shown])
    texts = [block for block in section.blocks if isinstance(block, page.MaskedText)]
    assert len(texts) == 4  # two texts, as characters and as words
    masked = [token.truth for token in texts[0].tokens if token.guesses]
    labels = batch['char_mlm_labels'][0]
    assert masked == [VOCABULARY.tokens[i] for i in labels[labels >= 0]]
    assert not examples.of_pretraining(VOCABULARY.tokens, []).blocks


@pytest.mark.slow
@pytest.mark.parametrize('changes', [{'microbatches': 4}, {'microbatches': 2}])
def test_in_parts_the_same_rows_are_shown(clower, changes):
    *_, shown = shown_of(synthetic.tiny_config(**{'model.num_layers': 1}, **changes))
    rows = len(shown['char_guesses'])
    for name in ('char_guesses', 'word_guesses', 'char_ids', 'near_ids'):
        np.testing.assert_array_equal(shown[name][:2], clower[3][name][: min(2, rows)], err_msg=name)


@pytest.mark.slow
def test_a_system_with_one_encoder_shows_it_alone():
    config = synthetic.tiny_config(
        **{'model.num_layers': 0, 'model.kind': 'bert', 'loss.contrast_on': 'none', 'loss.sop_on': 'none'}
    )
    *_, shown = shown_of(config)
    blocks = examples.of_pretraining(VOCABULARY.tokens, [shown]).blocks
    assert [type(block) for block in blocks] == [page.MaskedText] * 2


def test_wrong_answers_come_with_the_surest_first():
    base = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', *'一丁七万']
    data = [
        Example(text, None, label, f'/a/f.tsv:{n}') for n, (text, label) in enumerate(zip('一丁七万', 'abab'))
    ]
    split = Classification(data, ('a', 'b'), Vocabulary(base, len(base)), 16)
    assert isinstance(split, ShowsMistakes)
    logits = np.array([[0, 1], [3, 0], [2, 0], [0, 1]], np.float32)  # the first two are wrong
    found = split.mistakes(logits, 5)
    assert [(line['text'], line['label'], line['predicted']) for line in found] == [
        ('丁', 'b', 'a'),
        ('一', 'a', 'b'),
    ]
    assert found[0]['probability'] == '0.953' and found[0]['where'] == 'f.tsv:1'
    assert split.mistakes(logits, 1) == found[:1]
    section = examples.of_mistakes(found, 'test')
    assert section.blocks[0].head == ['text', 'label', 'predicted', 'where', 'probability']


def test_the_command_is_that_of_run_py_alone(monkeypatch):
    monkeypatch.setattr(
        'sys.argv', ['/x/run.py', '--config=configs/pretrain.py', '--config.data.text=my/*.txt']
    )
    assert environment.command() == "python run.py --config=configs/pretrain.py '--config.data.text=my/*.txt'"
    monkeypatch.setattr('sys.argv', ['/x/ipykernel_launcher.py', '-f', 'kernel.json'])
    assert environment.command() == ''


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM, reason='there is no Chromium on this machine')
def test_it_fits_a_narrow_and_a_wide_window(folder, tmp_path):
    """Every picture is there, and what is wider than the window scrolls in a box of its own."""
    source = json.dumps((folder / page.NAME).read_text('utf-8')).replace('</', '<\\/')
    (tmp_path / 'frames.html').write_text(
        f"""<!DOCTYPE html><meta charset="utf-8"><body><script>
        for (const width of {list(WIDTHS)}) {{
          const frame = document.createElement('iframe');
          frame.style = `width: ${{width}}px; height: 900px; border: 0`;
          frame.onload = () => {{
            const page = frame.contentDocument;
            const images = [...page.images].map((image) => image.naturalWidth);
            const size = [page.documentElement.clientWidth, page.documentElement.scrollWidth];
            document.title += JSON.stringify({{ width, size, images }}) + ';';
          }};
          frame.srcdoc = {source};
          document.body.append(frame);
        }}
        </script>""",
        'utf-8',
    )
    command = [CHROMIUM, '--headless', '--no-sandbox', '--disable-gpu', f'--user-data-dir={tmp_path}/profile']
    command += ['--virtual-time-budget=10000', '--dump-dom', f'file://{tmp_path}/frames.html']
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    title = re.search('<title>(.*?);</title>', done.stdout)
    assert title, done.stderr[-2000:]
    for found, width in zip(sorted(map(json.loads, title[1].split(';')), key=lambda x: x['width']), WIDTHS):
        client, scroll = found['size']
        assert found['width'] == width and width - 20 <= client <= width
        assert scroll <= client, f'{width}: the page is {scroll} wide'
        assert found['images'] and all(size > 0 for size in found['images'])
