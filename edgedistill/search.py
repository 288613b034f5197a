"""search: the cheapest student that keeps the teacher's answers, for each target, out of all families and sizes.

Four steps, each made of results in the store, so that a killed search goes on and a changed budget throws away no training:

1. **Budget first.** Every candidate is exported untrained and measured on every target (`probe`); one that no target's budget admits is dropped.
2. **Halving.** All that are left train for a small part of the steps, the better half for twice as long, from where they stood: successive
   halving (Jamieson and Talwalkar, arXiv:1502.07943). Half by rank is not enough, since a cheap student need not beat a dear one: who is nobody's
   inferior stays. A student is inferior when another costs less on every target and is better, with the 95 % interval of the paired difference
   clear of zero. The larger ones go first, and a smaller one that is a part of one begins there instead of at the teacher (progressive shrinking,
   arXiv:2004.04037). Only students of one family are held against each other: a convolution is nearly done when a transformer is still at the
   beginning (right on held-out rows of TREC-50 after a sixteenth of the steps: one and two convolutions 0.67 and 0.74, three layers 0.64).
3. **Climb.** For each target, the cheapest candidate that may still reach the bar is trained to the end; when it misses, the next dearer one. Where
   none may, the best of each family is. Students are judged by how often they answer as the teacher does, on texts that are held out of the transfer
   set with all that was grown from them. At most half of the answers that differ were net losses (NET), so a budget of `accuracy_drop` asks for an
   agreement of 1 - accuracy_drop / NET (of 1 - accuracy_drop where nobody labelled the rows, and the teacher's answers are the right ones). Labels of
   those rows would flatter: the teacher was trained on them (TREC-50: 0.888 on the labels of held-out rows, 0.841 on the test rows).
4. The student that the climb ends at goes on through quantize, benchmark and select, which judge it on the test rows. No test row is looked at here.

One search serves all targets: candidates, trials and finished students are shared, each target only climbs its own order of costs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgedistill import plugins
from edgedistill.budget import Budget
from edgedistill.errors import SearchError
from edgedistill.models import sizes_of
from edgedistill.recipe import Recipe, Student, serves
from edgedistill.report import ratio_difference
from edgedistill.stages import probe
from edgedistill.store import Artifact
from edgedistill.target import Target

RUNGS = (1 / 8, 1 / 4)  # shares of the full number of steps, each on top of the one before
NET = 0.5  # of the answers that differ from the teacher's, lost less won: 0.32 and 0.47 on TREC-6, 0.49 on TREC-50 were seen
KEEP = 0.5  # of the candidates, after a rung
SLACK = 0.05  # so far may a student still rise behind the last rung, as a share of the metric


@dataclass
class Candidate:
    """One student that might ship.

    start: its weights before any training. warm: those that it begins with when it is a part of a larger candidate that has learned; larger: whose.
    costs: target → what each scheme costs there. out: why it was dropped, and when.
    """

    name: str
    student: Student
    start: Artifact
    graphs: Artifact
    costs: dict[str, list[probe.Cost]] = field(default_factory=dict)
    trials: list[Artifact] = field(default_factory=list)
    warm: Artifact | None = None
    larger: str = ""
    out: str = ""

    @property
    def newest(self) -> Artifact:
        """The weights that the next training goes on from."""
        return self.trials[-1] if self.trials else self.warm or self.start


@dataclass(frozen=True)
class Found:
    """What the search ends at. students: target → the finished student. record: what the report shows of the way there."""

    students: dict[str, Artifact]
    candidates: dict[str, Candidate]
    record: dict[str, Any]


def search(
    recipe: Recipe,
    targets: Sequence[Target],
    candidates: list[Candidate],
    probed: Callable[[Candidate, Target], Artifact],
    trained: Callable[[Candidate, float, Artifact], Artifact],
    shrunk: Callable[[Candidate, Candidate], Artifact | None],
) -> Found:
    """probed: a candidate's costs on a target. trained: a candidate after a share of the steps, from the weights of an artifact. shrunk: the weights
    of the first as a cut out of the second, which has learned; None when it is no part of it.

    Raises SearchError when no candidate meets any budget.
    """
    budgets = {target.name: recipe.budget.over(target.budget) for target in targets}
    for candidate in candidates:
        for target in targets:
            found = probed(candidate, target)
            candidate.costs[target.name] = probe.read_costs(found.path) if (found.path / "costs.json").is_file() else []
        candidate.out = _too_dear(candidate, budgets)
    if all(candidate.out for candidate in candidates):
        raise _nothing_fits(candidates, budgets)

    prefer = recipe.compile.prefer
    cost = {c.name: tuple(cheapest(c.costs[t.name], budgets[t.name], prefer) for t in targets) for c in candidates}
    spent = 0.0
    for rung in RUNGS:
        left = [candidate for candidate in candidates if not candidate.out]
        if len(left) == 1:
            break  # nothing to choose: it is trained to the end at once
        learned: list[Candidate] = []
        for candidate in sorted(left, key=_size, reverse=True):
            if not candidate.trials:
                _warm(candidate, learned[::-1], shrunk)
            candidate.trials.append(trained(candidate, rung, candidate.newest))
            learned.append(candidate)
        spent += rung
        scores = {candidate.name: read_score(candidate.newest.path) for candidate in left}
        for family in {candidate.student.family for candidate in left}:
            own = {c.name: score for c in left if c.student.family == family and (score := scores[c.name]) is not None}  # none in a plan
            for name, reason in dropped(own, cost, round(len(own) * KEEP + 0.5)).items():
                next(c for c in left if c.name == name).out = f"after {spent:.0%} of the steps: {reason}"

    left = [candidate for candidate in candidates if not candidate.out]
    students: dict[str, Artifact] = {}
    chosen: dict[str, Candidate] = {}
    finished: dict[str, Artifact] = {}
    for place, target in enumerate(targets):
        bar = needed_agreement(budgets[target.name], recipe.data.labelled)
        order = [c for c in sorted(left, key=lambda c: cost[c.name][place]) if not over_all(c.costs[target.name], budgets[target.name])]
        if not order:
            order = [min(left, key=lambda c: min((probe.excess(one, budgets[target.name]) for one in c.costs[target.name]), default=0.0))]
        best: tuple[float, Candidate, Artifact] | None = None
        for candidate in climb(order, bar):
            finished[candidate.name] = trained(candidate, 1 - spent, candidate.newest)
            score = read_score(finished[candidate.name].path)
            value = score.value if score is not None else 1.0  # a plan takes the first
            if best is None or value > best[0]:
                best = (value, candidate, finished[candidate.name])
            if value >= bar:
                break
        assert best is not None  # climb gives at least one
        chosen[target.name], students[target.name] = best[1], best[2]
    record = {
        "rungs": RUNGS,
        "targets": {
            t.name: {
                "chosen": chosen[t.name].name,
                "bar": needed_agreement(budgets[t.name], recipe.data.labelled),
                "budget": budgets[t.name].model_dump(exclude_none=True),
            }
            for t in targets
        },
        "candidates": [_entry(candidate, finished.get(candidate.name)) for candidate in candidates],
    }
    return Found(students, chosen, record)


# --- what decides -----------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Score:
    """How a student does on the held-out rows. gained, possible: a row's part of the metric, float [rows]."""

    gained: npt.NDArray[Any]
    possible: npt.NDArray[Any]

    @property
    def value(self) -> float:
        return float(self.gained.sum() / max(self.possible.sum(), 1e-12))


