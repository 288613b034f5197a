"""Sequence-level distillation: the student learns to write what the teacher wrote, token by token, as if that were the label.

The teacher then writes an answer to every text, labelled or not. All that is taken from it is the text, so the two need no common vocabulary.
Source: arXiv:1606.07947, §3.2.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from edgedistill.settings import Section
from edgedistill.training import label_loss

NEEDS = frozenset({"teacher_text"})


class Options(Section):
    weight: float = Field(1.0, gt=0, description="factor of this term in the whole loss")


def loss(outputs: Any, batch: dict[str, Any], options: Options) -> Any:
    """Mean of -log p(token that was written). outputs.logits: float [tokens, vocabulary]; batch["labels"]: int [tokens]."""
    return label_loss(outputs.logits, batch["labels"])
