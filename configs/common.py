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
            'drophead': 0.0,  # of whole attention heads
            # clower: two encoders over one table; bert: the character encoder alone; ambert, lichee, cmlm.
            'kind': 'clower',
            # Standard deviation of random weights: BERT's 0.02 at its 768 units, wider in narrower models, so
            # that attention starts as sharp as there.
            'initializer_range': round(0.02 * (768 / hidden_size) ** 0.5, 3),
            'attention': 'own',  # or 'cudnn': NVIDIA GPUs, 16 bits, attention_dropout 0
            'remat': 'none',  # activations kept: none recomputed; 'qkv', 'full': a tenth, a third more FLOPs
            'max_positions': 512,  # rows of the position table; BERT's
            'vocab_size': 0,  # 0: from the corpus; base block and word block together
            'base_vocab_size': 0,  # 0: from the corpus; rows of the base block
        }
    )


def finetune(dataset: str, select: str) -> ConfigDict:
    """What every fine-tuning job has. The sizes of the encoder come with `init_from`."""
    config = run()
    config.mode = 'train'  # or evaluate, predict: with a fine-tuned --workdir
    config.seeds = 1  # runs, with the seeds seed, seed + 1, …
    config.num_epochs = 3.0  # where total_steps is 0
    config.total_steps = 0
    config.batch_size = 64
    config.eval_every = config.checkpoint_every = 0  # at the end of every epoch
    config.keep_checkpoints = 1
    config.log_every = 50
    config.select = select
    config.optim.learning_rate = 2e-5
    config.optim.warmup_steps = 0  # 0: warmup_fraction of all steps
    config.optim.warmup_fraction = 0.1
    config.model = model('base')
    # 0 or empty: as init_from has it; with random weights, BERT-base's.
    config.model.kind = ''  # or 'word': of a CLOWER the word encoder, which reads words
    for name in ('hidden_size', 'num_layers', 'num_heads', 'intermediate_size', 'max_positions'):
        config.model[name] = 0
    config.data = ConfigDict(
        {
            'dataset': dataset,  # a data set whose official files are known; empty: your own
            'folder': f'data/{dataset}',  # where its files are, under their official names
            'train': '',  # a file instead, or hf:NAME:SPLIT; the same for dev and test
            'dev': '',
            'test': '',
            'dev_fraction': 0.1,  # where there is no dev file: this share of train, chosen by its texts
            'vocab': '',  # with random weights: a vocab.txt; else it comes with init_from
            'max_length': 128,  # tokens of a row, special ones included
            # Widths that rows are padded to, each compiled once; 0: one for 30 steps of an epoch, 6 at most.
            'buckets': 0,
            # Of models that read words (ambert, lichee, word): what cuts them, jieba or rjieba,
            # and whether it guesses words that its dictionary lacks; empty: as in pre-training.
            'segmenter': '',
            'hmm': True,
        }
    )
    return config


def sentences(task: str, evaluation: str) -> ConfigDict:
    """What every job has that makes vectors of texts: judged by them, before and after, on scored pairs
    ('similarity') or by finding each text's partner ('retrieval')."""
    config = finetune('', select='')
    config.task = task
    config.eval_first = True
    config.data.evaluation = evaluation
    config.data.folder = ''
    config.data.dev_fraction = 0.0
    config.data.test_fraction = 0.0  # where there is no test file: this share of dev's pairs
    config.data.text_columns = ()  # names of the column(s) with the texts; empty: found by the header
    config.data.label_column = ''  # of scores, or of what pairs are (1: they mean the same); likewise
    config.model.pooling = 'mean'  # over a text's tokens; or cls
    config.loss = ConfigDict({'temperature': 0.05})
    return config


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
            'eval_first': False,  # also before the first step
            'checkpoint_every': 1000,  # 0: at the end only
            'keep_checkpoints': 2,  # the newest
            'select': '',  # a held-out metric: the parameters at its best are kept in best/; empty: none
            'patience': 0,  # evaluations without a better one after which the run ends; 0: it never does
            'max_bad_steps': 50,  # in a row, with a gradient or an update that is not finite; then it stops
            'optim': {
                'learning_rate': 1e-4,  # its peak
                'warmup_steps': 100,  # linear up to the peak
                # From there down to final_fraction of it at total_steps: linear, cosine, or wsd, which stays
                # at the peak and falls over the last fifth of the steps; constant stays.
                'schedule': 'linear',
                'final_fraction': 0.0,
                'weight_decay': 0.01,  # not on biases and LayerNorm
                'clip_norm': 1.0,  # of the whole gradient; 0: none
                # Of float16: what the loss is multiplied by at first, 2^24 at most. It halves where a
                # gradient overflows and doubles after 2000 steps in which none did.
                'initial_loss_scale': 2.0**15,
            },
            # Devices along each axis, -1: the rest; what gradients are added up in over those of `data`.
            'mesh': {'data': -1, 'fsdp': 1, 'tensor': 1, 'reduce_dtype': 'float32'},
        }
    )
