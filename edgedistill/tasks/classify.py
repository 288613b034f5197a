"""Text classification: one of a fixed set of classes for each text.

Targets are class names in the rows as read, class indices in prepared ones.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

HUB_TASK = "text-classification"
EXACT = True


def about(settings: dict[str, Any]) -> str:
    """For the model card."""
    labels = settings["labels"]
    return (
        f"Answers one question about a text: which of {len(labels)} classes it belongs to ({', '.join(labels[:20])}"
        f"{', …' if len(labels) > 20 else ''})."
    )


def metric(settings: dict[str, Any]) -> str:
    return "accuracy"


def soft(options: Any) -> str:
    return "soft_target"


def hard_kind(settings: dict[str, Any]) -> str:
    return "classes"


def read(label: str, text: str, options: Any) -> str:
    """The class."""
    return label


def settings(targets: Sequence[Any], options: Any, labels: Sequence[str] | None = None) -> dict[str, Any]:
    """The classes, in order."""
    return {"labels": list(labels) if labels else sorted_classes(set(targets))}


def sorted_classes(names: Iterable[str]) -> list[str]:
    """Class names in order; numbers by value, so that class "10" has a place after "9"."""
    names = list(names)
    if all(re.fullmatch(r"-?[0-9]{1,18}", name) for name in names):
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names)


def stratum(target: Any) -> str | None:
    return str(target)


def classes(settings: dict[str, Any]) -> list[str]:
    return list(settings["labels"])


def names(target: Any, settings: dict[str, Any]) -> list[str]:
    return [target]


def number(target: Any, settings: dict[str, Any]) -> int:
    """The index of the class."""
    return int(settings["labels"].index(target))


def answer(
    logits: npt.NDArray[Any], settings: dict[str, Any], text: str = "", offsets: Sequence[tuple[int, int]] | None = None
) -> dict[str, Any]:
    """The class with the largest logit and its softmax probability. logits: float [classes]."""
    best = int(logits.argmax())
    # exp(max - max) is 1, so the best class's probability is one over the sum.
    return {"answer": settings["labels"][best], "target": best, "confidence": float(1.0 / np.exp(logits - logits[best]).sum())}


def judge(predicted: Any, target: Any, settings: dict[str, Any]) -> tuple[float, float]:
    """Right or not."""
    return float(predicted == target), 1.0


def probabilities(logits: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Softmax over the last axis, computed against the row's maximum so that nothing overflows."""
    raised = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=-1, keepdims=True))


def divergence(reference: npt.NDArray[Any], logits: npt.NDArray[Any], settings: dict[str, Any]) -> npt.NDArray[Any]:
    """KL(reference ‖ logits) of each row, nats. Logits: float [rows, classes]."""
    theirs, ours = _log_softmax(reference), _log_softmax(logits)
    return np.asarray((np.exp(theirs) * (theirs - ours)).sum(axis=-1))


def _log_softmax(logits: npt.NDArray[Any]) -> npt.NDArray[Any]:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def hard(target: Any, settings: dict[str, Any], text: str = "", offsets: Sequence[tuple[int, int]] | None = None) -> npt.NDArray[np.int64]:
    """The class index, int64 []."""
    return np.asarray(-1 if target is None else target, dtype=np.int64)
