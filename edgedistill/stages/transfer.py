"""transfer: the texts that the teacher labels for the student, many more than the training rows.

A student learns the teacher's function, and more inputs pin it down better than more passes over the same few. The set holds the training
rows, the unlabelled traffic when there is some, and texts grown from both by label-free augmentation; none of them is a test text.

Quotas steer the growth: texts of an awkward slice are grown from its own rows and by the methods that make it, until the slice has its
share (stratified sampling of rare kinds, as slice-based learning asks for: arXiv:1909.06349). A part of the real texts is held out: neither
they nor anything grown from them is learned from, so what the student makes of them is what it will make of new inputs.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from edgedistill.augment import Augmenter, neighbours
from edgedistill.digests import text_key
from edgedistill.duplicates import near_duplicates, normalised
from edgedistill.models import token_table
from edgedistill.recipe import SliceByColumn, Transfer
from edgedistill.slices import baseline, member_of
from edgedistill.store import Stage
from edgedistill.tables import Rows, make_rows, read_rows, write_rows
from edgedistill.vocabulary import whole_words

MOST_HELD_OUT = 1000  # more would narrow no interval that anybody acts on, and the student would miss them
MAKERS = {"typos": "typo", "upper_case": "case", "very_short": "delete", "very_long": "recombine"}  # slice → the method that makes it
ROUNDS = 12  # of growth for one quota; a round that gives nothing new ends it


@dataclass(frozen=True)
class Params:
    """near_duplicate, slices: as in `[data]`; a grown text this like a test text is dropped."""

    transfer: Transfer
    near_duplicate: float
    seed: int
    slices: dict[str, str | SliceByColumn]


def run(out: Path, params: Params, *, prepared: Path, model: Path, written: Path | None = None) -> None:
    """Writes `transfer.parquet` (training rows first, with their labels; the rest has none), `held_out.parquet`,
    `families.parquet` (which text was grown from which) and `facts.json`. written: texts of a language model that read the real ones.
    """
    options = params.transfer
    test = read_rows(prepared / "test.parquet")
    train, traffic, held = real_texts(prepared, options.held_out or 0.0, params.seed)
    clean = _Cleaner([*test.texts, *held.texts], params.near_duplicate)
    composed = clean(read_rows(written / "written.parquet").texts) if written is not None else []
    seeds = [*train.texts, *traffic, *composed]
    wanted = max(0, round((options.pool or options.growth) * len(train)) - len(seeds))
    augmenter = _augmenter(options, seeds, model)

    # Case changes must count as new texts, yet a test text in other case must not come out: two forms, two checks.
    barred = [*seeds, *test.texts, *held.texts]
    families = augmenter(seeds).grow_families(wanted, options.methods, params.seed, barred, _as_written)
    grown = clean(list(families))
    belongs = member_of(list(options.quotas), params.slices, baseline(train.texts))
    grown, reached = _steered(seeds, grown, families, augmenter, options, belongs, params.seed, barred, clean)
    texts = [*seeds, *grown]
    unlabelled = len(texts) - len(train)
    labels = np.concatenate([train.labels, np.full(unlabelled, -1, np.int32)])
    write_rows(out / "transfer.parquet", make_rows(texts, labels, targets=[*train.targets, *[None] * unlabelled]))
    write_rows(out / "held_out.parquet", held)
    write_families(out / "families.parquet", {text: families[text] for text in grown})
    facts = {
        "rows": len(texts),
        "training_rows": len(train),
        "traffic_rows": len(traffic),
        "written_rows": len(composed),
        "grown_rows": len(grown),
        "held_out_rows": len(held),
        "dropped_like_test": clean.dropped,
        "methods": options.methods,
        "quotas": reached,
        "examples": grown[:: max(1, len(grown) // 5)][:5],
    }
    (out / "facts.json").write_text(json.dumps(facts, indent=1, ensure_ascii=False), encoding="utf-8")


def _augmenter(options: Transfer, seeds: Sequence[str], model: Path) -> Callable[[Sequence[str]], Augmenter]:
    """Texts → what grows more of them, with the words that stand in for others where its methods need them."""
    if not (options.methods.get("similar") or options.methods.get("reword")):
        return Augmenter
    tokens, table = token_table(model)
    whole = whole_words(tokens)
    near = neighbours(seeds, whole, table) if options.methods.get("similar") else None
    reworded = neighbours(seeds, whole, table, reword=True) if options.methods.get("reword") else None
    return partial(Augmenter, near=near, reworded=reworded)


def real_texts(prepared: Path, held_out: float, seed: int) -> tuple[Rows, list[str], Rows]:
    """(training rows, traffic, held-out rows) of a prepared data set; the same share and seed hold out the same rows."""
    train = read_rows(prepared / "train.parquet")
    traffic = read_rows(prepared / "traffic.parquet").texts if (prepared / "traffic.parquet").is_file() else []
    known = set(train.texts)
    return _hold_out(train, [text for text in dict.fromkeys(traffic) if text not in known], held_out, seed)


def _hold_out(train: Rows, traffic: Sequence[str], share: float, seed: int) -> tuple[Rows, list[str], Rows]:
    """(training rows, traffic, held-out rows). Traffic is held out when there is some: labels are too dear to be left unused."""
    source = make_rows(traffic) if traffic else train
    count = min(MOST_HELD_OUT, round(share * len(source)))
    chosen = set(random.Random(f"held out {seed}").sample(range(len(source)), count))  # noqa: S311  # a sample, not a secret
    held = _take(source, sorted(chosen))
    rest = _take(source, [place for place in range(len(source)) if place not in chosen])
    return (train, rest.texts, held) if traffic else (rest, [], held)


def _take(rows: Rows, places: Sequence[int]) -> Rows:
    return Rows(
        [rows.keys[place] for place in places],
        [rows.texts[place] for place in places],
        rows.labels[list(places)],
        [rows.slices[place] for place in places],
        rows.numbers[list(places)],
        [rows.targets[place] for place in places],
    )


class _Cleaner:
    """Drops texts that are the same as a test or held-out text, or nearly so, and counts them."""

    def __init__(self, barred: Sequence[str], near_duplicate: float) -> None:
        self._barred = [normalised(text) for text in barred]
        self._forms = set(self._barred)
        self._threshold = near_duplicate
        self.dropped = {"exact": 0, "near": 0}

    def __call__(self, texts: Sequence[str]) -> list[str]:
        clean = [text for text in texts if normalised(text) not in self._forms]
        leaks = {pair.removed for pair in near_duplicates([normalised(text) for text in clean], self._threshold, against=self._barred)}
        self.dropped["exact"] += len(texts) - len(clean)
        self.dropped["near"] += len(leaks)
        return [text for place, text in enumerate(clean) if place not in leaks]


def _steered(
    seeds: Sequence[str],
    grown: list[str],
    families: dict[str, tuple[str, ...]],
    augmenter: Callable[[Sequence[str]], Augmenter],
    options: Transfer,
    belongs: Callable[[str], list[str]],
    seed: int,
    barred: Sequence[str],
    clean: Callable[[Sequence[str]], list[str]],
) -> tuple[list[str], list[dict[str, Any]]]:
    """Grown texts in which every quota has its share, as far as the texts give it, and what was reached.

    A text that a quota wants takes the place of one that no quota wants, so the set keeps its size. families: grows with what is grown.
    """
    if not options.quotas:
        return grown, []
    size = len(seeds) + len(grown)
    of_seeds, of_grown = [belongs(text) for text in seeds], [belongs(text) for text in grown]
    have = Counter(name for names in (*of_seeds, *of_grown) for name in names)
    kept = [text for text, names in zip(grown, of_grown, strict=True) if names]
    spare = [text for text, names in zip(grown, of_grown, strict=True) if not names]
    for name, share in options.quotas.items():
        own = [text for text, names in zip(seeds, of_seeds, strict=True) if name in names]
        methods = {MAKERS[name]: 1.0} if name in MAKERS else {}
        sources: list[tuple[list[str], dict[Any, float]]] = [(own, dict(options.methods)), (list(seeds), methods)]
        for number, (texts, ways) in enumerate(source for source in sources if source[0] and source[1]):
            maker = augmenter(texts)
            for turn in range(ROUNDS):
                missing = int(np.ceil(share * size)) - have[name]
                if missing <= 0:
                    break
                # Not every text grown from a slice belongs to it (a typo may hit another word): ask for more than is missing.
                asked = max(64, 3 * missing)
                turn_seed = seed + 7919 * (turn + ROUNDS * number + 1)
                made = maker.grow_families(asked, ways, turn_seed, [*barred, *grown, *kept], _as_written)
                candidates = clean(list(made))
                fitting = [text for text in candidates if name in belongs(text)][:missing]
                if not candidates:
                    break
                kept += fitting
                families |= made
                for text in fitting:
                    have.update(belongs(text))
    room = max(0, size - len(seeds) - len(kept))
    # Spare texts are kept evenly over the order in which they were grown.
    left = [spare[place] for place in np.linspace(0, len(spare) - 1, min(room, len(spare))).astype(int)] if spare else []
    total = len(seeds) + len(kept) + len(left)
    reached = [
        {"name": name, "asked": share, "rows": have[name], "share": have[name] / total, "reached": have[name] >= share * total - 1e-9}
        for name, share in options.quotas.items()
    ]
    return [*kept, *left], reached


def write_families(path: Path, families: Mapping[str, Sequence[str]]) -> None:
    """Columns key (of a grown text) and parents (keys of the texts it was grown from)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    parents = [[text_key(parent) for parent in found] for found in families.values()]
    schema = pa.schema([("key", pa.string()), ("parents", pa.list_(pa.string()))])
    pq.write_table(pa.table([[text_key(text) for text in families], parents], schema=schema), path, compression="zstd")


def read_families(path: Path) -> dict[str, list[str]]:
    """Key of each grown text → the keys of the texts it was grown from."""
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    return dict(zip(table["key"].to_pylist(), table["parents"].to_pylist(), strict=True))


def _as_written(text: str) -> str:
    return " ".join(text.split())


TRANSFER = Stage("transfer", 4, run, ("datasketch", "pyarrow", "numpy"))
