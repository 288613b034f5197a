"""select: which binary ships, and why. Lays the budget over what was measured; measures nothing itself, so a changed budget re-runs only this."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from edgedistill.budget import Budget
from edgedistill.report import (
    Report,
    State,
    Variant,
    Verdict,
    accuracy_difference,
    overall,
    read_report,
    slower_than_float,
    speed_up,
    verdicts,
    write_report,
)
from edgedistill.store import Stage

ALIKE = 1.02  # times the least size or time: it costs as much
UNITS = {"p90_ms": "ms", "size_mb": "MB", "peak_mb": "MB", "memory_mb": "MB", "accuracy_drop": ""}


@dataclass(frozen=True)
class Params:
    budget: Budget
    prefer: Literal["smallest", "fastest"]


@dataclass(frozen=True)
class Choice:
    """What ships. state: PASS every limit met; UNDECIDED some limit is still open; FAIL none fits, and `chosen` is the nearest miss.

    reasons: why this one, sentences. rejected: variant → why not.
    """

    chosen: str
    state: State
    reasons: list[str]
    rejected: dict[str, str] = field(default_factory=dict)
    advice: list[str] = field(default_factory=list)


def run(out: Path, params: Params, *, measured: Path) -> None:
    """Writes `report.json` (the measured report with its budget) and `choice.json`."""
    report = read_report(measured / "report.json").model_copy(update={"budget": params.budget, "prefer": params.prefer})
    write_report(report, out / "report.json")
    choice = choose(report)
    (out / "choice.json").write_text(json.dumps(vars(choice), indent=1, ensure_ascii=False), encoding="utf-8")


def read_choice(path: Path) -> Choice:
    """A choice from its JSON file."""
    return Choice(**json.loads(path.read_text(encoding="utf-8")))


def choose(report: Report) -> Choice:
    """The smallest or fastest of the students that meet every limit; else the nearest miss, with what to change."""
    found = {variant.name: verdicts(report, variant) for variant in report.students}
    states = {name: overall(limits) for name, limits in found.items()}
    for wanted in ("PASS", "UNDECIDED"):
        fitting = [variant for variant in report.students if states[variant.name] == wanted]
        honest = [variant for variant in fitting if report.prefer == "smallest" or not slower_than_float(report, variant)]
        if honest:
            best = _best(report, honest)
            return Choice(best.name, states[best.name], _why(report, best, honest), _why_not(report, best, found, states))
    nearest = min(report.students, key=lambda variant: sum(limit.excess for limit in found[variant.name]))
    missed = [limit for limit in found[nearest.name] if limit.state == "FAIL"]
    return Choice(
        nearest.name,
        "FAIL",
        [f"No student meets every limit. The nearest miss is {nearest.name}: {'; '.join(map(_sentence, missed))}."],
        _why_not(report, nearest, found, states),
        [advice for limit in missed for advice in _advice(limit)],
    )


def _best(report: Report, fitting: list[Variant]) -> Variant:
    """The cheapest; of those that cost as much the one whose logits lie nearest to float's, where that is known of all of them. (Two files of 4 bits,
    with an importance matrix and without, are as large as each other, and which is faster is luck.)"""
    cheapest = min(fitting, key=lambda variant: _cost(report, variant))
    alike = [variant for variant in fitting if _as_cheap(report, variant, cheapest)]
    if any(variant.divergence is None for variant in alike):
        return cheapest
    return min(alike, key=lambda variant: (variant.divergence, *_cost(report, variant)))


def _as_cheap(report: Report, variant: Variant, other: Variant) -> bool:
    decides = 1 if report.prefer == "smallest" else 2  # as fast and four times as large is not as good
    costs = zip(_cost(report, variant)[:decides], _cost(report, other), strict=False)
    return all(cost <= ALIKE * least for cost, least in costs)


def _no_nearer(variant: Variant, other: Variant) -> bool:
    return variant.divergence is not None and other.divergence is not None and variant.divergence >= other.divergence


def _cost(report: Report, variant: Variant) -> tuple[float, ...]:
    size = float(variant.size_bytes)
    timings = variant.timings.get("real")
    time = float(np.median(timings.total_ms())) if timings else size
    return (size, time) if report.prefer == "smallest" else (time, size)


def _why(report: Report, best: Variant, fitting: list[Variant]) -> list[str]:
    word = report.prefer if best is min(fitting, key=lambda one: _cost(report, one)) else f"nearest to float among the {report.prefer}"
    among = (
        f"the {word} of the {len(fitting)} students that meet every limit"
        if len(fitting) > 1
        else "the only student that meets every limit"
    )
    if overall(verdicts(report, best)) == "UNDECIDED":
        among = f"the {word} of the students that miss no limit; what is still open: " + "; ".join(
            f"{limit.limit} ({limit.reason})" for limit in verdicts(report, best) if limit.state == "UNDECIDED"
        )
    reasons = [f"{best.name} is {among}."]
    factor, drop = speed_up(best, report.teacher), accuracy_difference(report, best, report.teacher)
    speed = f"{factor:.1f}× faster and " if factor else ""
    size = f"it is {speed}{report.teacher.size_bytes / best.size_bytes:.1f}× smaller, at" if report.teacher.size_bytes else "it stands at"
    reasons.append(
        f"Against the teacher {'in float' if report.teacher.scheme == 'float' else 'as it is'} {size} "
        f"{100 * drop.value:+.1f} points of {report.metric} (95 % interval {100 * drop.low:+.1f} to {100 * drop.high:+.1f})."
    )
    if slower_than_float(report, best):
        reasons.append("It is smaller than its float, not faster: take it for its size alone.")
    return reasons


def _why_not(report: Report, best: Variant, found: dict[str, list[Verdict]], states: dict[str, State]) -> dict[str, str]:
    reasons = {}
    for variant in report.students:
        if variant is best:
            continue
        missed = [limit for limit in found[variant.name] if limit.state == "FAIL"]
        if missed:
            reasons[variant.name] = "; ".join(map(_sentence, missed))
        elif states[variant.name] == "UNDECIDED" and states[best.name] == "PASS":
            reasons[variant.name] = "undecided: " + "; ".join(limit.reason for limit in found[variant.name] if limit.state == "UNDECIDED")
        elif report.prefer == "fastest" and slower_than_float(report, variant):
            reasons[variant.name] = "slower than its own float"
        elif _as_cheap(report, variant, best) and _no_nearer(variant, best):
            reasons[variant.name] = f"as {'large' if report.prefer == 'smallest' else 'fast'}, and no nearer to float"
        elif report.prefer == "smallest":
            slow = ", and slower than its own float" if slower_than_float(report, variant) else ""
            reasons[variant.name] = f"{variant.size_bytes / best.size_bytes:.2f}× the size{slow}"
        else:
            reasons[variant.name] = f"{1 / (speed_up(variant, best) or 1):.2f}× the time"
    return reasons


def _sentence(limit: Verdict) -> str:
    if limit.limit == "memory_mb":
        return limit.reason.rstrip(".")
    return f"{limit.limit} is {shown(limit.value, limit.limit)}, allowed {shown(limit.allowed, limit.limit)}"


def shown(value: float | None, limit: str) -> str:
    """A figure of the budget with its unit."""
    if value is None:
        return "not measured"
    if limit == "accuracy_drop":
        return f"{100 * value:.2f} points"
    return f"{value:.3g} {UNITS[limit]}" if value < 100 else f"{value:.0f} {UNITS[limit]}"


def _advice(limit: Verdict) -> list[str]:
    value = limit.value or 0.0
    if limit.limit == "memory_mb":  # no budget, so there is nothing to allow
        return ["To fit into the device's memory, try fewer layers (student.layers), a narrower student, or a scheme with smaller tables."]
    what = {
        "p90_ms": "fewer layers (student.layers), a shorter student.max_tokens, or more threads in the target",
        "size_mb": 'fewer layers (student.layers), or vocabulary = "task"',
        "peak_mb": "a smaller student.max_tokens or fewer layers; most of the rest is the runtime itself",
        "accuracy_drop": "more layers (student.layers), a larger transfer.growth, unlabelled data.traffic, or more distill.epochs",
    }[limit.limit]
    enough = f"{value * 1.02:.2g}" if limit.limit != "accuracy_drop" else f"{np.ceil(value * 1000) / 1000:.3f}"
    return [f"To meet {limit.limit}, try {what}; or allow {limit.limit} = {enough} under [budget]."]


def as_json(choice: Choice) -> dict[str, Any]:
    """The choice as plain values."""
    return dict(vars(choice))


SELECT = Stage("select", 2, run)
