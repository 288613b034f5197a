"""Forward KL of written answers: at each token of an answer the student matches the teacher's distribution. It covers all that the teacher might say.

The answers are the training rows' own, or the teacher's where nobody labelled. Source: word-level distillation, arXiv:1606.07947, §3.1; the k likeliest
tokens and the rest: `sequences.py`.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from edgedistill.sequences import TEACHER_TOP, kl, side_by_side
from edgedistill.settings import Section

NEEDS = frozenset({TEACHER_TOP})


class Options(Section):
    weight: float = Field(1.0, gt=0, description="factor of this term in the whole loss")


def loss(outputs: Any, batch: dict[str, Any], options: Options) -> Any:
    """KL(teacher ‖ student), mean over tokens. outputs.logits: float [tokens, vocabulary]; batch: as `sequences.side_by_side` reads it."""
    ours, theirs = side_by_side(outputs.logits, batch)
    return kl(theirs, ours)
