"""The CLOWER step in PyTorch, timed: as a user writes it, and as well as we can. Contenders of bench/step.py.

    python bench/torch_steps.py {plain,best} CASE [--options compile,master] [--seconds 6] [--window 1]

`plain` is two of transformers' BertForMaskedLM over one embedding layer, logits at every position, autocast.
`best` gathers the masked positions before the head, takes queries, keys and values in one product, knows no
mask where no row has padding, and has a fused AdamW. Its options, of which bench/step.py takes the fastest:

  compile   torch.compile of the forward and backward pass
  autotune  the same with inductor's search over kernels (minutes)
  master    bf16: parameters in bf16 with an fp32 copy that AdamW updates, instead of autocast
  chunked   F.linear_cross_entropy, which never holds all logits (torch 2.13)
  cudnn     cuDNN's attention before the others (CUDA)
"""

import argparse
import contextlib
import json
import sys
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812  (as everyone calls it)
import transformers
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from bench import step_case  # noqa: E402
from bench.step_case import IGNORED_LABEL, VIEWS  # noqa: E402

OPTIONS = ('compile', 'autotune', 'master', 'chunked', 'cudnn')


def span_weights(start: torch.Tensor, length: torch.Tensor, row_length: int) -> torch.Tensor:
    """[B, K] → fp32 [B, K, L]: the mean over each span as a product."""
    offset = torch.arange(row_length, device=start.device) - start[..., None]
    inside = (offset >= 0) & (offset < length[..., None])
    return inside / length.clamp(min=1)[..., None]


