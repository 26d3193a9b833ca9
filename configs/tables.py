r"""The paper's tables in one command: systems × tasks × seeds.

    python run.py --config=configs/tables.py:cpu --workdir=runs/tables --config.pretrain.data.corpus=DIR \
        --config.finetune.tnews.data.folder=DIR …

Pre-trains every system of `models` with the settings of `config.pretrain` in `<workdir>/models/`, fine-tunes
each on every task of `tasks` with `config.seeds` seeds in `<workdir>/cells/`, and writes tables.md,
tables.json and figure2.png. Interrupted, the same command goes on where it was, cell by cell; with other
settings it refuses to mix cells. No variant: the paper's settings, which want a cluster. :cpu is tiny
encoders and short training, for an hour of a few CPU cores.

A model is the name of a system (configs/pretrain.py), `random` for no pre-training, or NAME=FOLDER for a
workdir or a Hugging Face folder that is there already. The paper's MacBERT is the released model:

    hf download hfl/chinese-macbert-base --local-dir chinese-macbert-base
    --config.models=bert_wwm,clower,macbert=chinese-macbert-base

is a row macbert_released; `macbert` without a folder trains it again, as a row of its own.

Each figure stands beside the paper's, which come with the project. --config.paper=FILE adds others, or puts
them in their place: {"clower": {"tnews dev": 58.0, "bq test": 85.0, "cmrc dev EM": 68.0, …}, …}.

All models classify from the same vector, --config.classify_from: cls, the vector of [CLS], is the paper's
(section 3.3). With pooler the pooler is drawn anew for every model, as not every pre-training trains one.
"""

from ml_collections import ConfigDict

from clower_jax.utils.config_keys import defaults
from configs import classify, cmrc, common, drcd, pretrain

SINGLE = ('chnsenticorp', 'thucnews', 'tnews')
PAIRS = ('bq', 'lcqmc', 'ocnli', 'xnli')  # of the paper
READING = ('cmrc', 'drcd')


def get_config(variant: str = '') -> ConfigDict:
    """The whole grid of the paper, or with 'cpu' one that a small machine can do."""
    if variant not in ('', 'cpu'):
        raise ValueError(f'configs/tables.py has no variant {variant!r}; it has cpu')
    config = defaults('task models tasks seeds reference paper classify_from')
    config.task = 'tables'
    config.models = 'bert_wwm,bert_wwm_sop,mm_bert,mm_bert_sop,clower,no_tcl,no_scl'
    config.tasks = ','.join((*SINGLE, *PAIRS, *READING))
    config.seeds = 5
    config.reference = 'clower'
    config.pretrain = pretrain.get_config('paper')
    config.finetune = ConfigDict({name: classify.get_config(name) for name in classify.SETTINGS})
    config.finetune.cmrc, config.finetune.drcd = cmrc.get_config(), drcd.get_config()
    for name in classify.SETTINGS:
        config.finetune[name].model.classify_from = config.get_ref('classify_from')
    if variant == 'cpu':
        cpu(config)
    return config


def cpu(config: ConfigDict) -> None:
    """Tiny encoders from random weights; four tasks, some hundred steps of fine-tuning, three seeds."""
    config.models = 'random,bert_wwm,mm_bert_sop,clower,no_tcl,no_scl'
    config.tasks = 'chnsenticorp,tnews,afqmc,ocnli'
    config.seeds = 3
    config.pretrain = pretrain.get_config('cpu')
    config.pretrain.model = common.model('tiny')
    config.pretrain.model.dropout = config.pretrain.model.attention_dropout = 0.0
    config.pretrain.dtype = 'bfloat16'
    config.pretrain.total_steps, config.pretrain.optim.warmup_steps = 1000, 100
    config.pretrain.eval_every = config.pretrain.checkpoint_every = 500
    for name, one in config.finetune.items():
        one.batch_size, one.total_steps = 32, 300
        one.optim.learning_rate = 1e-3
        one.data.max_length = 96 if name == 'chnsenticorp' else 64
        one.data.buckets, one.log_every = 2, 100
