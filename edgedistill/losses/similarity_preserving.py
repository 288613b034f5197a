"""Similarity-preserving: texts that are alike to the teacher are alike to the student, and those that are not are not.

The products of all pairs of embeddings in a batch, each row scaled to length 1, are matched. Widths need not be equal. Source:
Tung and Mori, arXiv:1907.09682, eq. 2 to 4.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from edgedistill.features import EMBEDDING
from edgedistill.settings import Section

NEEDS = frozenset({EMBEDDING})


class Options(Section):
    weight: float = Field(1.0, gt=0, description="factor of this term in the whole loss; the paper takes thousands, since rows² divides it")


def loss(outputs: Any, batch: dict[str, Any], options: Options) -> Any:
    """‖G(teacher) - G(student)‖² / rows², with G = Q·Qᵀ and its rows scaled to length 1. Embeddings Q: float [rows, width]."""
    from torch.nn.functional import normalize

    student, teacher = (normalize(points.float() @ points.float().T, dim=-1) for points in (outputs.embedding, batch[EMBEDDING]))
    return (teacher - student).pow(2).sum() / len(student) ** 2
