"""What of a text each kind of model reads: the facts that its batches and its network share."""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any


@dataclasses.dataclass(frozen=True)
class ModelInputs:
    """What a model reads of a text.

    Attributes:
      views: those that its encoders read: 'char', 'word' or both.
      char_words: whether each character comes with the word that it is in.
      context: whether, in pre-training, the sentence before comes by itself.
      reads_words: the fine-tuning tasks in which all this is read; in others it is characters alone.
    """

    views: tuple[str, ...] = ('char',)
    char_words: bool = False
    context: bool = False
    reads_words: tuple[str, ...] = ()

    def of_task(self, task: str) -> 'ModelInputs':
        """What is read in a fine-tuning task."""
        return self if task in self.reads_words else CHARACTERS


CHARACTERS = ModelInputs()

MODEL_INPUTS: Mapping[str, ModelInputs] = MappingProxyType(
    {
        'clower': ModelInputs(views=('char', 'word')),
        'ambert': ModelInputs(views=('char', 'word'), reads_words=('classify',)),
        'bert': CHARACTERS,
        'cmlm': ModelInputs(context=True),
        'lichee': ModelInputs(char_words=True, reads_words=('classify', 'span')),
        # The word encoder of a CLOWER, for fine-tuning.
        'word': ModelInputs(views=('word',), reads_words=('classify',)),
    }
)


def kind_name(config: Mapping[str, Any]) -> str:
    """`model.kind` of a run's config (a ConfigDict or its JSON); CLOWER where it was begun before there were
    others, or it is not said."""
    return config['model'].get('kind') or 'clower'


def inputs_of(config: Mapping[str, Any]) -> ModelInputs:
    """What the model of a run's config reads. Raises ValueError where there is no such kind of model."""
    name = kind_name(config)
    if name not in MODEL_INPUTS:
        raise ValueError(f'model.kind={name!r} must be one of {", ".join(MODEL_INPUTS)}')
    return MODEL_INPUTS[name]
