"""Pages of the documentation site that are made from what is elsewhere (a hook of MkDocs, see mkdocs.yml).

The README is the front page; the method and the file formats are sections of docs/architecture.md; the
reference is made from clower_jax/utils/config_keys.py, configs/ and the docstrings. Links are those that work
in the repository: one to a file that is no page, such as configs/, leads to the page that is made of it.
"""

import ast
import importlib
import math
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from ml_collections import ConfigDict

from clower_jax.utils import command_line, config_keys
from clower_jax.utils.config_checks import flatten
from configs import choose, classify, mirror, pretrain, tag

ROOT = Path(__file__).parents[1]
PACKAGES = ('clower_jax', 'input_pipeline')
API = 'reference/api/'
KEYS_PAGE, JOBS_PAGE = 'reference/config_keys.md', 'reference/jobs.md'
# Files of the repository that are pages as they are.
COPIES = {'README.md': 'index.md', 'CONTRIBUTING.md': 'contributing.md', 'CHANGELOG.md': 'changelog.md'}
CONTRACT = 'docs/architecture.md'
# Pages that are sections of a longer one: that file, their title, the sections by their headings.
SECTIONS = {
    'method.md': (CONTRACT, 'Method', ('1. The method', '5. Numbers, devices, states')),
    'file_formats.md': (
        CONTRACT,
        'File formats',
        ('3. The corpus on disk', '4. The batch', '6. Files of a run'),
    ),
    'reference/commands.md': (CONTRACT, 'Commands', ('7. Commands',)),
    'how_to/extend.md': ('CONTRIBUTING.md', 'Add an objective, a task, a format', ('Three walked examples',)),
}
# Files that are there as they are.
FILES = (
    *('LICENSE', 'CITATION.cff', 'Dockerfile'),
    *(path.relative_to(ROOT).as_posix() for path in sorted((ROOT / 'examples').glob('*.ipynb'))),
)
# Where links to files lead that are no pages.
INSTEAD = {
    **COPIES,
    **{file: file for file in FILES},
    'configs': JOBS_PAGE,
    'clower_jax/utils/config_keys.py': KEYS_PAGE,
}
# Of jobs that have them, '' being none. Others have none.
VARIANTS = {
    'pretrain': ('', 'mini', 'cpu', 'small', 'base', 'paper', *pretrain.SYSTEMS),
    'classify': ('', *classify.SETTINGS),
    'tag': ('', *tag.SETTINGS),
    'choose': ('', *choose.SETTINGS),
    'mirror': (*mirror.SETTINGS, *(f'{name},drophead' for name in mirror.SETTINGS), *mirror.RELATIVES),
    'tables': ('', 'cpu'),
}
LINK = re.compile(r'(\]\(|<img src=")([^)\s#:"]+)((?:#[^)\s]*)?[)"])')


# --- what MkDocs calls


def on_config(config: Any) -> Any:
    """Puts a page for each package, and pages that nobody put there, into the navigation."""
    api = [f'{API}{name}.md' for name in packages()]
    config.nav = _replace(config.nav, API, api)
    known = set(_leaves(config.nav))
    found = sorted(path.relative_to(ROOT / 'docs').as_posix() for path in (ROOT / 'docs').rglob('*.md'))
    for page in found:
        if page not in known and not page.startswith('results/'):
            section = 'How to' if page.startswith('how_to/') else 'Project'
            next(entry[section] for entry in config.nav if section in entry).append(page)
    return config


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages that are made."""
    from mkdocs.structure.files import File

    for uri, text in pages().items():
        files.append(File.generated(config, uri, content=text))
    for file in FILES:
        files.append(File.generated(config, file, abs_src_path=str(ROOT / file)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links as they are in the repository, from the page where it is on the site."""
    return site_links(markdown, page.file.src_uri)


# --- the pages


def pages() -> dict[str, str]:
    """{path on the site: Markdown} of all pages that are made."""
    return {
        **{uri: (ROOT / file).read_text('utf-8') for file, uri in COPIES.items()},
        **{uri: sections(*which) for uri, which in SECTIONS.items()},
        KEYS_PAGE: keys_page(),
        JOBS_PAGE: jobs_page(),
        **{f'{API}{name}.md': api_page(name) for name in packages()},
    }


