"""What a student computes while it learns through a quantizer is what ONNX Runtime computes from the binary."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from edgedistill import plugins
from edgedistill.exporters.onnx import export, works_on_first_token
from edgedistill.fake_quant import GRIDS, attach, int4_block, int7_channel, int8_block, uint8_row, uint8_tensor
from edgedistill.models import load_model, load_tokenizer
from edgedistill.onnx_graph import session
from tests.tiny_models import SENTENCES, tiny_bert, tiny_conv, tiny_distilbert, tiny_electra, tiny_mpnet, tiny_roberta, tiny_static

SCHEMES = [name for name in plugins.names("quantizers") if hasattr(plugins.find("quantizers", name), "ARITHMETIC")]
weights = arrays.arrays(np.float32, (4, 96), elements=st.floats(-4, 4, width=32, allow_subnormal=False))


@pytest.mark.parametrize(
    ("make", "scheme"),
    [(make, scheme) for make in (tiny_bert, tiny_mpnet, tiny_conv) for scheme in SCHEMES]
    + [(make, "onnx_int8_int4_table") for make in (tiny_roberta, tiny_distilbert, tiny_electra, tiny_static)],
)
def test_exported_logits_are_the_trained_ones(make: Callable[[Path], Path], scheme: str, tmp_path: Path) -> None:
    """Another rounding anywhere, and the student has learned to live with an arithmetic that no device has.

    Rows agree to the last bits, but where a float operation in another order pushes an activation over a rounding step; of a token table on a grid
    of four bits many activations lie exactly on a half, so there it is most rows.
    """
    folder = make(tmp_path / "model")
    model = load_model(folder, "text-classification", [str(number) for number in range(5)], dtype="float32")
    rows = [encoding.ids for encoding in load_tokenizer(folder, 48).encode_batch(SENTENCES)]

    def said() -> np.ndarray:
        with torch.no_grad():
            texts = [torch.tensor([row]) for row in rows]
            return np.stack([model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0].numpy() for ids in texts])

    export(folder, tmp_path / "before", SENTENCES, 48)
    before = said()
    example = torch.tensor([rows[0]])
    batch = {"input_ids": example, "attention_mask": torch.ones_like(example)}
    settle = attach(model, plugins.find("quantizers", scheme).ARITHMETIC, batch if works_on_first_token(tmp_path / "before") else None)
    trained = said()
    settle()
    model.save_pretrained(folder)
    export(folder, tmp_path / "graphs", SENTENCES, 48)
    plugins.find("quantizers", scheme).quantize(tmp_path / "graphs", tmp_path / "out", [], frozenset())
    binary = session(tmp_path / "out" / "model.onnx")
    shipped = np.stack(
        [binary.run(None, {"input_ids": np.array([row]), "attention_mask": np.ones((1, len(row)), np.int64)})[0][0] for row in rows]
    )

    errors = np.abs(shipped - trained).max(axis=1)
    on_halves = make is tiny_conv and scheme == "onnx_int4_block"
    assert np.quantile(errors, 0.2 if on_halves else 0.5) < 1e-5 * before.std(), errors
    assert errors.max() < 0.25 * before.std(), errors  # a few steps of activations, in a model of random weights
    assert np.abs(errors).mean() < 0.2 * np.abs(shipped - before).max(axis=1).mean(), errors
    assert np.abs(shipped - before).max() > 1e-3 * before.std(), "nothing was quantized, so nothing was compared"


def test_padding_does_not_move_a_range(tmp_path: Path) -> None:
    """A batch's padding is no text: a range that it widened would be another arithmetic than the device's, which sees one text."""
    folder = tiny_bert(tmp_path / "model")
    model = load_model(folder, "text-classification", [str(number) for number in range(5)], dtype="float32")
    with torch.no_grad():
        model.bert.embeddings.word_embeddings.weight[0] = 50 * torch.randn(64)  # [PAD]
    ids = torch.tensor([load_tokenizer(folder, 48).encode(SENTENCES[0]).ids])
    attach(model, plugins.find("quantizers", "onnx_int8_int4_table").ARITHMETIC)
    padded = torch.cat([ids, torch.zeros(1, 5, dtype=torch.long)], dim=1)
    mask = torch.cat([torch.ones_like(ids), torch.zeros(1, 5, dtype=torch.long)], dim=1)
    with torch.no_grad():
        alone = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        assert torch.allclose(model(input_ids=padded, attention_mask=mask).logits, alone, atol=1e-4)


def test_the_gradient_passes(tmp_path: Path) -> None:
    """A rounding has the slope 0 everywhere: a student that cannot see past it does not learn at all."""
    folder = tiny_bert(tmp_path / "model")
    model = load_model(folder, "text-classification", [str(number) for number in range(5)], dtype="float32")
    ids = torch.tensor([load_tokenizer(folder, 48).encode(SENTENCES[0]).ids])
    attach(model, plugins.find("quantizers", "onnx_int4_block").ARITHMETIC)
    model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, 0].backward()
    latent = {name: value.grad for name, value in model.named_parameters() if name.endswith("query.parametrizations.weight.original")}
    assert latent and all(grad is not None and grad.abs().sum() > 0 for grad in latent.values())


@pytest.mark.parametrize("name", GRIDS)
@given(values=weights)
def test_a_grid_gives_itself_back(name: str, values: np.ndarray) -> None:
    """The quantizer sees only the weights: were they not on its own grid, it would round them once more."""
    once = GRIDS[name](torch.from_numpy(values), 64)
    twice = GRIDS[name](once, 64)
    assert torch.allclose(once, twice, rtol=1e-5, atol=1e-6)


def test_grids_by_hand() -> None:
    """Each grid on numbers that can be checked by hand."""
    assert int7_channel(torch.tensor([[0.64, -0.123, 0.001]])).tolist()[0] == pytest.approx([0.64, -0.12, 0.0])
    # From -0.5 to 1: steps of 0.1, zero at the fifth.
    assert int4_block(torch.tensor([[-0.5, 1.0, 0.26, 0.04]]), 64).tolist()[0] == pytest.approx([-0.5, 1.0, 0.3, 0.0])
    # From 0 to 2.55: steps of 0.01; the second row shares them.
    assert uint8_tensor(torch.tensor([[0.0, 2.55], [0.004, 0.006]])).flatten().tolist() == pytest.approx([0, 2.55, 0, 0.01])
    assert uint8_row(torch.tensor([[2.55, 0.004, 0.006], [25.5, 0.04, 0.06]])).flatten().tolist() == pytest.approx(
        [2.55, 0, 0.01, 25.5, 0, 0.1]
    )
    assert int8_block(torch.tensor([[1.27, 0.004, -0.006]])).tolist()[0] == pytest.approx([1.27, 0, -0.01])


def test_learning_through_a_quantizer_wins_back_what_it_lost(tmp_path: Path) -> None:
    """A training that leaves the binary as bad as quantizing afterwards is time thrown away."""
    folder = tiny_bert(tmp_path / "model")
    tokenizer = load_tokenizer(folder, 48)
    rows = [torch.tensor([encoding.ids]) for encoding in tokenizer.encode_batch(SENTENCES)]
    export(folder, tmp_path / "before", SENTENCES, 48)
    right = [session(tmp_path / "before" / "model.onnx").run(None, _batch(row))[0] for row in rows]
    quantizer = plugins.find("quantizers", "onnx_int4_block")

    def error(graphs: Path) -> float:
        quantizer.quantize(graphs, graphs / "int4", [], frozenset())
        binary = session(graphs / "int4" / "model.onnx")
        return float(np.mean([(binary.run(None, _batch(row))[0] - one) ** 2 for row, one in zip(rows, right, strict=True)]))

    afterwards = error(tmp_path / "before")
    model = load_model(folder, "text-classification", [str(number) for number in range(5)], dtype="float32")
    settle = attach(model, quantizer.ARITHMETIC)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(30):  # 15 come to half of the error, 0.505 of it on one machine
        for row, one in zip(rows, right, strict=True):
            logits = model(input_ids=row, attention_mask=torch.ones_like(row)).logits
            ((logits - torch.from_numpy(one)) ** 2).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    settle()
    model.save_pretrained(folder)
    export(folder, tmp_path / "after", SENTENCES, 48)
    assert error(tmp_path / "after") < 0.5 * afterwards


def _batch(ids: torch.Tensor) -> dict[str, np.ndarray]:
    return {"input_ids": ids.numpy(), "attention_mask": np.ones(ids.shape, np.int64)}
