"""Report: raw samples in, statistics and verdicts out.

A report stores what was seen (nanoseconds of every answer, the answer itself and its confidence) and where it was seen. Percentiles,
intervals and verdicts are computed from that each time they are asked for, never stored instead of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from edgedistill.budget import Budget
from edgedistill.steadiness import Steadiness

How = Literal["measured", "emulated", "estimated", "not measured"]
State = Literal["PASS", "FAIL", "UNDECIDED"]
Array = npt.NDArray[Any]

PERCENTILE, CONFIDENCE = 0.9, 0.99  # MLPerf inference, single stream
FEW_ROWS = 30  # a slice with fewer rows says so instead of giving a figure that means nothing
RESAMPLES = 2000


class _Stored(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Timings(_Stored):
    """Raw times of a series of answers, nanoseconds, in the order they were taken. An answer takes the sum of its three parts."""

    tokenize_ns: list[int]
    model_ns: list[int]
    decode_ns: list[int]

    def total_ms(self) -> Array:
        """Text in to answer out, milliseconds, float64 [n]."""
        return np.asarray(np.sum([self.tokenize_ns, self.model_ns, self.decode_ns], axis=0) / 1e6)


class Writing(_Stored):
    """Of answers that are written, token by token: raw samples beside `Timings`, one entry an answer."""

    prompt_tokens: list[int]
    answer_tokens: list[int]  # the stop token included
    first_ns: list[int]  # from the prompt's ids to the first token


class Gains(_Stored):
    """A further figure of quality, as a ratio of sums over the test rows."""

    gained: list[float]
    possible: list[float]


class Drafting(_Stored):
    """A teacher that writes with the student guessing ahead, beside the same teacher alone: raw samples, one entry an answer."""

    teacher: str  # names of variants
    draft: str
    ahead: int  # tokens guessed at a time
    alone_ns: list[int]
    drafted_ns: list[int]
    tokens: list[int]  # of the answer
    proposed: list[int]
    accepted: list[int]
    passes: list[int]  # of the teacher, several tokens each
    same: list[bool]  # whether what was written is what the teacher wrote alone

    def acceptance(self) -> Figure:
        """Share of the guessed tokens that the teacher would have written."""
        return ratio_figure(np.asarray(self.accepted, float), np.asarray(self.proposed, float))

    def tokens_a_pass(self) -> Figure:
        """Tokens written each time that the teacher is run; 1 without a draft."""
        return ratio_figure(np.asarray(self.tokens, float), np.asarray(self.passes, float))

    def speed_up(self) -> Figure:
        """Time of the teacher alone over time with the draft, the same answers in turns."""
        return ratio_figure(np.asarray(self.alone_ns, float), np.asarray(self.drafted_ns, float))


class Variant(_Stored):
    """One binary: what it answered on the test rows and what that cost."""

    name: str
    role: Literal["teacher", "student", "control"]
    scheme: str  # "float", or a file in quantizers/
    model_sha256: str
    model_bytes: int
    tokenizer_bytes: int
    parameters: int
    predicted: list[Any]  # the answer to each test row, as its task writes targets; of a single-label classifier the class index
    confidence: list[float] = []  # probability of the answer, where the task has one
    gained: list[float] | None = None  # of each row; None: 1 where the answer equals the expected one, else 0
    possible: list[float] | None = None  # what a perfect answer to each row would have gained; None: 1 for every row
    further: dict[str, Gains] = {}  # beside the metric, where the task has more: name → raw figures of each row
    writing: Writing | None = None  # of the "real" timings, where answers are written
    timings: dict[str, Timings] = {}  # "real" for the test rows as they come, "16", "32", "128" for fixed token counts
    cold_start_ms: list[float] = []  # process start to first answer, one a process
    load_ms: list[float] = []  # model file to ready session
    peak_bytes: int | None = None  # peak resident memory of the process that answers
    baseline_bytes: int | None = None  # the same process before it loaded model and tokenizer
    divergence: float | None = None  # mean distance of the logits from its float's, measured by quantize on no test row; float: 0
    notes: list[str] = []
    no_room: str | None = None  # what happened when it ran out of the memory that the target gives (limits.memory_mb)

    @property
    def size_bytes(self) -> int:
        """What the device has to store for this variant: model and tokenizer."""
        return self.model_bytes + self.tokenizer_bytes


class Report(_Stored):
    """What was measured for one recipe on one target.

    Quality is a ratio of sums over the test rows: each row gives what its answer gained and what was possible, and the figure is the sum of
    the one over the sum of the other. Accuracy is (1 if right, 1); entity F1 (2·tp, 2·tp + fp + fn); R² (spread - error, spread). So one
    bootstrap over rows, paired, serves every task, and `accuracy` below stands for whatever `metric` names.
    """

    format_version: int = 2
    name: str
    task: str
    target: dict[str, Any]
    how: How  # of the latency figures
    where: str  # the machine that ran the binaries
    machine: dict[str, Any]
    versions: dict[str, str]
    budget: Budget
    prefer: Literal["smallest", "fastest"]
    metric: str = "accuracy"
    against: Literal["labels", "teacher"] = "labels"  # whose answers the expected ones are; the teacher's when nobody labelled the rows
    classes: list[str]
    keys: list[str]  # text keys of the test rows
    expected: list[Any]  # the right answer to each test row, as in `predicted`
    slices: dict[str, list[int]]  # name → positions in the test rows
    variants: list[Variant]
    seed: int = 0
    steady: Steadiness | None = None  # a fixed loop before the timed answers and after; None where nothing was timed

    def variant(self, name: str) -> Variant:
        return next(variant for variant in self.variants if variant.name == name)

    @property
    def teacher(self) -> Variant:
        return next(variant for variant in self.variants if variant.role == "teacher")

    @property
    def students(self) -> list[Variant]:
        """The binaries that may ship: the float student and its quantized forms."""
        return [variant for variant in self.variants if variant.role == "student"]

    def float_of(self, variant: Variant) -> Variant:
        """The float form of the same network."""
        return next(other for other in self.variants if other.role == variant.role and other.scheme == "float")

    def gains(self, variant: Variant, rows: Sequence[int] | None = None) -> tuple[Array, Array]:
        """(gained, possible) of each row; float64 over all test rows, or over `rows`."""
        gained = np.asarray(variant.gained if variant.gained is not None else [*map(_equal, variant.predicted, self.expected)], dtype=float)
        possible = np.ones_like(gained) if variant.possible is None else np.asarray(variant.possible, dtype=float)
        chosen = slice(None) if rows is None else np.asarray(rows, dtype=int)
        return gained[chosen], possible[chosen]

    def correct(self, variant: Variant, rows: Sequence[int] | None = None) -> Array:
        """1.0 where the answer is wholly right (all that was possible is gained), else 0.0; float64 over all test rows, or over `rows`."""
        gained, possible = self.gains(variant, rows)
        return np.asarray((gained >= possible).astype(float))


def _equal(answer: Any, expected: Any) -> bool:
    return bool(answer == expected)


def read_report(path: Path) -> Report:
    """A report from its JSON file."""
    return Report.model_validate_json(path.read_text(encoding="utf-8"))


def write_report(report: Report, path: Path) -> None:
    """The report as JSON, numbers only as long as they need to be."""
    path.write_text(report.model_dump_json(exclude_defaults=False) + "\n", encoding="utf-8")


# --- statistics ----------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Figure:
    """A number with its 95 % interval."""

    value: float
    low: float
    high: float

    def clear_of_zero(self) -> bool:
        return self.low > 0 or self.high < 0


def mean_figure(values: Array, seed: int = 0) -> Figure:
    """Mean of per-row values with a percentile bootstrap interval (Efron 1979), rows resampled with replacement.

    For paired differences pass the per-row differences: the pairs stay together.
    """
    if len(values) == 0:
        return Figure(math.nan, math.nan, math.nan)
    distinct, counts = np.unique(values, return_counts=True)
    # Rows of equal value are interchangeable, so a resample is a multinomial draw over the distinct values: exact, and cheap for 0/1 rows.
    draws = np.random.default_rng(seed).multinomial(len(values), counts / len(values), size=RESAMPLES)
    means = draws @ distinct / len(values)
    low, high = np.quantile(means, [0.025, 0.975])
    return Figure(float(values.mean()), float(low), float(high))


def ratio_figure(gained: Array, possible: Array, seed: int = 0) -> Figure:
    """Σ gained / Σ possible with a percentile bootstrap interval; rows are resampled whole, so what varies together stays together."""
    return ratio_difference((gained, possible), (np.zeros_like(gained), np.ones_like(gained)), seed)


def ratio_difference(ours: tuple[Array, Array], theirs: tuple[Array, Array], seed: int = 0) -> Figure:
    """The difference of two ratios over the same rows, resampled pair by pair. NaN where nothing was possible."""
    if all((possible == 1).all() for _, possible in (ours, theirs)):
        return mean_figure(ours[0] - theirs[0], seed)
    if not len(ours[0]):
        return Figure(math.nan, math.nan, math.nan)
    distinct, counts = np.unique(np.stack([*ours, *theirs], axis=1), axis=0, return_counts=True)
    draws = np.random.default_rng(seed).multinomial(len(ours[0]), counts / len(ours[0]), size=RESAMPLES)
    value = _difference(counts @ distinct)
    low, high = np.nanquantile(_difference(draws @ distinct), [0.025, 0.975]) if math.isfinite(value) else (math.nan, math.nan)
    return Figure(float(value), float(low), float(high))


def _difference(sums: Array) -> Any:
    """sums: float [..., 4], gained and possible of both sides."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return sums[..., 0] / sums[..., 1] - sums[..., 2] / sums[..., 3]


