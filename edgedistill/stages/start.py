"""start: a student before any training, cut out of the model it starts from.

It stands apart from distill because most of what a student costs does not depend on its weights: size, latency and memory of an untrained one
are those of the trained one, so that a student over the budget is found out here, in seconds (`probe`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from edgedistill import plugins
from edgedistill.recipe import Student
from edgedistill.serving import writes
from edgedistill.stages.prepare import read_settings
from edgedistill.store import Stage
from edgedistill.tables import read_rows


@dataclass(frozen=True)
class Params:
    """cut: the student as a part of another student, where `source` is that one's artifact: a search shrinks what has learned."""

    student: Student
    task: str
    seed: int
    cut: Student | None = None


def run(out: Path, params: Params, *, prepared: Path, transfer: Path, source: Path) -> None:
    """Writes `model/` (a Hugging Face folder) and `facts.json`. source: the teacher's artifact, or a model folder."""
    classes = json.loads((prepared / "classes.json").read_text())
    family = plugins.find("students", params.student.family)
    folder = source / "model" if (source / "model").is_dir() else source
    rows = read_rows(transfer / "transfer.parquet")
    texts = rows.texts
    (out / "model").mkdir(exist_ok=True)
    task, settings = plugins.find("tasks", params.task), read_settings(prepared)
    hub_task = task.HUB_TASK
    if writes(task):  # the vocabulary holds what is read and what is written
        answers = [task.hard(rows.target(row), settings) for row in range(len(rows))]
        texts = [*texts, *settings["prompt"], *(answer for answer in answers if answer is not None)]
    facts = family.start(folder, out / "model", params.cut or params.student, texts, classes, hub_task, params.seed)
    if params.cut is not None:
        # What is told of a student is told against the model that all of them were cut from.
        larger = json.loads((source / "facts.json").read_text())
        facts |= {name: larger[name] for name in ("layers_before", "parameters_before", "vocabulary_before", "texts_with_equal_ids")}
        facts["layers"] = [larger["layers"][layer] for layer in facts["layers"]]
    (out / "facts.json").write_text(json.dumps({"family": params.student.family, **facts}, indent=1))


START = Stage("start", 3, run, ("torch", "transformers", "tokenizers"))
