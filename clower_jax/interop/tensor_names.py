"""Names of tensors and parameters: what a wrapper put before them, and many of them on one line."""

import re
from collections.abc import Iterable


def wrapper_prefix(names: Iterable[str], separator: str, table: str) -> str:
    """What stands before a BERT's own names: 'module.' of 'module.bert.embeddings.word_embeddings.weight'.

    Args:
      names: of all tensors of a file.
      separator: '.' of torch's names, '/' of TensorFlow's.
      table: the name of the token table, with neither 'bert' nor a prefix before it.

    Returns:
      The prefix, with its separator; '' where the names are a BERT's own, or there is no token table.

    Raises ValueError where several prefixes lead to a token table, so nobody can tell which is meant.
    """
    end = re.compile(rf'(|.*{re.escape(separator)}){re.escape(table)}')
    matches = filter(None, map(end.fullmatch, names))
    prefixes = sorted({match[1].removesuffix(f'bert{separator}') for match in matches})
    if len(prefixes) > 1 and '' not in prefixes:
        raise ValueError(
            f'there are {len(prefixes)} encoders, under {", ".join(prefixes)}: save one of them alone'
        )
    return prefixes[0] if prefixes else ''


def abbreviate_names(names: Iterable[str]) -> str:
    """Names on one line, those of a module together, and of like modules in several layers too:
    'a.layer.0.b.weight', 'a.layer.1.b.weight', 'a.layer.1.b.bias' → 'a.layer.0.b.weight, a.layer.1.b.{weight,
    bias}'; with 'a.layer.0.b.bias' → 'a.layer.0-1.b.{weight, bias}'."""
    modules: dict[str, list[str]] = {}
    for entry in names:
        name, space, remark = entry.partition(' ')
        module, separator, leaf = name.rpartition('/' if '/' in name else '.')
        modules.setdefault(module + separator, []).append(leaf + space + remark)
    alike: dict[tuple[str, ...], list[int]] = {}
    for module, leaves in modules.items():
        start, layer, rest = module.partition('layer.')
        end = rest.lstrip('0123456789')
        number = rest.removesuffix(end)
        alike.setdefault((start + layer, end, *leaves), []).extend([int(number)] if number else [])
    return ', '.join(
        f'{start}{_ranges(layers)}{end}' + (leaves[0] if len(leaves) == 1 else f'{{{", ".join(leaves)}}}')
        for (start, end, *leaves), layers in alike.items()
    )


def _ranges(numbers: Iterable[int]) -> str:
    """0, 1, 2, 5 → '0-2+5'."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and runs[-1][-1] == number - 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return '+'.join(str(run[0]) if len(run) == 1 else f'{run[0]}-{run[-1]}' for run in runs)
