"""Ids of the BERT that a run started from, whose vocabulary may be larger than the run's."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from clower_jax.interop import init_weights, vocab_alignment, weight_sources
from clower_jax.utils import folder_files


def put_back(
    source: str | Path, params: Mapping[str, np.ndarray], tokens: list[str]
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Parameters with the base rows of their token table, and of the MLM head's bias, at the ids that a BERT
    has for these tokens, between its own rows; and that BERT's tokens."""
    info, theirs = init_weights.load_token_rows(source)
    place = vocab_alignment.fit(
        info.tokens[: info.base_size], info.base_size, vocab_alignment.OwnVocabulary(tokens, len(tokens)),
        Path(source), 'The model whose ids are asked for',
    ).of  # fmt: skip
    found = dict(params)
    for path, value in params.items():
        if path.endswith(init_weights.TOKEN_ROWS):
            kept = theirs.get(path, np.zeros((info.base_size, *value.shape[1:]), np.float32))
            if kept.shape[1:] != value.shape[1:]:
                width, ours = kept.shape[1], value.shape[1]
                raise ValueError(f'{source} has token rows of width {width}, not {ours}: it is another model')
            found[path] = np.array(kept[: info.base_size], np.float32)
            found[path][place] = value[: len(tokens)]
    return found, info.tokens[: info.base_size]


def of_initial(config: Mapping[str, Any], tokens: list[str]) -> tuple[str, str]:
    """The name of the BERT that a run started from, over other runs too: first where it has these tokens
    under the same ids; second where it has them under others. '' where it has not, there is none, or it is
    not at hand any more."""
    before: set[str] = set()
    source = config.get('init_from') or ''
    while source not in before and weight_sources.is_workdir(source):
        before.add(source)
        source = folder_files.read_json(Path(source, 'config.json')).get('init_from') or ''
    try:
        info = weight_sources.source_info(source) if source not in {'', *before} else None
    except (ValueError, OSError):
        info = None
    theirs, name = info.tokens[: info.base_size] if info else [], Path(source).resolve().name
    return name * (theirs == tokens), name * (theirs != tokens and set(tokens) <= set(theirs))