def read_score(folder: Path) -> Score | None:
    """A student's score on the rows that the search holds out; None when it was not trained yet (in a plan)."""
    file = folder / "held_out.json"
    if not file.is_file():
        return None
    facts = json.loads(file.read_text())
    return Score(np.asarray(facts["gained"], float), np.asarray(facts["possible"], float))


def dropped(scores: Mapping[str, Score], cost: Mapping[str, tuple[float, ...]], keep: int) -> dict[str, str]:
    """Who goes after a rung, and why. keep: how many may stay; those on the front of cost and score always do.

    cost: name → what it costs on each target.
    """
    gone: dict[str, str] = {}
    for name, score in scores.items():
        for other, better in scores.items():
            if other != name and all(b <= a for a, b in zip(cost[name], cost[other], strict=True)) and cost[name] != cost[other]:
                difference = ratio_difference((better.gained, better.possible), (score.gained, score.possible))
                if difference.low > 0:
                    points = [100 * part for part in (difference.value, difference.low, difference.high)]
                    gone[name] = f"{other} costs less and is better by {points[0]:.1f} points [{points[1]:+.1f}, {points[2]:+.1f}]"
                    break
    left = [name for name in scores if name not in gone]
    front = {name for name in left if not any(_beats(scores, cost, other, name) for other in left)}
    ranked = sorted((name for name in left if name not in front), key=lambda name: -scores[name].value)
    for name in ranked[max(0, keep - len(front)) :]:
        winner = next(other for other in left if _beats(scores, cost, other, name))
        gone[name] = f"{winner} costs less and scores {scores[winner].value:.1%}, this one {scores[name].value:.1%}"
    return gone


