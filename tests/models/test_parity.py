"""Both encoders against transformers' BERT in torch; half precision; logits at the masked positions only."""

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from clower_jax.interop import hf_bert, init_weights, weight_files
from clower_jax.models.bert import gelu
from clower_jax.objectives.pretraining import Pretrain
from helpers import synthetic

VIEWS = ('char', 'word')
V = synthetic.BASE_SIZE
B, L = 3, 10
# [PAD] on the right, both segments, a row without padding and one of a single token.
IDS = np.random.default_rng(0).integers(5, V, (B, L))
IDS[1, 7:] = IDS[2, 1:] = 0
SEGMENTS = np.where(IDS == 0, 0, np.arange(L) >= 4)
POSITIONS = np.array([[1, 5, 8], [2, 6, 0], [0, 0, 0]])
LABELS = np.array([[9, 30, 12], [7, 39, -100], [-100, -100, -100]])


def plain_task(**changes) -> Pretrain:
    """Without a word block, so that the softmax is BERT's."""
    return Pretrain.from_config(synthetic.tiny_config(**{'model.vocab_size': V}, **changes))


@pytest.fixture(scope='module')
def reference():
    torch.manual_seed(0)
    bert = transformers.BertForPreTraining(
        transformers.BertConfig(
            vocab_size=V, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
            max_position_embeddings=32, attn_implementation='eager',
        )
    )  # fmt: skip
    with torch.no_grad():  # as initialised, biases are 0 and attention is nearly uniform
        for value in bert.parameters():
            value.add_(torch.randn_like(value) * (0.1 if value.ndim == 1 else 0.2))
    return bert.eval()


@pytest.fixture(scope='module')
def params(reference, tmp_path_factory):
    folder = tmp_path_factory.mktemp('bert')
    reference.save_pretrained(folder)
    vocabulary = synthetic.Vocabulary(base_size=V, vocab_size=V)
    (folder / 'vocab.txt').write_text(''.join(f'{token}\n' for token in vocabulary.tokens), encoding='utf-8')
    task = plain_task()
    loaded, report = init_weights.load_initial(
        jax.tree.map(jnp.asarray, synthetic.random_params(task)),
        str(folder),
        vocabulary,
        num_heads=4,
    )
    assert all('_sop/' in name for name in report.random)
    return loaded


def torch_outputs(reference):
    """(last hidden states, pooled, MLM logits) of the reference's BertModel and heads."""
    ids, segments = torch.tensor(IDS), torch.tensor(SEGMENTS)
    out = reference.bert(ids, attention_mask=(ids != 0).long(), token_type_ids=segments)
    logits, _ = reference.cls(out.last_hidden_state, out.pooler_output)
    return out.last_hidden_state, out.pooler_output, logits


def outputs(model, view):
    """The same, with logits at POSITIONS only."""
    hidden = model.encode(view, IDS, SEGMENTS)
    return hidden, model.pool(view, hidden[:, 0]), model.mlm_logits(view, hidden, POSITIONS)


@pytest.mark.slow
@pytest.mark.parametrize('view', VIEWS)
def test_outputs_equal_transformers(reference, params, view):
    model = plain_task().model
    # Not compiled, here and below: the views and the layers share their operations.
    hidden, pooled, logits = model.apply({'params': params}, view, method=outputs)
    with torch.no_grad():
        expected_hidden, expected_pooled, expected_logits = (x.numpy() for x in torch_outputs(reference))
    np.testing.assert_allclose(hidden, expected_hidden, rtol=0, atol=1e-5)
    np.testing.assert_allclose(pooled, expected_pooled, rtol=0, atol=1e-5)
    expected_logits = np.take_along_axis(expected_logits, POSITIONS[..., None], axis=1)
    np.testing.assert_allclose(logits, expected_logits, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_mlm_logits_equal_bert_for_masked_lm(reference, params, tmp_path):
    reference.save_pretrained(tmp_path)
    masked_lm = transformers.BertForMaskedLM.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        out = masked_lm(torch.tensor(IDS), (torch.tensor(IDS) != 0).long(), torch.tensor(SEGMENTS))
    model = plain_task().model
    *_, logits = model.apply({'params': params}, 'char', method=outputs)
    expected = np.take_along_axis(out.logits.numpy(), POSITIONS[..., None], axis=1)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize('view', VIEWS)
def test_gradients_equal_transformers(reference, params, view):
    """Of masked cross-entropy plus random projections of the hidden states and of the pooled vectors."""
    rng = np.random.default_rng(1)
    # Nothing looks at padding; torch would drop the gradient of its token row, as of a constant.
    on_hidden = (rng.normal(size=(B, L, 32)) * (IDS != 0)[..., None]).astype(np.float32)
    on_pooled = rng.normal(size=(B, 32)).astype(np.float32)
    model = plain_task().model

    def loss(params):
        hidden, pooled, logits = model.apply({'params': params}, view, method=outputs)
        log_p = jnp.take_along_axis(jax.nn.log_softmax(logits), jnp.maximum(LABELS, 0)[..., None], axis=-1)
        cross_entropy = -jnp.where(LABELS >= 0, log_p[..., 0], 0).sum()
        return (hidden * on_hidden).sum() + (pooled * on_pooled).sum() + cross_entropy

    reference.zero_grad()
    hidden, pooled, logits = torch_outputs(reference)
    logits = torch.take_along_dim(logits, torch.tensor(POSITIONS)[..., None], 1).flatten(0, 1)
    expected_loss = (hidden * torch.tensor(on_hidden)).sum() + (pooled * torch.tensor(on_pooled)).sum()
    expected_loss = expected_loss + torch.nn.functional.cross_entropy(
        logits, torch.tensor(LABELS).flatten(), reduction='sum'
    )
    expected_loss.backward()

    value, gradient = jax.value_and_grad(loss)(params)
    np.testing.assert_allclose(value, expected_loss.item(), rtol=1e-5)
    expected = {weight_files.modern_name(name): p.grad for name, p in reference.named_parameters()}
    other = 'word' if view == 'char' else 'char'
    compared = set()
    for path, got in flax.traverse_util.flatten_dict(gradient, sep='/').items():
        name = hf_bert.tensor_name(path)
        if path.startswith(f'{other}_') or name not in expected:
            assert np.all(np.asarray(got) == 0), path  # not on the way to this loss
            continue
        compared.add(name)
        want = expected[name].numpy()
        want = want.T if path.endswith('/kernel') else want
        # A constant added to every key's score changes no softmax: the key bias's own gradient is only the
        # rounding of a sum over positions, so it is held against that of the key's kernel.
        scale = expected[name.replace('key.bias', 'key.weight')].abs().max().item()
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-4 * scale, err_msg=path)
    assert {name for name in expected if 'seq_relationship' not in name} == compared


