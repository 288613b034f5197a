"""Plugins: one file each, found by name, held to their folder's contract; outside packages register the same way."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from types import ModuleType

import numpy as np
import pytest

from edgedistill import plugins
from edgedistill.errors import MissingExtraError, RecipeError

CONTRACT = {
    "tasks": [
        "HUB_TASK",
        "EXACT",
        "about",
        "metric",
        "read",
        "settings",
        "stratum",
        "classes",
        "names",
        "number",
        "answer",
        "judge",
        "divergence",
        "hard",
        "hard_kind",
        "soft",
    ],
    "teachers": ["labels", "has_head", "adopt", "fine_tune", "logits"],
    "students": ["ABOUT", "OPTIONS", "start", "learning_rate", "sizes"],
    "losses": ["Options", "NEEDS", "loss"],
    "exporters": ["FORMAT", "export"],
    "quantizers": ["FORMAT", "ABOUT", "quantize", "layers"],
    "runtimes": ["FORMAT", "ABOUT", "open_model"],
    "links": ["HOW", "ABOUT", "ready", "open_runner"],
}
ALL = [(folder, name) for folder in plugins.FOLDERS for name in plugins.names(folder)]


@pytest.mark.parametrize(("folder", "name"), ALL)
def test_every_plugin_has_what_its_folder_asks_for(folder: str, name: str) -> None:
    """A file that is found by name and breaks the pipeline when it is used."""
    plugin = plugins.find(folder, name)
    assert [part for part in CONTRACT[folder] if not hasattr(plugin, part)] == []


def test_unknown_name_offers_the_nearest() -> None:
    """A misspelt plugin answered with a ModuleNotFoundError."""
    with pytest.raises(RecipeError) as error:
        plugins.find("losses", "soft_targets", where="distill.losses[0]")
    assert str(error.value) == 'distill.losses[0]: there is no loss called "soft_targets". Did you mean "soft_target"?'


def test_registered_plugin_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A package outside that cannot add a loss without a change here."""
    point = EntryPoint("mine", "edgedistill.losses.soft_target", "edgedistill.losses")
    monkeypatch.setattr(plugins, "_registered", lambda folder: {"mine": point} if folder == "losses" else {})
    assert "mine" in plugins.names("losses")
    assert isinstance(plugins.find("losses", "mine"), ModuleType)


def test_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """A ModuleNotFoundError where an extra is missing."""
    point = EntryPoint("heavy", "a_package_that_is_not_there", "edgedistill.losses")
    monkeypatch.setattr(plugins, "_registered", lambda folder: {"heavy": point})
    with pytest.raises(MissingExtraError) as error:
        plugins.find("losses", "heavy")
    assert str(error.value) == (
        "losses/heavy needs the package a_package_that_is_not_there, which is not installed. Run: pip install 'edgedistill[compile]'"
    )


def test_classify_answers_by_hand() -> None:
    """A confidence that is no probability, or that overflows: logits (1000, 999) give σ(1)."""
    from edgedistill.tasks import classify

    said = classify.answer(np.array([1000.0, 999.0]), {"labels": ["a", "b"]})
    assert (said["answer"], said["target"]) == ("a", 0) and said["confidence"] == pytest.approx(1 / (1 + np.exp(-1)))
    np.testing.assert_allclose(classify.probabilities(np.array([[0.0, 0.0], [1e4, 0.0]])), [[0.5, 0.5], [1.0, 0.0]])
