"""Reverse KL of written answers: the student puts no mass where the teacher has none.

A small student that cannot say all that its teacher might say then says the likeliest of it, in place of something between.

Source: MiniLLM, arXiv:2306.08543, eq. 1: there by policy gradient on whole answers; here at each token of a given answer, where the gradient is exact.
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
    """KL(student ‖ teacher), mean over tokens. outputs.logits: float [tokens, vocabulary]; batch: as `sequences.side_by_side` reads it."""
    ours, theirs = side_by_side(outputs.logits, batch)
    return kl(ours, theirs)
