"""Distance and angle: texts that the teacher puts near together or in line stay so, whatever the widths of the two models.

Compared are, over a batch, the distances of every pair, each over the mean distance of its own model, and the cosine of the angle at the
second of every three texts. Source: Relational Knowledge Distillation, arXiv:1904.05068, §3.2.1 and §3.2.2; weights 1 and 2 as in §4.1.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from edgedistill.features import EMBEDDING
from edgedistill.settings import Section

NEEDS = frozenset({EMBEDDING})


class Options(Section):
    weight: float = Field(1.0, gt=0, description="factor of this term in the whole loss")
    distance: float = Field(1.0, ge=0, description="factor of the distances within this term")
    angle: float = Field(2.0, ge=0, description="factor of the angles within this term; they cost rows³ · width operations a step")


def loss(outputs: Any, batch: dict[str, Any], options: Options) -> Any:
    """Huber's loss (delta 1) of distances and of angles, mean over pairs and triples. Embeddings: float [rows, width]."""
    from torch.nn.functional import smooth_l1_loss

    student, teacher = outputs.embedding.float(), batch[EMBEDDING].float()
    total = student.sum() * 0.0  # one row alone relates to nothing: no pull, and still a gradient
    if len(student) > 1 and options.distance:
        total = total + options.distance * smooth_l1_loss(distances(student), distances(teacher))
    if len(student) > 2 and options.angle:
        total = total + options.angle * smooth_l1_loss(angles(student), angles(teacher))
    return total


def distances(points: Any) -> Any:
    """Distance of each pair over the mean distance of different points: [rows, width] → [rows, rows]."""
    square = (points[:, None] - points[None]).pow(2).sum(-1)
    far = (square + 1e-12).sqrt() * (square > 0)  # the root's slope is endless at 0
    return far / (far.sum() / (square > 0).sum().clamp(min=1)).clamp(min=1e-12)


def angles(points: Any) -> Any:
    """cos of the angle at point i between points j and k: [rows, width] → [rows, rows, rows]."""
    from torch.nn.functional import normalize

    ways = normalize(points[None] - points[:, None], dim=-1)  # [i, j]: from i to j
    return ways @ ways.transpose(-1, -2)
