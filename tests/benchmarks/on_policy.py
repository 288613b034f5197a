"""What the student's own answers buy: on-policy, fixed answers and the data's answers alone, same start, same steps, on the test rows.

python -m tests.benchmarks.on_policy RECIPE [ROWS.jsonl]      a recipe of task generate; its store is used and filled

Of a recipe whose losses do not have on_policy, as the voice sample's, the two others are compared.

ROWS.jsonl: rows in the place of the recipe's test rows, for narrower intervals: `make_data.py --test-rows 3000 --out FOLDER` draws more voice commands
of the same unseen templates. Answers are written in torch, greedily and without the grammar, by the teacher and by every student; differences are paired,
with 95 % intervals.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from edgedistill import causal, plugins
from edgedistill.models import load_decoder
from edgedistill.pipeline import build
from edgedistill.prompts import open_prompts
from edgedistill.recipe import read_recipe
from edgedistill.report import mean_figure
from edgedistill.sources import home
from edgedistill.stages.prepare import read_settings
from edgedistill.stages.write import stop_id, text_of
from edgedistill.store import Store
from edgedistill.tables import read_rows
from edgedistill.target import find_target
from edgedistill.training import best_precision


def main() -> None:
    recipe = read_recipe(Path(sys.argv[1]))
    recipe = recipe.model_copy(update={"distill": recipe.distill.model_copy(update={"control": True})})
    target = find_target(recipe.compile.targets[0], folder=recipe.folder)
    store, made = Store(home() / "store"), []

    def make(stage, params, /, **inputs):  # type: ignore[no-untyped-def]
        made.append((stage.name, params, store.build(stage, params, **inputs), inputs))
        return made[-1][2]

    build(recipe, [target], make, home(), "export")
    prepared = next(artifact for name, _, artifact, _ in made if name == "prepare").path
    models = {params.run: artifact.path / "model" for name, params, artifact, _ in made if name == "distill"}
    models["teacher"] = next(artifact.path / "model" for name, _, artifact, _ in made if name == "teacher")
    test, task, settings = read_rows(prepared / "test.parquet"), plugins.find("tasks", recipe.task), read_settings(prepared)
    texts, targets = test.texts, [test.target(row) for row in range(len(test))]
    if len(sys.argv) > 2:
        given = [json.loads(line) for line in Path(sys.argv[2]).read_text(encoding="utf-8").splitlines()]
        texts = [row[recipe.data.text] for row in given]
        targets = [task.read(row[recipe.data.label], row[recipe.data.text], recipe.data) for row in given]
    right = {}
    for run, folder in models.items():
        prompts = open_prompts(folder / "tokenizer.json", settings, recipe.student.max_tokens)
        stop = stop_id(folder)
        with causal.arithmetic(best_precision()):
            model = causal.settled(load_decoder(folder), best_precision())
            written = causal.write(model, [prompts.encode(text)[0] for text in texts], recipe.student.max_tokens // 2, rows=256)
        said = [task.answer(text_of(prompts, ids, stop), settings)["target"] for ids in written]
        right[run] = np.array([task.judge(one, target, settings)[0] for one, target in zip(said, targets, strict=True)])
        figure = mean_figure(right[run])
        print(
            f"{run:<12} exact match {100 * figure.value:5.1f} [{100 * figure.low:.1f} to {100 * figure.high:.1f}] of {len(texts)}",
            flush=True,
        )
    print(f"of the teacher's exact match: {right['distilled'].mean() / right['teacher'].mean():.3f}")
    pairs = [("distilled", "off_policy"), ("distilled", "labels"), ("off_policy", "labels"), ("distilled", "teacher")]
    for one, other in [pair for pair in pairs if right.keys() >= {*pair}]:
        figure = mean_figure(right[one] - right[other])
        print(f"{one} against {other}: {100 * figure.value:+.1f} points [{100 * figure.low:+.1f} to {100 * figure.high:+.1f}]")
    for name, params, artifact, _ in made:
        if name == "distill":
            facts = json.loads((artifact.path / "facts.json").read_text())
            print(f"{params.run:<12} {artifact.seconds:.0f} s, {facts['steps']} steps, {facts['own_answers']} answers of its own")


if __name__ == "__main__":
    main()