def sections(file: str, title: str, headings: tuple[str, ...]) -> str:
    """A page of these sections ('## heading') of a file. Raises ValueError where it has no such section."""
    text = (ROOT / file).read_text('utf-8')
    parts = dict(re.findall(r'^## (.+?)\n(.*?)(?=^## |\Z)', text, re.MULTILINE | re.DOTALL))
    missing = [heading for heading in headings if heading not in parts]
    if missing:
        raise ValueError(f'{file} has no section {missing[0]!r}; it has {", ".join(parts)}')
    bodies = [
        (f'## {re.sub("^[0-9]+[.] ", "", heading)}\n' if len(headings) > 1 else '') + parts[heading]
        for heading in headings
    ]
    return f'# {title}\n\n*From [{file}]({posixpath.basename(file)}).*\n\n' + ''.join(bodies)


def keys_page() -> str:
    """Every config key by the groups of config_keys.py."""
    jobs = {job: set(flatten(config.to_dict())) for job, config in _first_configs().items()}
    # What is short for many jobs: those that have all of these keys.
    short = {
        label: [job for job in jobs if marks <= jobs[job]]
        for label, marks in (
            ('all', {'task'}),
            ('training', {'total_steps'}),
            ('fine-tuning', {'num_epochs'}),
        )
    }
    lines = [
        '# Config keys',
        '',
        'Every key is declared once, in `clower_jax/utils/config_keys.py`; this page is made from it. Set '
        'one with `--config.KEY=VALUE`. An unknown key, a wrong type or a value out of its range is refused '
        f'before anything is loaded. Other values that a job sets: [jobs]({JOBS_PAGE.rpartition("/")[2]}).',
        '',
        '*batch*: it decides what a batch holds, so a run that goes on keeps it. Jobs: '
        + '; '.join(f'*{label}* are {", ".join(names)}' for label, names in list(short.items())[1:])
        + '.',
    ]
    for group, keys in key_groups().items():
        lines += [
            '',
            f'## {group}',
            '',
            '| key | default | what it is for | values | jobs |',
            '|---|---|---|---|---|',
        ]
        for name in keys:
            key = config_keys.KEYS[name]
            users = [job for job in jobs if name in jobs[job]]
            label = next((label for label, names in short.items() if names == users), ', '.join(users))
            first = f'<span id="{name}"></span>`{name}`{" *batch*" if key.batches else ""}'
            cells = (first, _value(key.default), _cell(key.about), allowed(key), label)
            lines.append(f'| {" | ".join(cells)} |')
    return '\n'.join(lines) + '\n'


def key_groups() -> dict[str, list[str]]:
    """The keys under the comments of config_keys.py that stand before them."""
    groups: dict[str, list[str]] = {}
    for line in Path(config_keys.__file__).read_text('utf-8').partition('_KEYS = {')[2].splitlines():
        if comment := re.match(r' {4}# (.+?)(\.|$)', line):
            group = groups.setdefault(comment[1], [])
        elif key := re.match(r" {4}'([\w.]+)': Key\(", line):
            group.append(key[1])
    return groups


def allowed(key: config_keys.Key) -> str:
    """The values that a key may have, for a reader."""
    if key.choices:
        return ', '.join(f'`{choice}`' for choice in key.choices)
    if isinstance(key.default, bool):
        return '`True`, `False`'
    one = key.default[0] if isinstance(key.default, tuple) and key.default else key.default
    if isinstance(one, int | float):
        return f'{_number(key.low)} … {_number(key.high)}'
    return 'a list, as `a,b`' if isinstance(one, tuple) else 'text'


def jobs_page() -> str:
    """What each file of configs/ is for, and what its variants set."""
    lines = [
        '# Jobs',
        '',
        'A job is a file of `configs/`, run with `python run.py --config=configs/<job>.py[:variant]`. This '
        'page is made from them: what each is for, the values that are not the defaults of '
        f'[config keys]({KEYS_PAGE.rpartition("/")[2]}), and what each variant sets otherwise.',
    ]
    for job, module in _jobs().items():
        names = variants(job, module)
        first = module.get_config(*names[:1])
        values = _own_values(first)
        differs = {
            key: value
            for key, value in values.items()
            if key != 'task' and value != config_keys.find(key).default
        }
        lines += ['', f'## configs/{job}.py', '', _docstring(module), '']
        where = f' with `:{names[0]}`' if names and names[0] else ''
        lines += [f'Not the defaults{where}: {_assignments(differs)}.', '']
        if names[1:]:
            lines += ['| variant | sets otherwise |', '|---|---|']
        for name in names[1:]:
            others = _own_values(module.get_config(name))
            changed = {key: value for key, value in others.items() if value != values.get(key, ())}
            lines.append(f'| `:{name}` | {_assignments(changed)} |')
    return '\n'.join(lines) + '\n'


