"""Hidden states: layer by layer, token by token, the student's vectors follow the teacher's through a learned projection.

A layer map says which layer of the teacher a layer of the student answers for; the projection lets the student be narrower, and is thrown
away after training. Source: TinyBERT, arXiv:1909.10351, eq. 8 and the uniform map of §4.2.

In decoders a few numbers of the layers between are thousands of times larger than all others (massive activations, arXiv:2402.17762) and would be all that
is learned: left out, the map of a decoder is its last layer alone, which stands behind the last norm.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from edgedistill.features import HIDDEN, Sizes, layer_pairs, projection, token_error
from edgedistill.settings import Section

NEEDS = frozenset({HIDDEN})


class Options(Section):
    weight: float = Field(1.0, gt=0, description="factor of this term in the whole loss")
    layers: list[list[int]] | None = Field(
        None,
        description="[student layer, teacher layer] pairs, from 1, 0 the embedding layer's output; else spread evenly, and of decoders the last of both",
    )


def attach(student: Sizes, teacher: Sizes, options: Options) -> Any:
    """One projection a pair of layers. Raises RecipeError for layers that do not exist."""
    from torch.nn import ModuleDict

    last = [[student.layers, teacher.layers]] if student.decoder else None
    pairs = layer_pairs(last if options.layers is None else options.layers, student.layers, teacher.layers, 0, "hidden_states")
    return ModuleDict({f"{ours}-{theirs}": projection(student.widths[ours], teacher.widths[theirs]) for ours, theirs in pairs})


def loss(outputs: Any, batch: dict[str, Any], options: Options, parts: Any) -> Any:
    """‖W·student - teacher‖², mean over real tokens, width and pairs. Hidden states: float [rows, tokens, width] a layer."""
    total = 0
    for name, project in parts.items():
        ours, theirs = map(int, name.split("-"))
        total += token_error(project(outputs.hidden[ours].float()), batch[HIDDEN][theirs], batch["attention_mask"])
    return total / len(parts)
