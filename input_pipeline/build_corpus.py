"""The command that makes a corpus from text; see input_pipeline/corpus/corpus_builder.py."""

from input_pipeline.corpus import corpus_builder

if __name__ == '__main__':
    corpus_builder.main()