def api_page(package: str) -> str:
    """The public names of a package, by mkdocstrings."""
    name = package.replace('/', '.')
    about = ast.get_docstring(ast.parse((ROOT / package / '__init__.py').read_text('utf-8'))) or ''
    modules = sorted(path.stem for path in (ROOT / package).glob('[!_]*.py'))
    entries = '\n'.join(f'\n::: {name}.{module}\n' for module in modules)
    return f'# {name}\n\n{about}\n{entries}'


def packages() -> list[str]:
    """The folders of modules, as 'clower_jax/ops'."""
    return [
        path.parent.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob('__init__.py'))
        if any(path.parent.glob('[!_]*.py'))
    ]


# --- links


def site_links(markdown: str, uri: str) -> str:
    """The links of a page, which are those of the repository, as they are on the site.

    Args:
      uri: the page's path on the site. A page that is made is where its source is.
    """
    source = next((file for file, page in COPIES.items() if page == uri), f'docs/{uri}')
    if uri in SECTIONS:
        source = SECTIONS[uri][0]

    def on_site(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), match[2]))
        if target in INSTEAD:
            page = INSTEAD[target]
        elif target in packages():
            page = f'{API}{target}.md'
        elif target.startswith('docs/'):
            page = target.removeprefix('docs/')
        else:
            return match[0]
        return match[1] + posixpath.relpath(page, posixpath.dirname(uri) or '.') + match[3]

    return LINK.sub(on_site, markdown)


# --- configs


def variants(job: str, module: ModuleType) -> tuple[str, ...]:
    """The variants of a job, the one that others are compared with first; none where it has none."""
    return VARIANTS[job] if job in VARIANTS else tuple(getattr(module, 'VARIANTS', ()))


def _jobs() -> dict[str, ModuleType]:
    files = sorted(path for path in (ROOT / 'configs').glob('*.py') if path.name not in command_line.NOT_JOBS)
    return {path.stem: importlib.import_module(f'configs.{path.stem}') for path in files}


def _first_configs() -> dict[str, ConfigDict]:
    return {job: module.get_config(*variants(job, module)[:1]) for job, module in _jobs().items()}


def _own_values(config: ConfigDict) -> dict[str, Any]:
    """The values by dotted keys, without those of jobs in the job."""
    sections = {
        key: value.to_dict() if isinstance(value, ConfigDict) else value for key, value in config.items()
    }
    return flatten({key: value for key, value in sections.items() if key not in ('pretrain', 'finetune')})


def _docstring(module: ModuleType) -> str:
    """As Markdown: its indented lines are code already."""
    lines = ast.get_docstring(ast.parse(Path(module.__file__ or '').read_text('utf-8'))) or ''
    return '\n'.join(
        line if line.startswith('    ') else line.replace('<', '&lt;').replace('*', r'\*')
        for line in lines.splitlines()
    )


# --- text


def _assignments(values: dict[str, Any]) -> str:
    return ', '.join(f'`{key}={_plain(value)}`' for key, value in values.items()) or 'none'


def _plain(value: Any) -> str:
    return ','.join(map(str, value)) if isinstance(value, tuple) else str(value)


def _value(value: Any) -> str:
    text = _plain(value)
    return f'`{text}`' if text else 'empty'


def _number(number: float) -> str:
    """2^20, 10^9, 2^32 − 1 where it is one of these."""
    for base in (2, 10):
        for less in (0, 1):
            exponent = round(math.log(number + less, base)) if number > 1000 else 0
            if exponent and base**exponent - less == number:
                return f'{base}^{exponent}' + ' − 1' * less
    return f'{number:g}'


def _cell(text: str) -> str:
    return text.replace('|', r'\|').replace('<', '&lt;')


def _leaves(nav: Any) -> Iterator[str]:
    for entry in nav if isinstance(nav, list) else nav.values():
        if isinstance(entry, str):
            yield entry
        else:
            yield from _leaves(entry)


def _replace(nav: Any, entry: str, pages: list[str]) -> Any:
    """A navigation with a list of pages in the place of an entry."""
    if isinstance(nav, dict):
        return {name: _replace(value, entry, pages) for name, value in nav.items()}
    if isinstance(nav, list):
        return [_replace(value, entry, pages) for value in nav]
    return pages if nav == entry else nav
