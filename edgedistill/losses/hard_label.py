"""Hard labels: plain cross-entropy with the label of the row. What training without a teacher does, so it is the control's loss.

Rows of the transfer set that nobody labelled carry -1 and are left out. Source: any textbook; in distillation as the second term of
arXiv:1503.02531, §2.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from edgedistill.settings import Section

NEEDS = frozenset({"labels"})


class Options(Section):
    weight: float = Field(1.0, gt=0, description="factor of this term in the whole loss")


def loss(outputs: Any, batch: dict[str, Any], options: Options) -> Any:
    """Mean of -log p(label) over the labelled rows; 0 when the batch has none. logits: float [rows, classes], labels: int64 [rows]."""
    from torch.nn.functional import cross_entropy

    total = cross_entropy(outputs.logits.float(), batch["labels"], ignore_index=-1, reduction="sum")
    return total / (batch["labels"] >= 0).sum().clamp(min=1)
