"""What cut the words that a model was trained on."""

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clower_jax.interop import hf_bert
from clower_jax.interop.weight_sources import is_workdir, source_info
from clower_jax.utils import folder_files
from clower_jax.utils.run_config import read_run_config

log = logging.getLogger(__name__)


def segmenter_of(workdir: str | Path) -> dict[str, Any]:
    """What cut the words that a run, or an exported model with words, was trained on: `name`, and `hmm` and
    more where known."""
    info = source_info(workdir)
    if not is_workdir(workdir):
        return hf_bert.read_segmenter(info.folder) or {'name': 'jieba'}
    config = read_run_config(workdir)
    if info.task != 'pretrain':
        return {name: config['data'][key] for name, key in (('name', 'segmenter'), ('hmm', 'hmm'))}
    return _segmenter(
        config, Path(workdir), find_manifest(config, Path(workdir), info.tokens, info.base_size)
    )


def _segmenter(config: dict, workdir: Path, manifest: dict[str, Any] | None) -> dict[str, Any]:
    """What cut the words that the run was trained on."""
    known = config.get('imported', {}).get('segmenter') or (manifest or {}).get('segmenter')
    if known:
        return known
    name = config.get('data', {}).get('segmenter', 'jieba')
    log.warning(
        'The corpus of %s is not at hand any more, so its words are taken to be cut by %s (data.segmenter)',
        workdir, name,
    )  # fmt: skip
    return {'name': name}


def find_manifest(
    config: dict, workdir: Path, tokens: Sequence[str], base_size: int
) -> dict[str, Any] | None:
    """Of the corpus that the run was trained on, where it can still be read: one of its vocabulary."""
    sha256 = hashlib.sha256(''.join(f'{token}\n' for token in tokens).encode()).hexdigest()
    wanted = {'sha256': sha256, 'base_size': base_size}.items()
    named = config.get('data', {}).get('corpus')
    for folder in (*([Path(named)] if named else []), workdir / 'corpus'):
        manifest = folder_files.read_optional_json(folder / 'manifest.json')
        if manifest and wanted <= manifest.get('vocabulary', {}).items():
            return manifest
    return None
