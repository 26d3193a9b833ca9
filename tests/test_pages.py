"""What the pages show is there: their commands parse, with keys, flags and values as the programs take them;
keys, files and names that they mention exist; their Python runs. (make docs checks their links.)"""

import argparse
import contextlib
import importlib.util
import io
import itertools
import pkgutil
import re
import runpy
import shlex
import tomllib
import types
from pathlib import Path

import pytest
import yaml
from absl import flags
from ml_collections import config_flags

import clower_jax
import run
from clower_jax.utils import config_checks, config_keys

ROOT = Path(__file__).parents[1]
GUIDES = [ROOT / 'README.md', *(ROOT / 'docs' / name for name in ('quick_start.md', 'faq.md'))]
GUIDES += [*sorted((ROOT / 'docs' / 'how_to').glob('*.md')), ROOT / 'docs' / 'scaling' / 'README.md']
REFERENCES = [
    ROOT / 'CONTRIBUTING.md',
    *sorted((ROOT / 'docs').glob('[!l]*.md')),
    ROOT / 'docs/results/plan.md',
]
PAGES = list(dict.fromkeys([*GUIDES, *REFERENCES]))
# Commands of others, and of shells.
FOREIGN = 'cd docker export gcloud git hf jupyter kubectl pip pre-commit sbatch source tensorboard'.split()
# Of a command with words to put in.
FORM = re.compile(r'…|\[-|\[:|<\w+>|\b[A-Z]\b|\bDIR\b|^python -m [\w.]+$')


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(text: str, *languages: str) -> list[str]:
    fenced = re.findall(r'^```(\w*)\n(.*?)^```', text, re.MULTILINE | re.DOTALL)
    return [body for language, body in fenced if language in languages]


def commands(text: str) -> list[str]:
    """Those in blocks, and those in lines of text that are no forms."""
    lines = [
        line for block in blocks(text, 'bash', '') for line in block.replace('\\\n', ' ').splitlines() if line
    ]
    prose = re.sub(r'^```.*?^```', '', text, flags=re.MULTILINE | re.DOTALL)
    inline = re.findall(
        r'`((?:[A-Z_]+=\S+ )*(?:python (?:run\.py|-m|bench/\S+|tests/\S+)|make|pip install) [^`]+)`', prose
    )
    lines += [line for line in inline if not FORM.search(line)]
    return [part.strip() for line in lines for part in line.partition('  #')[0].split('&&')]


