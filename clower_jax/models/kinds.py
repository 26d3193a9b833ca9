"""The kinds of model: what a value of `config.model.kind` means, in one table."""

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from clower_jax.models.ambert import Ambert, AmbertClassifier
from clower_jax.models.clower import Clower
from clower_jax.models.finetuned import Classifier, SpanFinder
from clower_jax.models.lichee import Lichee, LicheeClassifier, LicheeSpanFinder
from input_pipeline.text.model_inputs import MODEL_INPUTS, ModelInputs, kind_name


class Parts(NamedTuple):
    """Names in the parameters of what a view goes through: its embedding layer and its encoder."""

    embeddings: str
    encoder: str


CHARACTERS, WORDS = Parts('embeddings', 'char_encoder'), Parts('embeddings', 'word_encoder')


@dataclasses.dataclass(frozen=True)
class ModelKind:
    """What a model of one kind is, and what it is good for.

    Attributes:
      inputs: what it reads of a text.
      parts: view → its part of the parameters.
      is_bert: whether each encoder is a BERT of its own accord, which can be exported.
      network: of pre-training, which is made from `encoder_settings` and the like.
      classifier, span_finder: of fine-tuning.
      card: what the model card says of it, after 'pre-trained on …' or 'the character encoder'.
    """

    inputs: ModelInputs
    parts: Mapping[str, Parts]
    is_bert: bool = True
    network: type[Clower] = Clower
    classifier: Callable[..., Classifier] = Classifier
    span_finder: Callable[..., SpanFinder] = SpanFinder
    card: str = ''

    @property
    def views(self) -> tuple[str, ...]:
        """Those that its encoders read."""
        return self.inputs.views

    @property
    def reads_words(self) -> tuple[str, ...]:
        """The fine-tuning tasks in which it reads words; in others it reads characters alone."""
        return self.inputs.reads_words

    @property
    def num_tables(self) -> int:
        """Token tables: one over both views, or one each."""
        return len({part.embeddings for part in self.parts.values()})

    def views_sharing_encoder(self, view: str) -> tuple[str, ...]:
        """The views that go through the same encoder as this one, itself included."""
        return tuple(
            view_name for view_name, part in self.parts.items() if part.encoder == self.parts[view].encoder
        )


def _word_classifier(**settings: Any) -> Classifier:
    return Classifier(**settings, view='word')


KINDS: Mapping[str, ModelKind] = MappingProxyType(
    {
        'clower': ModelKind(
            inputs=MODEL_INPUTS['clower'],
            parts={'char': CHARACTERS, 'word': WORDS},
            card='of a CLOWER model: two BERT encoders, one over characters and one over words,',
        ),
        'ambert': ModelKind(
            inputs=MODEL_INPUTS['ambert'],
            parts={'char': CHARACTERS, 'word': Parts('coarse_embeddings', 'char_encoder')},
            network=Ambert,
            classifier=AmbertClassifier,
            card='of an AMBERT (arXiv 2008.11869): one BERT encoder over characters and over words, which '
            'have an embedding layer each,',
        ),
        'bert': ModelKind(inputs=MODEL_INPUTS['bert'], parts={'char': CHARACTERS}),
        'cmlm': ModelKind(
            inputs=MODEL_INPUTS['cmlm'],
            parts={'char': CHARACTERS},
            card=' of a sentence, given the vector of the sentence before it (CMLM, arXiv 2012.14388)',
        ),
        'lichee': ModelKind(
            inputs=MODEL_INPUTS['lichee'],
            parts={'char': CHARACTERS},
            is_bert=False,
            network=Lichee,
            classifier=LicheeClassifier,
            span_finder=LicheeSpanFinder,
        ),
        # The word encoder of a CLOWER, for fine-tuning.
        'word': ModelKind(inputs=MODEL_INPUTS['word'], parts={'word': WORDS}, classifier=_word_classifier),
    }
)
PRETRAINED = tuple(name for name, kind in KINDS.items() if 'char' in kind.parts)


def kind_of(config: Mapping[str, Any]) -> ModelKind:
    """Of a run's config (a ConfigDict or its JSON)."""
    return KINDS[kind_name(config)]
