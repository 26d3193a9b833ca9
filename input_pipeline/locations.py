"""Which files a fine-tuning job reads."""

from pathlib import Path

from ml_collections import ConfigDict

from input_pipeline import hub

# Split → config key. What is optional in a mode is read where it is there.
KEYS = {'train': 'train', 'validation': 'dev', 'test': 'test'}
_SPLITS = {'train': ('train', 'validation', 'test'), 'evaluate': ('validation', 'test'), 'predict': ('test',)}


def paths(config: ConfigDict) -> dict[str, str]:
    """Split ('train', 'validation', 'test') → file: those that `config.mode` reads and that are there.

    A file is `data.train`, `data.dev` or `data.test`; where that is empty, the first of the data set's
    official names (`hub.SOURCES`) that is in `data.folder`. To train takes train and what else there is; to
    evaluate takes what of dev and test is named, or, where neither is, what is there; to predict takes test.

    Raises FileNotFoundError where a named or a needed file is missing, ValueError where the mode is unknown.
    """
    data, mode = config.data, config.mode
    if mode not in _SPLITS:
        raise ValueError(f'mode={mode!r} must be one of {", ".join(_SPLITS)}')
    named = {split: data[KEYS[split]] for split in _SPLITS[mode] if data[KEYS[split]]}
    for split, path in named.items():
        if not hub.is_name(path) and not Path(path).is_file():
            raise FileNotFoundError(f'data.{KEYS[split]}={path}: there is no such file')
    found = dict(named)
    official = hub.SOURCES[data.dataset].files if data.dataset else {}
    if mode == 'train' or not named:
        for split in _SPLITS[mode]:
            candidates = (Path(data.folder, name) for name in official.get(KEYS[split], ()))
            path = next((path for path in candidates if path.is_file()), None)
            if path and split not in found:
                found[split] = str(path)
    needed = {'train': 'train', 'predict': 'test'}.get(mode)
    if needed and needed not in found or not found:
        raise FileNotFoundError(hub.missing(data.dataset, data.folder, needed or 'dev'))
    return {split: found[split] for split in _SPLITS[mode] if split in found}
