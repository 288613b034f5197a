"""What the benchmarks share: the demo's teacher and data, from the demo's own recipe."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path

from edgedistill.recipe import Recipe, read_recipe
from edgedistill.sources import home, resolve
from edgedistill.tables import read_table

RECIPE = Path(__file__).parents[2] / "sample_apps" / "question_router" / "recipe.toml"


def demo() -> tuple[Recipe, Path, list[str]]:
    """The demo's recipe, the folder of its teacher (MiniLM-L6, not yet fine-tuned), and its unique questions."""
    recipe = read_recipe(RECIPE)
    sources = {key: resolve(spec, folder=RECIPE.parent, cache=home() / "sources").path for key, spec in _specs(recipe).items()}
    table = read_table(sources["data"], format=recipe.data.format, encoding=recipe.data.encoding, pattern=recipe.data.pattern)
    return recipe, sources["model"], sorted({text for text in table.columns["text"] if text})


def _specs(recipe: Recipe) -> dict[str, str]:
    return {"data": recipe.data.train, "model": recipe.teacher.model}


def in_turns(a: Callable[[], None], b: Callable[[], None], rounds: int) -> tuple[float, float, list[float]]:
    """Run a and b in turns; median seconds of each, and the ratio a/b of each pair. One round before is not counted."""
    times: list[tuple[float, float]] = []
    for number in range(rounds + 1):
        pair = []
        for work in (a, b) if number % 2 else (b, a):
            start = time.perf_counter()
            work()
            pair.append(time.perf_counter() - start)
        times.append((pair[0], pair[1]) if number % 2 else (pair[1], pair[0]))
    counted = times[1:]
    return statistics.median(t for t, _ in counted), statistics.median(t for _, t in counted), [x / y for x, y in counted]


def say(what: str, ratios: list[float], wanted: str) -> None:
    """One line: the median of the ratios with its spread, and what was wanted."""
    print(f"{what}: {statistics.median(ratios):.3f} [{min(ratios):.3f} to {max(ratios):.3f}, {len(ratios)} pairs], wanted {wanted}")
