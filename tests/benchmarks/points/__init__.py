"""What a student keeps of a 109M teacher at three sizes: `python -m tests.benchmarks.points [trec-50 …]`.

Compiles each recipe of this folder for three targets, whose budgets are the three points, and prints what ships against the teacher in float, one
thread, from the report of that run. Hours from nothing: the teacher is fine-tuned to convergence first (an hour for TREC on two cores).
"""

from __future__ import annotations

from pathlib import Path

from edgedistill.pipeline import compile
from edgedistill.recipe import read_recipe
from edgedistill.report import accuracy, accuracy_difference, flips, speed_up

FOLDER = Path(__file__).parent
TASKS = ("trec-6", "trec-50", "movie-sentiment", "reuters-r52")
WANTED = {"point-a": "≥ 0.995, 30×, 40×", "point-b": "≥ 0.99, 60×, 80×", "point-c": "≥ 0.97, 250×, 300×"}


def main(names: list[str]) -> None:
    for name in names or TASKS:
        for outcome in compile(read_recipe(FOLDER / f"{name}.toml")):
            report = outcome.report
            teacher, shipped = report.teacher, report.variant(outcome.choice.chosen)
            base = next(variant for variant in report.students if variant.scheme == "float")
            kept = accuracy(report, shipped).value / accuracy(report, teacher).value
            changed = flips(report, shipped, teacher)
            print(
                f"{name} {outcome.target} [{shipped.name}]: {accuracy(report, shipped).value:.3f} of {accuracy(report, teacher).value:.3f} = "
                f"{kept:.3f}, lost {changed.lost} won {changed.won} (p = {changed.p_value:.3f}), {speed_up(shipped, teacher):.0f}× faster, "
                f"{teacher.size_bytes / shipped.size_bytes:.0f}× smaller; wanted {WANTED[outcome.target]}"
            )
            for control in (variant for variant in report.variants if variant.role == "control"):
                gain = accuracy_difference(report, base, control)
                print(f"    gain over {control.name}: {100 * gain.value:+.1f} points [{100 * gain.low:+.1f} to {100 * gain.high:+.1f}]")
