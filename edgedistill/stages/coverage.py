"""coverage: does the transfer set look like the traffic, and where does it not?

The student learns what the teacher says of the transfer set. A kind of traffic that the set lacks is a kind that the student guesses at, and no
mean over test rows shows it. So the traffic is cut into clusters by what its texts mean, and of each cluster this stage says

- its share in the traffic and in the transfer set, and the difference (drift);
- its coverage: of how many of its texts a transfer text lies within the radius that traffic texts have among themselves, the distance to the
  5th nearest other one (Naeem et al., arXiv:2002.09797, eq. 3). The text itself and what was grown from it do not count: they stand beside
  every real text, and what is asked is whether a *new* text of that kind would find a neighbour;
- over all clusters one distance, the Jensen–Shannon divergence of the two distributions over clusters, as MAUVE measures the gap between
  two sets of texts (Pillutla et al., arXiv:2102.01454); beside it what two samples of the very same texts would give by chance.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgedistill.clusters import assign, cluster, directions, names
from edgedistill.report import RESAMPLES, Figure, mean_figure
from edgedistill.stages.transfer import read_families
from edgedistill.store import Stage
from edgedistill.tables import read_rows

Array = npt.NDArray[Any]

NEIGHBOURS = 5  # k of the radius; the paper's choice
EXAMPLES = 3
BLOCK = 512  # rows whose distances are computed at once
SHOWN_CHARS = 160


@dataclass(frozen=True)
class Params:
    """seed: of the clusters and the bootstrap."""

    seed: int


def run(out: Path, params: Params, *, embedded: Path, transfer: Path) -> None:
    """Writes `facts.json` and `clusters.json` (text key of each traffic text → its cluster's number in `facts.json`)."""
    traffic, grown = read_rows(embedded / "traffic.parquet"), read_rows(embedded / "transfer.parquet")
    raw, raw_grown = np.load(embedded / "traffic.npy"), np.load(embedded / "transfer.npy")
    centre = raw.astype(np.float32).mean(axis=0)
    vectors, others = directions(raw, centre), directions(raw_grown, centre)
    mine, centres = cluster(vectors, params.seed)
    theirs = assign(others, centres)
    covered, away = cover(vectors, others, kin_of(traffic.keys, grown.keys, read_families(transfer / "families.parquet")))

    count = len(centres)
    titles = names(traffic.texts, mine, count)
    found: list[dict[str, Any]] = []
    for number in range(count):
        places = np.flatnonzero(mine == number)
        shares = drift(mine == number, theirs == number, params.seed)
        far = places[np.argsort(-away[places], kind="stable")]
        missed = [place for place in far if not covered[place]][:EXAMPLES]
        middle = places[np.argsort(np.square(vectors[places] - centres[number]).sum(axis=1), kind="stable")]
        found.append(
            {
                "name": ", ".join(titles[number]) or "no words",
                "rows": len(places),
                **{name: vars(figure) for name, figure in shares.items()},
                "coverage": vars(mean_figure(covered[places].astype(float), params.seed)),
                "typical": [_short(traffic.texts[place]) for place in middle[:EXAMPLES]],
                "uncovered": [_short(traffic.texts[place]) for place in missed],
            }
        )
    order = sorted(range(count), key=lambda number: (found[number]["coverage"]["value"], -found[number]["rows"]))
    held = set(read_rows(transfer / "held_out.parquet").keys)
    fresh = np.array([key in held for key in traffic.keys])
    facts = {
        **json.loads((embedded / "facts.json").read_text()),
        "traffic_looked_at": len(traffic),
        "transfer_looked_at": len(grown),
        "coverage": vars(mean_figure(covered.astype(float), params.seed)),
        "coverage_of_held_out": vars(mean_figure(covered[fresh].astype(float), params.seed)) if fresh.any() else None,
        "held_out_rows": int(fresh.sum()),
        "coverage_expected": expected_coverage(len(traffic), len(grown)),
        "distance": divergence_facts(np.bincount(mine, minlength=count), np.bincount(theirs, minlength=count), params.seed),
        "clusters": [found[number] for number in order],  # worst covered first
    }
    place = {number: rank for rank, number in enumerate(order)}
    (out / "facts.json").write_text(json.dumps(facts, indent=1, ensure_ascii=False), encoding="utf-8")
    (out / "clusters.json").write_text(json.dumps({key: place[int(number)] for key, number in zip(traffic.keys, mine, strict=True)}))


# --- coverage ---------------------------------------------------------------------------------------------------------------------------


def cover(vectors: Array, others: Array, kin: Sequence[Sequence[int]]) -> tuple[Array, Array]:
    """(covered, bool [texts]; how far the nearest transfer text is, in radii, float [texts]).

    vectors, others: `directions` of traffic and transfer set. kin: for each traffic text the places in `others` of itself and of what was grown
    from it, which do not count.
    """
    radius, nearest = np.empty(len(vectors)), np.empty(len(vectors))
    for begin in range(0, len(vectors), BLOCK):
        rows = vectors[begin : begin + BLOCK]
        among, across = _distances(rows, vectors), _distances(rows, others)
        among[np.arange(len(rows)), begin + np.arange(len(rows))] = np.inf  # itself
        for row in range(len(rows)):
            across[row, list(kin[begin + row])] = np.inf
        rank = min(NEIGHBOURS, len(vectors) - 1)
        radius[begin : begin + BLOCK] = np.partition(among, rank - 1, axis=1)[:, rank - 1] if rank else 0.0
        nearest[begin : begin + BLOCK] = across.min(axis=1)
    return nearest <= radius, nearest / np.maximum(radius, 1e-9)


def kin_of(traffic: Sequence[str], transfer: Sequence[str], families: Mapping[str, Sequence[str]]) -> list[list[int]]:
    """For each traffic text, by key, the places in the transfer set of itself and of the texts that were grown from it."""
    places: dict[str, list[int]] = defaultdict(list)
    for place, key in enumerate(transfer):
        for parent in families.get(key, (key,)):
            places[parent].append(place)
    return [places.get(key, []) for key in traffic]


def _distances(rows: Array, others: Array) -> Array:
    """Euclidean, of vectors of length one: √(2 − 2 cos)."""
    return np.asarray(np.sqrt(np.maximum(2 - 2 * rows @ others.T, 0)))


def expected_coverage(traffic: int, transfer: int) -> float:
    """Coverage of a transfer set drawn from the traffic itself: of all texts, the k + 1 nearest of one traffic text are not all traffic.

    The k nearest other traffic texts come before any transfer text with probability ∏ (N − i) / (N + M − i), i = 1 … k
    (arXiv:2002.09797, appendix A).
    """
    ranks = np.arange(1, NEIGHBOURS + 1)
    before = np.maximum(traffic - ranks, 0) / np.maximum(traffic + transfer - ranks, 1)
    return float(1 - before.prod())


# --- drift ------------------------------------------------------------------------------------------------------------------------------


def drift(in_traffic: Array, in_transfer: Array, seed: int) -> dict[str, Figure]:
    """A cluster's share in both sets, and transfer minus traffic with a bootstrap interval; both arguments bool [rows]."""
    draw = np.random.default_rng(seed)
    # To resample 0/1 rows is a binomial draw.
    resampled = [draw.binomial(len(rows), rows.mean(), RESAMPLES) / len(rows) for rows in (in_transfer, in_traffic)]
    low, high = np.quantile(resampled[0] - resampled[1], [0.025, 0.975])
    return {
        "traffic_share": mean_figure(in_traffic.astype(float), seed),
        "transfer_share": mean_figure(in_transfer.astype(float), seed),
        "drift": Figure(float(in_transfer.mean() - in_traffic.mean()), float(low), float(high)),
    }


def divergence(p: Array, q: Array) -> Array:
    """Jensen–Shannon divergence of distributions over the last axis, bits: 0 the same, 1 nothing in common."""
    middle = (p + q) / 2

    def part(side: Array) -> Array:
        return np.asarray((side * np.log2(np.where(side > 0, side, 1) / np.where(middle > 0, middle, 1))).sum(axis=-1) / 2)

    return part(p) + part(q)


def divergence_facts(traffic: Array, transfer: Array, seed: int) -> dict[str, float]:
    """From the counts of each cluster: the divergence, its bootstrap interval, and `chance`, which two samples of one set seldom (5 %) exceed."""
    draw = np.random.default_rng(seed)
    n, m = int(traffic.sum()), int(transfer.sum())
    resampled = divergence(draw.multinomial(n, traffic / n, RESAMPLES) / n, draw.multinomial(m, transfer / m, RESAMPLES) / m)
    pooled = (traffic + transfer) / (n + m)
    chance = divergence(draw.multinomial(n, pooled, RESAMPLES) / n, draw.multinomial(m, pooled, RESAMPLES) / m)
    low, high = np.quantile(resampled, [0.025, 0.975])
    value = float(divergence(traffic / n, transfer / m))
    return {"value": value, "low": float(low), "high": float(high), "chance": float(np.quantile(chance, 0.95))}


def _short(text: str) -> str:
    return text if len(text) <= SHOWN_CHARS else text[: SHOWN_CHARS - 1] + "…"


COVERAGE = Stage("coverage", 3, run, ("numpy", "scikit-learn"))
