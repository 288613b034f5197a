"""Scores: one or several numbers for each text, such as how positive a review is.

Models learn scores in units of the training rows' spread around their mean, so that losses, quantization and the bound on golden logits
mean the same whatever the user's unit is; `answer` gives the user's unit back. Judged by R²: of the spread around the mean of the training
rows, the share that the model explains (1 is perfect, 0 what the mean alone would do, negative is worse than that).
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

HUB_TASK = "text-classification"
EXACT = False


def about(settings: dict[str, Any]) -> str:
    """For the model card."""
    mean, spread = settings["mean"], settings["spread"]
    ranges = (f"{name} ({middle:.3g} ± {width:.3g})" for name, middle, width in zip(settings["labels"], mean, spread, strict=True))
    return f"Gives a text its score: {', '.join(ranges)}; in brackets mean and standard deviation of the training rows."


def metric(settings: dict[str, Any]) -> str:
    return "R²"


def soft(options: Any) -> str:
    return "score_target"


def hard_kind(settings: dict[str, Any]) -> str:
    return "scores"


def read(label: str, text: str, options: Any) -> list[float]:
    """The number of a cell, or of each cell when there are several label columns (a JSON list then)."""
    cells = json.loads(label) if isinstance(options.label, list) else [label]
    try:
        found = [float(cell) for cell in cells]
    except (TypeError, ValueError):
        raise ValueError("a score is not a number") from None
    if not all(map(math.isfinite, found)):
        raise ValueError("a score is not a finite number")
    return found


def settings(targets: Sequence[Any], options: Any, labels: Sequence[str] | None = None) -> dict[str, Any]:
    """Names of the columns; mean and standard deviation of each over the training rows."""
    columns = options.label if isinstance(options.label, list) else [options.label]
    if not targets:
        return {"labels": list(labels or columns), "mean": [0.0] * len(labels or columns), "spread": [1.0] * len(labels or columns)}
    values = np.asarray(targets, dtype=float)
    return {"labels": list(columns), "mean": values.mean(axis=0).tolist(), "spread": np.maximum(values.std(axis=0), 1e-9).tolist()}


def stratum(target: Any) -> str | None:
    return None


def classes(settings: dict[str, Any]) -> list[str]:
    return []


def names(target: Any, settings: dict[str, Any]) -> list[str]:
    return []


def number(target: Any, settings: dict[str, Any]) -> list[float]:
    return list(target)


def answer(
    logits: npt.NDArray[Any], settings: dict[str, Any], text: str = "", offsets: Sequence[tuple[int, int]] | None = None
) -> dict[str, Any]:
    """The scores in the user's unit. logits: float [scores], in units of the spread."""
    found = [float(value * width + middle) for value, width, middle in zip(logits, settings["spread"], settings["mean"], strict=True)]
    return {"answer": dict(zip(settings["labels"], found, strict=True)), "target": found}


def judge(predicted: Any, target: Any, settings: dict[str, Any]) -> tuple[float, float]:
    """(spread - squared error, spread) of a row, each score in units of its own spread: the parts of R²."""
    width, middle = np.asarray(settings["spread"]), np.asarray(settings["mean"])
    spread = float((((np.asarray(target) - middle) / width) ** 2).sum())
    return spread - float((((np.asarray(predicted) - np.asarray(target)) / width) ** 2).sum()), spread


def divergence(reference: npt.NDArray[Any], logits: npt.NDArray[Any], settings: dict[str, Any]) -> npt.NDArray[Any]:
    """Squared distance of each row, in units of the spread."""
    return np.asarray(((reference - logits) ** 2).sum(axis=-1))


def hard(
    target: Any, settings: dict[str, Any], text: str = "", offsets: Sequence[tuple[int, int]] | None = None
) -> npt.NDArray[np.float32]:
    """The scores in units of their spread, float32 [scores]; NaN for unlabelled."""
    if target is None:
        return np.full(len(settings["labels"]), np.nan, np.float32)
    return np.asarray((np.asarray(target) - settings["mean"]) / np.asarray(settings["spread"]), np.float32)
