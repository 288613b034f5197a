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
    """Mean of -log p(label) over what is labelled; 0 when the batch has none. logits: float [..., classes], labels: int64 [...]."""
    from torch.nn.functional import cross_entropy

    labels = batch["labels"].reshape(-1)
    logits = outputs.logits.float().reshape(-1, outputs.logits.shape[-1])
    total = cross_entropy(logits, labels, ignore_index=-1, reduction="sum")
    return total / (labels >= 0).sum().clamp(min=1)