def accuracy(report: Report, variant: Variant, rows: Sequence[int] | None = None) -> Figure:
    """The report's metric: the share of right answers, or what stands in its place."""
    return ratio_figure(*report.gains(variant, rows), report.seed)


def accuracy_difference(report: Report, variant: Variant, base: Variant, rows: Sequence[int] | None = None) -> Figure:
    """The metric of `variant` minus that of `base`, row by row."""
    return ratio_difference(report.gains(variant, rows), report.gains(base, rows), report.seed)


@dataclass(frozen=True)
class Flips:
    """Rows on which two binaries answer differently, and what that did."""

    total: int
    lost: int  # base was right, variant is wrong
    won: int  # base was wrong, variant is right
    p_value: float  # McNemar's exact test: could `lost` and `won` be chance?


def flips(report: Report, variant: Variant, base: Variant) -> Flips:
    """Pair by pair comparison with `base`."""
    ours, theirs = report.correct(variant), report.correct(base)
    lost, won = int((theirs > ours).sum()), int((ours > theirs).sum())
    total = sum(not _equal(one, other) for one, other in zip(variant.predicted, base.predicted, strict=True))
    return Flips(total, lost, won, mcnemar(lost, won))


def mcnemar(lost: int, won: int) -> float:
    """Two-sided exact p-value of McNemar's test: under chance the discordant pairs fall either way with probability one half."""
    return min(1.0, 2 * binomial_cdf(min(lost, won), lost + won, 0.5)) if lost + won else 1.0


