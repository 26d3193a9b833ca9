"""The command that writes words for an aligner; see input_pipeline/sentence_vectors/word_alignment.py."""

from input_pipeline.utils import garbage

if __name__ == '__main__':
    garbage.collect_seldom()
    from input_pipeline.sentence_vectors import word_alignment

    word_alignment.main()
