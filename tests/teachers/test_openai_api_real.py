"""A real endpoint: llama-cpp-python's own OpenAI-compatible server on loopback, with the real SmolLM2-135M-Instruct."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edgedistill.api_client import spent
from edgedistill.recipe import Teacher
from edgedistill.sources import home
from edgedistill.teachers import openai_api
from tests.real_server import KEY, real_server

pytestmark = pytest.mark.long
FILE = """
base_url = "{url}"
model    = "smollm2"
key      = "LOOPBACK_KEY"
answers  = "{answers}"
question = "What does the question ask for?"
concurrency = 2
timeout_s = 600  # the server sorts 49,152 log-probabilities of every position in Python: ten seconds a text on a busy core
[classes]
person = "a person"
number = "a number"
[[examples]]
text  = "Who painted the Mona Lisa ?"
label = "person"
[[examples]]
text  = "How many legs has a spider ?"
label = "number"
[terms]
distillation = "allowed"
basis  = "Apache-2.0"
source = "model card"
date   = 2026-11-24
"""
TEXTS = ["Who wrote Hamlet ?", "How many people live in Rome ?", "Who was the first man on the moon ?", "How many days has a year ?"]
CLASSES = ["person", "number"]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with real_server(tmp_path_factory.mktemp("server"), "--logits_all", "true") as address:  # without it there are no log-probabilities
        yield address


def asked(folder: Path, url: str, answers: str) -> Path:
    (folder / "endpoint.toml").write_text(FILE.format(url=url, answers=answers))
    return folder / "endpoint.toml"


def journal() -> Path:
    (found,) = (home() / "answers").glob("*.sqlite")
    return found


def test_label_probabilities(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A field of the protocol that the test's own server has and a real one has not."""
    monkeypatch.setenv("LOOPBACK_KEY", KEY)
    file = asked(tmp_path, url, "logprobs")
    options = Teacher(model=str(file), kind="openai_api")
    logits = openai_api.logits(file, TEXTS[:2], CLASSES, "text-classification", options, 64, "float32")
    assert logits.shape == (2, 2) and np.isfinite(logits).all() and (np.exp(logits).sum(axis=1) <= 1.001).all()
    assert np.abs(logits[0] - logits[1]).max() > 1e-3, "two texts, one answer"
    before = spent(journal())
    assert before["calls"] == 2 and before["prompt_tokens"] > 2 * 40 and before["completion_tokens"] >= 2
    assert np.array_equal(logits, openai_api.logits(file, TEXTS[:2], CLASSES, "text-classification", options, 64, "float32"))
    assert spent(journal()) == before


def test_named_classes(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers of a real model, with its spaces and signs, that name no class for us."""
    monkeypatch.setenv("LOOPBACK_KEY", KEY)
    file = asked(tmp_path, url, "text")
    options = Teacher(model=str(file), kind="openai_api")
    logits = openai_api.logits(file, TEXTS, CLASSES, "text-classification", options, 64, "float32")
    assert sorted({float(value) for value in logits.ravel()}) in ([0.0, 10.0], [0.0])


def test_a_wrong_key(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Six attempts with a key that no attempt will mend."""
    monkeypatch.setenv("LOOPBACK_KEY", "another")
    file = asked(tmp_path, url, "text")
    with pytest.raises(Exception, match=r"the endpoint refuses the key \(status 401\).*LOOPBACK_KEY"):
        openai_api.logits(file, TEXTS, CLASSES, "text-classification", Teacher(model=str(file), kind="openai_api"), 64, "float32")
