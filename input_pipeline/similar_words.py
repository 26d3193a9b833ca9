"""The command that finds similar words; see input_pipeline/pretraining/similar_words.py."""

from input_pipeline.utils import garbage

if __name__ == '__main__':
    garbage.collect_seldom()
    from input_pipeline.pretraining import similar_words

    similar_words.main()
