"""Model sizes and defaults that the jobs share."""

from ml_collections import ConfigDict

SIZES = {
    # name: hidden size, layers, attention heads, width of the feed-forward layer
    'tiny': (128, 2, 2, 512),
    'small': (256, 4, 4, 1024),
    'medium': (512, 6, 8, 2048),
    'base': (768, 12, 12, 3072),  # BERT-base, the paper's
}


def model(size: str) -> ConfigDict:
    """Each of the two encoders has this shape."""
    hidden_size, num_layers, num_heads, intermediate_size = SIZES[size]
    return ConfigDict(
        {
            'hidden_size': hidden_size,
            'num_layers': num_layers,
            'num_heads': num_heads,
            'intermediate_size': intermediate_size,
            'dropout': 0.1,  # of hidden states; BERT's
            'attention_dropout': 0.1,  # of attention weights; BERT's
            'initializer_range': 0.02,  # standard deviation of random weights; BERT's
            'max_positions': 512,  # rows of the position table; BERT's
            'vocab_size': 0,  # 0: from the corpus; base block and word block together
            'base_vocab_size': 0,  # 0: from the corpus; rows of the base block
        }
    )


def run() -> ConfigDict:
    """What every training job has."""
    return ConfigDict(
        {
            'seed': 0,
            'total_steps': 1000,
            'batch_size': 32,  # sequences, over all devices
            'dtype': 'float32',  # of the products: float32, bfloat16 or float16; parameters are fp32
            'init_from': '',  # a workdir or a Hugging Face BERT folder; empty: random weights
            'log_every': 100,  # steps; so are the next two
            'eval_every': 1000,  # 0: at the end only
            'checkpoint_every': 1000,  # 0: at the end only
            'keep_checkpoints': 2,  # the newest
            'max_bad_steps': 50,  # in a row, with a gradient that is not finite; then the run stops
            'optim': {
                'learning_rate': 1e-4,  # its peak
                'warmup_steps': 100,  # linear up to the peak, then linear down to 0 at total_steps
                'weight_decay': 0.01,  # not on biases and LayerNorm
                'clip_norm': 1.0,  # of the whole gradient; 0: none
            },
            'mesh': {'data': -1, 'fsdp': 1, 'tensor': 1},  # devices along each axis; -1: the rest
        }
    )
