"""Statistics and verdicts against references and hand-computed values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedistill.budget import Budget
from edgedistill.report import (
    Report,
    Timings,
    Variant,
    accuracy_difference,
    binomial_cdf,
    by_type,
    calibration_error,
    early_stopping,
    flips,
    mcnemar,
    mean_figure,
    overall,
    percentile_ms,
    ratio_difference,
    ratio_figure,
    read_report,
    slower_than_float,
    summary,
    verdicts,
    write_report,
)


def timings(*milliseconds: float) -> Timings:
    return Timings(
        tokenize_ns=[0] * len(milliseconds), model_ns=[round(ms * 1e6) for ms in milliseconds], decode_ns=[0] * len(milliseconds)
    )


def variant(name: str, role: str = "student", scheme: str = "float", predicted: list[Any] | None = None, **facts: object) -> Variant:
    return Variant.model_validate(
        {
            "name": name,
            "role": role,
            "scheme": scheme,
            "model_sha256": "0" * 64,
            "model_bytes": 1_000_000,
            "tokenizer_bytes": 0,
            "parameters": 1,
            "predicted": predicted or [0, 0, 1, 1],
            "confidence": [0.9, 0.8, 0.7, 0.6],
            **facts,
        }
    )


def report(*variants: Variant, budget: Budget | None = None, how: str = "measured") -> Report:
    return Report.model_validate(
        {
            "name": "r",
            "task": "classify",
            "target": {"name": "t"},
            "how": how,
            "where": "here",
            "machine": {},
            "versions": {},
            "budget": budget or Budget(),
            "prefer": "smallest",
            "classes": ["a", "b"],
            "keys": ["k1", "k2", "k3", "k4"],
            "expected": [0, 0, 1, 1],
            "slices": {},
            "variants": [variant("teacher", "teacher"), *variants],
        }
    )


@given(st.integers(1, 400), st.floats(0.01, 0.99), st.data())
def test_binomial_cdf_equals_scipy(count: int, share: float, data: st.DataObject) -> None:
    """A verdict computed from a wrong tail probability."""
    from scipy.stats import binom

    successes = data.draw(st.integers(-1, count))
    assert binomial_cdf(successes, count, share) == pytest.approx(binom.cdf(successes, count, share), abs=1e-9)


def test_early_stopping_needs_44_clean_runs() -> None:
    """PASS after too few runs: with no answer over the limit, 0.9^n ≤ 0.01 first holds at n = 44."""
    assert early_stopping(0, 43)[0] == "UNDECIDED"
    assert early_stopping(0, 44) == ("PASS", 0)
    assert early_stopping(0, 43)[1] == 1


@given(st.integers(0, 300), st.integers(1, 300))
def test_early_stopping_is_the_binomial_test(over: int, more: int) -> None:
    """PASS or FAIL without the confidence that MLPerf asks for."""
    from scipy.stats import binom

    count = over + more
    state, needed = early_stopping(over, count)
    passes, fails = binom.cdf(over, count, 0.1) <= 0.01, binom.sf(over - 1, count, 0.1) <= 0.01
    assert state == ("PASS" if passes else "FAIL" if fails else "UNDECIDED")
    assert (needed > 0) == (state == "UNDECIDED")


def test_early_stopping_at_exactly_a_tenth_ends() -> None:
    """An endless search for the number of runs when the rate seen is the rate allowed."""
    assert early_stopping(100, 1000)[0] == "UNDECIDED"


def test_no_measurement_never_passes_a_latency_limit() -> None:
    """A PASS for a device that nobody measured."""
    fast = variant("student float", timings={"real": timings(*[0.1] * 100)})
    for how in ("not measured", "emulated", "estimated"):
        (verdict,) = verdicts(report(fast, budget=Budget(p90_ms=10), how=how), fast)
        assert verdict.state == "UNDECIDED"
    (verdict,) = verdicts(report(fast, budget=Budget(p90_ms=10)), fast)
    assert verdict.state == "PASS"


def test_latency_verdict_fails_when_most_answers_are_late() -> None:
    """A PASS from the median when the tail is late."""
    slow = variant("student float", timings={"real": timings(*[1.0] * 80, *[20.0] * 20)})
    (verdict,) = verdicts(report(slow, budget=Budget(p90_ms=10)), slow)
    assert (verdict.state, verdict.reason) == ("FAIL", "20 of 100 answers took longer")


def test_mcnemar_equals_scipy() -> None:
    """A wrong paired test."""
    from scipy.stats import binomtest

    for lost, won in [(0, 0), (1, 0), (5, 15), (30, 31), (100, 60)]:
        expected = binomtest(lost, lost + won, 0.5).pvalue if lost + won else 1.0
        assert mcnemar(lost, won) == pytest.approx(expected)


def test_flips_by_hand() -> None:
    """Lost and won answers swapped, or flips between two wrong answers not counted."""
    student = variant("student float", predicted=[1, 0, 1, 1])
    found = flips(report(student), student, report(student).teacher)
    assert (found.total, found.lost, found.won, found.p_value) == (1, 1, 0, 1.0)
    assert accuracy_difference(report(student), student, report(student).teacher).value == -0.25


def test_calibration_error_by_hand() -> None:
    """Bins mixed up: four right answers with confidences 0.9, 0.8, 0.7, 0.6, each in a bin of its own, miss by 0.1 to 0.4."""
    right = variant("student float")
    assert calibration_error(report(right), right) == pytest.approx(0.25)


@given(st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=60))
def test_interval_encloses_the_mean(values: list[float]) -> None:
    """An interval that does not hold its own figure."""
    figure = mean_figure(np.array(values))
    assert figure.low <= figure.value + 1e-9 and figure.value <= figure.high + 1e-9


def test_bootstrap_interval_covers() -> None:
    """An interval that is too narrow: of 400 samples of 200 rows with p = 0.9, about 95 % must hold 0.9."""
    draw = np.random.default_rng(0)
    held = [figure.low <= 0.9 <= figure.high for figure in (mean_figure(draw.binomial(1, 0.9, 200).astype(float)) for _ in range(400))]
    assert 0.91 <= np.mean(held) <= 0.98


def test_percentile_interval_covers() -> None:
    """A percentile quoted with an interval that is too narrow."""
    draw = np.random.default_rng(0)
    held = []
    for _ in range(200):
        figure = percentile_ms(timings(*draw.exponential(1.0, 300)), 0.9)
        held.append(figure.low <= -np.log(0.1) <= figure.high)
    assert np.mean(held) >= 0.93


def test_slower_than_float_is_noticed() -> None:
    """A quantized binary sold as faster although it is slower than its own float."""
    base = variant("student float", timings={"real": timings(1.0, 1.0)})
    slow = variant("student int4", scheme="onnx_int4_block", timings={"real": timings(2.0, 2.0)})
    both = report(base, slow)
    assert slower_than_float(both, slow) is True
    assert slower_than_float(both, base) is None


def test_overall_order() -> None:
    """An open limit hidden by one that is met, or a missed one by an open one."""
    student = variant("student float", timings={"real": timings(1.0)}, peak_bytes=10)
    found = verdicts(report(student, budget=Budget(p90_ms=10, size_mb=5)), student)
    assert [verdict.state for verdict in found] == ["UNDECIDED", "PASS"]
    assert overall(found) == "UNDECIDED"


def test_report_round_trip(tmp_path) -> None:  # type: ignore[no-untyped-def]
    """Raw samples lost between writing and reading."""
    written = report(variant("student float", timings={"real": timings(1.5, 2.5)}))
    write_report(written, tmp_path / "r.json")
    assert read_report(tmp_path / "r.json") == written


def test_ratio_is_of_sums_and_not_a_mean_of_ratios() -> None:
    """Entity F1 averaged over texts: (2 + 0) / (2 + 4) is a third, the mean of 1 and 0 a half."""
    figure = ratio_figure(np.array([2.0, 0.0]), np.array([2.0, 4.0]))
    assert figure.value == pytest.approx(1 / 3) and figure.low <= figure.value <= figure.high


def test_ratio_without_anything_possible_is_no_number() -> None:
    """A slice without a single span that shows 0 % or stops the page."""
    assert np.isnan(ratio_figure(np.zeros(3), np.zeros(3)).value)
    assert np.isnan(ratio_figure(np.zeros(0), np.zeros(0)).value)


def test_ratio_intervals_cover() -> None:
    """An interval that is too narrow because rows were not resampled whole: of 300 samples about 95 % must hold the true ratio 0.6."""
    draw = np.random.default_rng(0)
    held = []
    for _ in range(300):
        possible = draw.poisson(2, 150).astype(float)
        figure = ratio_figure(draw.binomial(possible.astype(int), 0.6).astype(float), possible)
        held.append(figure.low <= 0.6 <= figure.high)
    assert 0.9 <= np.mean(held) <= 0.99


def test_difference_of_ratios_is_paired() -> None:
    """Two binaries that answer alike row by row must differ by nothing, however the rows vary."""
    gained, possible = np.arange(50.0) % 3, 2.0 + np.arange(50.0) % 4
    figure = ratio_difference((gained, possible), (gained, possible))
    assert (figure.value, figure.low, figure.high) == (0.0, 0.0, 0.0)


def test_gained_decides_what_is_right() -> None:
    """McNemar on rows that are only half right."""
    half = variant("student float", predicted=[0, 0, 1, 1], gained=[2, 1, 0, 0], possible=[2, 2, 2, 0])
    assert report(half).correct(half).tolist() == [1, 0, 0, 1]


def tagged(metric: str = "entity F1") -> Report:
    """Four texts with spans, a teacher that is right and a student that is not always."""
    expected = [[[0, 4, "NAME"], [9, 12, "PHONE"]], [[0, 3, "NAME"]], [], [[2, 5, "MAIL"]]]
    answered = [[[0, 4, "NAME"], [9, 13, "PHONE"]], [[0, 3, "NAME"], [5, 7, "NAME"]], [[1, 2, "PHONE"]], []]
    teacher, student = variant("teacher", "teacher", predicted=expected), variant("s", predicted=answered)
    return report().model_copy(update={"metric": metric, "expected": expected, "variants": [teacher, student]})


def test_types_of_spans_by_hand() -> None:
    """A type that fails hidden in the mean of all: PHONE has its one span half a word too long and one too many."""
    made = tagged()
    names, phones, mails = sorted(by_type(made, made.variant("s")), key=lambda one: ["NAME", "PHONE", "MAIL"].index(one.name))
    assert (names.expected, names.answered, names.right, names.rows) == (2, 3, 2, 2)
    assert (names.precision, names.recall, names.f1.value) == (2 / 3, 1.0, 0.8)
    assert (phones.expected, phones.answered, phones.right, phones.rows) == (1, 2, 0, 2)
    assert (phones.precision, phones.recall, phones.f1.value) == (0.0, 0.0, 0.0)
    assert (mails.answered, mails.recall) == (0, 0.0) and np.isnan(mails.precision)
    assert next(one.name for one in by_type(made, made.variant("s"))) == "NAME", "the most frequent first"


def test_types_in_json_are_whole_and_of_tags_alone() -> None:
    """NaN in a JSON document, or spans looked for in the answers of another task."""
    made = tagged()
    (student,) = [row for row in summary(made) if row["name"] == "s"]
    mail = next(one for one in student["types"] if one["name"] == "MAIL")
    assert mail["precision"] is None and mail["recall"] == 0.0 and mail["expected"] == 1
    assert by_type(tagged("accuracy"), made.variant("s")) == []
    assert all("types" not in row for row in summary(report(variant("s"))))
