"""A decoder that guesses ahead for another: what is written, and what of the guesses is taken."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgedistill import speculative
from edgedistill.errors import StageError
from edgedistill.gguf_decoder import write_decoder
from edgedistill.llama_causal import kl, open_decoder
from edgedistill.recipe import Data
from edgedistill.report import Drafting
from edgedistill.tasks import generate
from edgedistill.writer import Writer, open_writer
from tests.tiny_decoders import tiny_decoder, tokenizer_json

TEXTS = ["hall to 4", "den off", "", "½ é 日本", "the  two (a1) 12!"]


@pytest.fixture(scope="module")
def settings() -> dict[str, Any]:
    return generate.settings([{"do": "set", "room": "hall", "to": 4}], Data(train="x"))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A decoder, a shallower one, and one of the first's layers whose tokens are fewer and have other numbers."""
    place = tmp_path_factory.mktemp("speculative")
    for name, layers in (("large", 3), ("small", 1)):
        write_decoder(tiny_decoder(place / f"{name}-model", num_hidden_layers=layers, head_dim=32), place / name)
    return place


def opened(folder: Path, settings: dict[str, Any], **options: Any) -> Writer:
    return open_writer(folder / "model.gguf", folder / "tokenizer.json", 96, 1, settings, **options)


@pytest.mark.parametrize("ahead", [1, 3, 8])
@pytest.mark.parametrize("draft", ["large", "small"])
def test_the_large_one_decides(models: Path, settings: dict[str, Any], draft: str, ahead: int) -> None:
    """A draft that changes what is written, or is never believed. A decoder that drafts for itself is right every time, and saves the passes."""
    large, small, alone = (opened(models / name, settings) for name in ("large", draft, "large"))
    for text in TEXTS:
        right, found = alone.write(alone.encode(text)[0], constrained=False), speculative.write(large, small, text, ahead)
        assert found.ids == right.ids
        assert found.accepted + found.passes >= len(found.ids) and found.proposed <= ahead * found.passes
        if draft == "large":
            assert found.accepted == found.proposed and found.passes <= -(-len(found.ids) // (ahead + 1)) + 1


def test_tokens_that_only_one_of_them_has() -> None:
    """A guess in a token that the teacher does not have, or a teacher's token that the student reads as another."""
    from tokenizers import Tokenizer

    large = tokenizer_json("smollm")
    small = tokenizer_json("smollm", merges=20)
    spelling = speculative.Spelling(Tokenizer.from_str(_json(large)), Tokenizer.from_str(_json(small)))
    theirs, ours = large["model"]["vocab"], small["model"]["vocab"]
    numbers = {place: token for token, place in ours.items()}
    only = [token for token in theirs if token not in ours]
    assert len(only) > 50
    for token, place in theirs.items():
        pieces = spelling.to_small(place)
        assert "".join(numbers[piece] for piece in pieces) == token and (token not in ours) == (len(pieces) > 1)
    assert [spelling.to_large(place) for place in ours.values()] == [theirs.get(token) for token in ours]


def test_going_back_is_as_reading_anew(models: Path, settings: dict[str, Any]) -> None:
    """Memory of refused guesses that changes what follows."""
    decoder = opened(models / "large", settings).decoder
    reader = speculative.Reader(decoder)
    for ids in ([5, 6, 7, 8, 9], [5, 6, 7, 30, 31, 32], [5, 6], [40, 41, 42], [40, 41, 42]):
        found = reader.after(ids, 2)
        np.testing.assert_allclose(found, open_decoder(models / "large" / "model.gguf", 96).logits(ids)[-2:], atol=1e-3)
    with pytest.raises(StageError, match="97 tokens do not fit a context of 96"):
        reader.after([1] * 97)


@pytest.mark.parametrize(("kind", "bound"), [("q8_0", 0.005), ("q5_1", 0.05), ("q4_0", 0.5)])
def test_memory_in_fewer_bits(models: Path, kind: str, bound: float) -> None:
    """An option that changes nothing, or forgets what was read."""
    ids = list(range(5, 60))
    right, found = (open_decoder(models / "large" / "model.gguf", 96, kv_cache=name).logits(ids) for name in ("f16", kind))
    assert 0 < kl(right, found).mean() < bound


def test_memory_that_the_model_cannot_have(tmp_path: Path) -> None:
    """A crash where a head is not a multiple of 32 wide."""
    write_decoder(tiny_decoder(tmp_path / "model"), tmp_path / "gguf")
    with pytest.raises(StageError, match="llama.cpp could not make room for 96 tokens"):
        open_decoder(tmp_path / "gguf" / "model.gguf", 96, kv_cache="q8_0")


def test_figures_of_a_draft() -> None:
    """Figures held against hand-computed values."""
    found = Drafting(
        teacher="t", draft="s", ahead=4, alone_ns=[300, 300], drafted_ns=[100, 200], tokens=[9, 3], proposed=[8, 4], accepted=[7, 2],
        passes=[2, 1], same=[True, True],
    )  # fmt: skip
    assert (found.speed_up().value, found.acceptance().value, found.tokens_a_pass().value) == (2.0, 0.75, 4.0)
    assert found.speed_up().low == 1.5 and found.speed_up().high == 3.0


def _json(spec: dict[str, Any]) -> str:
    import json

    return json.dumps(spec)
