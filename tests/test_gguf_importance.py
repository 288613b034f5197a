"""The importance matrix: what llama.cpp multiplies with is what torch does, and the quantizer follows it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgedistill import gguf_decoder as decoders
from edgedistill import llama
from edgedistill.errors import StageError
from edgedistill.exporters import gguf as exporter
from edgedistill.exporters.onnx import load_eager
from edgedistill.gguf_file import read_gguf
from edgedistill.gguf_importance import importance
from edgedistill.models import load_decoder
from edgedistill.serving import open_tokenizer
from tests.tiny_decoders import tiny_decoder
from tests.tiny_models import SENTENCES, tiny_bert


def by_hand(model: Any, rows: list[list[int]], modules: dict[str, str]) -> dict[str, np.ndarray]:
    """E[x²] of each column from torch's own inputs. modules: torch's name → llama.cpp's."""
    import torch

    inputs: dict[str, list[np.ndarray]] = {}
    for name, module in model.named_modules():
        if name in modules:
            place = modules[name]
            module.register_forward_pre_hook(lambda _, given, place=place: inputs.setdefault(place, []).append(given[0][0].numpy().copy()))
    with torch.inference_mode():
        for ids in rows:
            model(input_ids=torch.tensor([ids]))
    return {f"{name}.weight": (np.concatenate(found).astype(np.float64) ** 2).mean(0) for name, found in inputs.items()}


def test_a_decoders_is_torchs(tmp_path: Path) -> None:
    """Importance of another matrix, of the outputs, of the last text alone, or of rows instead of columns: calibration that does harm."""
    source = tiny_decoder(tmp_path / "model")
    decoders.write_decoder(source, tmp_path / "gguf", SENTENCES, file_type="F32")
    tokenizer = open_tokenizer(tmp_path / "gguf" / "tokenizer.json", 96)
    rows = [tokenizer.encode(text).ids for text in SENTENCES]
    found = importance(tmp_path / "gguf" / "model.gguf", rows)
    modules = {theirs: ours for theirs, ours in decoders._stems(2).items() if "norm" not in theirs and "embed" not in theirs}
    right = by_hand(load_decoder(source), rows, modules | {"lm_head": "token_embd"})  # tied: the head is the table
    assert found.keys() == right.keys() and len(found) == 2 * 7 + 1
    for name, values in right.items():
        np.testing.assert_allclose(found[name], values, rtol=2e-2, err_msg=name)  # keys and values are kept in float16


def test_an_encoders_is_torchs(tmp_path: Path) -> None:
    """Encoders left out: their graph names the same products."""
    source = tiny_bert(tmp_path / "model")
    exporter.export(source, tmp_path / "gguf", SENTENCES, 48)
    tokenizer = open_tokenizer(tmp_path / "gguf" / "tokenizer.json", 48)
    rows = [tokenizer.encode(text).ids for text in SENTENCES]
    found = importance(tmp_path / "gguf" / "model.gguf", rows)
    modules = {f"bert.encoder.layer.{n}.{theirs}": f"blk.{n}.{ours}" for n in range(2) for theirs, ours in exporter.LAYER.items()}
    right = by_hand(load_eager(source, "text-classification"), rows, modules)
    assert {name for name in found if name.startswith("blk.")} == {name for name in right if "norm" not in name}
    for name in found.keys() & right.keys():
        np.testing.assert_allclose(found[name], right[name], rtol=2e-2, err_msg=name)


def test_the_quantizer_follows_it(tmp_path: Path) -> None:
    """A matrix that llama.cpp does not find by its name: the same bytes as without, and nothing said."""
    import gguf

    source = tiny_decoder(tmp_path / "model")
    decoders.write_decoder(source, tmp_path / "gguf", SENTENCES, file_type="F32")
    name = "blk.0.ffn_up.weight"
    driven = np.where(np.arange(64) % 32 < 4, 100.0, 0.01).astype(np.float32)
    errors = []
    for number, given in enumerate((None, {name: driven})):
        out = tmp_path / f"{number}.gguf"
        llama.quantize(tmp_path / "gguf" / "model.gguf", out, "Q4_0", importance=given)
        values = {}
        for file in (tmp_path / "gguf" / "model.gguf", out):
            tensor = read_gguf(file).tensors[name]
            raw = np.fromfile(file, np.uint8, tensor.bytes, offset=tensor.offset).reshape(tensor.shape[1], -1)
            values[file] = gguf.dequantize(raw, gguf.GGMLQuantizationType[tensor.type]).reshape(tensor.shape[::-1])
        before, after = values.values()
        errors.append(((before - after) ** 2)[:, driven > 1].mean())
    assert errors[1] < 0.8 * errors[0]


def test_without_texts(tmp_path: Path) -> None:
    """A division by no rows."""
    with pytest.raises(StageError) as error:
        importance(tmp_path / "model.gguf", [])
    assert str(error.value) == "transfer: an importance matrix needs texts, and there are none. Give data, or take a scheme without one."
