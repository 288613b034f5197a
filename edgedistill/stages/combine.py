"""combine: several teachers' soft labels become one set, on probabilities, row by row.

"weighted" takes the mean with the recipe's weights: an ensemble errs less than its members, and its student learns from it as from one
teacher (arXiv:1503.02531, §1). "confidence" also asks, row by row, who is sure: a member counts by how far its entropy is below that of
knowing nothing, as arXiv:2201.00007 weighs teachers by confidence (by their loss on gold labels there, which a transfer set does not have).
The same stage mixes the teacher's and the last student's labels for rounds of self-distillation (born-again networks, arXiv:1805.04770).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgedistill import plugins
from edgedistill.errors import RecipeError
from edgedistill.recipe import Rule, Teacher
from edgedistill.stages.prepare import read_settings
from edgedistill.stages.teach import quality, read_labels
from edgedistill.store import Stage
from edgedistill.tables import read_rows

LEAST = 1e-7  # probability that still has a logarithm


@dataclass(frozen=True)
class Params:
    """members: in the order of the inputs label_0, label_1, …; weights: one each."""

    members: tuple[Teacher, ...]
    weights: tuple[float, ...]
    rule: Rule
    task: str
    max_tokens: int


def run(out: Path, params: Params, *, prepared: Path, **inputs: Path) -> None:
    """Writes `labels.parquet` as `teach.label` does, and `facts.json`. inputs: `label_{i}` and `teacher_{i}` of each member.

    Embeddings, which cannot be mixed, are the first member's. Raises RecipeError for outputs that are no probabilities under "confidence".
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    task = plugins.find("tasks", params.task)
    settings = read_settings(prepared)
    test = read_rows(prepared / "test.parquet")
    first = pq.read_table(inputs["label_0"] / "labels.parquet")
    keys = first["key"].to_pylist()
    labels = [read_labels(inputs[f"label_{place}"] / "labels.parquet", keys) for place in range(len(params.members))]
    asked = [
        plugins.find("teachers", member.kind).logits(
            inputs[f"teacher_{place}"] / "model", test.texts, settings["labels"], task.HUB_TASK, member, params.max_tokens, "float32"
        )
        for place, member in enumerate(params.members)
    ]
    probabilities = getattr(task, "probabilities", None)  # a task of scores has none: its outputs are averaged as they are
    mixed, shares = combine(labels, params.weights, params.rule, probabilities)
    answered, _ = combine(asked, params.weights, params.rule, probabilities)
    table = first.set_column(first.column_names.index("logits"), "logits", pa.array(list(mixed)))
    pq.write_table(table, out / "labels.parquet")
    answers = [part.argmax(-1) for part in labels]
    facts = {
        "rule": params.rule,
        "members": [
            {"model": member.model, "weight": weight, "share": round(share, 4), "accuracy": round(quality(task, settings, test, part), 6)}
            for member, weight, share, part in zip(params.members, params.weights, shares, asked, strict=True)
        ],
        "accuracy": round(quality(task, settings, test, answered), 6),
        "test_rows": len(test.texts),
        "rows_on_which_members_differ": float(np.mean([len(set(row)) > 1 for row in zip(*map(np.ravel, answers), strict=True)])),
    }
    (out / "facts.json").write_text(json.dumps(facts, indent=1))


def combine(
    members: Sequence[npt.NDArray[np.float32]], weights: Sequence[float], rule: Rule, probabilities: Any
) -> tuple[npt.NDArray[np.float32], list[float]]:
    """The members' logits [rows, classes] as one set of logits, and the mean share that each had in it.

    probabilities: the task's function. Where rows of it sum to one, classes compete (softmax); else each class is a yes or no (sigmoid).
    """
    given = np.asarray(weights, np.float64)
    if probabilities is None:
        if rule == "confidence":
            raise RecipeError(
                "scores carry no confidence by which teachers could be weighed.",
                where="teacher.combine",
                write='Write combine = "weighted".',
            )
        return np.tensordot(given / given.sum(), np.stack(members), 1).astype(np.float32), list(map(float, given / given.sum()))
    chances = np.stack([np.asarray(probabilities(part.astype(np.float64))) for part in members])
    compete = bool(np.allclose(chances.sum(-1), 1))
    factor = given.reshape(-1, *[1] * (chances.ndim - 1)) * np.ones_like(chances[..., :1] if compete else chances)
    if rule == "confidence":
        sure = factor * confidence(chances, compete)
        # Where nobody knows anything, everybody counts as the recipe says.
        factor = np.where(sure.sum(0, keepdims=True) > 1e-9, sure, factor)
    factor = factor / factor.sum(0, keepdims=True)
    mixed = np.clip((factor * chances).sum(0), LEAST, 1 - LEAST)
    logits = np.log(mixed) if compete else np.log(mixed) - np.log1p(-mixed)
    return logits.astype(np.float32), [float(part.mean()) for part in factor]


def confidence(chances: npt.NDArray[Any], compete: bool) -> npt.NDArray[Any]:
    """1 - entropy / entropy of knowing nothing: 0 for all alike, 1 for a sure answer. Of the row when classes compete, else of each class."""
    inside = np.clip(chances, 1e-12, 1)
    entropy = -(inside * np.log(inside))
    if compete:
        return np.asarray(np.clip(1 - entropy.sum(-1, keepdims=True) / np.log(max(2, chances.shape[-1])), 0, 1))
    other = np.clip(1 - chances, 1e-12, 1)
    return np.asarray(np.clip(1 - (entropy - other * np.log(other)) / np.log(2), 0, 1))


COMBINE = Stage("combine", 1, run, ("torch", "transformers", "tokenizers"))
