"""What is in a character encoder's vectors of words, and in its vectors of texts, without any training of it:

    python run.py --config=configs/words.py --config.models=clower=runs/a,mm_bert_sop=runs/b \
        --config.data.corpus=DIR --workdir=runs/words

(a) how well ridge regression tells a word's vector in a word2vec of the same corpus of the mean of its
characters' vectors in held-out sentences, on words that it was not fitted on; (b) how cosines of words agree
with people (--config.data.pairs=240=240.txt,297=297.txt); (c) how near paraphrases are to each other
(--config.data.paraphrases=lcqmc=dev.txt,bq=dev.csv). Models of the same name are runs of one system with
other seeds: their mean is reported, and each. The command goes on model by model where it was stopped.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The only one."""
    return ConfigDict(
        {
            'task': 'words',
            'models': '',  # NAME=FOLDER,NAME=FOLDER: Hugging Face BERTs or workdirs
            'reference': '',  # names, comma-separated, that the others are compared with; empty: the first
            'seed': 0,
            'dtype': 'float32',
            'folds': 5,  # of the words: each is held out once
            'samples': 1000,  # of the bootstrap
            'data': {
                'corpus': '',  # a folder that build_corpus wrote
                'vectors': '',  # word vectors in word2vec's text format; empty: trained on the corpus
                'occurrences': 8,  # of a word, at most, whose vectors are averaged
                'min_occurrences': 3,  # of a word in held-out text, or it is left out of the regression
                'pairs': '',  # NAME=FILE,…: two words and people's score a line
                'paraphrases': '',  # NAME=FILE,…: two texts a line, and a label, 1 for the same meaning
                'max_pairs': 3000,  # of paraphrases of a file, drawn at random; 0: all
                'text_columns': (),  # found out where empty, as label_column is
                'label_column': '',
            },
        }
    )