def _beats(scores: Mapping[str, Score], cost: Mapping[str, tuple[float, ...]], one: str, other: str) -> bool:
    cheaper = all(a <= b for a, b in zip(cost[one], cost[other], strict=True)) and cost[one] != cost[other]
    return one != other and cheaper and scores[one].value >= scores[other].value


def needed_agreement(budget: Budget, labelled: bool = True) -> float:
    """How often a student must answer as the teacher does, so that the budget's drop is likely to hold.

    Of rows that nobody labelled the teacher's answers are the right ones: there the drop is what is not agreed on, all of it.
    """
    return max(0.0, 1 - (budget.accuracy_drop or 0.0) / (NET if labelled else 1.0))


def climb(order: Sequence[Candidate], bar: float) -> list[Candidate]:
    """Whom to train to the end, cheapest first, until one meets the bar. order: cheapest first.

    Of each family, starts at the first that may reach the bar; from there only those that score more than all before. When nobody may, the best of
    each family, short of those that could not pass what another has already.
    """
    if not all(candidate.trials and read_score(candidate.newest.path) is not None for candidate in order):
        return list(order)  # in a plan, or where there was nothing to choose
    values = {candidate.name: _value(candidate.newest) for candidate in order}
    reach = {candidate.name: may_reach(candidate) for candidate in order}
    hopeful = [candidate for candidate in order if reach[candidate.name] >= bar]
    if not hopeful:
        families = dict.fromkeys(candidate.student.family for candidate in order)
        best_of = [max((c for c in order if c.student.family == family), key=lambda c: values[c.name]) for family in families]
        return [candidate for candidate in best_of if reach[candidate.name] >= max(values.values())]
    steps: list[Candidate] = []
    best: dict[str, float] = {}
    for candidate in hopeful:
        if values[candidate.name] > best.get(candidate.student.family, -1.0):
            best[candidate.student.family] = values[candidate.name]
            steps.append(candidate)
    return steps


def may_reach(candidate: Candidate) -> float:
    """What the candidate may come to behind the last rung: as much more again as that rung brought, and SLACK at least.

    The second rung triples the steps, what is left after it less than triples them again, and scores flatten over the logarithm of the steps. A
    transformer rises for longer than a convolution: one slack for both leaves it out where it is the better in the end.
    """
    values = [_value(trial) for trial in candidate.trials[-2:]]
    return values[-1] + max(SLACK, values[-1] - values[0])


def _value(trial: Artifact) -> float:
    score = read_score(trial.path)
    assert score is not None  # it was trained
    return score.value


def cheapest(costs: Sequence[probe.Cost], budget: Budget, prefer: str) -> float:
    """What the candidate costs on a target by its best scheme that the budget admits: milliseconds or megabytes; infinite when none does."""
    fitting = [cost for cost in costs if not probe.over_budget(cost, budget)]
    by_time = [cost.p50_ms for cost in fitting if cost.p50_ms is not None] if prefer == "fastest" else []
    return min(by_time or [cost.size_mb for cost in fitting], default=float("inf"))


