"""Scores: the student gives the teacher's numbers. For regression, where outputs are values and no distribution.

Huber's loss counts a far miss only linearly, so that a few scores the teacher itself got wrong do not rule the training. Source: Huber 1964;
"Do Deep Nets Really Need to be Deep?" (arXiv:1312.6184, §2.3) matches a teacher's raw outputs by squared error.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from edgedistill.features import counted
from edgedistill.settings import Section

NEEDS = frozenset({"teacher_logits"})


class Options(Section):
    weight: float = Field(1.0, gt=0, description="factor of this term in the whole loss")
    error: Literal["squared", "huber"] = Field("squared", description="huber grows linearly beyond `delta`")
    delta: float = Field(1.0, gt=0, description="where huber becomes linear, in units of the score")


def loss(outputs: Any, batch: dict[str, Any], options: Options) -> Any:
    """(student - teacher)², or Huber's, mean over answers and outputs. Outputs: float [..., scores]."""
    from torch.nn.functional import huber_loss, mse_loss

    student, teacher = counted(outputs.logits, batch), counted(batch["teacher_logits"], batch)
    return mse_loss(student, teacher) if options.error == "squared" else huber_loss(student, teacher, delta=options.delta)


def constant(columns: dict[str, Any], options: Options) -> Any:
    """The teacher's mean score; its median, where far misses count linearly."""
    teacher = counted(columns["teacher_logits"], columns)
    return teacher.mean(0) if options.error == "squared" else teacher.median(0).values
