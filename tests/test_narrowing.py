"""Narrower transformers: the projected start stays near what it was cut from, on every architecture we name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from edgedistill.errors import RecipeError
from edgedistill.exporters.onnx import export
from edgedistill.models import load_model, load_tokenizer
from edgedistill.narrowing import _narrow_attention, which_heads
from edgedistill.recipe import Student
from edgedistill.students import transformer
from edgedistill.training import pad
from tests.tiny_models import ARCHITECTURES, SENTENCES, tiny_electra

CLASSES, TASK = list("abcde"), "text-classification"


def started(source: Path, out: Path, **options: object) -> object:
    out.mkdir()
    transformer.start(source, out, Student(layers=2, vocabulary="full", **options), SENTENCES * 4, CLASSES, TASK, 0)  # type: ignore[arg-type]
    return load_model(out, TASK, CLASSES)


def test_which_heads() -> None:
    """Heads that do not divide the width, found by transformers with a traceback; advice that does not work either."""
    assert which_heads(192, None, 384, 12) == 6  # as wide as the source's
    assert which_heads(100, None, 384, 12) == 4  # 3.1 would be as wide, and 3 does not divide 100
    assert which_heads(192, 4, 384, 12) == 4
    with pytest.raises(RecipeError) as error:
        which_heads(192, 5, 384, 12)
    assert str(error.value) == (
        "student.heads = 5 does not divide the width of 192. Write heads = 4 or 6, or a width that 5 divides, such as 190."
    )
    with pytest.raises(RecipeError, match=r"^student.heads = 16, but the model it starts from has 12. Write 1 to 12.$"):
        which_heads(192, 16, 384, 12)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_narrow_start_is_near_its_source(architecture: str, tmp_path: Path) -> None:
    """A projection along the wrong axis, or a head at another's place: logits would correlate with the source's no more than a fresh model's.

    These models are random, and so have no direction that could be left out for free: a quarter of the width costs much. Real ones: DECISIONS.md.
    """
    source = ARCHITECTURES[architecture](tmp_path / "source")
    wide, slim = load_model(source, TASK, CLASSES), started(source, tmp_path / "slim", width=48)
    ids = [encoding.ids[:60] for encoding in load_tokenizer(source).encode_batch(SENTENCES)]
    batch = {name: torch.from_numpy(values) for name, values in pad(ids, wide.config.pad_token_id).items()}
    torch.manual_seed(0)
    models = {"wide": wide, "slim": slim, "fresh": type(slim)(slim.config).eval()}  # type: ignore[attr-defined]
    with torch.inference_mode():
        states = {name: model.base_model(**batch).last_hidden_state[batch["attention_mask"].bool()] for name, model in models.items()}
    # Bases differ, likenesses of tokens do not: those are compared.
    likeness = {name: np.corrcoef(state.numpy())[np.triu_indices(len(state), 1)] for name, state in states.items()}
    near = {name: np.corrcoef(likeness["wide"], likeness[name])[0, 1] for name in ("slim", "fresh")}
    assert near["slim"] > 0.5 and near["slim"] > near["fresh"] + 0.1, near
    assert slim.base_model.get_input_embeddings().weight.shape[1] == (32 if architecture == "electra" else 48)  # type: ignore[attr-defined]


@pytest.mark.parametrize("architecture", ["bert", "distilbert"])
def test_narrow_student_exports(architecture: str, tmp_path: Path) -> None:
    """A config whose sizes do not fit the weights: found only when the model is loaded again, fused and run."""
    started(ARCHITECTURES[architecture](tmp_path / "source"), tmp_path / "slim", width=32, heads=2)
    facts = export(tmp_path / "slim", tmp_path / "graphs", SENTENCES, 48)
    assert facts["error_model"] < facts["tolerance"]


def test_attention_cut_keeps_scores_and_values() -> None:
    """Dimensions cut off by place. Heads of rank 2 lose nothing with 2 of 4 dimensions: scores (with their divisor) and outputs stay as they were."""
    draw = torch.Generator().manual_seed(0)
    stream = torch.randn(200, 8, generator=draw)
    low = lambda: torch.randn(4, 2, generator=draw) @ torch.randn(2, 8, generator=draw)  # noqa: E731
    state = {f"{name}.weight": torch.cat([low(), low()]) for name in "qkv"} | {f"{name}.bias": torch.zeros(8) for name in "qkv"}
    state["o.weight"] = torch.randn(8, 8, generator=draw)
    seen = {f"{name}.out": stream @ state[f"{name}.weight"].T for name in "qkv"}
    before = {name: value.clone() for name, value in state.items()}
    _narrow_attention(state, list("qkvo"), seen, [1], 4, 2)
    assert state["q.weight"].shape == (2, 8) and state["o.weight"].shape == (8, 2)
    q, k, v = (stream @ state[f"{name}.weight"].T for name in "qkv")
    wide_q, wide_k, wide_v = (seen[f"{name}.out"][:, 4:] for name in "qkv")
    torch.testing.assert_close(q @ k.T / 2**0.5, wide_q @ wide_k.T / 4**0.5, rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(v @ state["o.weight"].T, wide_v @ before["o.weight"][:, 4:].T, rtol=1e-2, atol=1e-2)


def test_width_of_the_embeddings_is_refused(tmp_path: Path) -> None:
    """ELECTRA with layers as wide as its embeddings has no product between them; the weights would not load."""
    with pytest.raises(RecipeError) as error:
        started(tiny_electra(tmp_path / "source"), tmp_path / "slim", width=32)
    assert str(error.value) == (
        "student.width = 32 is the width of this electra model's embeddings, for which it has no layers. Write another width."
    )


def test_too_wide_is_refused(tmp_path: Path) -> None:
    """A student wider than its teacher has nothing to start from."""
    with pytest.raises(RecipeError, match=r"^student.width = 96, but the model it starts from has 64. Write 16 to 64.$"):
        started(ARCHITECTURES["bert"](tmp_path / "source"), tmp_path / "slim", width=96)
