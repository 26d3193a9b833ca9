"""Fine-tuning on CMRC 2018, Chinese reading comprehension (arXiv 1810.07366).

    python run.py --config=configs/cmrc.py --config.init_from=runs/pretrain

reads data/cmrc2018/cmrc2018_train.json and cmrc2018_dev.json, or --config.data.train=FILE and
--config.data.dev=FILE; your own questions in the same format too. The paper's figures are means of five
seeds: --config.seeds=5, with mean and standard deviation. A fine-tuned model on other questions:

    python run.py --config=configs/cmrc.py --workdir=W --config.mode=evaluate --config.data.test=FILE
    python run.py --config=configs/cmrc.py --workdir=W --config.mode=predict --config.data.test=FILE
"""

from ml_collections import ConfigDict

from clower_jax.utils.config_keys import defaults
from configs import common


def get_config(variant: str = '') -> ConfigDict:
    """Table 1 of the paper: five epochs of batches of 8 windows of 512 tokens, at 3e-5."""
    if variant:
        raise ValueError(f'configs/cmrc.py has no variants, so no {variant!r}')
    config = common.finetune('cmrc2018', select='f1')
    config.task = 'span'
    config.batch_size, config.num_epochs, config.optim.learning_rate = 8, 5.0, 3e-5
    config.data.max_length = 512
    data = 'stride max_question_length max_answer_length n_best scorer simplify'
    config.update(defaults(data=data, loss='r_drop'))
    return config
