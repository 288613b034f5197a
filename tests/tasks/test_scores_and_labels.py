"""multi_label and score against hand-computed values and references."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from edgedistill.tasks import multi_label, score

OPTIONS = SimpleNamespace(label_separator="|", threshold=0.5, label="score")


def test_classes_of_a_cell() -> None:
    """Labels split at the wrong place, or twice the same one."""
    assert multi_label.read("b | a|b", "", OPTIONS) == ["a", "b"]
    assert multi_label.read('["a", "b|c"]', "", OPTIONS) == ["a", "b|c"]
    assert multi_label.read("[]", "", OPTIONS) == []
    with pytest.raises(ValueError, match="label is no JSON list"):
        multi_label.read("[a", "", OPTIONS)


def test_micro_f1_equals_scikit_learn() -> None:
    """Another mean than the one that is named."""
    from sklearn.metrics import f1_score

    draw = np.random.default_rng(0)
    right, said = draw.random((40, 3)) < 0.4, draw.random((40, 3)) < 0.5
    settings = multi_label.settings([["a"], ["b", "c"]], OPTIONS)
    as_names = lambda row: [name for name, yes in zip("abc", row, strict=True) if yes]  # noqa: E731
    parts = np.sum(
        [multi_label.judge(as_names(ours), as_names(theirs), settings) for ours, theirs in zip(said, right, strict=True)], axis=0
    )
    assert parts[0] / parts[1] == pytest.approx(f1_score(right, said, average="micro"))


def test_threshold_counts() -> None:
    """A threshold of the recipe that nobody reads: σ(0) is 0.5, σ(2) is 0.88."""
    settings = {"labels": ["a", "b", "c"], "threshold": 0.6}
    said = multi_label.answer(np.array([0.0, 2.0, -1000.0]), settings)
    assert said["answer"] == ["b"] and said["probabilities"]["c"] == 0


def test_divergence_of_yes_and_no() -> None:
    """Not zero for equal logits, or not the KL: between 0.5 and 0.9 it is ln(0.5/0.9)/2 + ln(0.5/0.1)/2."""
    logits = np.log(np.array([[0.9 / 0.1]]))
    assert multi_label.divergence(np.zeros((1, 1)), logits, {})[0] == pytest.approx(0.5 * np.log(0.5 / 0.9) + 0.5 * np.log(0.5 / 0.1))
    assert multi_label.divergence(logits, logits, {})[0] == 0


def test_r2_equals_scikit_learn() -> None:
    """R² around another mean: with the training rows as test rows both are one."""
    from sklearn.metrics import r2_score

    draw = np.random.default_rng(1)
    right = draw.normal(3, 2, (50, 1))
    said = right + draw.normal(0, 1, (50, 1))
    settings = score.settings(right.tolist(), OPTIONS)
    parts = np.sum([score.judge(one.tolist(), other.tolist(), settings) for one, other in zip(said, right, strict=True)], axis=0)
    assert parts[0] / parts[1] == pytest.approx(r2_score(right, said))


def test_scores_come_back_in_the_users_unit() -> None:
    """An app that shows standard deviations where it promises stars."""
    settings = score.settings([[1.0], [3.0], [5.0]], OPTIONS)
    learned = score.hard([5.0], settings)
    assert score.answer(learned, settings)["answer"]["score"] == pytest.approx(5.0, abs=1e-6)
    assert learned[0] == pytest.approx(2 / np.std([1, 3, 5]), abs=1e-6)


@pytest.mark.parametrize("cell", ["four", "nan", "inf"])
def test_what_is_no_number_is_a_bad_row(cell: str) -> None:
    """A NaN that silently poisons the training."""
    with pytest.raises(ValueError, match="not a (finite )?number"):
        score.read(cell, "", OPTIONS)
