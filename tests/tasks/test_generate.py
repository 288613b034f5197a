"""Answers that are written: read from data, put into a grammar, judged."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgedistill.errors import RecipeError, TargetError
from edgedistill.pipeline import plan
from edgedistill.recipe import CHAT_ML, Data, read_recipe
from edgedistill.store import Store
from edgedistill.tasks import generate

ROWS = [
    {"intent": "Set", "area": "hall", "level": 40},
    {"intent": "Set", "level": 7},
    {"intent": "Off"},
    {"intent": "Off", "area": "den", "all": True},
]


@pytest.fixture
def settings() -> dict[str, Any]:
    targets = [generate.read(json.dumps(row), "", None) for row in ROWS]
    return generate.settings(targets, Data(train="x"))


def test_cells_that_are_no_answer() -> None:
    """A row whose answer nobody can judge, taken in without a word."""
    assert list(generate.read('{"z": 1, "b": 2, "a": true}', "", None)) == ["z", "a", "b"]
    for cell, why in (
        ("turn on", "answer is no JSON"),
        ("[1]", "answer is no JSON object"),
        ("{}", "answer is no JSON object"),
        ('{"a": [1]}', "answer holds a list, an object or null; its values must be strings, numbers, true or false"),
    ):
        with pytest.raises(ValueError) as error:
            generate.read(cell, "", None)
        assert str(error.value) == why


def test_settings_say_what_answers_are_made_of(settings: dict[str, Any]) -> None:
    """A key that is optional taken for one that is always there, or a kind of value that was never seen."""
    assert settings["labels"] == ["Off", "Set"] and settings["kind_key"] == "intent"
    assert settings["kinds"]["Set"] == {
        "intent": {"types": ["string"], "always": True},
        "area": {"types": ["string"], "always": False},
        "level": {"types": ["integer"], "always": True},
    }
    before, behind = settings["prompt"]
    assert before + "{text}" + behind == CHAT_ML
    lines = settings["grammar"].splitlines()
    assert lines[:3] == [
        "root ::= kind0 | kind1",
        r'kind0 ::= "{" "\"intent\": " "\"Off\"" (", \"all\": " (boolean))? (", \"area\": " (string))? "}"',
        r'kind1 ::= "{" "\"intent\": " "\"Set\"" (", \"area\": " (string))? ", \"level\": " (integer) "}"',
    ]


def test_what_is_valid(settings: dict[str, Any]) -> None:
    """An answer that the app cannot use counted as one, or one in another order of keys refused."""

    def said(text: str) -> Any:
        return generate.answer(text, settings)["answer"]

    assert said('{"intent": "Set", "level": 3}') == {"intent": "Set", "level": 3}
    assert said('{"level": 3, "intent": "Set"}') == {"intent": "Set", "level": 3}
    for text in (
        "",
        "{",
        "[]",
        '{"intent": "Set"}',
        '{"intent": "Set", "level": "3"}',
        '{"intent": "Set", "level": true}',
        '{"intent": "Open"}',
        '{"intent": ["Set"], "level": 3}',
        '{"intent": "Off", "colour": "red"}',
        "[" * 100_000,
    ):
        assert said(text) is None, text[:40]


def test_figures_by_hand(settings: dict[str, Any]) -> None:
    """Slot F1 that counts keys without their values, or 1 for true."""
    right = {"intent": "Set", "area": "hall", "level": 40}
    assert generate.judge(right, dict(reversed(right.items())), settings) == (1.0, 1.0)
    assert generate.judge({"a": True}, {"a": 1}, settings) == generate.judge(None, {"a": 1}, settings) == (0.0, 1.0)
    found = generate.further({"intent": "Set", "level": 41}, right, settings)
    assert found == {"slot F1": (2.0, 5.0), "valid": (1.0, 1.0)}
    assert generate.further(None, right, settings) == {"slot F1": (0.0, 3.0), "valid": (0.0, 1.0)}
    assert generate.further({"a": True}, {"a": 1}, settings)["slot F1"] == (0.0, 2.0)


def test_confidence_is_of_the_whole_answer(settings: dict[str, Any]) -> None:
    """The last token's probability shown for the answer's."""
    said = generate.answer(SimpleNamespace(text='{"intent": "Off"}', scores=(-0.5, -0.25, -0.25)), settings)
    assert said["confidence"] == pytest.approx(0.36788, abs=1e-4) and said["answer"] == {"intent": "Off"}


RECIPE = """
name = "x"
task = "generate"
[data]
train = "x.jsonl"
[teacher]
kind = "causal_lm"
model = "x"
license = "mit"
[student]
family = "decoder"
[compile]
targets = ["laptop-x86-llama"]
"""


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        (
            'kind = "causal_lm"\n',
            "",
            'task "generate" needs a teacher that writes, and kind "transformers" does not; write teacher.kind = "causal_lm".',
        ),
        (
            'task = "generate"',
            'task = "tag"',
            'a teacher of kind "causal_lm" writes its answers, which is for task = "generate", not "tag".',
        ),
        (
            'license = "mit"',
            'license = "mit"\nload = "4bit"',
            'teacher.load = "4bit" is not there for kind "causal_lm": it is taught, in float32; leave it out.',
        ),
        ('family = "decoder"', "", 'a search is not there for task "generate"; write family = "decoder" and its layers under [student].'),
        ('"decoder"', '"transformer"', 'a student of the family "transformer" has no answer to the task "generate"; write "decoder".'),
        (
            "[compile]",
            '[[distill.losses]]\nkind = "soft_target"\n[compile]',
            'the loss soft_target is not for answers that are written; write kind = "forward_kl", or "on_policy".',
        ),
        ('train = "x.jsonl"', 'train = "x.jsonl"\nprompt = "say it"', "data.prompt: the prompt needs the text's place, {text}, once."),
    ],
)
def test_what_does_not_go_together_is_said_at_once(tmp_path: Path, old: str, new: str, why: str) -> None:
    """A teacher that is trained for an hour before it turns out that nothing can be made of it."""
    assert old in RECIPE
    (tmp_path / "recipe.toml").write_text(RECIPE.replace(old, new))
    with pytest.raises(RecipeError) as error:
        read_recipe(tmp_path / "recipe.toml")
    assert str(error.value).endswith(why), str(error.value)


def test_a_runtime_that_cannot_write(tmp_path: Path) -> None:
    """A decoder that is trained for a target which can only classify."""
    (tmp_path / "recipe.toml").write_text(RECIPE.replace("laptop-x86-llama", "laptop-x86"))
    with pytest.raises(TargetError) as error:
        plan(read_recipe(tmp_path / "recipe.toml"), store=Store(tmp_path / "store"))
    assert str(error.value) == (
        "laptop-x86: its runtime onnxruntime writes no answers, and task generate wants one. "
        'Take a target whose runtime is "llama_cpp", such as laptop-x86-llama.'
    )
