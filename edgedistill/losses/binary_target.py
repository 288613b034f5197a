"""Soft targets of independent yes-or-no classes: multi-label and binary teachers, whose outputs are sigmoids.

A softmax over such logits would make the classes compete, though a text may belong to several or to none. So each class is a
distribution of its own over yes and no. Source: arXiv:1503.02531 (temperature and its square) applied class by class, as in multi-label
distillation (arXiv:2308.06453, §3.2).
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from edgedistill.features import counted
from edgedistill.settings import Section

NEEDS = frozenset({"teacher_logits"})


class Options(Section):
    weight: float = Field(1.0, gt=0, description="factor of this term in the whole loss")
    temperature: float = Field(2.0, gt=0, description="divides teacher and student logits before the sigmoid")


def loss(outputs: Any, batch: dict[str, Any], options: Options) -> Any:
    """T² · KL(σ(teacher/T) ‖ σ(student/T)), mean over answers and classes. Logits: float [..., classes]."""
    from torch.nn.functional import logsigmoid

    heat = options.temperature
    student = counted(outputs.logits, batch) / heat
    teacher = counted(batch["teacher_logits"], batch) / heat
    yes, no = teacher.sigmoid(), (-teacher).sigmoid()
    divergence = yes * (logsigmoid(teacher) - logsigmoid(student)) + no * (logsigmoid(-teacher) - logsigmoid(-student))
    return heat**2 * divergence.mean()


def constant(columns: dict[str, Any], options: Options) -> Any:
    """How often the teacher says yes to each class, as logits."""
    heat = options.temperature
    return heat * (counted(columns["teacher_logits"], columns) / heat).sigmoid().mean(0).clamp(1e-6, 1 - 1e-6).logit()
