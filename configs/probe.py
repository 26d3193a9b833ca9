r"""What frozen encoders know of a task: linear probes of their vectors, several models side by side.

    python run.py --config=configs/probe.py --config.models=random=A,bert=B,clower=C --workdir=runs/probe \
        --config.data.tnews.folder=data/tnews

Ridge and logistic regression read three vectors of a text: the last hidden state of [CLS], the mean of the
last hidden states, and the mean of the rows of the token table, which knows of no order and no context. The
strength of the penalty is chosen on rows of the training file that no probe is trained on, and never on those
that are reported. A model is a Hugging Face BERT folder or a workdir; a name that stands twice has several
pre-training seeds, whose results are averaged: --config.models=clower=A,clower=B,bert=C. Differences are to
`config.reference`, on the same rows and with the same labels.

Tasks: --config.tasks=tnews,chnsenticorp,thucnews, with --config.data.chnsenticorp.dev=FILE and so on as in
configs/classify.py; `own` is a file of your own: --config.tasks=own --config.data.own.train=my.tsv.
Writes probe.md, probe.json and probe.png, anew after every model. Interrupted, the same command goes on.
"""

from ml_collections import ConfigDict

from clower_jax.utils.config_keys import defaults
from configs import classify

TASKS = ('tnews', 'chnsenticorp', 'thucnews')


def get_config() -> ConfigDict:
    """The only one."""
    names = 'models reference tasks train_sizes draws selection_rows eval_rows seed resamples'
    config = defaults(f'task {names} dtype')
    config.task, config.tasks = 'probe', ','.join(TASKS)
    config.data = ConfigDict({**{name: data(name) for name in TASKS}, 'own': data('')})
    return config


def data(name: str) -> ConfigDict:
    """Where the files of a task are and how they are read."""
    return classify.get_config(name).data
