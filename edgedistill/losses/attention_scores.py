"""Attention maps: head by head, the student looks where the teacher looks.

Compared are the scores before the softmax, queries times keys over the square root of the head's width: TinyBERT found that they teach
faster than the probabilities. Student and teacher need the same number of heads; where they differ, `attention_relations` serves. Source:
TinyBERT, arXiv:1909.10351, eq. 7 and the remark after it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import Field

from edgedistill.errors import RecipeError
from edgedistill.features import ATTENTION, Sizes, layer_pairs
from edgedistill.settings import Section

NEEDS = frozenset({ATTENTION})


class Options(Section):
    weight: float = Field(1.0, gt=0, description="factor of this term in the whole loss")
    layers: list[list[int]] | None = Field(None, description="[student layer, teacher layer] pairs, from 1; else spread evenly")


@dataclass(frozen=True)
class Fit:
    """pairs: [student layer, teacher layer], from 1. heads: of both models."""

    pairs: list[tuple[int, int]]
    heads: int


def attach(student: Sizes, teacher: Sizes, options: Options) -> Fit:
    """The layer map and the number of heads; nothing of it is trained. Raises RecipeError when they do not fit."""
    if student.heads != teacher.heads:
        raise RecipeError(
            f"the student has {student.heads} attention heads and the teacher {teacher.heads}, so there are no pairs to compare.",
            where="distill.losses, attention_scores",
            write='Write kind = "attention_relations", which needs no equal heads.',
        )
    return Fit(layer_pairs(options.layers, student.layers, teacher.layers, 1, "attention_scores"), student.heads)


def loss(outputs: Any, batch: dict[str, Any], options: Options, parts: Fit) -> Any:
    """Squared error of the scores, mean over pairs of real tokens, heads and pairs of layers."""
    real = batch["attention_mask"].bool()
    both = (real[:, None, :, None] & real[:, None, None, :]).expand(-1, parts.heads, -1, -1)
    total = 0
    for ours, theirs in parts.pairs:
        (query, key, _), (teacher_query, teacher_key, _) = outputs.attention[ours - 1], batch[ATTENTION][theirs - 1]
        total += (scores(query, key, parts.heads) - scores(teacher_query, teacher_key, parts.heads))[both].pow(2).mean()
    return total / len(parts.pairs)


def scores(query: Any, key: Any, heads: int) -> Any:
    """q·k/√d for every head: [rows, tokens, width] twice → [rows, heads, tokens, tokens]."""
    query, key = (part.float().unflatten(-1, (heads, -1)).transpose(1, 2) for part in (query, key))
    return query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
