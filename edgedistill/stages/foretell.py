"""foretell: which inputs will the student get wrong?

The binary that ships answers the held-out texts: real ones that no student learned from, nor from anything grown from them, and that are no test
rows either. Where it differs from the teacher there, it will differ on traffic of that kind. Two things come of it.

**Where**: the share of answers that differ, by cluster of meaning (`coverage`), by slice and by word. A group may have few rows, so its expected
share is drawn towards the overall one, by as much as PRIOR_ROWS rows at the overall rate would (empirical Bayes; Efron and Morris 1975), and the
interval beside it is the 95 % interval of the same Beta distribution.

**How sure is sure enough**: the confidence below which an answer should not be trusted, for a wanted precision. By the SGR algorithm (Geifman and
El-Yaniv, arXiv:1705.08500) the promise holds with 95 % for new inputs like the held-out ones: the exact binomial bound, with its allowance for
each threshold that was looked at. Where the rows are too few for a promise, the threshold at which the precision was seen is all there is.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgedistill import plugins
from edgedistill.recipe import SliceByColumn
from edgedistill.report import mean_figure
from edgedistill.serving import open_for, output
from edgedistill.slices import BUILT_IN, bare_words, baseline, member_of
from edgedistill.stages.benchmark import Entry
from edgedistill.stages.prepare import read_settings
from edgedistill.stages.select import read_choice
from edgedistill.stages.teach import teacher_logits
from edgedistill.store import Stage
from edgedistill.tables import read_rows
from edgedistill.target import Target

Array = npt.NDArray[Any]

PRIOR_ROWS = 10
FEWEST = {"cluster": 5, "slice": 5, "word": 8}  # rows below which a group is not named
SHOWN = {"cluster": 8, "slice": 8, "word": 10}
EXAMPLES = 3
WANTED = (0.9, 0.95, 0.98, 0.99)  # precision
DOUBT = 0.05  # chance that a promise does not hold
SHOWN_CHARS = 160


@dataclass(frozen=True)
class Params:
    """entries: what was measured, so that the chosen one's files are found among the inputs. slices: as in `[data]`."""

    task: str
    target: dict[str, Any]
    max_tokens: int
    entries: tuple[Entry, ...]
    slices: dict[str, str | SliceByColumn]
    seed: int


def run(out: Path, params: Params, *, prepared: Path, transfer: Path, labels: Path, coverage: Path, selected: Path, **files: Path) -> None:
    """Writes `facts.json`. files: as benchmark's."""
    held = read_rows(transfer / "held_out.parquet")
    chosen = next(entry for entry in params.entries if entry.name == read_choice(selected / "choice.json").chosen)
    target, task, settings = Target(**params.target), plugins.find("tasks", params.task), read_settings(prepared)
    if not len(held) or not task.EXACT:  # numbers are never quite the same, so none is wrong as such
        (out / "facts.json").write_text(json.dumps({"rows": 0, "binary": chosen.name}))
        return
    model = open_for(
        task,
        plugins.find("runtimes", target.runtime),
        files[f"{chosen.id}_model"] / target.model_file,
        files[f"{chosen.id}_graphs"] / "tokenizer.json",
        params.max_tokens,
        target.threads,
        settings,
        target.kv_cache,
    )
    encoded = [model.encode(text) for text in held.texts]
    ours = [
        task.answer(output(task, model, ids), settings, text, offsets) for text, (ids, offsets) in zip(held.texts, encoded, strict=True)
    ]
    said = teacher_logits(labels / "labels.parquet", held.keys, task, settings)
    theirs = [task.answer(row, settings, text) for text, row in zip(held.texts, said, strict=True)]
    wrong = np.array([mine["answer"] != teachers["answer"] for mine, teachers in zip(ours, theirs, strict=True)], dtype=float)
    confidence = np.array([mine.get("confidence", 0.0) for mine in ours])

    belongs = member_of(sorted({*BUILT_IN, *params.slices}), params.slices, baseline(read_rows(prepared / "train.parquet").texts))
    number = json.loads((coverage / "clusters.json").read_text())
    titles = [entry["name"] for entry in json.loads((coverage / "facts.json").read_text(encoding="utf-8"))["clusters"]]

    def example(row: int) -> dict[str, Any]:
        return {
            "text": held.texts[row][:SHOWN_CHARS],
            "answered": ours[row]["answer"],
            "teacher": theirs[row]["answer"],
            "confidence": round(float(confidence[row]), 4),
        }

    marks: dict[str, Callable[[int], Sequence[str]]] = {
        "cluster": lambda row: [titles[number[held.keys[row]]]],
        "slice": lambda row: belongs(held.texts[row]),
        "word": lambda row: sorted({*bare_words(held.texts[row])}),
    }
    found = {kind: groups([mark(row) for row in range(len(held))], wrong, FEWEST[kind]) for kind, mark in marks.items()}
    facts = {
        "binary": chosen.name,
        "rows": len(held),
        "wrong": vars(mean_figure(wrong, params.seed)),
        "groups": {kind: [_with_examples(entry, example) for entry in entries[: SHOWN[kind]]] for kind, entries in found.items()},
        "groups_looked_at": {kind: len(entries) for kind, entries in found.items()},
        "sure_and_wrong": [
            example(row) for row in sorted(np.flatnonzero(wrong).tolist(), key=lambda row: (-confidence[row], row))[: 2 * EXAMPLES]
        ],
        "thresholds": [threshold(confidence, wrong, wanted) for wanted in WANTED] if confidence.any() else [],
    }
    (out / "facts.json").write_text(json.dumps(facts, indent=1, ensure_ascii=False), encoding="utf-8")