def calibration_error(report: Report, variant: Variant, bins: int = 15) -> float:
    """Expected calibration error (Guo et al., arXiv:1706.04599): mean gap between confidence and accuracy over equal-width bins.

    NaN where the task gives no confidence.
    """
    confidence, right = np.asarray(variant.confidence), report.correct(variant)
    if len(confidence) == 0:
        return math.nan
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [abs(right[place == b].sum() - confidence[place == b].sum()) for b in range(bins)]
    return float(sum(gaps) / len(confidence))


@dataclass(frozen=True)
class TypeFigures:
    """How one type of span fared: of what stands in the expected answers and in the variant's, how much is in both."""

    name: str
    rows: int  # test rows in which either has one
    expected: int
    answered: int
    right: int  # start, end and type as expected
    f1: Figure

    @property
    def precision(self) -> float:
        """Share of the answered spans that are right; NaN when none was answered."""
        return self.right / self.answered if self.answered else math.nan

    @property
    def recall(self) -> float:
        """Share of the expected spans that were found; NaN when none was expected."""
        return self.right / self.expected if self.expected else math.nan


def by_type(report: Report, variant: Variant) -> list[TypeFigures]:
    """Entity F1 taken apart: each type of span, the most frequent first. Empty where answers are no lists of [start, end, type].

    Spans as in CoNLL-2003: right when start, end and type are. Types that nobody expected or answered are left out.
    """
    if report.metric != "entity F1":
        return []
    counts: dict[str, Array] = {}  # type → [rows, 3]: expected, answered, in both
    for row, (expected, answered) in enumerate(zip(report.expected, variant.predicted, strict=True)):
        theirs, ours = {tuple(span) for span in expected}, {tuple(span) for span in answered}
        for place, spans in enumerate((theirs, ours, theirs & ours)):
            for *_, name in spans:
                counts.setdefault(name, np.zeros((len(report.expected), 3)))[row, place] += 1
    found = []
    for name, table in counts.items():
        expected_spans, answered_spans, right = (int(total) for total in table.sum(axis=0))
        f1 = ratio_figure(2 * table[:, 2], table[:, 0] + table[:, 1], report.seed)
        found.append(TypeFigures(name, int(table.any(axis=1).sum()), expected_spans, answered_spans, right, f1))
    return sorted(found, key=lambda one: (-one.expected, one.name))


