"""BERT's tokenizer over a list of tokens, by the `tokenizers` library."""

from collections.abc import Sequence

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

SPECIAL = {'pad': '[PAD]', 'unk': '[UNK]', 'cls': '[CLS]', 'sep': '[SEP]', 'mask': '[MASK]'}


def tokenizer(tokens: Sequence[str], lowercase: bool = True) -> tokenizers.Tokenizer:
    """[CLS] text [SEP], or [CLS] text [SEP] pair [SEP], over these tokens by id; neither pads nor truncates.

    As BERT's own, it takes the name of a special token in a text for that token.

    Raises ValueError where a special token is missing, or [PAD] is not the first token.
    """
    missing = [token for token in SPECIAL.values() if token not in tokens]
    if missing or tokens[0] != SPECIAL['pad']:
        lacking = ', '.join(missing) or f'{SPECIAL["pad"]} as its first token'
        raise ValueError(f'the vocabulary is none of a BERT: it lacks {lacking}')
    ids = {token: row for row, token in enumerate(tokens)}  # of equal rows BERT uses the last
    made = tokenizers.Tokenizer(models.WordPiece(vocab=ids, unk_token=SPECIAL['unk']))
    made.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece(prefix='##')
    cls, sep = SPECIAL['cls'], SPECIAL['sep']
    made.post_processor = processors.TemplateProcessing(
        single=f'{cls}:0 $A:0 {sep}:0',
        pair=f'{cls}:0 $A:0 {sep}:0 $B:1 {sep}:1',
        special_tokens=[(cls, ids[cls]), (sep, ids[sep])],
    )
    made.add_special_tokens(list(SPECIAL.values()))
    return made
