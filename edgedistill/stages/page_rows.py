"""The rows of the page's tables, and figures as text: computed afresh from a report's raw samples each time the page is drawn."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from edgedistill.report import FEW_ROWS, Figure, Report, Variant, Verdict, accuracy, accuracy_difference, by_type, flips
from edgedistill.stages.select import shown

LIMITS = {
    "p90_ms": "Latency, p90",
    "size_mb": "Size",
    "peak_mb": "Peak memory",
    "memory_mb": "Room in memory",
    "accuracy_drop": "{metric} drop",
}
GAINS = {
    "control: labels alone": ("Distillation", "against the same student trained on the labels alone, with as many steps"),
    "control: fixed answers alone": ("Own answers", "against the same student on fixed answers alone, with as many steps"),
    "control: training rows alone": ("Transfer set", "against the same student distilled on the training rows alone, with as many steps"),
}

# --- figures as text --------------------------------------------------------------------------------------------------------------------

NOTHING = "–"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def number(value: Any) -> str:
    """Three figures that count: 0.123, 1.04, 10.4, 104."""
    if not _is_number(value):
        return NOTHING
    digits = max(0, 2 - math.floor(math.log10(abs(value)))) if value else 0
    return signed(f"{value:,.{min(digits, 6)}f}")


def percent(share: Any, digits: int = 1) -> str:
    """0.927 → `92.7`; the sign is the template's."""
    return signed(f"{100 * share:.{digits}f}") if _is_number(share) else NOTHING


def points(share: Any) -> str:
    """A difference of shares in points, with its sign: `−1.7`."""
    return signed(f"{100 * share:+.1f}".replace("+0.0", "0.0").replace("-0.0", "0.0")) if _is_number(share) else NOTHING


def count(value: Any) -> str:
    return f"{value:,}" if _is_number(value) else NOTHING


def factor(value: Any) -> str:
    return f"{value:.1f}×" if _is_number(value) else NOTHING


def chance(value: Any) -> str:
    """A p-value."""
    return NOTHING if not _is_number(value) else "p < 0.001" if value < 0.001 else f"p = {value:.3f}" if value < 0.1 else f"p = {value:.2f}"


def signed(text: str) -> str:
    """A true minus sign before numbers, as in `at −1.7 points`."""
    return re.sub(r"(?<![\w.)])-(?=\d)", "−", text)