def percentile_ms(timings: Timings, share: float) -> Figure:
    """A percentile of text in to answer out with the exact order-statistic interval: no distribution is assumed.

    The k-th smallest of n samples lies below the true percentile with probability P(Binomial(n, share) ≥ k).
    """
    ordered = np.sort(timings.total_ms())
    count = len(ordered)
    if count == 0:
        return Figure(math.nan, math.nan, math.nan)
    low, high = _order_ranks(count, share)
    return Figure(float(np.quantile(ordered, share)), float(ordered[low]), float(ordered[high]))


@lru_cache(maxsize=256)
def _order_ranks(count: int, share: float) -> tuple[int, int]:
    """0-based ranks of the order statistics that enclose the percentile with 95 %, as far as `count` samples can."""
    cumulative = np.cumsum(binomial_pmf(count, share))
    low = int(np.searchsorted(cumulative, 0.025, side="right")) - 1
    high = int(np.searchsorted(cumulative, 0.975, side="left")) + 1
    return max(low, 0), min(high, count - 1)


@lru_cache(maxsize=256)
def _log_choose(count: int) -> Array:
    logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, count + 1)))])
    return np.asarray(logs[count] - logs - logs[::-1])


def binomial_pmf(count: int, share: float) -> Array:
    """P(Binomial(count, share) = k) for k = 0 … count, float64 [count + 1]. 0 < share < 1."""
    successes = np.arange(count + 1)
    return np.asarray(np.exp(_log_choose(count) + successes * math.log(share) + (count - successes) * math.log1p(-share)))


def binomial_cdf(successes: int, count: int, share: float) -> float:
    """P(Binomial(count, share) ≤ successes)."""
    return float(min(1.0, binomial_pmf(count, share)[: successes + 1].sum())) if successes >= 0 else 0.0


# --- verdicts ------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Verdict:
    """One limit of the budget held against one figure."""

    limit: str  # key of the budget: p90_ms, size_mb, peak_mb, accuracy_drop; or of the limits: memory_mb
    state: State
    value: float | None
    allowed: float
    reason: str

    @property
    def excess(self) -> float:
        """How far over the limit, as a share of it; 0 when met."""
        if self.state == "FAIL" and self.value is None:  # nobody knows by how much
            return 1.0
        return max(0.0, (self.value or 0.0) / self.allowed - 1) if self.allowed else (self.value or 0.0)