def check(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Raises an error of any kind where a command is none."""
    words = shlex.split(command, comments=True)
    while words and (re.fullmatch(r'[A-Z_]+=.*', words[0]) or words[0] == 'srun'):
        del words[0]
    match words:
        case ['make', *rest]:
            makefile = (ROOT / 'Makefile').read_text('utf-8')
            for word in rest:
                name = word.partition('=')[0]
                pattern = rf'^{name} \?=' if '=' in word else rf'^{name}:'
                assert re.search(pattern, makefile, re.MULTILINE), f'make has no {name}'
        case ['pip', 'install', *rest]:
            extras = tomllib.loads((ROOT / 'pyproject.toml').read_text('utf-8'))['project'][
                'optional-dependencies'
            ]
            for wanted in re.findall(r'(?:^|\s)(?:\.|clower-jax)\[([\w,]+)\]', ' '.join(rest)):
                assert set(wanted.split(',')) <= set(extras), wanted
        case ['python', 'run.py', *rest]:
            check_job(rest)
        case ['python', '-m', ('pytest' | 'helpers.architecture' | 'helpers.frozen' | 'fuzz'), *_]:
            pass
        case ['python', '-m', module, *rest]:
            check_arguments(module, rest, monkeypatch)
        case ['python', script, *rest] if script.startswith(('bench/', 'tests/')):
            source = (ROOT / script).read_text('utf-8')
            for flag in re.findall(r'(?:^|\s)(--[\w-]+)', ' '.join(rest)):
                assert f"'{flag}'" in source, f'{script} has no {flag}'
        case _:
            assert not words or words[0] in FOREIGN, f'{command}: what is {words[0]}?'


def check_job(arguments: list[str]) -> None:
    """As run.py parses them, with the ranges of numbers, and nothing imported or run."""
    argv = ['run.py', *arguments]
    if '--help' in argv:
        argv.remove('--help')
    values = flags.FlagValues()
    config_flags.DEFINE_config_file('config', lock_config=True, flag_values=values, sys_argv=argv)
    for flag in flags.FLAGS.get_key_flags_for_module(run):
        if flag.name != 'config':
            define = flags.DEFINE_bool if flag.boolean else flags.DEFINE_string
            define(flag.name, None, '', flag_values=values)
    rest = values(argv)
    assert rest == ['run.py'], rest
    config_checks.check_job(values['config'].value)


class Parsed(Exception):  # noqa: N818 (it is none)
    """Nothing was wrong with the command line."""


def check_arguments(module: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    parse = argparse.ArgumentParser.parse_args

    def parse_only(parser, *args, **kwargs):
        parse(parser, *args, **kwargs)
        raise Parsed

    with monkeypatch.context() as patch, pytest.raises(Parsed):
        patch.setattr(argparse.ArgumentParser, 'parse_args', parse_only)
        patch.setattr('sys.argv', [module, *arguments])
        runpy.run_module(module, run_name='__main__')


@pytest.mark.filterwarnings('ignore:.*found in sys.modules:RuntimeWarning')
@pytest.mark.filterwarnings(r'ignore:the load_module\(\) method:DeprecationWarning')  # of ml_collections
@pytest.mark.parametrize('page', PAGES, ids=name_of)
def test_commands_parse(page, monkeypatch):
    monkeypatch.chdir(ROOT)
    wrong = []
    for command in commands(page.read_text('utf-8')):
        output = io.StringIO()
        try:
            with contextlib.redirect_stderr(output):
                check(command, monkeypatch)
        except (Exception, SystemExit) as error:
            wrong.append(f'{command}\n    {type(error).__name__}: {error} {output.getvalue()[-300:]}')
    assert not wrong, '\n'.join(wrong)


def test_commands_are_found():
    text = """
```bash
make demo && make test  # both
python run.py \\
--config=a.py
```
Then `pip install torch`, `python -m a --b` or `python -m a --b DIR`.
```
make lint
```
"""
    assert commands(text) == [
        *('make demo', 'make test', 'python run.py  --config=a.py'),
        *('make lint', 'pip install torch', 'python -m a --b'),
    ]


@pytest.mark.filterwarnings(r'ignore:the load_module\(\) method:DeprecationWarning')
@pytest.mark.parametrize(
    'command',
    [
        'python run.py --config=configs/pretrain.py:huge',
        'python run.py --config=configs/pretrain.py --config.optim.rate=1',
        'python run.py --config=configs/pretrain.py --config.seed=-1',
        'python run.py --config=configs/pretrain.py --work=runs/a',
        'python -m input_pipeline.build_corpus --input a.txt --vocab v.txt --folder corpus',
        'python -m clower_jax.convert exprot --checkpoint a --output b',
        'python bench/step.py --sices small',
        'make dmeo',
        "make demo TXT='my/*.txt'",
        "pip install 'clower-jax[gpus]'",
        'clower --help',
    ],
)
def test_a_wrong_command_is_found(command, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises((Exception, SystemExit)):
        check(command, monkeypatch)


@pytest.mark.parametrize('page', PAGES, ids=name_of)
def test_keys_files_and_names_exist(page):
    text = page.read_text('utf-8')
    told = text.partition('## Three walked examples')[0]  # what they add is not there
    keys = re.findall(r'--config\.([a-z_.]*[a-z_])', told)
    for section, names in re.findall(r'`(model|optim|loss|data|mesh)\.(\{[\w, ]+\}|[a-z_]+)(?!\.?\w)', told):
        keys += [f'{section}.{name.strip()}' for name in names.strip('{}').split(',')]
    assert not [key for key in keys if not config_keys.find(key).about]
    files = re.findall(
        r'(?<![\w/.*=])((?:docs|configs|clower_jax|input_pipeline|tests|bench)/[\w./-]*\w)(?![\w<*{])', told
    )
    assert not [file for file in files if not (ROOT / file).exists()]
    for name in re.findall(r'`((?:clower_jax|input_pipeline)(?:\.\w+)+)`', told):
        pkgutil.resolve_name(name)


# What is run elsewhere, for it wants a reader's files: by tests/test_worked_example.py, test_api.py.
RUN_ELSEWHERE = ('quick_start.md', 'python.md', 'tag.md')


def python_of(page: Path) -> list[str]:
    return blocks(page.read_text('utf-8'), 'python') if page.name not in RUN_ELSEWHERE else []


@pytest.mark.parametrize('name', RUN_ELSEWHERE)
def test_python_that_wants_files_compiles_and_names_what_there_is(name):
    (page,) = [page for page in GUIDES if page.name == name]
    for block in blocks(page.read_text('utf-8'), 'python'):
        for attribute in re.findall(r'\bclower_jax\.(\w+)\(', block):
            assert attribute in clower_jax.__all__
        compile(block, name, 'exec')


@pytest.mark.parametrize('page', [page for page in GUIDES if python_of(page)], ids=name_of)
def test_python_runs(page, monkeypatch):
    """With the small encoders that ship; what a comment says is printed."""
    python = python_of(page)
    monkeypatch.chdir(ROOT)
    names, output = {'__name__': 'page'}, io.StringIO()
    with contextlib.redirect_stdout(output):
        for block in python:
            exec(compile(block, name_of(page), 'exec'), names)
    printed = output.getvalue().splitlines()
    calls = re.findall(r'^print\(.*\)(?:  # ([^:\n]+))?', '\n'.join(python), re.MULTILINE)
    assert len(printed) == len(calls)
    assert [(line, comment) for line, comment in zip(printed, calls) if comment and line != comment] == []


# --- the pages that are made when the site is built


@pytest.fixture(scope='module')
def site_pages():
    spec = importlib.util.spec_from_file_location('site_pages', ROOT / 'docs' / 'site_pages.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_reference_has_every_key_and_every_variant(site_pages):
    groups = site_pages.key_groups()
    assert list(itertools.chain.from_iterable(groups.values())) == list(config_keys.KEYS)
    keys, jobs = site_pages.keys_page(), site_pages.jobs_page()
    assert '`optim.learning_rate` | `0.0001` | its peak | 0 … 1000 | training |' in keys
    assert '`mode` | `train` |' in keys and '`train`, `evaluate`, `predict` |' in keys
    assert '| `:mm_bert` | `loss.contrast_on=none`, `loss.sop_on=none` |' in jobs
    for path in (ROOT / 'configs').glob('*.py'):
        if path.name not in ('__init__.py', 'common.py'):
            assert f'\n## configs/{path.name}\n' in jobs


def test_variants_are_those_that_a_job_names(site_pages):
    """A job refuses a variant that it has not with those that it has."""
    for job, module in site_pages._jobs().items():
        try:
            module.get_config('none_such')
        except TypeError:  # takes none
            known = []
        except ValueError as error:
            known = re.findall(
                r'[\w,]+', str(error).partition(' it has ')[2] or str(error).partition(' variants ')[2]
            )
            known = {name.strip(',') for name in known} - {'and', 'no', 'none_such', 'so'}
        shown = {name for name in site_pages.variants(job, module) if name}
        assert {part for name in shown for part in name.split(',')} == {
            part for name in known for part in name.split(',')
        }, job


def test_links_lead_to_pages(site_pages):
    links = site_pages.site_links
    assert (
        links('[a](docs/how_to/compare.md#x) [b](LICENSE)', 'index.md')
        == '[a](how_to/compare.md#x) [b](LICENSE)'
    )
    assert links('[a](../../CONTRIBUTING.md) [b](../results.md)', 'how_to/index.md') == (
        '[a](../contributing.md) [b](../results.md)'
    )
    assert links('[a](../configs) [b](../clower_jax/ops)', 'faq.md') == (
        '[a](reference/jobs.md) [b](reference/api/clower_jax/ops.md)'
    )
    assert links('[a](architecture.svg)', 'reference/commands.md') == '[a](../architecture.svg)'
    assert links('[a](https://b.org/c) [b](#c)', 'faq.md') == '[a](https://b.org/c) [b](#c)'


def test_every_page_is_in_the_navigation(site_pages):
    nav = yaml.safe_load((ROOT / 'mkdocs.yml').read_text('utf-8'))['nav']
    how_to = next(entry['How to'] for entry in nav if 'How to' in entry)
    how_to.remove('how_to/vectors.md')  # as a page that somebody adds
    config = types.SimpleNamespace(nav=nav)
    leaves = list(site_pages._leaves(site_pages.on_config(config).nav))
    written = {path.relative_to(ROOT / 'docs').as_posix() for path in (ROOT / 'docs').rglob('*.md')}
    shown = {page for page in written if not page.startswith('results/')} | set(site_pages.pages())
    assert shown <= set(leaves) <= shown | written
    assert len(leaves) == len(set(leaves))
    assert leaves[leaves.index('how_to/extend.md') + 1] == 'how_to/vectors.md'


def test_a_missing_section_is_named(site_pages):
    with pytest.raises(
        ValueError, match="docs/architecture.md has no section '9. More'; it has 1. The method"
    ):
        site_pages.sections('docs/architecture.md', 'More', ('9. More',))
