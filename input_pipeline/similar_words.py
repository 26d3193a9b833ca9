"""The command that finds similar words; see input_pipeline/pretraining/similar_words.py."""

from input_pipeline.pretraining import similar_words

if __name__ == '__main__':
    similar_words.main()