def early_stopping(over: int, count: int) -> tuple[State, int]:
    """Is the 90th percentile within the limit, given that `over` of `count` answers took longer? And how many more runs would tell?

    The rule of the MLPerf inference benchmark (arXiv:1911.02549, §"early stopping"): if more than a tenth of all answers were over the limit,
    seeing at most `over` among `count` would have probability P(Binomial(count, 0.1) ≤ over); PASS when that is at most 0.01, and FAIL
    when the mirror image holds. The runs still needed are the fewest that could decide at the rate seen so far.
    """
    state = _decide(over, count)
    if state != "UNDECIDED":
        return state, 0
    # Scale the sample up at the rate seen; a rate of exactly one tenth never decides, so there is an end to asking.
    low, high = count, max(count, 1)
    while _decide(_scaled(over, count, high), high) == "UNDECIDED":
        low, high = high, high * 2
        if high > 1_000_000:
            return "UNDECIDED", high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _decide(_scaled(over, count, middle), middle) == "UNDECIDED" else (low, middle)
    return "UNDECIDED", high - count


def _scaled(over: int, count: int, larger: int) -> int:
    return round(over / count * larger) if count else 0


def _decide(over: int, count: int) -> State:
    share_over = 1 - PERCENTILE
    if count and binomial_cdf(over, count, share_over) <= 1 - CONFIDENCE:
        return "PASS"
    if count and 1 - binomial_cdf(over - 1, count, share_over) <= 1 - CONFIDENCE:
        return "FAIL"
    return "UNDECIDED"


def verdicts(report: Report, variant: Variant) -> list[Verdict]:
    """Every limit of the report's budget against `variant`, in the budget's order."""
    budget, found = report.budget, []
    if variant.no_room is not None:
        found.append(Verdict("memory_mb", "FAIL", None, report.target["limits"]["memory_mb"], variant.no_room))
    if budget.p90_ms is not None:
        found.append(_latency_verdict(report, variant, budget.p90_ms))
    if budget.size_mb is not None:
        found.append(_limit("size_mb", variant.size_bytes / 1e6, budget.size_mb, "model and tokenizer"))
    if budget.peak_mb is not None:
        found.append(_peak_verdict(report, variant, budget.peak_mb))
    if budget.accuracy_drop is not None:
        drop = accuracy_difference(report, report.teacher, variant)
        found.append(
            _limit(
                "accuracy_drop", drop.value, budget.accuracy_drop, f"95 % interval {100 * drop.low:+.1f} to {100 * drop.high:+.1f} points"
            )
        )
    return found


def _limit(limit: str, value: float, allowed: float, reason: str) -> Verdict:
    # Rounding noise of a mean of 0/1 rows must not turn "exactly the limit" into a miss.
    return Verdict(limit, "PASS" if value <= allowed + 1e-9 else "FAIL", value, allowed, reason)


def _latency_verdict(report: Report, variant: Variant, allowed: float) -> Verdict:
    timings = variant.timings.get("real")
    if report.how != "measured" or timings is None:
        return Verdict("p90_ms", "UNDECIDED", None, allowed, f"{report.how}: only a run on the device can tell")
    if report.steady is not None and not report.steady.valid:
        return Verdict("p90_ms", "UNDECIDED", None, allowed, report.steady.sentence())
    total = timings.total_ms()
    over, count = int((total > allowed).sum()), len(total)
    state, needed = early_stopping(over, count)
    reason = f"{over} of {count} answers took longer" + (f"; about {needed} more runs would tell" if state == "UNDECIDED" else "")
    return Verdict("p90_ms", state, percentile_ms(timings, PERCENTILE).value, allowed, reason)


def _peak_verdict(report: Report, variant: Variant, allowed: float) -> Verdict:
    if report.how != "measured" or variant.peak_bytes is None:
        return Verdict("peak_mb", "UNDECIDED", None, allowed, f"{report.how}: only a run on the device can tell")
    return _limit("peak_mb", variant.peak_bytes / 1e6, allowed, "whole process, runtime included")


def overall(found: Sequence[Verdict]) -> State:
    """FAIL when any limit is missed, else UNDECIDED when any is open, else PASS."""
    states = {verdict.state for verdict in found}
    return "FAIL" if "FAIL" in states else "UNDECIDED" if "UNDECIDED" in states else "PASS"


