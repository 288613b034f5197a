"""From commands and a tiny decoder to a verified GGUF bundle that writes JSON under a grammar."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from edgedistill.pipeline import compile
from edgedistill.recipe import read_recipe
from edgedistill.stages.verify import verify
from edgedistill.store import Store
from tests.tiny_decoders import tiny_decoder

TARGET = """
name = "small-llama"
about = "t"
isa = "x86-64-v3"
runtime = "llama_cpp"
format = "gguf"
schemes = ["gguf_q8_0"]
threads = 1
[link]
kind = "local"
"""
RECIPE = """
name = "lights"
task = "generate"
[data]
train = "train.jsonl"
test = "test.jsonl"
label = "answer"
near_duplicate = 1.0
[teacher]
kind = "causal_lm"
model = "teacher"
license = "mit"
epochs = 4
batch_size = 16
learning_rate = 3e-3
[transfer]
growth = 1.2
held_out = 0.1
[transfer.methods]
typo = 1.0
[student]
family = "decoder"
layers = 1
max_tokens = 128
[distill]
steps = 12
batch_size = 8
[[distill.losses]]
kind = "{loss}"
[compile]
targets = ["small-llama.toml"]
[budget]
accuracy_drop = 0.99
"""


def commands(count: int, seed: int) -> list[dict[str, str]]:
    """Rows that a small decoder can learn something of."""
    draw, rows = random.Random(seed), {}
    while len(rows) < count:
        level, room = draw.randrange(100), draw.choice(["hall", "den", "bath"])
        text, answer = draw.choice(
            [(f"{room} to {level}", {"do": "set", "room": room, "to": level}), (f"{room} off {level}", {"do": "off", "room": room})]
        )
        rows[text] = {"text": text, "answer": json.dumps(answer)}
    return list(rows.values())


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    tiny_decoder(tmp_path / "teacher", num_hidden_layers=3)
    for name, rows in (("train", commands(96, 0)), ("test", commands(24, 1))):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "small-llama.toml").write_text(TARGET)
    (tmp_path / "recipe.toml").write_text(RECIPE.format(loss="forward_kl"))
    return tmp_path / "recipe.toml"


def test_a_decoder_all_the_way(recipe: Path, tmp_path: Path) -> None:
    """A bundle whose decoder answers otherwise than it was measured, whose answers break its own grammar, or whose figures of writing are missing."""
    store = Store(tmp_path / "store")
    (made,) = compile(read_recipe(recipe), out=tmp_path / "out", store=store)
    names = {variant.name: variant for variant in made.report.variants}
    assert set(names) == {"teacher float", "teacher q8_0", "student float", "student q8_0", "control: labels alone"}
    assert made.report.metric == "exact match" and made.bundle is not None
    manifest = json.loads((made.bundle / "manifest.json").read_text())
    assert manifest["settings"]["grammar"].startswith("root ::= kind0 | kind1\n")
    assert manifest["extra"]["stop"] == {"token": "<|im_end|>", "most_tokens": 64}
    assert verify(made.bundle).good
