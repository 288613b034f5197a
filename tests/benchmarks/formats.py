"""The same student under ONNX Runtime and under llama.cpp, in one table: `python -m tests.benchmarks.formats RUN` after a compile for both targets.

RUN is the folder that `edgedistill compile RECIPE -t laptop-x86 -t laptop-x86-llama -o RUN` wrote. Each runtime was measured in turns with its own
variants, one runtime after the other: ratios within a runtime hold on a busy machine, those across are as good as the machine was quiet.
"""

from __future__ import annotations

import sys
from pathlib import Path

from edgedistill.report import accuracy, flips, percentile_ms, read_report

TARGETS = {"laptop-x86": "ONNX Runtime", "laptop-x86-llama": "llama.cpp"}


def main() -> int:
    if len(sys.argv) != 2:
        sys.stderr.write("usage: python -m tests.benchmarks.formats RUN\n")
        return 2
    reports = {name: read_report(Path(sys.argv[1]) / name / "report.json") for name in TARGETS}
    metric = next(iter(reports.values())).metric
    sys.stdout.write(
        f"| runtime | variant | MB | p50 ms | p90 ms | peak MB | {metric} [95 %] | answers unlike its float's |\n|---|---|---|---|---|---|---|---|\n"
    )
    for name, report in reports.items():
        base = report.variant("student float")
        for variant in (report.teacher, *report.students):
            timings, right = variant.timings["real"], accuracy(report, variant)
            p50, p90 = (percentile_ms(timings, share).value for share in (0.5, 0.9))
            changed = "" if variant in (report.teacher, base) else str(flips(report, variant, base).total)
            sys.stdout.write(
                f"| {TARGETS[name]} | {variant.name} | {variant.size_bytes / 1e6:.2f} | {p50:.2f} | {p90:.2f} | "
                f"{(variant.peak_bytes or 0) / 1e6:.0f} | {100 * right.value:.1f} [{100 * right.low:.1f}–{100 * right.high:.1f}] | {changed} |\n"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
