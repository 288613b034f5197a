"""Golden vectors: which answers are golden, and what a device may differ by."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edgedistill.bundle_format import Golden
from edgedistill.stages.bundle import decided
from edgedistill.stages.verify import Given, held_against, summary
from edgedistill.tasks import classify, multi_label, tag

BOUND = 0.25
CLASSES = {"labels": ["a", "b", "c", "d"]}


def best(logits: npt.NDArray[Any]) -> Any:
    return classify.answer(logits, CLASSES)["answer"]


@given(
    logits=arrays(np.float64, 4, elements=st.floats(-2, 2, width=32)),
    noise=arrays(np.float64, 4, elements=st.floats(-BOUND / 2, BOUND / 2, width=32)),
)
def test_a_decided_answer_survives_any_rounding_within_half_the_bound(logits: npt.NDArray[Any], noise: npt.NDArray[Any]) -> None:
    """A golden answer that a good device may fail."""
    if decided(best, logits, BOUND):
        assert best(logits + 0.999 * noise) == best(logits)


@pytest.mark.parametrize(("lead", "golden"), [(0.1, False), (0.24, False), (0.26, True), (3.0, True)])
def test_an_answer_is_golden_when_it_leads_by_more_than_the_bound(lead: float, golden: bool) -> None:
    """Answers thrown away that no rounding reaches, or kept that one does."""
    assert decided(best, np.array([0.0, lead, -1.0, -1.0]), BOUND) is golden


def test_near_ties_of_every_task_are_seen() -> None:
    """A rule that knows one task. Thresholds are reached from both sides; one word of many is enough; no words are no tie."""
    settings = {"labels": ["x", "y"], "threshold": 0.5}
    assert decided(lambda logits: multi_label.answer(logits, settings)["answer"], np.array([2.0, -2.0]), BOUND)
    for close in (0.1, -0.1):
        assert not decided(lambda logits: multi_label.answer(logits, settings)["answer"], np.array([2.0, close]), BOUND)
    tags = {"labels": ["O", "B-name", "I-name"]}

    def spans(logits: npt.NDArray[Any]) -> Any:
        return tag.answer(logits, tags, "call Ada now")["answer"]

    clear = np.array([[4.0, 0, 0], [0, 4.0, 0], [4.0, 0, 0]])
    assert decided(spans, clear, BOUND)
    assert not decided(spans, clear - [[0, 0, 0], [0, 3.9, 0], [0, 0, 0]], BOUND)
    assert decided(lambda logits: tag.answer(logits, tags, "")["answer"], np.asarray([]), BOUND)


def test_verify_says_how_many_answers_rounding_decides() -> None:
    """A device that passes on answers nobody asked for, or near ties that nobody hears of."""
    sure, tie = Golden("sure", [1], [2.0, 0.0], "a"), Golden("tie", [2], [0.1, 0.0], None)
    seen = held_against("bundle", BOUND, [(sure, Given([1], [2.1, 0.0], "a")), (tie, Given([2], [0.0, 0.1], "b"))])
    assert seen.good and seen.near_ties == 1
    assert summary(seen) == "bundle: 2 golden vectors equal, logits within 0.1 (allowed 0.25); near ties, whose answer rounding decides: 1"
    assert not held_against("bundle", BOUND, [(sure, Given([1], [2.0, 0.0], "b"))]).good
    assert not held_against("bundle", BOUND, [(tie, Given([2], [0.1, 0.3], "b"))]).good


def test_written_answers_are_held_token_by_token() -> None:
    """A near tie that fails a device for what it wrote behind it, a token of another probability that passes, a count of something else."""
    tie = Golden("tie", [1], [-0.7] * 100, None, written=[5] * 100, likeliest=[5] * 100)
    seen = held_against("bundle", BOUND, [(tie, Given([1], [-0.6] * 100, "another", [5] * 99 + [6]))])
    assert seen.good and (seen.same, seen.tokens) == (99, 100)
    assert "; 99 of 100 tokens are the likeliest here too; near ties" not in summary(seen)  # all vectors are: nothing to tell apart
    assert summary(seen).endswith("; 99 of 100 tokens are the likeliest here too")
    far = held_against("bundle", BOUND, [(tie, Given([1], [-0.6] * 99 + [-1.2], "another", [5] * 100))])
    assert far.wrong == ["vector 1, 'tie': a logit differs by 0.5000, allowed 0.25"]