def slower_than_float(report: Report, variant: Variant) -> bool | None:
    """True when the median answer of a quantized binary takes longer than its float's, in the same run. None when there are no timings."""
    base = report.float_of(variant)
    if variant is base or "real" not in variant.timings or "real" not in base.timings:
        return None
    return bool(np.median(variant.timings["real"].total_ms()) > np.median(base.timings["real"].total_ms()))


def speed_up(variant: Variant, base: Variant) -> float | None:
    """How many times faster than `base` the median answer is; both from one interleaved run."""
    if "real" not in variant.timings or "real" not in base.timings:
        return None
    return float(np.median(base.timings["real"].total_ms()) / np.median(variant.timings["real"].total_ms()))


def further(report: Report, variant: Variant) -> dict[str, Figure]:
    """The figures of quality beside the metric."""
    return {
        name: ratio_figure(np.asarray(one.gained), np.asarray(one.possible), report.seed) for name, one in sorted(variant.further.items())
    }


@dataclass(frozen=True)
class Speed:
    """How fast answers are written. first_ms: p50, p90, p99 of the time to the first token, tokenizing included; the others: medians over answers."""

    first_ms: dict[str, float]
    prompt_tokens_a_second: float
    tokens_a_second: float  # behind the first
    tokens_an_answer: float


def speed(variant: Variant) -> Speed | None:
    """From the raw samples; None where answers are not written or not timed."""
    writing, timings = variant.writing, variant.timings.get("real")
    if writing is None or timings is None or not writing.first_ns:
        return None
    first, whole = np.asarray(writing.first_ns, float), np.asarray(timings.model_ns, float)
    prompt, answer = np.asarray(writing.prompt_tokens), np.asarray(writing.answer_tokens)
    several = answer > 1
    to_first = (np.asarray(timings.tokenize_ns) + first) / 1e6
    return Speed(
        {f"p{share}": float(np.quantile(to_first, share / 100)) for share in (50, 90, 99)},
        float(np.median(prompt / first) * 1e9),
        float(np.median((answer[several] - 1) / (whole - first)[several]) * 1e9) if several.any() else math.nan,
        float(answer.mean()),
    )


def summary(report: Report) -> list[dict[str, Any]]:
    """What `--json` and the page show of each variant: figures computed afresh from the raw samples, plain values."""
    rows = []
    for variant in report.variants:
        right, drop = accuracy(report, variant), accuracy_difference(report, report.teacher, variant)
        changed = flips(report, variant, report.teacher)
        row: dict[str, Any] = {
            "name": variant.name,
            "role": variant.role,
            "scheme": variant.scheme,
            "size_mb": variant.size_bytes / 1e6,
            "parameters": variant.parameters,
            "metric": report.metric,
            "accuracy": vars(right),
            "accuracy_drop": vars(drop),
            "flips": vars(changed),
            "calibration_error": calibration_error(report, variant),
            "peak_mb": variant.peak_bytes / 1e6 if variant.peak_bytes else None,
            "cold_start_ms": float(np.median(variant.cold_start_ms)) if variant.cold_start_ms else None,
            "faster_than_teacher": speed_up(variant, report.teacher),
            "smaller_than_teacher": (report.teacher.size_bytes / variant.size_bytes or None)
            if variant.size_bytes
            else None,  # nobody knows how large one behind an API is
            "notes": variant.notes,
        }
        for kind, timings in variant.timings.items():
            row[f"ms_{kind}"] = {f"p{share * 100:.0f}": vars(percentile_ms(timings, share)) for share in (0.5, 0.9, 0.99)}
        if figures := further(report, variant):
            row["further"] = {name: vars(figure) for name, figure in figures.items()}
        if fast := speed(variant):
            row["writing"] = vars(fast)
        if types := by_type(report, variant):
            row["types"] = [
                {"name": one.name, "expected": one.expected, "answered": one.answered, "right": one.right}
                | {"precision": _known(one.precision), "recall": _known(one.recall), "f1": vars(one.f1)}
                for one in types
            ]
        if variant.role == "student":
            row["verdicts"] = [vars(verdict) for verdict in verdicts(report, variant)]
        rows.append(row)
    return rows


def _known(value: float) -> float | None:
    """JSON has no NaN."""
    return None if math.isnan(value) else value
