"""BERT's uncased tokenizer, by the `tokenizers` library, and its special tokens."""

from collections.abc import Mapping

import tokenizers
from tokenizers import models, normalizers, pre_tokenizers

SPECIAL = {'pad': '[PAD]', 'unk': '[UNK]', 'cls': '[CLS]', 'sep': '[SEP]', 'mask': '[MASK]'}
NORMALIZER = normalizers.BertNormalizer(lowercase=True)
PRE_TOKENIZER = pre_tokenizers.BertPreTokenizer()


def wordpiece(
    ids: Mapping[str, int], normalizer: normalizers.Normalizer = NORMALIZER
) -> tokenizers.Tokenizer:
    """The tokenizer over these tokens, token → id. It puts no special tokens around a text and knows none in
    it: '[MASK]' in a text is text."""
    made = tokenizers.Tokenizer(models.WordPiece(vocab=dict(ids), unk_token=SPECIAL['unk']))
    made.normalizer, made.pre_tokenizer = normalizer, PRE_TOKENIZER
    return made
