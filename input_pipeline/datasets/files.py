"""Which files a fine-tuning job reads."""

from pathlib import Path

from ml_collections import ConfigDict

from input_pipeline.datasets import hub

# Split → config key. What is optional in a mode is read where it is there.
KEYS = {'train': 'train', 'validation': 'dev', 'test': 'test'}
_SPLITS = {'train': ('train', 'validation', 'test'), 'evaluate': ('validation', 'test'), 'predict': ('test',)}


def paths(config: ConfigDict) -> dict[str, str]:
    """Split ('train', 'validation', 'test') → file: those that `config.mode` reads and that are there.

    To evaluate vectors on (`data.evaluation`), and of multiple choice, may be several files, as 'a.tsv,b.tsv'
    (`files_of`).

    A name with {language} in it stands for several files, which are looked at when they are read.

    A file is `data.train`, `data.dev` or `data.test`; where that is empty, the first of the data set's
    official names (`hub.SOURCES`) that is in `data.folder`. Official files do not mix with a named train: it
    goes with a named dev and test, or with none. To evaluate takes what of dev and test is named, or, where
    neither is, what is there; to predict takes test.

    Raises FileNotFoundError where a named or a needed file is missing, ValueError where the data set is
    unknown.
    """
    data, mode = config.data, config.mode
    if data.dataset and data.dataset not in hub.SOURCES:
        raise ValueError(f'data.dataset={data.dataset!r} must be empty or one of {", ".join(hub.SOURCES)}')
    by_split = {split: data[KEYS[split]] for split in _SPLITS[mode] if data[KEYS[split]]}
    for split, paths in by_split.items():
        several = config.get('task') == 'choose' or 'evaluation' in data and split != 'train'
        for path in files_of(paths) if several else [paths]:
            if not hub.is_name(path) and '{language}' not in path and not Path(path).is_file():
                raise FileNotFoundError(f'data.{KEYS[split]}={paths}: there is no such file, {path}')
    if data.dataset and not ('train' in by_split if mode == 'train' else by_split):
        for split in set(_SPLITS[mode]) - set(by_split):
            names = hub.SOURCES[data.dataset].files.get(KEYS[split], ())
            for path in (_in_folder(data.folder, name) for name in names):
                parts = by_language(path, languages(data, split))
                complete = all(Path(file).is_file() for part, _ in parts for file in files_of(part))
                if split not in by_split and parts and complete:
                    by_split[split] = path
    needed = {'train': 'train', 'predict': 'test'}.get(mode)
    if needed and needed not in by_split or not by_split:
        missing = hub.missing(data.dataset, data.folder, needed or 'dev')
        raise FileNotFoundError(missing.replace('{language}', data.get('language', '') or 'LANGUAGE'))
    return {split: by_split[split] for split in _SPLITS[mode] if split in by_split}


def _in_folder(folder: str, names: str) -> str:
    """'a.json,b.json' → 'folder/a.json,folder/b.json'."""
    return ','.join(str(Path(folder, name)) for name in names.split(','))


def files_of(paths: str) -> list[str]:
    """'a.tsv,b.tsv' → its files; one file whose name has a comma stays one."""
    return [paths] if Path(paths).is_file() else [path.strip() for path in paths.split(',')]


def languages(data: ConfigDict, split: str) -> tuple[str, ...]:
    """Those that are read of a split, 'a,b' as ('a', 'b'): `data.language`, of test `data.test_language` if
    there is one; empty: whatever there is."""
    chosen = data.get('test_language', '') if split == 'test' else ''
    return tuple(filter(None, (chosen or data.get('language', '')).split(',')))


def by_language(path: str, chosen: tuple[str, ...]) -> list[tuple[str, tuple[str, ...]]]:
    """A file and the languages that are read from it; where {language} is in its name a file for each of
    those that are chosen."""
    if '{language}' not in path:
        return [(path, chosen)]
    return [(path.replace('{language}', language), (language,)) for language in chosen]


def check_size(data: ConfigDict, split: str, size: int) -> None:
    """Warns where an official file has another number of examples than was published."""
    if not data[KEYS[split]] and len(languages(data, split)) < 2:
        hub.check_size(data.dataset, KEYS[split], size)
