"""The command line of run.py, read before JAX, TensorFlow and the like are imported, which takes seconds:
help, and what is wrong with it in one line."""

import ast
import difflib
import inspect
import os
import re
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from absl import flags
from ml_collections import ConfigDict, config_flags

from clower_jax.utils import config_checks, config_keys

HELP_FLAGS = ('help', 'helpshort', 'helpfull', 'h')
NOT_JOBS = ('__init__.py', 'common.py')  # of the folder of configs
HELP_WIDTH = 110
# What a key with a value of a type takes.
EXPECTED = {bool: 'True or False', int: 'a whole number', float: 'a number', tuple: 'a list as a,b'}


def parse(argv: Sequence[str], about: str) -> None:
    """Parses the flags of `argv`, --config and its keys among them, into `flags.FLAGS`.

    Leaves with help (status 0), or, where the command line is wrong, with one line that says what there is
    (status 1). `about`: what the command is, for its help.
    """
    config_file = _flag_value(argv, 'config')
    if any(re.fullmatch(rf'--?({"|".join(HELP_FLAGS)})', arg) for arg in argv[1:]):
        print(help_of(config_file) if config_file else _usage(about))
        sys.exit(0)
    if not config_file:
        refuse(f'--config is missing: give one of {", ".join(_jobs())} (--help says more)')
    config = load(config_file)
    for key in _overridden_keys(argv):
        if not _has_key(config, key):
            refuse(unknown_key(key, config, config_file))
        if key.rpartition('.')[2] == 'task':
            refuse(f'--config.{key}: the task is that of the job; choose another by --config=configs/JOB.py')
    try:
        rest = flags.FLAGS(list(argv))
    except flags.UnrecognizedFlagError as error:
        hint = f': write --config.{error.flagname}' if _has_key(config, error.flagname) else ''
        refuse(f'{str(error).rstrip()}{hint}')
    except flags.Error as error:
        match = re.match(r'flag (--config\.([^=]+)=.*?): ', str(error).splitlines()[0])
        expected = EXPECTED.get(type(_lookup(config, match[2].split('.')))) if match else None
        refuse(f'{match[1]}: {expected} is wanted' if match and expected else _last_line(str(error)))
    except (ValueError, RecursionError) as error:  # of a key that is no name, such as 'model[x'
        refuse(f'the command line cannot be read ({_last_line(str(error))})')
    if rest[1:]:
        refuse(f'unknown arguments: {" ".join(rest[1:])}; a key is set as --config.KEY=VALUE')
    try:
        config_checks.check_job(flags.FLAGS.config)
    except ValueError as error:
        refuse(str(error))


def refuse(problem: str) -> NoReturn:
    """Leaves with status 1 and the problem as the last line, whatever it quotes."""
    sys.exit(re.sub(r'[\x00-\x1f\x7f-\x9f\u2028\u2029]', lambda c: repr(c[0])[1:-1], f'run.py: {problem}'))


def load(config_file: str) -> ConfigDict:
    """The config of 'configs/<job>.py[:variant]' as it is without any flag. Leaves with one line where there
    is no such file or variant."""
    file, _, variant = config_file.partition(':')
    if not os.path.isfile(file):  # also of a name that no file can have
        refuse(
            f'--config={config_file}: there is no such file. {_suggest_job(file)}There are '
            f'{", ".join(_jobs())}'
        )
    values = flags.FlagValues()
    argv = ['run.py', f'--config={config_file}']
    config_flags.DEFINE_config_file('config', flag_values=values, sys_argv=argv)
    try:
        values(argv)
    except flags.IllegalFlagValueError as error:
        if re.search(r'get_config\(\) takes 0 positional arguments', str(error)):
            refuse(f'--config={config_file}: {file} has no variants, so no {variant!r}')
        refuse(_last_line(str(error)))
    return values['config'].value


def default_workdir(config_file: str) -> Path:
    """'configs/pretrain.py:small,no_tcl' → runs/pretrain-small-no_tcl."""
    job, _, variant = config_file.partition(':')
    return Path('runs', '-'.join(x for x in (Path(job).stem, *variant.split(',')) if x))


def unknown_key(key: str, config: ConfigDict, config_file: str) -> str:
    """One line: a key that a config has not, those that may be meant, and those that there are beside it."""
    *parents, _ = key.split('.')
    while parents and not isinstance(_lookup(config, parents), ConfigDict):
        parents.pop()
    section = '.'.join(['config', *parents])
    similar = similar_keys(key, list(config_checks.flatten(config.to_dict())))
    suggestion = f'did you mean {" or ".join(f"--config.{name}" for name in similar)}? ' if similar else ''
    return (
        f'--config.{key}: {config_file} has no such key; {suggestion}{section} has '
        f'{", ".join(_lookup(config, parents))} (--config={config_file} --help lists all)'
    )


