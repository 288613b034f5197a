"""Generalised Jensen–Shannon divergence of written answers: between forward KL (beta → 0) and reverse KL (beta → 1), and bounded.

Source: GKD, arXiv:2306.13649, eq. 1 (up to the factor that makes the limits the two KLs).
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from edgedistill.sequences import TEACHER_TOP, mixed, side_by_side
from edgedistill.settings import Section

NEEDS = frozenset({TEACHER_TOP})


class Options(Section):
    weight: float = Field(1.0, gt=0, description="factor of this term in the whole loss")
    beta: float = Field(0.5, gt=0, lt=1, description="share of the teacher in the mixture")


def loss(outputs: Any, batch: dict[str, Any], options: Options) -> Any:
    """beta KL(teacher ‖ M) + (1 - beta) KL(student ‖ M), M the mixture of both; mean over tokens."""
    ours, theirs = side_by_side(outputs.logits, batch)
    return mixed(theirs, ours, options.beta)