class Plain(nn.Module):
    """As a user of transformers writes CLOWER: tensors of a batch → the loss."""

    def __init__(self, config: dict):
        super().__init__()
        model, self.settings = config['model'], config['loss']
        bert = transformers.BertConfig(
            vocab_size=model['vocab_size'],
            hidden_size=model['hidden_size'],
            num_hidden_layers=model['num_layers'],
            num_attention_heads=model['num_heads'],
            intermediate_size=model['intermediate_size'],
            max_position_embeddings=model['max_positions'],
            hidden_dropout_prob=model['dropout'],
            attention_probs_dropout_prob=model['attention_dropout'],
        )
        width = model['hidden_size']
        self.bert = nn.ModuleDict({view: transformers.BertForMaskedLM(bert) for view in VIEWS})
        self.pooler = nn.ModuleDict({view: nn.Linear(width, width) for view in VIEWS})
        self.sop = nn.ModuleDict({view: nn.Linear(width, 2) for view in VIEWS})
        char, word = (self.bert[view] for view in VIEWS)
        word.bert.embeddings = char.bert.embeddings
        word.cls.predictions.decoder.weight = char.bert.embeddings.word_embeddings.weight

    def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        settings, loss, hidden = self.settings, 0.0, {}
        for view in VIEWS:
            ids = batch[f'{view}_ids']
            out = self.bert[view](
                input_ids=ids,
                attention_mask=(ids != 0).long(),
                token_type_ids=batch[f'{view}_segments'],
                labels=batch[f'{view}_labels'],
                output_hidden_states=True,
            )
            hidden[view] = out.hidden_states[-1]
            pooled = torch.tanh(self.pooler[view](hidden[view][:, 0]))
            order = F.cross_entropy(self.sop[view](pooled), batch['sop_labels'])
            loss = loss + out.loss + settings['sop_weight'] / len(VIEWS) * order
        start, length = batch['anchor_char_start'], batch['anchor_char_length']
        real = length > 0
        chars = torch.bmm(span_weights(start, length, hidden['char'].shape[1]), hidden['char'].float())[real]
        position = batch['anchor_word_position'][..., None].expand(-1, -1, hidden['word'].shape[-1])
        words = hidden['word'].gather(1, position)[real]
        contrast = self.nt_xent(chars, words) + self.nt_xent(hidden['char'][:, 0], hidden['word'][:, 0])
        return loss + settings['contrast_weight'] * contrast

    def nt_xent(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """The mean of both directions' cross-entropy over the cosines of [N, D] and [N, D]."""
        cosine = F.normalize(a.float(), dim=-1) @ F.normalize(b.float(), dim=-1).T
        scores = cosine / self.settings['temperature']
        own = torch.arange(len(scores), device=scores.device)
        return 0.5 * (F.cross_entropy(scores, own) + F.cross_entropy(scores.T, own))


class Layer(nn.Module):
    """One post-LayerNorm layer: [B, L, D] → [B, L, D]."""

    def __init__(self, model: dict):
        super().__init__()
        width, inner = model['hidden_size'], model['intermediate_size']
        self.num_heads = model['num_heads']
        self.dropout, self.attention_dropout = model['dropout'], model['attention_dropout']
        self.qkv, self.attention_output = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.intermediate, self.output = nn.Linear(width, inner), nn.Linear(inner, width)
        self.attention_norm, self.output_norm = (nn.LayerNorm(width, eps=1e-12) for _ in range(2))

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        B, L, D = x.shape
        query, key, value = self.qkv(x).view(B, L, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        rate = self.attention_dropout if self.training else 0.0
        context = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=rate)
        context = self.attention_output(context.transpose(1, 2).reshape(B, L, D))
        x = self.attention_norm(x + F.dropout(context, self.dropout, self.training))
        h = self.output(F.gelu(self.intermediate(x)))
        return self.output_norm(x + F.dropout(h, self.dropout, self.training))


class Best(nn.Module):
    """The best that we can write: tensors of a batch → the loss, the same as `Plain`'s.

    `no_padding`: no row of any batch has padding; else attention gets a mask. `chunked`: see the file's
    docstring. All shapes are static, so that it compiles to one graph.
    """

    def __init__(self, config: dict, no_padding: bool = False, chunked: bool = False):
        super().__init__()
        model, self.settings = config['model'], config['loss']
        self.no_padding, self.chunked = no_padding, chunked
        width = model['hidden_size']
        self.dropout = model['dropout']
        self.table = nn.Embedding(model['vocab_size'], width)
        self.positions = nn.Embedding(model['max_positions'], width)
        self.segments = nn.Embedding(2, width)
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.layers = self._each(lambda: nn.ModuleList(Layer(model) for _ in range(model['num_layers'])))
        self.pooler, self.transform = (self._each(lambda: nn.Linear(width, width)) for _ in range(2))
        self.sop = self._each(lambda: nn.Linear(width, 2))
        self.transform_norm = self._each(lambda: nn.LayerNorm(width, eps=1e-12))
        self.decoder_bias = nn.ParameterDict(
            {view: nn.Parameter(torch.zeros(model['vocab_size'])) for view in VIEWS}
        )
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=model['initializer_range'])

    @staticmethod
    def _each(make) -> nn.ModuleDict:
        return nn.ModuleDict({view: make() for view in VIEWS})

    def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        settings, loss, hidden = self.settings, 0.0, {}
        for view in VIEWS:
            hidden[view] = h = self._encode(view, batch[f'{view}_ids'], batch[f'{view}_segments'])
            pooled = torch.tanh(self.pooler[view](h[:, 0]))
            order = F.cross_entropy(self.sop[view](pooled).float(), batch['sop_labels'])
            predicted = self._masked_tokens(view, h, batch)
            loss = loss + predicted + settings['sop_weight'] / len(VIEWS) * order
        start, length = batch['anchor_char_start'], batch['anchor_char_length']
        weights = span_weights(start, length, hidden['char'].shape[1])
        with torch.autocast(weights.device.type, enabled=False):
            chars = torch.bmm(weights, hidden['char'].float()).flatten(0, 1)
            position = batch['anchor_word_position'][..., None].expand(-1, -1, chars.shape[-1])
            words = hidden['word'].gather(1, position).flatten(0, 1)
            contrast = self._nt_xent(chars, words, (length > 0).flatten())
            contrast = contrast + self._nt_xent(hidden['char'][:, 0], hidden['word'][:, 0], None)
        return loss + settings['contrast_weight'] * contrast

    def _encode(self, view: str, ids: torch.Tensor, segments: torch.Tensor) -> torch.Tensor:
        x = self.table(ids) + self.segments(segments) + self.positions.weight[: ids.shape[1]]
        x = F.dropout(self.norm(x), self.dropout, self.training)
        mask = None if self.no_padding else (ids != 0)[:, None, None, :]
        for layer in self.layers[view]:
            x = layer(x, mask)
        return x

    def _masked_tokens(self, view: str, hidden: torch.Tensor, batch: dict) -> torch.Tensor:
        position = batch[f'{view}_mlm_positions'][..., None].expand(-1, -1, hidden.shape[-1])
        h = F.gelu(self.transform[view](hidden.gather(1, position)))
        h = self.transform_norm[view](h).flatten(0, 1)
        table, bias = self.table.weight, self.decoder_bias[view]
        labels = batch[f'{view}_mlm_labels'].flatten()
        if self.chunked:
            dtype = self.transform[view].weight.dtype
            if torch.is_autocast_enabled(h.device.type):
                dtype = torch.get_autocast_dtype(h.device.type)
            options = torch.nn.LinearCrossEntropyOptions()
            h, table, bias = (x.to(dtype) for x in (h, table, bias))
            return F.linear_cross_entropy(h, table, labels, linear_bias=bias, options=options).float()
        return F.cross_entropy(F.linear(h, table, bias).float(), labels, ignore_index=IGNORED_LABEL)

    def _nt_xent(self, a: torch.Tensor, b: torch.Tensor, real: torch.Tensor | None) -> torch.Tensor:
        a, b = (F.normalize(x.float(), dim=-1) for x in (a, b))
        scores = a @ b.T / self.settings['temperature']
        own = torch.arange(len(scores), device=scores.device)
        if real is not None:
            own = torch.where(real, own, IGNORED_LABEL)
            scores = scores.masked_fill(~(real & real[:, None]), torch.finfo(scores.dtype).min)
        return 0.5 * (F.cross_entropy(scores, own) + F.cross_entropy(scores.T, own))


