"""Sentence vectors: the student's vector of a text, through a learned projection, points where the teacher's points.

The projection lets the student be narrower, and is thrown away after training: what it could not turn back into the teacher's space is what the
student has to drop. Only the direction counts, since similarity is a cosine. Source: "Making Monolingual Sentence Embeddings Multilingual using
Knowledge Distillation", arXiv:2004.09813, §2, with the cosine in place of the squared error (for vectors of length 1 half of it); the projection is
TinyBERT's, arXiv:1909.10351, eq. 8.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from edgedistill.features import EMBEDDING, Sizes, projection
from edgedistill.settings import Section

NEEDS = frozenset({EMBEDDING})


class Options(Section):
    weight: float = Field(1.0, gt=0, description="factor of this term in the whole loss")


def attach(student: Sizes, teacher: Sizes, options: Options) -> Any:
    """The projection from the student's width to the teacher's; between equal widths it starts as the identity."""
    return projection(student.embedding, teacher.embedding)


def loss(outputs: Any, batch: dict[str, Any], options: Options, parts: Any) -> Any:
    """1 - cos(W·student, teacher), mean over rows. Embeddings: float [rows, width]."""
    from torch.nn.functional import cosine_similarity

    return (1 - cosine_similarity(parts(outputs.embedding.float()), batch[EMBEDDING].float(), dim=-1)).mean()
