"""The command that makes a vocabulary from text; see input_pipeline/corpus/vocab_builder.py."""

from input_pipeline.corpus import vocab_builder

if __name__ == '__main__':
    vocab_builder.main()
