"""The word view as a tokenizer: texts → the ids that an exported word encoder was trained on."""

import logging
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import numpy as np

from input_pipeline.text import segmenters
from input_pipeline.text.dual_tokenizer import Tokenizer
from input_pipeline.text.sentences import sentences
from input_pipeline.text.vocabulary import Vocabulary
from input_pipeline.utils import hub_names
from input_pipeline.utils.json_values import one_line

log = logging.getLogger(__name__)

VOCABULARY = 'word_vocab.txt'


class WordTokenizer:
    """Cuts texts into words and words into ids as the corpus builder does.

    `cut` is a segmenter (`segmenters.segmenter`): text → words.
    """

    def __init__(self, vocabulary: Vocabulary, cut: segmenters.Segment):
        self.vocabulary = vocabulary
        self._cut = cut
        self._tokenizer = Tokenizer(vocabulary)

    @classmethod
    def load(cls, folder: str | Path) -> 'WordTokenizer':
        """That of a folder which `clower_jax.convert export` wrote with its word rows, or of its name on the
        Hugging Face hub.

        Raises FileNotFoundError where the folder has no words, ValueError where its vocabulary is damaged or
        the hub does not give it, ImportError where its segmenter is not installed.
        """
        path = _from_hub(str(folder)) if hub_names.is_name(folder) else Path(folder, VOCABULARY)
        if not path.is_file():
            raise FileNotFoundError(
                f'{path} is missing: only a folder with word rows has one '
                '(python -m clower_jax.convert export --encoder word)'
            )
        return cls.of(Vocabulary.load(path))

    @classmethod
    def of(cls, vocabulary: Vocabulary) -> 'WordTokenizer':
        """That of a vocabulary, whose details say what cut its words ('segmenter': 'name', 'hmm').

        Raises ImportError where that is not installed.
        """
        made_with = vocabulary.details.get('segmenter', {})
        return cls(
            vocabulary, segmenters.segmenter(made_with.get('name', 'jieba'), made_with.get('hmm', True))
        )

    def tokens(self, text: str) -> list[int]:
        """A text's ids, without special tokens. Its lines are paragraphs, as in a corpus."""
        parts = chain.from_iterable(map(sentences, map(str.strip, text.split('\n'))))
        return list(chain.from_iterable(self._tokenizer.encode(self._cut(part)).word_ids for part in parts))

    def rows(self, texts: Sequence[str], max_length: int) -> tuple[list[list[int]], int]:
        """[CLS] text [SEP] of each text, at most `max_length` ids, and how many texts lost their end."""
        encoded = list(map(self.tokens, texts))
        rows = [[self.vocabulary.cls, *ids[: max_length - 2], self.vocabulary.sep] for ids in encoded]
        return rows, sum(len(ids) > max_length - 2 for ids in encoded)

    def __call__(
        self,
        texts: str | Sequence[str],
        pairs: str | Sequence[str] | None = None,
        max_length: int = 512,
        padding: bool | str = True,
    ) -> dict[str, np.ndarray]:
        """[CLS] text [SEP], or [CLS] text [SEP] pair [SEP], as BERT takes them.

        Args:
          texts: B of them, or one.
          pairs: as many; None: no second segment.
          max_length: tokens of a row, special ones included. A text that is too long loses its end; of a pair
            the longer text does, token by token. The log says how many were cut.
          padding: True: rows as long as the longest; 'max_length': as that.

        Returns:
          `input_ids`, `token_type_ids`, `attention_mask`: int64 [B, L], 0 where padded.

        Raises:
          ValueError: texts and pairs differ in number, or `max_length` leaves no room.
        """
        texts = [texts] if isinstance(texts, str) else list(texts)
        pairs = [pairs] if isinstance(pairs, str) else pairs
        if pairs is not None and len(pairs) != len(texts):
            raise ValueError(f'there are {len(texts)} texts and {len(pairs)} pairs; give one for each')
        special = 2 if pairs is None else 3
        if max_length < special + 1:
            raise ValueError(f'max_length is {max_length}; {special} special tokens leave no room for a text')
        if padding not in (True, 'max_length'):
            raise ValueError(f"padding is {padding!r}; it must be True or 'max_length'")
        firsts = list(map(self.tokens, texts))
        seconds = [[] for _ in texts] if pairs is None else list(map(self.tokens, pairs))
        cut = 0
        rows, segments = [], []
        for first, second in zip(firsts, seconds, strict=True):
            cut += len(first) + len(second) > max_length - special
            first, second = _fit(first, second, max_length - special)
            head = [self.vocabulary.cls, *first, self.vocabulary.sep]
            tail = [] if pairs is None else [*second, self.vocabulary.sep]
            rows.append(head + tail)
            segments.append([0] * len(head) + [1] * len(tail))
        if cut:
            log.warning('%d of %d texts were cut to %d tokens', cut, len(texts), max_length)
        length = max_length if padding == 'max_length' else max(map(len, rows), default=0)
        return {
            'input_ids': _padded(rows, length),
            'token_type_ids': _padded(segments, length),
            'attention_mask': _padded([[1] * len(row) for row in rows], length),
        }


def _from_hub(name: str) -> Path:
    """The vocabulary of a model on the hub, its sidecar beside it."""
    import huggingface_hub

    repository, revision = hub_names.split(name)
    files = [VOCABULARY, Path(VOCABULARY).with_suffix('.json').name]
    try:
        folder = huggingface_hub.snapshot_download(repository, revision=revision, allow_patterns=files)
    except (OSError, huggingface_hub.errors.HfHubHTTPError) as error:
        raise ValueError(
            f'{name!r} is neither a folder here nor a model that the hub gives ({one_line(str(error))[:200]})'
        ) from error
    return Path(folder, VOCABULARY)


def _fit(first: list[int], second: list[int], room: int) -> tuple[list[int], list[int]]:
    """Both cut at their ends to `room` tokens together, the longer one first (the second of equals)."""
    kept = min(len(first), max(room - len(second), room - room // 2))
    return first[:kept], second[: room - kept]


def _padded(rows: Sequence[Sequence[int]], length: int) -> np.ndarray:
    """int64 [B, length], 0 on the right."""
    out = np.zeros((len(rows), length), np.int64)
    for row, values in zip(out, rows, strict=True):
        row[: len(values)] = values
    return out
