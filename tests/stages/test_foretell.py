"""Foretold mistakes: groups, intervals and thresholds against hand-computed values, and a promise that holds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from edgedistill.stages.foretell import PRIOR_ROWS, expected, groups, risk_bound, threshold


def test_expected_share_by_hand() -> None:
    """Five of five wrong read as 100 %, or an interval that is not that of the same distribution."""
    figure = expected(5, 5, 0.1)
    assert figure["value"] == pytest.approx((5 + PRIOR_ROWS * 0.1) / (5 + PRIOR_ROWS))
    assert figure["low"] < figure["value"] < figure["high"] < 1
    assert expected(0, 1000, 0.5)["value"] == pytest.approx(5 / 1010)
    assert 0 < expected(0, 5, 0.0)["high"] < 0.1, "no mistake among few rows is no proof of none"


def test_groups_name_where_it_goes_wrong() -> None:
    """A group of one row at the top, the group of all rows, or the right rows under the wrong name."""
    wrong = np.array([1, 1, 1, 1, 0] + [0] * 45, float)
    marks = [["all", "bad"] if row < 5 else ["all", "good"] for row in range(49)] + [["all", "good", "rare"]]
    found = groups(marks, wrong, 5)
    assert [(entry["name"], entry["rows"], entry["wrong"], entry["told"]) for entry in found] == [
        ("bad", 5, 4, True),
        ("good", 45, 0, True),
    ]
    assert found[0]["places"] == [0, 1, 2, 3]


def test_risk_bound_is_the_binomial_one() -> None:
    """A bound that promises more than the rows can bear."""
    assert risk_bound(0, 59, 0.05) == pytest.approx(1 - 0.05 ** (1 / 59))
    bound = risk_bound(3, 100, 0.05)
    assert binom.cdf(3, 100, bound) == pytest.approx(0.05) and risk_bound(4, 4, 0.05) == 1.0


def test_threshold_seen_and_promised() -> None:
    """A threshold on the wrong side, one that splits equal confidences, or a promise from a handful of rows."""
    confidence = np.concatenate([np.linspace(0.9, 1, 300), np.full(100, 0.5)])
    wrong = np.concatenate([np.zeros(300), np.tile([1, 0], 50)]).astype(float)
    found = threshold(confidence, wrong, 0.95)
    assert found["seen"]["confidence"] == found["promised"]["confidence"] == pytest.approx(0.9)
    assert found["seen"]["kept"] == 0.75 and found["seen"]["precision"] == 1.0
    few = threshold(confidence[:20], wrong[:20], 0.95)
    assert few["seen"]["kept"] == 1.0 and few["promised"] is None
    assert threshold(np.array([0.9, 0.8]), np.array([1.0, 1.0]), 0.9)["seen"] is None


def test_promise_holds() -> None:
    """A precision promised with 95 % and broken more often than in one of twenty samples."""
    draw = np.random.default_rng(0)
    broken = promised = 0
    for _ in range(300):
        confidence = draw.uniform(0.5, 1, 600)
        wrong = (draw.random(600) > confidence).astype(float)
        found = threshold(confidence, wrong, 0.85)["promised"]
        if found:
            promised += 1
            broken += (1 + found["confidence"]) / 2 < 0.85  # the true precision above a confidence c is the mean of c … 1
    assert promised > 150 and broken / 300 <= 0.05


@given(st.lists(st.tuples(st.sampled_from([0.5, 0.7, 0.9, 0.95]), st.booleans()), min_size=1, max_size=80), st.sampled_from([0.9, 0.99]))
def test_precision_is_that_of_the_rows_kept(rows: list[tuple[float, bool]], wanted: float) -> None:
    """Figures beside a threshold that are of other rows."""
    confidence, wrong = np.array([sure for sure, _ in rows]), np.array([float(bad) for _, bad in rows])
    for name in ("seen", "promised"):
        found = threshold(confidence, wrong, wanted)[name]
        if found:
            kept = confidence >= found["confidence"]
            assert found["kept"] == pytest.approx(kept.mean()) and found["precision"] == pytest.approx(1 - wrong[kept].mean())
            assert found["precision"] >= wanted - 1e-9
