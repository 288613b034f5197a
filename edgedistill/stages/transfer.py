"""transfer: the texts that the teacher labels for the student, many more than the training rows.

A student learns the teacher's function, and more inputs pin it down better than more passes over the same few. The set holds the training
rows, the unlabelled traffic when there is some, and texts grown from both by label-free augmentation; none of them is a test text.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgedistill.augment import Augmenter, neighbours
from edgedistill.duplicates import near_duplicates, normalised
from edgedistill.models import token_table
from edgedistill.recipe import Transfer
from edgedistill.store import Stage
from edgedistill.tables import make_rows, read_rows, write_rows


@dataclass(frozen=True)
class Params:
    """near_duplicate: as in `[data]`; a grown text this like a test text is dropped."""

    transfer: Transfer
    near_duplicate: float
    seed: int


def run(out: Path, params: Params, *, prepared: Path, model: Path) -> None:
    """Writes `transfer.parquet` (training rows first, with their labels; the rest has none) and `facts.json` (how many rows of which origin)."""
    train, test = read_rows(prepared / "train.parquet"), read_rows(prepared / "test.parquet")
    traffic = read_rows(prepared / "traffic.parquet").texts if (prepared / "traffic.parquet").is_file() else []
    known = set(train.keys)
    traffic = [row for row in make_rows(traffic).texts if row not in known]
    seeds = [*train.texts, *traffic]
    wanted = round(params.transfer.growth * len(train)) - len(seeds)
    # Case changes must count as new texts, yet a test text in other case must not come out: two forms, two checks.
    near = neighbours(seeds, *token_table(model)) if params.transfer.methods.get("similar") else None
    grown = Augmenter(seeds, near).grow(max(0, wanted), params.transfer.methods, params.seed, [*seeds, *test.texts], _as_written)
    tested = [normalised(text) for text in test.texts]
    forms = set(tested)
    clean = [text for text in grown if normalised(text) not in forms]
    exact = len(grown) - len(clean)
    leaks = {pair.removed for pair in near_duplicates([normalised(text) for text in clean], params.near_duplicate, against=tested)}
    clean = [text for place, text in enumerate(clean) if place not in leaks]
    texts = [*seeds, *clean]
    unlabelled = len(texts) - len(train)
    labels = np.concatenate([train.labels, np.full(unlabelled, -1, np.int32)])
    write_rows(out / "transfer.parquet", make_rows(texts, labels, targets=[*train.targets, *[None] * unlabelled]))
    facts = {
        "rows": len(texts),
        "training_rows": len(train),
        "traffic_rows": len(traffic),
        "grown_rows": len(clean),
        "dropped_like_test": {"exact": exact, "near": len(leaks)},
        "methods": params.transfer.methods,
        "examples": clean[:: max(1, len(clean) // 5)][:5],
    }
    (out / "facts.json").write_text(json.dumps(facts, indent=1, ensure_ascii=False), encoding="utf-8")


def _as_written(text: str) -> str:
    return " ".join(text.split())


TRANSFER = Stage("transfer", 2, run, ("datasketch", "pyarrow", "numpy"))