def tensors(batch: dict, device: str) -> dict[str, torch.Tensor]:
    """The batch as a loader hands it over: also `<view>_labels`, labels at every position, −100 elsewhere."""
    out = {name: torch.from_numpy(value).long() for name, value in batch.items()}
    for view in VIEWS:
        labels = torch.full_like(out[f'{view}_ids'], IGNORED_LABEL)
        given = out[f'{view}_mlm_labels']
        row, slot = torch.nonzero(given >= 0, as_tuple=True)
        labels[row, out[f'{view}_mlm_positions'][row, slot]] = given[row, slot]
        out[f'{view}_labels'] = labels
    return {name: value.to(device) for name, value in out.items()}


class Trainer:
    """A module and what updates it: AdamW, decay on matrices only, clipping, linear warm-up and decay."""

    def __init__(self, config: dict, module: nn.Module, device: str, is_best: bool, options: set[str]):
        optim = config['optim']
        self.module, self.clip_norm = module.to(device).train(), optim['clip_norm']
        self.has_master = 'master' in options and config['dtype'] == 'bfloat16'
        self.autocast = contextlib.nullcontext
        if config['dtype'] == 'bfloat16' and not self.has_master:
            self.autocast = lambda: torch.autocast(device, torch.bfloat16)
        self.weights = list(self.module.parameters())
        # What AdamW updates: the parameters themselves, or an fp32 copy of them.
        self.updated = self.weights
        if self.has_master:
            self.updated = [nn.Parameter(w.detach().clone()) for w in self.weights]
            self.module.to(torch.bfloat16)
        decays = [w for w in self.updated if w.ndim > 1]  # not biases, not LayerNorm
        others = [w for w in self.updated if w.ndim == 1]
        groups = [
            {'params': decays, 'weight_decay': optim['weight_decay']},
            {'params': others, 'weight_decay': 0.0},
        ]
        # None, and not False: then torch chooses between a loop and a `foreach`, as it does for a user.
        fused = True if is_best else None
        self.optimizer = torch.optim.AdamW(groups, lr=optim['learning_rate'], eps=1e-6, fused=fused)
        warmup, total = optim['warmup_steps'], config['total_steps']
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda k: k / warmup if k < warmup else max(0.0, (total - k) / (total - warmup))
        )
        self.loss_of = self.module
        if options & {'compile', 'autotune'}:
            mode = 'max-autotune-no-cudagraphs' if 'autotune' in options else None
            self.loss_of = torch.compile(self.module, mode=mode, dynamic=False)

    def step(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """One step; returns its loss, which may not be computed yet."""
        with self.autocast():
            loss = self.loss_of(batch)
        loss.backward()
        if self.has_master:
            for copy, weight in zip(self.updated, self.weights, strict=True):
                copy.grad = weight.grad.float()
        if self.clip_norm > 0:
            torch.nn.utils.clip_grad_norm_(self.updated, self.clip_norm)
        self.optimizer.step()
        self.scheduler.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.has_master:
            self.module.zero_grad(set_to_none=True)
            with torch.no_grad():
                torch._foreach_copy_(self.weights, self.updated)
        return loss.detach()

    @torch.no_grad()
    def match_copy(self) -> None:
        """Makes the fp32 copy that of the module's parameters, after these were set."""
        for copy, weight in zip(self.updated, self.weights, strict=True):
            copy.copy_(weight)


def trainer_of(config: dict, which: str, device: str, options: set[str], no_padding: bool) -> Trainer:
    """The contender `which`, 'plain' or 'best'."""
    if config['loss']['mlm_candidates'] != 'shared' or not config['loss']['same_word_negatives']:
        raise ValueError(
            'the contenders in torch know the losses of the paper only; leave config.loss as it is'
        )
    if which == 'plain':
        return Trainer(config, Plain(config), device, False, set())
    best = Best(config, no_padding, 'chunked' in options)
    return Trainer(config, best, device, True, options)


def main() -> None:
    """Prints one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n')[0])
    parser.add_argument('which', choices=('plain', 'best'))
    parser.add_argument('case', type=Path, help='what step_case.write wrote')
    parser.add_argument('--options', default='', help=f'of best, comma-separated: {", ".join(OPTIONS)}')
    parser.add_argument('--seconds', type=float, default=6.0, help='to spend on timing')
    parser.add_argument('--window', type=int, default=1, help='steps between two waits')
    parser.add_argument('--device', choices=('cpu', 'cuda'), default='cpu')
    flags = parser.parse_args()
    options = {option for option in flags.options.split(',') if option}
    if not options <= set(OPTIONS):
        parser.error(f'--options knows {", ".join(OPTIONS)}')
    config, batch = step_case.read(flags.case)
    cuda = flags.device == 'cuda'
    if config['dtype'] == 'bfloat16' and flags.which == 'best':
        torch.set_float32_matmul_precision(
            'high'
        )  # what stays fp32 under autocast; fp32 runs are really fp32
    with step_case.memory_may_run_out(), attention(options):
        no_padding = all((batch[f'{view}_ids'] != 0).all() for view in VIEWS)
        trainer = trainer_of(config, flags.which, flags.device, options, no_padding)
        placed = tensors(batch, flags.device)
        wait = torch.cuda.synchronize if cuda else lambda: None
        figures = step_case.timed(lambda: trainer.step(placed), wait, flags.seconds, flags.window)
        figures |= {
            'device': torch.cuda.get_device_name() if cuda else 'cpu',
            'tokens': step_case.useful_tokens(batch),
            'examples': len(batch['sop_labels']),
            'peak_bytes': torch.cuda.max_memory_allocated() if cuda else step_case.peak_rss(),
            'note': f'torch {torch.__version__}, transformers {transformers.__version__}',
        }
        print(json.dumps(figures))


def attention(options: set[str]):
    """The context in which `cudnn` comes first among the kernels of attention."""
    if 'cudnn' not in options:
        return contextlib.nullcontext()
    from torch.nn.attention import SDPBackend, sdpa_kernel

    kernels = ('CUDNN_ATTENTION', 'FLASH_ATTENTION', 'EFFICIENT_ATTENTION', 'MATH')
    return sdpa_kernel([getattr(SDPBackend, name) for name in kernels], set_priority=True)


if __name__ == '__main__':
    main()