def similar_keys(key: str, keys: Sequence[str]) -> list[str]:
    """At most three of the dotted keys that one may mean who writes `key`, the likeliest first: the same name
    in another place, its initials ('lr'), a part of its words ('epochs'), a slip."""
    parent, _, leaf = key.rpartition('.')

    def words(name: str) -> list[str]:
        return name.rpartition('.')[2].split('_')

    matchers = (
        lambda name: words(name) == leaf.split('_'),
        lambda name: ''.join(word[0] for word in words(name) if word) == leaf,
        lambda name: set(leaf.split('_')) < set(words(name)),
        lambda name: bool(difflib.get_close_matches(leaf, [name.rpartition('.')[2]], cutoff=0.75)),
    )
    for matches_key in matchers:
        matches = [name for name in keys if matches_key(name)]
        siblings = [name for name in matches if name.rpartition('.')[0] == parent]
        if matches:
            return (siblings or matches)[:3]
    return difflib.get_close_matches(key, keys, n=3, cutoff=0.8)


def help_of(config_file: str) -> str:
    """What a config is for, and every key with its value and what it is for."""
    file, config = Path(config_file.partition(':')[0]), load(config_file)
    lines = [ast.get_docstring(ast.parse(file.read_text(encoding='utf-8'))) or '', '']
    lines += [f'Keys of --config={config_file}, each set as --config.KEY=VALUE:', '']

    def add(tree: ConfigDict, prefix: str) -> None:
        for key, value in tree.items():
            name = prefix + key
            if isinstance(value, ConfigDict) and 'task' in value:
                lines.append(f'{f"  {name}.*":40}the keys of a job of its own, {value.task}')
            elif isinstance(value, ConfigDict):
                add(value, f'{name}.')
            else:
                column = f'  {name}={value}'
                text = textwrap.wrap(config_keys.find(name).about, HELP_WIDTH - 40)
                if len(column) < 39 and text:
                    column = f'{column:40}{text.pop(0)}'
                lines.extend([column, *(' ' * 40 + line for line in text)])

    add(config, '')
    return '\n'.join(lines)


def _usage(about: str) -> str:
    module_flags = flags.FLAGS.get_key_flags_for_module(sys.argv[0])
    lines = [inspect.cleandoc(about), '', 'Flags:', '']
    lines += [f'  --{flag.name:16}{flag.help}' for flag in module_flags]
    lines += ['', 'Jobs; --config=configs/<job>.py --help lists the keys of one:', '']
    for file in _jobs():
        docstring = ast.get_docstring(ast.parse(Path(file).read_text(encoding='utf-8'))) or ''
        lines.append(f'  {file:26}{docstring.partition(chr(10))[0]}')
    return '\n'.join(lines)


def _jobs() -> list[str]:
    return [str(path) for path in sorted(Path('configs').glob('*.py')) if path.name not in NOT_JOBS]


def _suggest_job(file: str) -> str:
    """'Did you mean …? '"""
    stems = {Path(job).stem: job for job in _jobs()}
    near = difflib.get_close_matches(Path(file).stem, stems, n=1, cutoff=0.6)
    return f'Did you mean {stems[near[0]]}? ' if near else ''


def _flag_value(argv: Sequence[str], flag: str) -> str:
    for index, arg in enumerate(argv[1:], 1):
        if re.fullmatch(rf'--?{flag}', arg):
            return argv[index + 1] if index + 1 < len(argv) else ''
        if match := re.match(rf'--?{flag}=', arg):
            return arg[match.end() :]
    return ''


def _overridden_keys(argv: Sequence[str]) -> list[str]:
    """The dotted keys that are set."""
    matches = (re.match(r'--?(?:no)?config\.([^=\[]+)', arg) for arg in argv[1:])
    return [match[1] for match in matches if match]


def _lookup(config: ConfigDict, path: Sequence[str]) -> Any:
    """A value of any kind, or a group of them; None where there is none."""
    for name in path:
        config = config[name] if isinstance(config, ConfigDict) and name in config else None
    return config


def _has_key(config: ConfigDict, key: str) -> bool:
    *parents, leaf = key.split('.')
    section = _lookup(config, parents)
    return isinstance(section, ConfigDict) and leaf in section


def _last_line(message: str) -> str:
    """The last line of a message, without the name of the error in it and where it came from."""
    last = message.strip().splitlines()[-1].strip()
    return re.sub(r'^\w+Error: ', '', last)