def flat(tree: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as (`student.layers`, `[0, 2, 5]`); what is not set is left out."""
    found: list[tuple[str, str]] = []
    for key, value in tree.items():
        if isinstance(value, dict):
            found += flat(value, f"{prefix}{key}.")
        elif value is not None:
            found.append((prefix + key, json.dumps(value, ensure_ascii=False)))
    return found


# --- rows of tables -----------------------------------------------------------------------------------------------------------------------


def timed(report: Report) -> list[Variant]:
    """Teacher and students that have timings of real rows."""
    return [variant for variant in (report.teacher, *report.students) if "real" in variant.timings]


def limit_card(report: Report, chosen: str, limit: Verdict) -> dict[str, Any]:
    """One limit of the budget against the chosen binary. doubt: a PASS by the value whose interval reaches past the limit."""
    doubt = ""
    if limit.limit == "accuracy_drop" and limit.state == "PASS":
        drop = accuracy_difference(report, report.teacher, report.variant(chosen))
        if drop.high > limit.allowed:
            doubt = f"Met as seen, but {len(report.keys):,} test rows cannot rule out a drop of {percent(drop.high)} points."
    return {
        "name": LIMITS[limit.limit].format(metric=metric_name(report)),
        "state": limit.state,
        "value": signed(shown(limit.value, limit.limit)),
        "allowed": shown(limit.allowed, limit.limit),
        "reason": limit.reason,
        "doubt": doubt,
        "share": min(1.0, max(0.0, limit.value / limit.allowed)) if limit.value is not None and limit.allowed else 0.0,
    }


def gains(report: Report, chosen: Variant) -> list[dict[str, Any]]:
    """What each step bought or cost: paired accuracy differences of the float student to its controls, of the binary to its float."""
    student, found = report.float_of(chosen), []
    for control in report.variants:
        if control.role == "control":
            name, about = GAINS.get(control.name, (control.name, "against this control"))
            found.append(_gain(report, name, f"{student.name} {about}", student, control))
    for variant in report.students:
        if variant is not report.float_of(variant):
            about = f"{variant.name} against its own float"
            found.append(_gain(report, f"Quantization, {variant.name.removeprefix('student ')}", about, variant, report.float_of(variant)))
    return [*found, _gain(report, "All together", f"{chosen.name} against the teacher", chosen, report.teacher)]


def _gain(report: Report, name: str, about: str, ours: Variant, base: Variant) -> dict[str, Any]:
    figure, changed = accuracy_difference(report, ours, base), flips(report, ours, base)
    return {"name": name, "about": about, "figure": figure, "flips": changed, "told": figure.clear_of_zero()}


def slice_rows(report: Report, chosen: Variant, card: dict[str, Any]) -> list[dict[str, Any]]:
    """Each slice, the chosen binary beside the teacher. Those with too few rows have no figure."""
    found = []
    for name in sorted({*report.slices, *card}):
        places = report.slices.get(name, [])
        few = len(places) < FEW_ROWS
        entry: dict[str, Any] = {"name": name, "rows": len(places), "about": card.get(name, {}).get("about", ""), "few": few}
        if not few:
            entry |= beside(report, chosen, places)
        found.append(entry)
    return sorted(found, key=lambda entry: -entry["rows"])


def metric_name(report: Report) -> str:
    """The metric's name at the beginning of a line."""
    return report.metric[:1].upper() + report.metric[1:]


def single_label(report: Report) -> bool:
    """Whether each answer is one class, so that classes can be mixed up."""
    return all(isinstance(answer, int) for answer in report.expected)


def class_rows(report: Report, chosen: Variant) -> list[dict[str, Any]]:
    """Each class: of the test rows that are of it, how many the teacher and the chosen binary find."""
    expected = np.asarray(report.expected)
    found = []
    for place, name in enumerate(report.classes):
        places = np.flatnonzero(expected == place).tolist()
        entry: dict[str, Any] = {"name": name, "rows": len(places), "few": len(places) < FEW_ROWS}
        found.append(entry | (beside(report, chosen, places) if places else {}))
    return found


def type_rows(report: Report, chosen: Variant) -> list[dict[str, Any]]:
    """Each type of span, the chosen binary beside the teacher (None where the teacher's own answers are the expected ones)."""
    teacher = {one.name: one.f1 for one in by_type(report, report.teacher)} if report.against == "labels" else {}
    return [{"type": one, "few": one.rows < FEW_ROWS, "teacher": teacher.get(one.name)} for one in by_type(report, chosen)]


def beside(report: Report, chosen: Variant, places: Sequence[int]) -> dict[str, Figure]:
    return {
        "chosen": accuracy(report, chosen, places),
        "teacher": accuracy(report, report.teacher, places),
        "difference": accuracy_difference(report, chosen, report.teacher, places),
    }


def confusion_table(report: Report, variant: Variant) -> Any:
    """Counts, int [expected class, answered class]."""
    size = len(report.classes)
    pairs = np.asarray(report.expected, dtype=int) * size + np.asarray(variant.predicted, dtype=int)
    return np.bincount(pairs, minlength=size * size).reshape(size, size)


def confusions(report: Report, variant: Variant, most: int = 8) -> list[dict[str, Any]]:
    """The most frequent mistakes."""
    table = confusion_table(report, variant)
    np.fill_diagonal(table, 0)
    order = [int(place) for place in np.argsort(-table, axis=None, kind="stable")[:most] if table.flat[place] > 0]
    return [
        {"expected": report.classes[row], "answered": report.classes[column], "rows": int(table[row, column])}
        for row, column in (divmod(place, len(report.classes)) for place in order)
    ]


def search_rows(record: dict[str, Any], target: str) -> list[dict[str, Any]]:
    """The candidates of a search, as `search.search` records them, with what each costs on one target and what became of it."""
    chosen = record.get("targets", {}).get(target, {}).get("chosen")
    rows = []
    for candidate in record.get("candidates", []):
        costs = candidate["costs"].get(target) or [{}]
        timed = [cost for cost in costs if cost.get("p50_ms") is not None]
        best = min(timed, key=lambda cost: cost["p50_ms"]) if timed else min(costs, key=lambda cost: cost.get("size_mb", 0.0))
        here = candidate["name"] == chosen
        fate = "chosen" if here else candidate["out"] or ("trained to the end" if candidate["finished"] else "a cheaper one was enough")
        rows.append(
            {
                "name": candidate["name"],
                "chosen": here,
                "larger": candidate.get("larger", ""),
                "fate": fate,
                "scores": candidate["scores"],
                "seconds": candidate["seconds"],
                **best,
            }
        )
        rows[-1]["size_mb"] = min((cost["size_mb"] for cost in costs if "size_mb" in cost), default=None)
    return rows
