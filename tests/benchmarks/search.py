"""What a search costs: `python -m tests.benchmarks.search [RECIPE]`, by default the question router's with `student.family = "auto"`, for three targets.

One search serves the three points of tests/benchmarks/points (at most 10.95, 5.47 and 1.46 MB). Labels are cached before the clock starts. Wanted: at most
twice the training of its largest candidate alone, and the whole search at most 25 minutes on two cores. Every second is that of a stage of this
run, read from the store, so a search that was interrupted tells the same.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from edgedistill.pipeline import compile
from edgedistill.recipe import Recipe, Search, Student, read_recipe
from edgedistill.search import name_of
from edgedistill.store import RECORD, Artifact
from tests.benchmarks.common import RECIPE

POINTS = [str(Path(__file__).parent / "points" / f"point-{point}.toml") for point in "abc"]
SEARCHED = ("start", "export", "probe", "distill")


def main(recipe_file: Path) -> None:
    recipe = read_recipe(recipe_file)
    if recipe.student.family != "auto":
        common = {"max_tokens": recipe.student.max_tokens, "start": recipe.student.start}
        recipe = _with(recipe, Student(family="auto", **common))
    compile(recipe, targets=POINTS, until="teach")
    made: list[Artifact] = []
    compile(recipe, targets=POINTS, until="distill", on_stage=made.append)
    seconds = {artifact.key: artifact.seconds for artifact in made if artifact.stage in SEARCHED}
    spent = sum(seconds.values())
    trials: dict[str, list[tuple[float, float]]] = {}
    for artifact in {one.key: one for one in made if one.stage == "distill"}.values():
        params = json.loads((artifact.path / RECORD).read_text())["params"]
        name = name_of(Student(**params["student"]))
        trials.setdefault(name, []).append((params["share"], artifact.seconds))
    alone = {name: sum(s for _, s in parts) / sum(share for share, _ in parts) for name, parts in trials.items()}
    for name, parts in trials.items():
        print(f"{name}: {sum(s for _, s in parts):.0f} s for {sum(share for share, _ in parts):.3f} of the steps")
    largest = max(alone, key=alone.__getitem__)
    print(
        f"search for {len(POINTS)} targets: {spent:.0f} s ({spent / 60:.1f} minutes; wanted ≤ 25) = {spent / alone[largest]:.2f} × training {largest} "
        f"alone ({alone[largest]:.0f} s; wanted ≤ 2)"
    )


def _with(recipe: Recipe, student: Student) -> Recipe:
    changed = recipe.model_copy(update={"student": student, "search": Search()})
    changed._folder = recipe.folder
    return changed


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else RECIPE)
