"""Self-attention relations: how strongly the tokens of a text relate to each other in one layer, whatever the widths of the two models.

Queries are multiplied with queries, keys with keys and values with values; the softmax of each product is a distribution over the tokens of
the text, and the student's follows the teacher's. Neither width nor heads need be equal: before the product, both sides are split anew into
the same number of relation heads. Source: MiniLMv2, arXiv:2012.15828, §3 (`query-query`, `key-key`, `value-value`, more relation heads than
attention heads); MiniLM, arXiv:2002.10957, §3, is `relations = ["query-key", "value-value"]` with the teacher's heads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from edgedistill.errors import RecipeError
from edgedistill.features import ATTENTION, Sizes, layer_pairs
from edgedistill.settings import Section

NEEDS = frozenset({ATTENTION})
Relation = Literal["query-key", "query-query", "key-key", "value-value"]
PARTS = {"query": 0, "key": 1, "value": 2}


def _of_minilm_v2() -> list[Relation]:
    return ["query-query", "key-key", "value-value"]


class Options(Section):
    weight: float = Field(1.0, gt=0, description="factor of this term in the whole loss")
    relations: list[Relation] = Field(default_factory=_of_minilm_v2, min_length=1, description="which products are compared")
    heads: int | None = Field(None, gt=0, description="relation heads, a divisor of both widths; else the most up to the teacher's heads")
    teacher_layer: int | None = Field(
        None, ge=1, description="layer of the teacher, from 1, that the student's last follows; else the last"
    )


@dataclass(frozen=True)
class Fit:
    """pair: [student layer, teacher layer], from 1. heads: relation heads."""

    pair: tuple[int, int]
    heads: int


def attach(student: Sizes, teacher: Sizes, options: Options) -> Fit:
    """The layer and the relation heads; nothing of it is trained. Raises RecipeError when they do not fit."""
    fitting = [count for count in range(1, student.width + 1) if student.width % count == 0 and teacher.width % count == 0]
    heads = options.heads or max(count for count in fitting if count <= max(teacher.heads, 1))
    if heads not in fitting:
        nearest = min(fitting, key=lambda count: (abs(count - heads), count))
        raise RecipeError(
            f"{heads} relation heads do not divide the widths {student.width} and {teacher.width}.",
            where="distill.losses, attention_relations",
            write=f"Write heads = {nearest}.",
        )
    wanted = [[student.layers, options.teacher_layer or teacher.layers]]
    return Fit(layer_pairs(wanted, student.layers, teacher.layers, 1, "attention_relations")[0], heads)


def loss(outputs: Any, batch: dict[str, Any], options: Options, parts: Fit) -> Any:
    """KL(teacher's relations ‖ student's), mean over real tokens, relation heads and kinds of relation."""
    mask = batch["attention_mask"].bool()
    total = 0
    for relation in options.relations:
        one, other = (PARTS[name] for name in relation.split("-"))
        ours, theirs = outputs.attention[parts.pair[0] - 1], batch[ATTENTION][parts.pair[1] - 1]
        student, teacher = (log_relations(side[one], side[other], parts.heads, mask) for side in (ours, theirs))
        # Hidden columns are -inf on both sides: their probability is 0 and they must add 0, not 0 · (inf - inf).
        difference = (teacher - student).masked_fill(~mask[:, None, None, :], 0.0)
        divergence = (teacher.exp() * difference).sum(-1)
        total += divergence[mask[:, None, :].expand_as(divergence)].mean()
    return total / len(options.relations)


def log_relations(one: Any, other: Any, heads: int, mask: Any) -> Any:
    """log softmax(one·otherᵀ/√d) over the real tokens: [rows, tokens, width] twice → [rows, heads, tokens, tokens]."""
    one, other = (part.float().unflatten(-1, (heads, -1)).transpose(1, 2) for part in (one, other))
    products = one @ other.transpose(-1, -2) / one.shape[-1] ** 0.5
    return products.masked_fill(~mask[:, None, None, :], float("-inf")).log_softmax(-1)
