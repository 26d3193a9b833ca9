"""Exports in ONNX: ONNX Runtime computes what transformers does, also of sizes never seen before."""

import sys

import numpy as np
import onnxruntime
import pytest
import torch
import transformers

from clower_jax import convert
from clower_jax.export import bert_folder, onnx_model
from helpers import workdirs


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """An exported classifier with its ONNX."""
    parent = tmp_path_factory.mktemp('onnx')
    workdirs.make(parent / 'run', 'classify')
    return bert_folder.export(parent / 'run', parent / 'classifier', onnx=True)


@pytest.mark.slow
def test_logits_are_those_of_transformers(folder):
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    texts = [['今天天气很好。', '我们'], ['短'], ['一句长一点的话' * 3] * 5]
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    session = onnxruntime.InferenceSession(folder / 'onnx' / 'model.onnx')
    for batch in texts:
        inputs = tokenizer(batch, padding=True, truncation=True, max_length=32, return_tensors='pt')
        with torch.no_grad():
            expected = model(**inputs).logits.numpy()
        (logits,) = session.run(['logits'], {name: value.numpy() for name, value in inputs.items()})
        assert np.abs(logits - expected).max() < 1e-4
    assert 'onnx/model.onnx' in (folder / 'README.md').read_text('utf-8')


@pytest.mark.slow
def test_such_an_export_is_replaced_like_any(folder):
    arguments = ['--checkpoint', str(folder.parent / 'run'), '--output', str(folder), '--overwrite']
    convert.main(['export', *arguments])
    assert not (folder / 'onnx').exists() and (folder / 'model.safetensors').is_file()


@pytest.mark.slow
def test_what_differs_is_refused(tmp_path, monkeypatch):
    workdirs.make(tmp_path / 'run', 'classify')
    monkeypatch.setattr(onnx_model, 'TOLERANCE', -1.0)
    with pytest.raises(ValueError, match='computes what is .* off PyTorch'):
        bert_folder.export(tmp_path / 'run', tmp_path / 'classifier', onnx=True)
    assert not (tmp_path / 'classifier').exists()


def test_without_the_extra_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'onnxruntime', None)
    with pytest.raises(ImportError, match=r"^ONNX needs more: pip install 'clower-jax\[onnx\]'"):
        onnx_model.write(tmp_path)