def _with_examples(entry: dict[str, Any], example: Callable[[int], dict[str, Any]]) -> dict[str, Any]:
    return {
        **{key: value for key, value in entry.items() if key != "places"},
        "examples": [example(row) for row in entry["places"][:EXAMPLES]],
    }


def groups(marks: Sequence[Sequence[str]], wrong: Array, fewest: int) -> list[dict[str, Any]]:
    """Groups of rows with the share of wrong answers to expect, the highest first. marks: the groups of each row.

    Each entry: name, rows, wrong (count), expected {value, low, high}, told (whether the interval is clear of the overall share), places (rows
    answered wrong). A group of fewer than `fewest` rows is left out, and one that holds every row, which says nothing.
    """
    members: dict[str, list[int]] = defaultdict(list)
    for row, names in enumerate(marks):
        for name in names:
            members[name].append(row)
    overall = float(wrong.mean())
    found = []
    for name, rows in members.items():
        if fewest <= len(rows) < len(wrong):
            figure = expected(int(wrong[rows].sum()), len(rows), overall)
            told = figure["low"] > overall or figure["high"] < overall
            places = [row for row in rows if wrong[row]]
            found.append({"name": name, "rows": len(rows), "wrong": len(places), "expected": figure, "told": told, "places": places})
    return sorted(found, key=lambda entry: (-entry["expected"]["value"], entry["name"]))


def expected(wrong: int, rows: int, overall: float) -> dict[str, float]:
    """The share of wrong answers to expect of a group: mean and 95 % interval of Beta(wrong + s·r, right + s·(1 − r)), s = PRIOR_ROWS."""
    from scipy.stats import beta

    overall = min(max(overall, 1e-3), 1 - 1e-3)  # a rate of nought would forbid any other
    a, b = wrong + PRIOR_ROWS * overall, rows - wrong + PRIOR_ROWS * (1 - overall)
    low, high = beta.ppf([0.025, 0.975], a, b)
    return {"value": a / (a + b), "low": float(low), "high": float(high)}


def threshold(confidence: Array, wrong: Array, wanted: float) -> Mapping[str, Any]:
    """From which confidence on answers are right (as the teacher's) with precision `wanted`.

    `seen`: the lowest at which the held-out rows have it. `promised`: the lowest that SGR allows, None when the rows are too few. Each with the
    share of answers that reach it and the precision of those rows.
    """
    order = np.argsort(-confidence, kind="stable")
    sorted_confidence, errors = confidence[order], np.cumsum(wrong[order])
    counts = np.arange(1, len(order) + 1)
    # Equal confidences are trusted or not together, so a cut can stand only before a lower one.
    cuts = np.flatnonzero(np.append(sorted_confidence[1:] < sorted_confidence[:-1], True))

    def at(cut: int | None) -> dict[str, float] | None:
        if cut is None:
            return None
        return {
            "confidence": float(sorted_confidence[cut]),
            "kept": float(counts[cut] / len(order)),
            "precision": float(1 - errors[cut] / counts[cut]),
        }

    good = [int(cut) for cut in cuts if errors[cut] <= (1 - wanted) * counts[cut] + 1e-9]
    return {"wanted": wanted, "seen": at(max(good, default=None)), "promised": at(_promised(cuts, errors, counts, 1 - wanted))}


def _promised(cuts: Array, errors: Array, counts: Array, risk: float) -> int | None:
    """SGR: a binary search over the cuts, each look paying its part of DOUBT."""
    looks = max(1, math.ceil(math.log2(len(cuts))) + 1)
    low, high, best = 0, len(cuts) - 1, None
    while low <= high:
        middle = (low + high) // 2
        cut = int(cuts[middle])
        if risk_bound(int(errors[cut]), int(counts[cut]), DOUBT / looks) <= risk:
            best, low = cut, middle + 1
        else:
            high = middle - 1
    return best


def risk_bound(errors: int, rows: int, doubt: float) -> float:
    """The largest true risk at which `errors` or fewer of `rows` would be seen with probability `doubt` (Clopper–Pearson)."""
    from scipy.stats import beta

    return 1.0 if errors >= rows else float(beta.ppf(1 - doubt, errors + 1, rows - errors))


FORETELL = Stage("foretell", 2, run, ("onnxruntime", "numpy", "scipy", "tokenizers"))
