"""`WordTokenizer`, under the name that cards of published models import."""

from input_pipeline.text.word_tokenizer import WordTokenizer

__all__ = ['WordTokenizer']
