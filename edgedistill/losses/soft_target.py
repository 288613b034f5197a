"""Soft targets: the student matches the teacher's whole distribution, softened by a temperature.

The wrong answers of a teacher carry knowledge: that a "2" looks more like a "3" than like a "7". Dividing the logits by T > 1 before the
softmax brings that out. Source: Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", arXiv:1503.02531, eq. 1 and §2.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from edgedistill.features import counted
from edgedistill.settings import Section

NEEDS = frozenset({"teacher_logits"})


class Options(Section):
    weight: float = Field(1.0, gt=0, description="factor of this term in the whole loss")
    temperature: float = Field(2.0, gt=0, description="divides teacher and student logits before the softmax")


def loss(outputs: Any, batch: dict[str, Any], options: Options) -> Any:
    """T² · KL(softmax(teacher/T) ‖ softmax(student/T)), mean over the answers. Teacher and student logits: float [..., classes].

    T² keeps the size of the gradient the same for every temperature (§2 of the paper).
    """
    from torch.nn.functional import kl_div, log_softmax

    heat = options.temperature
    student = log_softmax(counted(outputs.logits, batch) / heat, dim=-1)
    teacher = log_softmax(counted(batch["teacher_logits"], batch) / heat, dim=-1)
    return heat**2 * kl_div(student, teacher, reduction="batchmean", log_target=True)


def constant(columns: dict[str, Any], options: Options) -> Any:
    """The teacher's mean distribution, as logits."""
    heat = options.temperature
    return heat * (counted(columns["teacher_logits"], columns) / heat).softmax(-1).mean(0).log()
