"""Texts for folders of sentence encoders."""

from helpers import workdirs

TEXTS = [*workdirs.TEXTS, '', '今天', 'Café 打电话用 IPHONE很好', '亚洲第一大河' * 20]
