"""Many names on one line, and what a wrapper put before them."""

import pytest

from clower_jax.interop.hf_bert import wrapper_prefix
from clower_jax.interop.init_weights import abbreviate_names


@pytest.mark.parametrize(
    ('names', 'line'),
    [
        ([], ''),
        (['pooler.dense.bias'], 'pooler.dense.bias'),
        (['a.layer.0.b.weight', 'a.layer.1.b.weight', 'a.layer.1.b.bias'],
         'a.layer.0.b.weight, a.layer.1.b.{weight, bias}'),
        ([f'a.layer.{i}.b.{x}' for i in (0, 1, 2, 5, 10, 11) for x in ('weight', 'bias')],
         'a.layer.0-2+5+10-11.b.{weight, bias}'),
        ([f'char_encoder/encoder.layer.{i}/output.dense/{x}' for i in (3, 4) for x in ('bias', 'kernel')],
         'char_encoder/encoder.layer.3-4/output.dense/{bias, kernel}'),
        (['x/bias (its labels are a/b.c)', 'x/kernel'], 'x/{bias (its labels are a/b.c), kernel}'),
        (['7 states of the optimiser'], '7 states of the optimiser'),
    ],
)  # fmt: skip
def test_names_on_a_line(names, line):
    assert abbreviate_names(names) == line


@pytest.mark.parametrize(
    ('before', 'prefix'),
    [
        (['', 'bert.'], ''),
        (['module.bert.'], 'module.'),
        (['a.b.'], 'a.b.'),
        (['bert.', 'ema.bert.'], ''),
        (['my_'], ''),
        ([], ''),
    ],
)
def test_prefixes(before, prefix):
    assert wrapper_prefix([f'{x}embeddings.table' for x in before], '.', 'embeddings.table') == prefix
