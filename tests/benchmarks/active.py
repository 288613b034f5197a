"""Does choosing beat chance? The same student from N teacher calls that were chosen (`transfer.choose = "active"`) and from N random ones.

    python -m tests.benchmarks.active [--calls 1000] [--seeds 2] [--growth 12] [--steps 300]

TREC-6 and the demo's teacher. Only the choice differs: the first part of the budget, the student, its start and its steps are the same. Test rows are
read here, to judge, and by no stage that chooses (but the rule of the choice was found by looking at these figures: DECISIONS.md). "linear" is ridge
regression over words on the same soft labels: seconds, so more seeds.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from edgedistill.making import making
from edgedistill.quick_student import Words, committee
from edgedistill.recipe import Student, alone, read_recipe
from edgedistill.sources import home
from edgedistill.stages import ask, distill, prepare, teach, transfer
from edgedistill.stages import start as start_stage
from edgedistill.store import Store
from edgedistill.tables import read_rows
from edgedistill.teachers import transformers as local
from tests.benchmarks.common import RECIPE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--growth", type=float, default=12)
    parser.add_argument("--steps", type=int, default=300, help="of the convolution student; 0 leaves it out")
    asked = parser.parse_args()

    recipe, store = read_recipe(RECIPE), Store(home() / "store")
    on = making(store.build, recipe, home())
    data = {"train": on.source(recipe.data.train, "data.train")}
    prepared = store.build(prepare.PREPARE, prepare.Params(recipe.data, recipe.seed, recipe.task), **data)
    model, precision = on.source(recipe.teacher.model, "teacher.model"), on.precision
    teacher = store.build(
        teach.FINE_TUNE,
        teach.FineTuneParams(alone(recipe.teacher), "classify", 128, precision, recipe.seed),
        prepared=prepared,
        model=model,
    )
    classes = json.loads((prepared.path / "classes.json").read_text())
    test = read_rows(prepared.path / "test.parquet")
    theirs = local.logits(teacher.path / "model", test.texts, classes, "text-classification", recipe.teacher, 128, precision).argmax(axis=1)

    rows: list[dict[str, Any]] = []
    for seed in range(asked.seeds):
        options = recipe.transfer.model_copy(update={"growth": asked.growth, "held_out": 0.05})
        pool = store.build(
            transfer.TRANSFER,
            transfer.Params(options, recipe.data.near_duplicate, seed, recipe.data.slices),
            prepared=prepared,
            model=model,
        )
        for choose in ("active", "random"):
            params = ask.Params(
                alone(recipe.teacher, asked.calls), options.model_copy(update={"choose": choose}), recipe.data.slices,
                "classify", 128, precision, seed,
            )  # fmt: skip
            got = store.build(ask.ASK, params, prepared=prepared, teacher=teacher, transfer=pool)
            rows.append(
                {"student": "linear", "choose": choose, "seed": seed, **judge(linear(got.path, test.texts, seed), theirs, test.labels)}
            )
            if asked.steps:
                learner = Student(family="conv", max_tokens=128)
                how = recipe.distill.model_copy(update={"steps": asked.steps, "real_rows": 1, "learning_rate": None, "control": False})
                start = store.build(
                    start_stage.START, start_stage.Params(learner, "classify", seed), prepared=prepared, transfer=got, source=teacher
                )
                student = store.build(
                    distill.DISTILL, distill.Params("distilled", learner, how, "classify", precision, seed),
                    prepared=prepared, transfer=got, labels=got, start=start,
                )  # fmt: skip
                logits = local.logits(student.path / "model", test.texts, classes, "text-classification", recipe.teacher, 128, "float32")
                rows.append({"student": "conv", "choose": choose, "seed": seed, **judge(logits, theirs, test.labels)})
            print(json.dumps([row for row in rows if row["seed"] == seed and row["choose"] == choose]), flush=True)
    print(f"{asked.calls} calls, pool {asked.growth:g} × the training rows, {len(test)} test rows")
    print("| student | choice | agreement with the teacher, by seed | mean | accuracy, by seed | mean |\n|---|---|---|---|---|---|")
    for student in dict.fromkeys(row["student"] for row in rows):
        for choose in ("active", "random"):
            mine = [row for row in rows if (row["student"], row["choose"]) == (student, choose)]
            agree, right = [row["agreement"] for row in mine], [row["accuracy"] for row in mine]
            print(
                f"| {student} | {choose} | {', '.join(f'{value:.3f}' for value in agree)} | {np.mean(agree):.4f} "
                f"| {', '.join(f'{value:.3f}' for value in right)} | {np.mean(right):.4f} |"
            )


def linear(asked: Path, texts: list[str], seed: int) -> Any:
    """The mean answer of the committee that learned every label that was asked for."""
    rows = read_rows(asked / "transfer.parquet")
    logits = teach.read_labels(asked / "labels.parquet", rows.keys)
    soft = np.exp(logits - logits.max(axis=1, keepdims=True))
    known = len(rows.texts)
    words = Words.of([*rows.texts, *texts])
    return committee(words, range(known), soft / soft.sum(axis=1, keepdims=True), range(known, known + len(texts)), seed).mean(axis=0)


def judge(scores: Any, theirs: Any, labels: Any) -> dict[str, float]:
    answers = scores.argmax(axis=1)
    return {"agreement": float((answers == theirs).mean()), "accuracy": float((answers == labels).mean())}


if __name__ == "__main__":
    main()
