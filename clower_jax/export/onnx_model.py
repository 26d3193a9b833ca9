"""An exported folder's model in ONNX, by torch's exporter, checked in ONNX Runtime."""

import json
import logging
import warnings
from pathlib import Path

import numpy as np

MODEL = 'onnx/model.onnx'  # where Hugging Face's libraries look for it
TOLERANCE = 1e-4  # between what ONNX Runtime and PyTorch compute
SHAPES = ((2, 7), (3, 16))  # batch and tokens that both are asked about; any others do, too


def write(folder: Path) -> Path:
    """Adds `onnx/model.onnx` to a folder that transformers loads: `input_ids`, `attention_mask` and
    `token_type_ids`, int64 [batch, length] of any size → the outputs of the model's class, fp32.

    Returns its path. Raises ImportError where the extra is missing, ValueError where ONNX Runtime computes
    anything else than PyTorch (by more than `TOLERANCE`).
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  # which torch's exporter wants
        import torch
        import transformers
    except ImportError as error:
        raise ImportError(f"ONNX needs more: pip install 'clower-jax[onnx]' ({error})") from error
    config = json.loads((folder / 'config.json').read_text('utf-8'))
    model_class = getattr(transformers, config['architectures'][0])
    model = model_class.from_pretrained(folder, attn_implementation='eager', dtype=torch.float32).eval()
    rng = np.random.default_rng(0)

    def inputs_of(batch: int, length: int) -> dict[str, torch.Tensor]:
        mask = np.arange(length) < rng.integers(1, length + 1, (batch, 1))
        arrays = {
            'input_ids': rng.integers(0, config['vocab_size'], (batch, length)),
            'attention_mask': mask,
            'token_type_ids': np.arange(length) >= rng.integers(1, length + 1, (batch, 1)),
        }
        return {name: torch.tensor(value.astype(np.int64)) for name, value in arrays.items()}

    example = inputs_of(*SHAPES[0])
    with torch.no_grad():
        outputs = list(model(**example))
    path = folder / MODEL
    path.parent.mkdir()
    sizes = {0: torch.export.Dim('batch'), 1: torch.export.Dim('length')}
    level = logging.getLogger('torch.onnx').level
    logging.getLogger('torch.onnx').setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # of the names of dimensions
        torch.onnx.export(
            model, kwargs=example, f=path, input_names=list(example), output_names=outputs, dynamo=True,
            dynamic_shapes=dict.fromkeys(example, sizes), external_data=False, verbose=False,
        )  # fmt: skip
    logging.getLogger('torch.onnx').setLevel(level)
    session = onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])
    for shape in SHAPES:
        inputs = inputs_of(*shape)
        with torch.no_grad():
            expected = model(**inputs)
        computed = session.run(outputs, {name: value.numpy() for name, value in inputs.items()})
        difference = max(
            float(np.abs(array - expected[name].numpy()).max()) for name, array in zip(outputs, computed)
        )
        if not difference <= TOLERANCE:
            raise ValueError(f'the ONNX of {folder} computes what is {difference:.1e} off PyTorch')
    return path
