"""What frozen encoders know of a task: linear probes of their vectors, several models side by side.

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

from configs import classify

TASKS = ('tnews', 'chnsenticorp', 'thucnews')


def get_config() -> ConfigDict:
    """The only one."""
    return ConfigDict(
        {
            'task': 'probe',
            'models': '',  # NAME=FOLDER,NAME=FOLDER
            'reference': '',  # the name that the others are compared with; empty: the first
            'tasks': ','.join(TASKS),
            'train_sizes': (100, 1000, 10_000),  # labels: the points of the learning curve
            'draws': 5,  # random choices of so many labels, the same for all models
            'selection_rows': 1000,  # of the training file, that the penalty is chosen by
            'eval_rows': 10_000,  # of the development file, that are reported, chosen at random; 0: all
            'seed': 0,  # of every choice of rows, and of the bootstrap
            'resamples': 10_000,  # of the bootstrap
            'dtype': 'float32',  # what the encoders compute in
            'data': {**{name: data(name) for name in TASKS}, 'own': data('')},
        }
    )


def data(name: str) -> ConfigDict:
    """Where the files of a task are and how they are read."""
    return classify.get_config(name).data
