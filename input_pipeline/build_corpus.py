"""The command that makes a corpus from text; see input_pipeline/corpus/corpus_builder.py."""

from input_pipeline.utils import garbage

if __name__ == '__main__':
    garbage.collect_seldom()
    from input_pipeline.corpus import corpus_builder

    corpus_builder.main()
