"""Ids of the BERT that a run started from, whose vocabulary may be larger than the run's."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from clower_jax.interop import init_weights, vocab_alignment, weight_sources
from clower_jax.utils import folder_files


def restore_source_ids(
    source: str | Path, params: Mapping[str, np.ndarray], tokens: list[str]
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Parameters with the base rows of their token table, and of the MLM head's bias, at the ids that a BERT
    has for these tokens, between its own rows; and that BERT's tokens."""
    info, source_arrays = init_weights.load_token_rows(source)
    source_rows = vocab_alignment.align_rows(
        info.tokens[: info.base_size], info.base_size, vocab_alignment.SourceVocabulary(tokens, len(tokens)),
        Path(source), 'The model whose ids are asked for',
    ).source_rows  # fmt: skip
    restored = dict(params)
    for path, value in params.items():
        if path.endswith(init_weights.TOKEN_ROWS):
            kept = source_arrays.get(path, np.zeros((info.base_size, *value.shape[1:]), np.float32))
            if kept.shape[1:] != value.shape[1:]:
                width, own_width = kept.shape[1], value.shape[1]
                raise ValueError(
                    f'{source} has token rows of width {width}, not {own_width}: it is another model'
                )
            restored[path] = np.array(kept[: info.base_size], np.float32)
            restored[path][source_rows] = value[: len(tokens)]
    return restored, info.tokens[: info.base_size]


def find_initial_bert(config: Mapping[str, Any], tokens: list[str]) -> tuple[str, str]:
    """The name of the BERT that a run started from, over other runs too: first where it has these tokens
    under the same ids; second where it has them under others. '' where it has not, there is none, or it is
    not at hand any more."""
    visited: set[str] = set()
    source = config.get('init_from') or ''
    while source not in visited and weight_sources.is_workdir(source):
        visited.add(source)
        source = folder_files.read_json(Path(source, 'config.json')).get('init_from') or ''
    try:
        info = weight_sources.source_info(source) if source not in {'', *visited} else None
    except (ValueError, OSError):
        info = None
    source_tokens, name = info.tokens[: info.base_size] if info else [], Path(source).resolve().name
    return name * (source_tokens == tokens), name * (
        source_tokens != tokens and set(tokens) <= set(source_tokens)
    )
