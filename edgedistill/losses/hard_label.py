"""Hard labels: plain cross-entropy with the label of the row. What training without a teacher does, so it is the control's loss.

Rows of the transfer set that nobody labelled carry -1 and are left out. Source: any textbook; in distillation as the second term of
arXiv:1503.02531, §2.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from edgedistill.settings import Section
from edgedistill.training import label_loss

NEEDS = frozenset({"labels"})


class Options(Section):
    weight: float = Field(1.0, gt=0, description="factor of this term in the whole loss")
    of: Literal["classes", "yes_no", "scores"] = Field(
        "classes", description="what labels are: one class, yes or no for each class, or numbers"
    )


def loss(outputs: Any, batch: dict[str, Any], options: Options) -> Any:
    """Mean of -log p(label) over what is labelled; 0 when the batch has none. logits: float [..., classes], labels: see `label_loss`."""
    return label_loss(outputs.logits, batch["labels"], options.of)
