"""Text classification: one of a fixed set of classes for each text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

HUB_TASK = "text-classification"


def answer(logits: npt.NDArray[Any], labels: Sequence[str]) -> dict[str, Any]:
    """The class with the largest logit and its softmax probability. logits: float [classes]."""
    best = int(logits.argmax())
    # exp(max - max) is 1, so the best class's probability is one over the sum.
    return {"answer": labels[best], "index": best, "confidence": float(1.0 / np.exp(logits - logits[best]).sum())}


def probabilities(logits: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Softmax over the last axis, computed against the row's maximum so that nothing overflows."""
    raised = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=-1, keepdims=True))