def over_all(costs: Sequence[probe.Cost], budget: Budget) -> bool:
    """Whether no scheme meets the budget."""
    return bool(costs) and all(probe.over_budget(cost, budget) for cost in costs)


def _size(candidate: Candidate) -> float:
    """Megabytes of its smallest binary: a part of a student is never larger than the whole. 0 where nothing was probed, in a plan."""
    return min((cost.size_mb for costs in candidate.costs.values() for cost in costs), default=0.0)


def _warm(candidate: Candidate, learned: Sequence[Candidate], shrunk: Callable[[Candidate, Candidate], Artifact | None]) -> None:
    """Let the candidate begin at the nearest larger one that it is a part of. learned: from the smallest up."""
    for larger in learned:
        weights = shrunk(candidate, larger)
        if weights is not None:
            candidate.warm, candidate.larger = weights, larger.name
            return


def _too_dear(candidate: Candidate, budgets: Mapping[str, Budget]) -> str:
    """Why the candidate is dropped before training, or "": it is over the budget of every target with every scheme."""
    if not all(over_all(costs, budgets[name]) for name, costs in candidate.costs.items()):
        return ""
    words = []
    for name, costs in candidate.costs.items():
        nearest = min(costs, key=lambda cost: probe.excess(cost, budgets[name]))
        words.append(f"{name}: {nearest.scheme} has {' and '.join(probe.over_budget(nearest, budgets[name]))}")
    return "over the budget before training: " + "; ".join(words)


def _nothing_fits(candidates: Sequence[Candidate], budgets: Mapping[str, Budget]) -> SearchError:
    places = [
        (probe.excess(cost, budgets[name]), candidate, name, cost)
        for candidate in candidates
        for name, costs in candidate.costs.items()
        for cost in costs
    ]
    _, nearest, target, cost = min(places, key=lambda place: place[0])
    return SearchError(
        f"none of the {len(candidates)} students can meet the budget, whatever it learns: the nearest is {nearest.name} as {cost.scheme} on "
        f"{target}, with {' and '.join(probe.over_budget(cost, budgets[target]))}.",
        where="budget",
        write="Allow that much under [budget], shorten student.max_tokens, or give smaller students with [[search.students]].",
    )


def _entry(candidate: Candidate, finished: Artifact | None) -> dict[str, Any]:
    scores = [read_score(trial.path) for trial in (*candidate.trials, *([finished] if finished else []))]
    return {
        "name": candidate.name,
        "student": candidate.student.model_dump(mode="json", exclude_none=True),
        "costs": {
            target: [{**asdict(cost), "ms": None, "p50_ms": cost.p50_ms, "p90_ms": cost.p90_ms} for cost in costs]
            for target, costs in candidate.costs.items()
        },
        "scores": [score.value for score in scores if score is not None],
        "seconds": round(sum(trial.seconds for trial in (*candidate.trials, *([finished] if finished else []))), 1),
        "finished": finished is not None,
        "larger": candidate.larger,
        "out": candidate.out,
    }


def ladder(recipe: Recipe, model: Path) -> list[Student]:
    """The candidates, cheapest family first: those of the recipe, else the sizes that each family offers.

    model: the folder that students start from. Its family's sizes are read from config.json, under the names that most encoders use.
    """
    if recipe.search.students:
        common = {"max_tokens": recipe.student.max_tokens, "start": recipe.student.start}
        return [
            student.model_copy(update={k: v for k, v in common.items() if k not in student.model_fields_set})
            for student in recipe.search.students
        ]
    found: list[Student] = []
    facts = sizes_of(model)
    for family in recipe.search.families or [name for name in ("static", "conv", "transformer") if serves(name, recipe.task)]:
        found += plugins.find("students", family).sizes(recipe.student.model_copy(update={"family": family}), facts)
    return found


def name_of(student: Student) -> str:
    """`transformer layers=2 ffn=768`: the family and what was asked of it."""
    given = student.model_dump(mode="json", exclude_none=True, exclude={"family", "start", "max_tokens"}, exclude_defaults=True)
    return " ".join([student.family, *(f"{key}={_short(value)}" for key, value in given.items())])


def _short(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
