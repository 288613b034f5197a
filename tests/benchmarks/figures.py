"""The demo's figures as ratios, from the report of the last `make demo`: `python -m tests.benchmarks.figures [RUN]`.

Also times what must be quick: import, --help, a second compile, and the peak memory of verify.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

from edgedistill.report import accuracy, accuracy_difference, read_report, speed_up
from edgedistill.stages.select import read_choice
from tests.benchmarks.common import RECIPE

ROOT = RECIPE.parents[2]


def main() -> None:
    run = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "out" / "question-router" / "laptop-x86"
    report, choice = read_report(run / "report.json"), read_choice(run / "choice.json")
    shipped, teacher = report.variant(choice.chosen), report.teacher
    base = next(variant for variant in report.students if variant.scheme == "float")
    print(f"shipped: {shipped.name}")
    print(f"accuracy of the teacher's: {accuracy(report, shipped).value / accuracy(report, teacher).value:.3f}, wanted ≥ 0.98")
    print(f"× faster than the teacher in float: {speed_up(shipped, teacher):.2f}, wanted ≥ 6")
    print(f"× smaller: {teacher.size_bytes / shipped.size_bytes:.2f}, wanted ≥ 8")
    for variant in report.students:
        if variant is not base:
            lost = -100 * accuracy_difference(report, variant, base).value
            print(
                f"{variant.name}: loses {lost:+.2f} points to its float, {speed_up(variant, base):.2f}× as fast, {variant.size_bytes / 1e6:.2f} MB"
            )
    quantized = {variant.scheme: variant for variant in report.students}
    if {"onnx_int8_dynamic", "onnx_int4_block"} <= quantized.keys():
        print(
            f"int4 / int8 model file: {quantized['onnx_int4_block'].model_bytes / quantized['onnx_int8_dynamic'].model_bytes:.2f}, wanted ≤ 0.60"
        )
    for control in (variant for variant in report.variants if variant.role == "control"):
        gain = accuracy_difference(report, base, control)
        print(f"gain over {control.name}: {100 * gain.value:+.2f} points [{100 * gain.low:+.2f} to {100 * gain.high:+.2f}]")
    clock("import edgedistill", [sys.executable, "-c", "import edgedistill"], 0.3)
    clock("edgedistill --help", [sys.executable, "-m", "edgedistill.cli", "--help"], 0.6)
    clock("second compile", [sys.executable, "-m", "edgedistill.cli", "compile", str(RECIPE), "-o", str(run.parent)], 5)
    clock("verify", [sys.executable, "-m", "edgedistill.cli", "verify", str(run / "bundle")], None)
    code = "import sys; sys.argv = ['v', sys.argv[1]]; from edgedistill.stages.verify import main; main()\n"
    code += "from edgedistill.serving import peak_bytes; print(f'peak memory of verify: {peak_bytes() / 1e6:.0f} MB, wanted ≤ 120')"
    print(
        subprocess.run([sys.executable, "-c", code, str(run / "bundle")], capture_output=True, text=True, check=True).stdout.splitlines()[
            -1
        ]
    )


def clock(what: str, command: list[str], wanted: float | None) -> None:
    """Median wall time of five runs of a whole command."""
    times = []
    for _ in range(6):
        start = time.perf_counter()
        subprocess.run(command, capture_output=True, check=True)
        times.append(time.perf_counter() - start)
    limit = f", wanted ≤ {wanted} s" if wanted else ""
    print(f"{what}: {statistics.median(times[1:]):.2f} s{limit}")


if __name__ == "__main__":
    main()
