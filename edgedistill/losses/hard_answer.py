"""Hard answers: only what the teacher answers counts, not how its other logits stand. For black boxes that give an answer and no logits.

With `confidence = "spread"` the student is to be as sure as the teacher: the answer gets the teacher's confidence c, and the remaining
1 - c is spread evenly over the other classes, since nobody said where it belongs. Source: sequence-level distillation on the teacher's
answers (arXiv:1606.07947); spreading the rest is label smoothing (arXiv:1512.00567, §7) by the confidence of each row.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from edgedistill.features import counted
from edgedistill.settings import Section

NEEDS = frozenset({"teacher_logits"})


class Options(Section):
    weight: float = Field(1.0, gt=0, description="factor of this term in the whole loss")
    confidence: Literal["ignore", "spread"] = Field(
        "ignore", description="spread: the answer gets the teacher's confidence, the other classes share the rest"
    )


def loss(outputs: Any, batch: dict[str, Any], options: Options) -> Any:
    """Cross-entropy with the teacher's answer, mean over the answers. Logits: float [..., classes], softmaxed for the confidence."""
    from torch.nn.functional import cross_entropy

    return cross_entropy(counted(outputs.logits, batch), _targets(counted(batch["teacher_logits"], batch), options))


def _targets(teacher: Any, options: Options) -> Any:
    """The distribution to learn, [answers, classes]."""
    classes = teacher.shape[-1]
    confidence, answer = teacher.softmax(-1).max(-1, keepdim=True)
    if options.confidence == "ignore" or classes == 1:
        confidence = confidence.new_ones(confidence.shape)
    rest = (1 - confidence) / max(1, classes - 1)
    return rest.expand(-1, classes).scatter(-1, answer, confidence)


def constant(columns: dict[str, Any], options: Options) -> Any:
    """How often the teacher gives each answer, as logits."""
    return _targets(counted(columns["teacher_logits"], columns), options).mean(0).clamp(min=1e-6).log()
