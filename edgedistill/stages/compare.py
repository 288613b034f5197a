"""compare: what two bundles or runs shipped, row by row on the test rows that both answered."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgedistill.bundle_format import read_manifest
from edgedistill.errors import InputError
from edgedistill.report import Figure, Report, Variant, mcnemar, percentile_ms, ratio_difference, read_report


@dataclass(frozen=True)
class Comparison:
    """a against b. rows: test rows that both answered. accuracy_gain: a minus b on those rows, paired."""

    a: dict[str, Any]
    b: dict[str, Any]
    metric: str
    rows: int
    accuracy_gain: Figure | None
    flips: int
    lost: int
    won: int
    p_value: float
    times_faster: float | None
    times_smaller: float
    caution: str

    def lines(self) -> list[str]:
        """For people."""
        lines = [f"A: {self.a['what']}", f"B: {self.b['what']}"]
        if self.accuracy_gain:
            gain = self.accuracy_gain
            lines.append(
                f"On {self.rows} test rows that both answered: A is {100 * gain.value:+.2f} points of {self.metric} "
                f"[{100 * gain.low:+.2f} to {100 * gain.high:+.2f}] "
                f"against B; {self.flips} answers differ, {self.lost} lost, {self.won} won (McNemar p = {self.p_value:.2g})."
            )
        else:
            lines.append("They share no test row, so their answers cannot be compared.")
        if self.times_faster:
            lines.append(f"A answers in {1 / self.times_faster:.2f}× the time of B (medians). {self.caution}".rstrip())
        lines.append(f"A is {1 / self.times_smaller:.2f}× the size of B.")
        return lines


def compare(a: Path, b: Path) -> Comparison:
    """Hold what `a` shipped against what `b` shipped. Each is a bundle, or the folder of one target that compile wrote."""
    (one, first), (other, second) = _shipped(a), _shipped(b)
    place = {key: row for row, key in enumerate(other.keys)}
    pairs = [(row, place[key]) for row, key in enumerate(one.keys) if key in place]
    if one.metric != other.metric:
        raise InputError(
            f"they are judged by different metrics: {one.metric} and {other.metric}.", where=str(b), write="Compare bundles of one task."
        )
    sides = (one, first, [row for row, _ in pairs]), (other, second, [row for _, row in pairs])
    ours, theirs = (report.correct(variant, rows) for report, variant, rows in sides)
    gains = [report.gains(variant, rows) for report, variant, rows in sides]
    lost, won = int((theirs > ours).sum()), int((ours > theirs).sum())
    changed = sum(_named(one, first.predicted[row]) != _named(other, second.predicted[place]) for row, place in pairs)
    times = [variant.timings.get("real") for variant in (first, second)]
    faster = float(np.median(times[1].total_ms()) / np.median(times[0].total_ms())) if times[0] and times[1] else None
    caution = "" if one.where == other.where else "They were measured on different machines."
    return Comparison(
        _what(a, one, first),
        _what(b, other, second),
        one.metric,
        len(pairs),
        ratio_difference(gains[0], gains[1], one.seed) if pairs else None,
        changed,
        lost,
        won,
        mcnemar(lost, won),
        faster,
        second.size_bytes / first.size_bytes,
        caution,
    )


def _named(report: Report, answer: Any) -> Any:
    """An answer by which two reports can be compared: a class by its name, for its number may differ."""
    return report.classes[answer] if isinstance(answer, int) else answer


def _shipped(folder: Path) -> tuple[Report, Variant]:
    """The report, and the variant that shipped: the bundle's own, or the chosen one of a run."""
    if (folder / "bundle").is_dir() and not (folder / "manifest.json").is_file():
        folder = folder / "bundle"
    if not (folder / "report.json").is_file():
        raise InputError(
            "there is no report.json here.", where=str(folder), write="Give a bundle, or the folder of one target that compile wrote."
        )
    report = read_report(folder / "report.json")
    digest = read_manifest(folder).files[read_manifest(folder).model]
    return report, next(variant for variant in report.variants if variant.model_sha256 == digest)


def _what(folder: Path, report: Report, variant: Variant) -> dict[str, Any]:
    timings = variant.timings.get("real")
    time = f", p50 {percentile_ms(timings, 0.5).value:.2f} ms" if timings else ""
    return {
        "what": f"{folder}: {report.name} for {report.target['name']}, {variant.name}, {variant.size_bytes / 1e6:.2f} MB{time} ({report.how})",
        "variant": variant.name,
        "size_mb": variant.size_bytes / 1e6,
    }
