"""ask: spend a budget of teacher calls where they tell most (active learning for distillation).

Without `teacher.calls` the teacher labels the whole transfer set. With it, the grown texts are a pool that is many times larger than the budget.
A first part is labelled at random, the real texts before grown ones. Then, in rounds, a committee of quick students (`quick_student`) learns
what was labelled so far and says where it is in doubt, and the next part of the budget is spent there: on the texts with the most doubt first, and
of one family (what was grown from one text) on at most one a round, so that no round buys one question a hundred times (pool-based active
learning, Lewis and Gale 1994, in batches). Grown texts are asked about when the real ones are used up, or a quota wants them.

Quotas of the transfer set hold for what is asked, too. Every shard of labels is on disk before the next is asked for, and the choice depends
on nothing but the seed and those labels: a killed run repeats no call.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgedistill import plugins
from edgedistill.errors import StageError
from edgedistill.progress import tick
from edgedistill.quick_student import Kind, Words, committee, doubt
from edgedistill.recipe import SliceByColumn, Teacher, Transfer
from edgedistill.slices import baseline, member_of
from edgedistill.stages.transfer import read_families
from edgedistill.store import Stage
from edgedistill.tables import Rows, make_rows, read_rows, write_rows

Array = npt.NDArray[Any]

FIRST = 0.3  # share of the budget that is spent before a student can say anything
ROUNDS = 8
SHARD = 512  # calls between two checkpoints
MOST_HELD_OUT = 0.1  # of the budget goes to held-out texts
CANDIDATES = 20_000  # texts whose doubt is looked at in a round


@dataclass(frozen=True)
class Params:
    """teacher.calls: the budget. lowbit: as `teach.lowbit` gives it. slices: as in `[data]`."""

    teacher: Teacher
    transfer: Transfer
    slices: dict[str, str | SliceByColumn]
    task: str
    max_tokens: int
    precision: str
    seed: int
    lowbit: str = ""


def run(out: Path, params: Params, *, prepared: Path, teacher: Path, transfer: Path) -> None:
    """Writes what a transfer set and its labels are: `transfer.parquet`, `held_out.parquet`, `labels.parquet`, `facts.json`."""
    calls = params.teacher.calls
    assert calls is not None  # the pipeline asks for this stage only then
    pool, held = read_rows(transfer / "transfer.parquet"), read_rows(transfer / "held_out.parquet")
    held = _first(held, int(MOST_HELD_OUT * calls))
    asked = Asked(out / "checkpoints", _teacher(params, prepared, teacher), calls)
    asked(held.keys, held.texts)

    facts = json.loads((transfer / "facts.json").read_text(encoding="utf-8"))
    real = facts["training_rows"] + facts["traffic_rows"]
    train = read_rows(prepared / "train.parquet")
    belongs = member_of(list(params.transfer.quotas), params.slices, baseline(train.texts))
    budget = min(calls - len(held), len(pool))
    parents = read_families(transfer / "families.parquet")
    families = [parents.get(key, [key])[0] for key in pool.keys]
    chosen, rounds = spend(pool.texts, real, budget, params, families, belongs, lambda places: asked(*_pairs(pool, places)))

    places = sorted(chosen)  # real rows first, as a transfer set has it
    kept = make_rows([pool.texts[place] for place in places], pool.labels[places], targets=[pool.targets[place] for place in places])
    write_rows(out / "transfer.parquet", kept)
    write_rows(out / "held_out.parquet", held)
    shutil.copyfile(transfer / "families.parquet", out / "families.parquet")
    asked.write(out / "labels.parquet")
    marks = [belongs(text) for text in kept.texts]
    counts = {name: sum(name in found for found in marks) for name in params.transfer.quotas}
    facts |= {
        "rows": len(kept),
        "training_rows": sum(place < facts["training_rows"] for place in places),
        "traffic_rows": sum(facts["training_rows"] <= place < real for place in places),
        "grown_rows": sum(place >= real for place in places),
        "held_out_rows": len(held),
        "pool_rows": len(pool),
        "calls": len(asked),
        "choose": params.transfer.choose,
        "rounds": rounds,
        "quotas": [
            {"name": name, "asked": share, "rows": counts[name], "share": counts[name] / len(kept), "reached": counts[name] >= share * len(kept)}
            for name, share in params.transfer.quotas.items()
        ],
    }  # fmt: skip
    (out / "facts.json").write_text(json.dumps(facts, indent=1, ensure_ascii=False), encoding="utf-8")


def spend(
    texts: Sequence[str],
    real: int,
    budget: int,
    params: Params,
    families: Sequence[str],
    belongs: Callable[[str], list[str]],
    label: Callable[[Sequence[int]], Array],
) -> tuple[list[int], list[dict[str, Any]]]:
    """Which texts to have labelled: (places, in the order asked; what each round did).

    real: so many texts stand first that are real ones. families: a name for the family of each text. label: places → their soft labels, logits
    [places, classes].
    """
    draw = np.random.default_rng(params.seed)
    # The first part: real texts before grown ones, both in random order.
    order = [int(place) for place in (*draw.permutation(real), *(real + draw.permutation(len(texts) - real)))]
    rounds: list[dict[str, Any]] = []
    first = min(budget, max(32, int(FIRST * budget)))
    chosen = order[:first]
    kind, soft = soft_labels(params.task, label(chosen))
    rounds.append({"calls": first, "doubt": None})
    if params.transfer.choose == "random" and first < budget:  # differs in the choice alone, so that it is a fair control
        more = order[first:budget]
        label(more)
        return [*chosen, *more], [*rounds, {"calls": len(more), "doubt": None}]
    if first == budget:
        return chosen, rounds
    words = Words.of(texts)
    marks = [set(belongs(text)) for text in texts] if params.transfer.quotas else []
    for number in range(ROUNDS):
        count = round((budget - first) * (number + 1) / ROUNDS) - (len(chosen) - first)
        left = np.setdiff1d(np.arange(len(texts)), chosen)
        if count <= 0:  # a budget smaller than the rounds
            continue
        left = np.sort(draw.permutation(left)[:CANDIDATES])
        # A real text that nobody asked about beats a grown one: TREC, 1,000 calls, +1.0 and +3.1 points of agreement for two kinds of student.
        candidates = left[left < real] if (left < real).sum() >= count else left
        scores = doubt(committee(words, chosen, soft, left, params.seed + number, kind), kind)
        forced = _short_of_quota(params.transfer.quotas, marks, chosen, left, scores, count, budget) if marks else []
        free = np.isin(left, candidates) & ~np.isin(left, forced)
        picked = [*forced, *pick(left[free], scores[free], [families[place] for place in left[free]], count - len(forced))]
        soft = np.concatenate([soft, soft_labels(params.task, label(picked))[1]])
        chosen += picked
        rounds.append(
            {"calls": len(picked), "doubt": float(scores[np.searchsorted(left, picked)].mean()), "doubt_of_pool": float(scores.mean())}
        )
    return chosen, rounds


def pick(places: Array, scores: Array, families: Sequence[str], count: int) -> list[int]:
    """The `count` of `places` with the highest scores, one of a family; where there are not so many families, the best of the rest."""
    order = np.argsort(-scores, kind="stable")
    seen: set[str] = set()
    first: list[int] = []
    later: list[int] = []
    for place in order:
        (later if families[place] in seen else first).append(int(place))
        seen.add(families[place])
    return [int(places[place]) for place in [*first, *later][: max(0, count)]]


def _short_of_quota(
    quotas: dict[str, float], marks: Sequence[set[str]], chosen: Sequence[int], left: Array, scores: Array, count: int, budget: int
) -> list[int]:
    """The most doubtful texts of slices that have not their share of what will be asked in all."""
    forced: list[int] = []
    for name, share in quotas.items():
        have = sum(name in marks[place] for place in (*chosen, *forced))
        missing = min(int(np.ceil(share * budget)) - have, count - len(forced))
        inside = [place for place in np.argsort(-scores, kind="stable") if name in marks[left[place]] and int(left[place]) not in forced]
        forced += [int(left[place]) for place in inside[: max(0, missing)]]
    return forced


# --- the teacher, a shard at a time -----------------------------------------------------------------------------------------------------


class Asked:
    """What the teacher was asked and what it said, kept shard by shard under `folder`, so that no call is made twice."""

    def __init__(self, folder: Path, teacher: Callable[[Sequence[str]], Array], calls: int) -> None:
        import pyarrow.parquet as pq

        self._folder, self._teacher, self._calls = folder, teacher, calls
        self._known: dict[str, Array] = {}
        folder.mkdir(parents=True, exist_ok=True)
        self._shards = sorted(folder.glob("*.parquet"))
        for file in self._shards:
            table = pq.read_table(file)
            self._known |= dict(zip(table["key"].to_pylist(), table["logits"].to_numpy(zero_copy_only=False), strict=True))

    def __len__(self) -> int:
        return len(self._known)

    def __call__(self, keys: Sequence[str], texts: Sequence[str]) -> Array:
        """Logits, float32 [texts, classes]; only texts that were never asked go to the teacher."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        new = [(key, text) for key, text in zip(keys, texts, strict=True) if key not in self._known]
        assert len(self) + len(new) <= self._calls, "more calls than the budget has"
        for begin in range(0, len(new), SHARD):
            part = new[begin : begin + SHARD]
            logits = self._teacher([text for _, text in part])
            if not np.isfinite(logits).all():
                raise StageError("the teacher gives logits that are not finite numbers.", where="teacher", write="Take another teacher.")
            file = self._folder / f"{len(self._shards):06d}.parquet"
            pq.write_table(pa.table({"key": [key for key, _ in part], "logits": list(logits)}), file.with_suffix(".part"))
            file.with_suffix(".part").replace(file)  # existence means completeness
            self._shards.append(file)
            self._known |= dict(zip([key for key, _ in part], logits, strict=True))
            tick("asking the teacher", len(self), self._calls)
        return np.stack([self._known[key] for key in keys]).astype(np.float32) if len(keys) else np.zeros((0, 1), np.float32)

    def write(self, path: Path) -> None:
        """All of it in the form that `teach.read_labels` reads."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.concat_tables([pq.read_table(file) for file in self._shards]), path)


def _teacher(params: Params, prepared: Path, teacher: Path) -> Callable[[Sequence[str]], Array]:
    kind = plugins.find("teachers", params.teacher.kind)
    hub_task = plugins.find("tasks", params.task).HUB_TASK
    classes = json.loads((prepared / "classes.json").read_text())
    return lambda texts: np.asarray(
        kind.logits(teacher / "model", list(texts), classes, hub_task, params.teacher, params.max_tokens, params.precision)
    )


def soft_labels(task: str, logits: Array) -> tuple[Kind, Array]:
    """What the quick students learn from the teacher's logits [texts, outputs]."""
    found = plugins.find("tasks", task)
    if not hasattr(found, "probabilities"):
        return "numbers", logits
    shares = found.probabilities(logits)
    return "one of" if np.allclose(shares.sum(axis=1), 1, atol=1e-3) else "any of", shares


def _first(rows: Rows, count: int) -> Rows:
    return Rows(rows.keys[:count], rows.texts[:count], rows.labels[:count], rows.slices[:count], rows.numbers[:count], rows.targets[:count])


def _pairs(rows: Rows, places: Sequence[int]) -> tuple[list[str], list[str]]:
    return [rows.keys[place] for place in places], [rows.texts[place] for place in places]


ASK = Stage("ask", 3, run, ("torch", "transformers", "tokenizers", "scikit-learn", "pyarrow", "numpy"))
