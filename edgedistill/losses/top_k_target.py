"""Soft targets from the k largest logits: for big vocabularies, where the rest is noise in storage and in the gradient.

The k likeliest answers keep their probabilities, and all others are one answer more, "something else", with the mass of the tail. Throwing
the tail away and scaling up the rest would teach the student to be surer than its teacher. Source: arXiv:2503.16870 (what cutting without
the tail costs), arXiv:1503.02531 (temperature).
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from edgedistill.features import counted
from edgedistill.settings import Section

NEEDS = frozenset({"teacher_logits"})


class Options(Section):
    weight: float = Field(1.0, gt=0, description="factor of this term in the whole loss")
    temperature: float = Field(1.0, gt=0, description="divides teacher and student logits before the softmax")
    k: int = Field(8, ge=1, description="how many of the teacher's likeliest answers are told apart")


def loss(outputs: Any, batch: dict[str, Any], options: Options) -> Any:
    """T² · KL over k + 1 answers, mean over the answers. Logits: float [..., classes]; with k ≥ classes there is no tail."""
    from torch.nn.functional import kl_div, log_softmax

    heat = options.temperature
    student = log_softmax(counted(outputs.logits, batch) / heat, dim=-1)
    teacher = log_softmax(counted(batch["teacher_logits"], batch) / heat, dim=-1)
    top = teacher.topk(min(options.k, teacher.shape[-1]), dim=-1).indices
    return heat**2 * kl_div(_with_tail(student, top), _with_tail(teacher, top), reduction="batchmean", log_target=True)


def _with_tail(logs: Any, top: Any) -> Any:
    """Log-probabilities of the answers `top` and, last, of all others together."""
    import torch

    if top.shape[-1] == logs.shape[-1]:
        return logs.gather(-1, top)
    rest = logs.scatter(-1, top, float("-inf"))
    return torch.cat([logs.gather(-1, top), rest.logsumexp(-1, keepdim=True)], dim=-1)


def constant(columns: dict[str, Any], options: Options) -> Any:
    """The teacher's mean distribution, as logits."""
    heat = options.temperature
    return heat * (counted(columns["teacher_logits"], columns) / heat).softmax(-1).mean(0).log()
