"""The command that makes a vocabulary from text; see input_pipeline/corpus/vocab_builder.py."""

from input_pipeline.utils import garbage

if __name__ == '__main__':
    garbage.collect_seldom()
    from input_pipeline.corpus import vocab_builder

    vocab_builder.main()
