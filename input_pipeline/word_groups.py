"""The command that writes words for an aligner; see input_pipeline/sentence_vectors/word_alignment.py."""

from input_pipeline.sentence_vectors import word_alignment

if __name__ == '__main__':
    word_alignment.main()
