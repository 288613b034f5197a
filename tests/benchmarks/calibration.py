"""How far estimates of latency are off, on targets that run here: `python -m tests.benchmarks.calibration [TARGET …] [--instructions]`.

Each target measures the graphs of stages/calibrate.py. Every architecture is left out once and predicted in three ways: by operators and sizes at this
target's prices (what a published calibration does); by instructions that qemu counts (`--instructions`; five minutes); and by another target's time on
the same graph, times the mean ratio of the two on the others. Printed are the median and the worst factor between estimate and measurement, the
interval's factor, and the share of the graphs left out that the interval held: 80 % are wanted.
"""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import numpy as np

from edgedistill import plugins
from edgedistill.latency_model import FEATURES, Error, Point, error, factor_of
from edgedistill.links import qemu
from edgedistill.stages.calibrate import LABELS, LENGTHS, MAX_TOKENS, graphs, measured
from edgedistill.target import Link, Target, find_target

DEFAULT = ("laptop-x86", "laptop-x86 by C++", "node", "browser-desktop")


def target_of(name: str) -> Target:
    if name == "laptop-x86 by C++":
        return find_target("laptop-x86").model_copy(update={"link": Link(kind="local_cpp"), "name": name})
    return find_target(name)


def by_ratio(points: list[Point], others: list[Point]) -> Error:
    """Each group predicted by the other target's time, times the geometric mean ratio of the groups that are left."""
    logs = np.array([math.log(one.ns / other.ns) for one, other in zip(points, others, strict=True)])
    groups = np.array([point.group for point in points])
    residuals, held = np.zeros(len(logs)), []
    for group in sorted(set(groups)):
        out = groups == group
        residuals[out] = logs[out] - logs[~out].mean()
        inner = np.concatenate([logs[groups == g] - logs[~out & (groups != g)].mean() for g in sorted(set(groups[~out]))])
        held += list(np.abs(residuals[out]) <= math.log(factor_of(inner)))
    off = np.exp(np.abs(residuals))
    return Error(float(np.median(off)), float(off.max()), float(np.mean(held)), factor_of(residuals))


def instructions() -> list[int]:
    """Of every graph and length, on an x86 with AVX2 that qemu plays; in the order of the points."""
    link, found = Link(kind="qemu", cpu="x86-64-v3"), []
    for _, _, model, tokenizer in graphs():
        request = {
            "model": str(model),
            "tokenizer": str(tokenizer),
            "max_tokens": MAX_TOKENS,
            "task": "classify",
            "settings": {"labels": LABELS},
        }
        texts = [" ".join(["w7"] * (tokens - 2)) for tokens in LENGTHS]
        found += qemu._counted(link, request | {"first_text": texts[0]}, texts)[0]
    return found


def row(name: str, found: Error) -> str:
    return f"{name:<52} {found.typical:>8.2f}× {found.worst:>8.2f}× {found.factor:>10.2f} {found.covered:>9.0%}"


def main(words: list[str]) -> None:
    names = [word for word in words if not word.startswith("--")] or list(DEFAULT)
    points: dict[str, list[Point]] = {}
    for name in names:
        target = target_of(name)
        if lacking := plugins.find("links", target.link.kind).ready(target.link):
            print(f"{name}: {lacking}", file=sys.stderr)
            continue
        points[name] = measured(target)[0]
    counts = instructions() if "--instructions" in words else []
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").is_file() else ""
    print(f"{len(next(iter(points.values())))} points; this machine {'has' if 'avx512f' in flags else 'has no'} AVX512")
    print(f"{'architecture left out, predicted by':<52} {'median':>9} {'worst':>9} {'interval ÷×':>10} {'covered':>9}")
    for name, own in points.items():
        print(row(f"{name}: operators and sizes", error(own)))
        if counts:
            told = [replace(point, does={**point.does, "instructions": float(count)}) for point, count in zip(own, counts, strict=True)]
            print(row(f"{name}: instructions", error(told, ("answers", "tokens", "instructions"))))
            print(row(f"{name}: both", error(told, (*FEATURES, "instructions"))))
    for name, other in permutations(points, 2):
        print(row(f"{name}: by {other} × ratio", by_ratio(points[name], points[other])))


if __name__ == "__main__":
    main(sys.argv[1:])
