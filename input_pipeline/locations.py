"""Which files a fine-tuning job reads."""

from pathlib import Path

from ml_collections import ConfigDict

from input_pipeline import hub

# Split → config key. What is optional in a mode is read where it is there.
KEYS = {'train': 'train', 'validation': 'dev', 'test': 'test'}
_SPLITS = {'train': ('train', 'validation', 'test'), 'evaluate': ('validation', 'test'), 'predict': ('test',)}


def paths(config: ConfigDict) -> dict[str, str]:
    """Split ('train', 'validation', 'test') → file: those that `config.mode` reads and that are there.

    To evaluate vectors on (`data.evaluation`) may be several files, as 'a.tsv,b.tsv' (`files_of`).

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
    found = {split: data[KEYS[split]] for split in _SPLITS[mode] if data[KEYS[split]]}
    for split, paths in found.items():
        for path in files_of(paths) if 'evaluation' in data and split != 'train' else [paths]:
            if not hub.is_name(path) and not Path(path).is_file():
                raise FileNotFoundError(f'data.{KEYS[split]}={paths}: there is no such file, {path}')
    if data.dataset and not ('train' in found if mode == 'train' else found):
        for split in set(_SPLITS[mode]) - set(found):
            names = (Path(data.folder, name) for name in hub.SOURCES[data.dataset].files.get(KEYS[split], ()))
            path = next((path for path in names if path.is_file()), None)
            if path:
                found[split] = str(path)
    needed = {'train': 'train', 'predict': 'test'}.get(mode)
    if needed and needed not in found or not found:
        raise FileNotFoundError(hub.missing(data.dataset, data.folder, needed or 'dev'))
    return {split: found[split] for split in _SPLITS[mode] if split in found}


def files_of(paths: str) -> list[str]:
    """'a.tsv,b.tsv' → its files; one file whose name has a comma stays one."""
    return [paths] if Path(paths).is_file() else [path.strip() for path in paths.split(',')]


def check_size(data: ConfigDict, split: str, size: int) -> None:
    """Warns where an official file has another number of examples than was published."""
    if not data[KEYS[split]]:
        hub.check_size(data.dataset, KEYS[split], size)
