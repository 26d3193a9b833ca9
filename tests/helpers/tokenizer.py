"""A small vocabulary, and text that is hard on tokenizers."""

from hypothesis import strategies as st

SPECIALS = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]']
BASE = [
    *SPECIALS, '[unused1]', *'我爱北京天安门中国人学生龍後，。！、？[]a1b#éпр', '\u2028',
    *'##a ##b ##1 ##п ##р ##и ma ##sk cafe abc unk'.split(),
]  # fmt: skip
# Text as the web has it, and worse.
NASTY = [
    *'我爱北京天安门中国人学生，。！、？…“”「」《》',
    *('中国', '天安门', '北京天安门', '龍後', '學生', '２０２２', '2022', 'ＡＢＣ', 'ABCA'),
    *('café', 'cafe\u0301a', 'привет', 'ни', 'Ωmega', 'ß', 'İ', 'ﬁ', '한국어', 'ひら', 'العربية'),
    *('[MASK]', '[UNK]', '[PAD]', '[SEP]', '##a', '[unused1]', '😀', '👩\u200d👩\u200d👧'),
    *('\u200b', '\u200d', '\ufeff', '\u00ad', '\ufffd', '\u0301', '\u0489', '\u302e', '\u0903'),
    *('\x00', '\x07', ' ', '\t', '\u3000', '\u00a0', '\u2028', '\r\n', '\ue000', '\U000e0041', '〇', '々'),
    *('㐀', '𠀀', '𪚥', '\U0002b820', '\uf900', '\U0002f800', '①②', 'x²', '½', '$€¥', '------', '......'),
    *('卐', '3.14%', 'C++', 'e-mail', 'a_b', "can't", 'http://a.com/?q=1'),
    *('a' * 300, '中' * 300, 'é' * 101, 'b' * 100, 'ab' * 51),
]  # fmt: skip
nasty_text = st.lists(st.sampled_from(NASTY) | st.text(max_size=4), max_size=25).map(''.join)
