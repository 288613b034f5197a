"""Several classes for a text, or none: each class is a question of its own, answered by a sigmoid.

Judged by micro F1: over all rows and classes, twice the right yeses over the yeses given plus the yeses wanted. Rows in which nothing is
wanted and nothing given change nothing. Source of the measure: Tsoumakas and Katakis, "Multi-Label Classification", 2007, §4.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgedistill.tasks.classify import sorted_classes

HUB_TASK = "text-classification"
EXACT = True
LISTS = True


def about(settings: dict[str, Any]) -> str:
    """For the model card."""
    labels = settings["labels"]
    return (
        f"Says which of {len(labels)} classes a text belongs to, several or none of them ({', '.join(labels[:20])}"
        f"{', …' if len(labels) > 20 else ''}), each from a probability of {settings['threshold']:g} on."
    )


def metric(settings: dict[str, Any]) -> str:
    return "micro F1"


def soft(options: Any) -> str:
    return "binary_target"


def hard_kind(settings: dict[str, Any]) -> str:
    return "yes_no"


def read(label: str, text: str, options: Any) -> list[str]:
    """The classes of a cell: a JSON list, or names with `label_separator` between them. Sorted, each once."""
    if label.startswith("["):
        try:
            found = json.loads(label)
        except ValueError:
            raise ValueError("label is no JSON list") from None
        if not all(isinstance(name, (str, int)) for name in found):
            raise ValueError("label is a JSON list of other things than class names")
    else:
        found = label.split(options.label_separator)
    return sorted({name for name in (str(name).strip() for name in found) if name})


def settings(targets: Sequence[Any], options: Any, labels: Sequence[str] | None = None) -> dict[str, Any]:
    """The classes, in order, and the probability from which on one is given."""
    return {
        "labels": list(labels) if labels else sorted_classes({name for target in targets for name in target}),
        "threshold": options.threshold,
    }


def stratum(target: Any) -> str | None:
    """None: combinations of classes are too many to stratify by."""
    return None


def classes(settings: dict[str, Any]) -> list[str]:
    return list(settings["labels"])


def names(target: Any, settings: dict[str, Any]) -> list[str]:
    return list(target)


def number(target: Any, settings: dict[str, Any]) -> list[str]:
    return list(target)


def answer(
    logits: npt.NDArray[Any], settings: dict[str, Any], text: str = "", offsets: Sequence[tuple[int, int]] | None = None
) -> dict[str, Any]:
    """The classes from the threshold on, and the probability of each class. logits: float [classes]."""
    spread = probabilities(logits)
    given = sorted(name for name, share in zip(settings["labels"], spread, strict=True) if share >= settings["threshold"])
    return {
        "answer": given,
        "target": given,
        "probabilities": {name: float(share) for name, share in zip(settings["labels"], spread, strict=True)},
    }


def judge(predicted: Any, target: Any, settings: dict[str, Any]) -> tuple[float, float]:
    """Twice the classes that both name, of all that either names: the parts of micro F1."""
    return 2.0 * len({*predicted} & {*target}), float(len(predicted) + len(target))


def probabilities(logits: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Sigmoid, by way of tanh, which does not overflow."""
    return np.asarray(0.5 * (1 + np.tanh(0.5 * logits)))


def divergence(reference: npt.NDArray[Any], logits: npt.NDArray[Any], settings: dict[str, Any]) -> npt.NDArray[Any]:
    """KL of each row, nats, summed over its classes. log σ(x) is -log(1 + e^-x)."""
    yes = probabilities(reference)
    gap_yes = np.logaddexp(0, -logits) - np.logaddexp(0, -reference)
    gap_no = np.logaddexp(0, logits) - np.logaddexp(0, reference)
    return np.asarray((yes * gap_yes + (1 - yes) * gap_no).sum(axis=-1))


def hard(
    target: Any, settings: dict[str, Any], text: str = "", offsets: Sequence[tuple[int, int]] | None = None
) -> npt.NDArray[np.float32]:
    """1 for each class of the row, else 0; NaN for unlabelled. float32 [classes]."""
    if target is None:
        return np.full(len(settings["labels"]), np.nan, np.float32)
    return np.array([name in target for name in settings["labels"]], np.float32)
