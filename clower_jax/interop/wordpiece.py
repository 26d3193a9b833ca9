"""BERT's tokenizer, by the `tokenizers` library: over a list of tokens, and that of a folder."""

from collections.abc import Sequence
from pathlib import Path

import tokenizers
from tokenizers import decoders, normalizers, pre_tokenizers, processors

from clower_jax.interop import hf_bert
from clower_jax.utils.folder_files import reason, short
from input_pipeline.text.wordpiece import NORMALIZER, SPECIAL, wordpiece

# Classes of transformers, in any of its versions, that make a tokenizer of the tokens and of their own
# settings, tokenizer_config.json's; others take tokenizer.json as it is.
CLASSES = (None, 'BertTokenizer', 'BertTokenizerFast')


def tokenizer(tokens: Sequence[str], normalizer: normalizers.Normalizer = NORMALIZER) -> tokenizers.Tokenizer:
    """[CLS] text [SEP], or [CLS] text [SEP] pair [SEP], over these tokens by id; neither pads nor truncates.

    As BERT's own, it takes the name of a special token in a text for that token.

    Raises ValueError where a special token is missing, or [PAD] is not the first token.
    """
    missing = [token for token in SPECIAL.values() if token not in tokens]
    if missing or tokens[0] != SPECIAL['pad']:
        problem = ', '.join(missing) or f'{SPECIAL["pad"]} as its first token'
        raise ValueError(f'the vocabulary is none of a BERT: it lacks {problem}')
    ids = {token: row for row, token in enumerate(tokens)}  # of equal rows BERT uses the last
    bert_tokenizer = wordpiece(ids, normalizer)
    bert_tokenizer.decoder = decoders.WordPiece(prefix='##')
    cls, sep = SPECIAL['cls'], SPECIAL['sep']
    bert_tokenizer.post_processor = processors.TemplateProcessing(
        single=f'{cls}:0 $A:0 {sep}:0',
        pair=f'{cls}:0 $A:0 {sep}:0 $B:1 {sep}:1',
        special_tokens=[(cls, ids[cls]), (sep, ids[sep])],
    )
    bert_tokenizer.add_special_tokens(list(SPECIAL.values()))
    return bert_tokenizer


def load_tokenizer(folder: Path, tokens: Sequence[str], lowercase: bool = False) -> tokenizers.Tokenizer:
    """The tokenizer that transformers makes of a folder; it neither pads nor truncates.

    Args:
      folder: with a tokenizer.json, or its tokens are all that is known; its tokenizer_config.json, where
        there is one, says whether capitals, accents and the space around Chinese characters matter.
      tokens: of the model, by id.
      lowercase: lower-case texts even where the folder does not.

    Raises ValueError where the tokenizer is damaged, of another kind, or of another model.
    """
    path, settings = folder / 'tokenizer.json', hf_bert.tokenizer_settings(folder)
    kind = settings.get('tokenizer_class')
    # What BertTokenizer takes where nothing is said, also where tokenizer.json says something else.
    normalizer = normalizers.BertNormalizer(
        handle_chinese_chars=settings.get('tokenize_chinese_chars', True),
        strip_accents=settings.get('strip_accents'),
        lowercase=settings.get('do_lower_case', True),
    )
    if path.is_file():
        try:
            bert_tokenizer = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises nothing more exact
            raise ValueError(f'{path} is no tokenizer ({reason(error)}): it may be damaged') from error
        if kind in CLASSES:
            bert_tokenizer.normalizer, bert_tokenizer.pre_tokenizer = (
                normalizer,
                pre_tokenizers.BertPreTokenizer(),
            )
    elif kind in CLASSES:
        bert_tokenizer = tokenizer(tokens, normalizer)
    else:
        raise ValueError(
            f'{folder} has the tokenizer_class {short(kind)} and no tokenizer.json, which any but '
            f"BertTokenizer needs: AutoTokenizer.from_pretrained('{folder}').save_pretrained('{folder}'), of "
            'transformers'
        )
    highest = max(bert_tokenizer.get_vocab().values(), default=0)
    if bert_tokenizer.id_to_token(0) != tokens[0] or max(highest + 1, bert_tokenizer.get_vocab_size()) > len(
        tokens
    ):
        raise ValueError(
            f'{path} has other tokens than the model ({bert_tokenizer.get_vocab_size()}, not {len(tokens)}): '
            'it may be of another one, or have got new ones'
        )
    if lowercase:
        existing = [bert_tokenizer.normalizer] if bert_tokenizer.normalizer else []
        bert_tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), *existing])
    bert_tokenizer.no_padding()
    bert_tokenizer.no_truncation()
    if any(row >= len(tokens) for row in bert_tokenizer.encode('').ids):  # those of its template
        raise ValueError(f'{path} puts ids around a text that the model has no tokens for: it is damaged')
    return bert_tokenizer