def test_gelu_equals_torch():
    x = np.linspace(-12, 12, 4001, dtype=np.float32)
    value, pull = jax.vjp(gelu, x)
    there = torch.tensor(x, requires_grad=True)
    expected = torch.nn.functional.gelu(there)
    expected.sum().backward()
    np.testing.assert_allclose(value, expected.detach(), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(pull(np.ones_like(x))[0], there.grad, rtol=1e-6, atol=1e-6)
    assert np.abs(value - jax.nn.gelu(x, approximate=True)).max() > 1e-4  # the other GELU would not pass


@pytest.mark.parametrize('dtype', ['bfloat16', 'float16'])
def test_gelu_in_half_precision_rounds_once(dtype):
    x = jnp.linspace(-8, 8, 501).astype(dtype)
    value, pull = jax.vjp(gelu, x)
    exact, exact_pull = jax.vjp(gelu, x.astype(jnp.float32))
    assert jnp.array_equal(value, exact.astype(dtype))
    assert jnp.array_equal(pull(jnp.ones_like(x))[0], exact_pull(jnp.ones(x.shape))[0].astype(dtype))


# ---- the whole pre-training loss: half precision, memory ----


def shallow_task(**changes) -> Pretrain:
    return Pretrain.from_config(synthetic.tiny_config(**{'model.num_layers': 1, **changes}))


@pytest.fixture(scope='module')
def case():
    """(random parameters, a batch, the sums of the fp32 loss)."""
    params = synthetic.random_params(shallow_task())
    batch = next(synthetic.batches(synthetic.tiny_config()))
    _, sums = jax.jit(lambda p: shallow_task().loss(p, batch, None))(params)
    return params, batch, sums


@pytest.mark.slow
@pytest.mark.parametrize('dtype', ['bfloat16', 'float16'])
def test_half_precision_is_close_to_fp32(case, dtype):
    params, batch, expected = case
    task = shallow_task(dtype=dtype)
    loss, sums = jax.jit(lambda p: task.loss(p, batch, None))(params)
    assert np.isfinite(loss)
    eps = float(jnp.finfo(dtype).eps)
    for name in ('mlm_char', 'mlm_word', 'sop', 'tcl', 'scl'):
        (total, count), (expected_total, _) = sums[f'loss_{name}'], expected[f'loss_{name}']
        # A logit is rounded to one part in 1/eps; a cosine too, and is then divided by the temperature.
        tolerance = eps / task.temperature if name in ('tcl', 'scl') else eps * expected_total / count
        assert abs(total - expected_total) / count < tolerance, name


def arrays(jaxpr):
    """The shape of every value in a jaxpr, whatever it is nested in."""
    for equation in jaxpr.eqns:
        yield from (value.aval.shape for value in (*equation.invars, *equation.outvars))
        for inner in jax.tree.leaves(
            equation.params, is_leaf=lambda x: hasattr(x, 'eqns') or hasattr(x, 'jaxpr')
        ):
            inner = getattr(inner, 'jaxpr', inner)
            if hasattr(inner, 'eqns'):
                yield from arrays(inner)


def with_vocabulary_axis(task, params, batch) -> list[tuple[int, ...]]:
    """Shapes of what the loss and its gradient compute that run over the vocabulary."""
    step = jax.value_and_grad(lambda p: task.loss(p, batch, jax.random.key(0)), has_aux=True)
    shapes = set(arrays(jax.make_jaxpr(step)(params).jaxpr))
    return [shape for shape in shapes if synthetic.VOCAB_SIZE in shape]


@pytest.mark.slow
def test_logits_are_computed_at_the_masked_positions_only(case):
    params, batch, _ = case
    task = shallow_task(**{'model.dropout': 0.1, 'model.attention_dropout': 0.1})
    rows, masked = batch['char_mlm_positions'].shape
    length = batch['char_ids'].shape[1]
    computed = with_vocabulary_axis(task, params, batch)
    assert (rows * masked, synthetic.VOCAB_SIZE) in computed
    assert max(map(np.prod, computed)) < rows * length * synthetic.VOCAB_SIZE
    # That this looks at the right thing: with every position asked for, there they are.
    everywhere = np.tile(np.arange(length), (rows, 1))
    batch = {**batch, 'char_mlm_positions': everywhere, 'char_mlm_labels': batch['char_ids']}
    assert (rows * length, synthetic.VOCAB_SIZE) in with_vocabulary_axis(task, params, batch)
