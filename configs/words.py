r"""What is in a character encoder's vectors of words and in its vectors of texts, without any training of it:

    python run.py --config=configs/words.py --config.models=clower=runs/a,mm_bert_sop=runs/b \
        --config.data.corpus=DIR --workdir=runs/words

(a) how well ridge regression tells a word's vector in a word2vec of the same corpus of the mean of its
characters' vectors in held-out sentences, on words that it was not fitted on; (b) how cosines of words agree
with people (--config.data.pairs=240=240.txt,297=297.txt); (c) how near paraphrases are to each other
(--config.data.paraphrases=lcqmc=dev.txt,bq=dev.csv). Models of the same name are runs of one system with
other seeds: their mean is reported, and each. The command goes on model by model where it was stopped.
"""

from ml_collections import ConfigDict

from clower_jax.utils.config_keys import defaults


def get_config() -> ConfigDict:
    """The only one."""
    data = 'corpus vectors occurrences min_occurrences pairs paraphrases max_pairs'
    names = 'task models reference seed dtype folds samples'
    config = defaults(names, data=f'{data} text_columns label_column')
    config.task = 'words'
    return config
