"""Fine-tuning on DRCD, reading comprehension in Traditional Chinese (arXiv 1806.00920).

    python run.py --config=configs/drcd.py --config.init_from=runs/pretrain

reads data/drcd/DRCD_training.json, DRCD_dev.json and DRCD_test.json, or --config.data.train=FILE and so on.
The model reads Simplified characters, which most Chinese encoders know better; its answers are in the
characters of the file. The rest is as in configs/cmrc.py, table 1 of the paper included; the paper's figures
are means of five seeds: --config.seeds=5.
"""

from ml_collections import ConfigDict

from configs import cmrc


def get_config(variant: str = '') -> ConfigDict:
    """As CMRC 2018, on Simplified characters, with DRCD's own scores beside CMRC's."""
    if variant:
        raise ValueError(f'configs/drcd.py has no variants, so no {variant!r}')
    config = cmrc.get_config()
    config.data.dataset, config.data.folder = 'drcd', 'data/drcd'
    config.data.scorer, config.select = 'drcd', 'f1_drcd'
    config.data.simplify = True
    return config
