"""Several teachers, and rounds of self-distillation: the mix by hand, and the whole way through the pipeline."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edgedistill import pipeline
from edgedistill.errors import RecipeError, TermsError
from edgedistill.recipe import Teacher, alone, read_recipe
from edgedistill.stages.combine import combine, confidence
from edgedistill.stages.teach import read_embeddings, read_labels
from edgedistill.store import Artifact, plain
from edgedistill.tasks.classify import probabilities

Write = Callable[..., Path]


def sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits))


def test_weighted_by_hand() -> None:
    """Logits averaged where probabilities should be: (0.9, 0.1) with weight 1 and (0.3, 0.7) with weight 3 make (0.45, 0.55)."""
    members = [np.log([[0.9, 0.1]]), np.log([[0.3, 0.7]]) + 5]  # a shift of logits means nothing
    mixed, shares = combine(members, [1.0, 3.0], "weighted", probabilities)
    np.testing.assert_allclose(probabilities(mixed), [[0.45, 0.55]], rtol=1e-5)
    assert shares == [0.25, 0.75]


def test_confidence_listens_to_who_is_sure() -> None:
    """The same teacher leading in every row. One that knows nothing counts nothing; where nobody knows, the weights decide."""
    sure, unsure = [0.0, 60.0], [0.0, 0.0]
    mixed, shares = combine(
        [np.array([sure, unsure, unsure]), np.array([unsure, sure[::-1], unsure])], [1.0, 3.0], "confidence", probabilities
    )
    np.testing.assert_allclose(probabilities(mixed), [[0, 1], [1, 0], [0.5, 0.5]], atol=1e-6)
    np.testing.assert_allclose(shares, [(1 + 0 + 0.25) / 3, (0 + 1 + 0.75) / 3], atol=1e-6)


def test_independent_classes_are_mixed_one_by_one() -> None:
    """A softmax over labels of which several hold at once."""
    members = [np.log([[9.0, 0.25]]), np.array([[0.0, 0.0]])]  # σ: (0.9, 0.2) and (0.5, 0.5)
    mixed, _ = combine(members, [1.0, 1.0], "weighted", sigmoid)
    np.testing.assert_allclose(sigmoid(mixed), [[0.7, 0.35]], rtol=1e-5)
    mixed, _ = combine(members, [1.0, 1.0], "confidence", sigmoid)
    np.testing.assert_allclose(sigmoid(mixed), [[0.9, 0.2]], rtol=1e-5)


def test_scores_are_averaged_and_have_no_confidence() -> None:
    """Numbers pushed through a softmax."""
    mixed, _ = combine([np.array([[1.0]]), np.array([[4.0]])], [1.0, 2.0], "weighted", None)
    np.testing.assert_allclose(mixed, [[3.0]])
    with pytest.raises(RecipeError) as error:
        combine([np.array([[1.0]])], [1.0], "confidence", None)
    assert str(error.value) == (
        'teacher.combine: scores carry no confidence by which teachers could be weighed. Write combine = "weighted".'
    )


@given(arrays(np.float64, (3, 4, 5), elements=st.floats(-30, 30)), st.sampled_from(["weighted", "confidence"]))
def test_a_mix_is_a_distribution_between_its_members(logits: np.ndarray, rule: str) -> None:
    """A mix that leaves what its members say, or that is not a number."""
    mixed, shares = combine(list(logits), [1.0, 2.0, 0.5], rule, probabilities)  # type: ignore[arg-type]
    chances = probabilities(mixed.astype(np.float64))
    members = np.stack([probabilities(part) for part in logits])
    assert (chances <= members.max(0) + 1e-5).all() and (chances >= members.min(0) - 1e-5).all()
    assert sum(shares) == pytest.approx(1)
    sure = confidence(members, True)
    assert ((sure >= 0) & (sure <= 1)).all()


ALSO = """below_floor   = "accept"
combine       = "confidence"
[[teacher.also]]
model         = "second"
license       = "mit"
epochs        = 3
learning_rate = 1e-3
below_floor   = "accept"
weight        = 0.5
[transfer]"""


def test_keys_of_one_teacher_do_not_depend_on_the_others(recipe_file: Write) -> None:
    """A teacher fine-tuned and asked again because another one came beside it."""
    one = read_recipe(recipe_file()).teacher
    two = read_recipe(recipe_file(('below_floor   = "accept"\n[transfer]', ALSO))).teacher
    assert plain(alone(one)) == plain(alone(two)) == plain(Teacher(**{name: getattr(one, name) for name in Teacher.model_fields}))


def test_terms_of_every_teacher_are_checked(recipe_file: Write, tmp_path: Path, tiny_teacher: Path) -> None:
    """A student distilled from a second teacher that forbids it."""
    shutil.copytree(tiny_teacher, tmp_path / "second")
    recipe = read_recipe(recipe_file(('below_floor   = "accept"\n[transfer]', ALSO.replace('"mit"', '"cc-by-nc-4.0"'))))
    with pytest.raises(TermsError) as error:
        pipeline.plan(recipe, until="distill")
    assert str(error.value) == (
        'teacher.also[0].license: the terms "cc-by-nc-4.0" do not allow it: no commercial use. Take a teacher under an open licence.'
    )


def test_two_teachers_and_two_rounds_go_all_the_way(recipe_file: Write, tmp_path: Path, tiny_teacher: Path) -> None:
    """Labels of one teacher used for both, rounds that all learn from the first labels, embeddings lost on the way."""
    shutil.copytree(tiny_teacher, tmp_path / "second")
    changes = [
        ('below_floor   = "accept"\n[transfer]', ALSO),
        ("learning_rate = 1e-3\n[compile]", "learning_rate = 1e-3\nrounds = 2\ncontrol = false\n" + LOSSES + "[compile]"),
    ]
    made: list[Artifact] = []
    pipeline.compile(read_recipe(recipe_file(*changes)), until="distill", on_stage=made.append)
    stages = [artifact.stage for artifact in made]
    assert stages == [
        *("prepare", "teacher", "teacher", "transfer", "label", "label", "combine", "embed", "coverage"),
        *("start", "distill", "label", "combine", "distill"),
    ]
    both, second_round = (artifact for artifact in made if artifact.stage == "combine")
    keys = read_keys(made[4].path)
    parts = [read_labels(artifact.path / "labels.parquet", keys) for artifact in (made[4], made[5], made[11])]
    mixed, _ = combine(parts[:2], [1.0, 0.5], "confidence", probabilities)
    np.testing.assert_allclose(read_labels(both.path / "labels.parquet", keys), mixed, atol=1e-6)
    averaged = (probabilities(mixed) + probabilities(parts[2])) / 2
    np.testing.assert_allclose(probabilities(read_labels(second_round.path / "labels.parquet", keys)), averaged, atol=1e-6)
    assert np.abs(parts[0] - parts[1]).max() > 0.1, "both labels are of one teacher"
    vectors = [read_embeddings(artifact.path / "labels.parquet", keys) for artifact in (made[4], both, second_round)]
    assert vectors[0].shape == (len(keys), 64) and all(np.array_equal(vectors[0], other) for other in vectors)
    facts = json.loads((both.path / "facts.json").read_text())
    assert [member["weight"] for member in facts["members"]] == [1.0, 0.5] and 0 <= facts["accuracy"] <= 1
    student = json.loads((made[-1].path / "facts.json").read_text())
    assert [term["kind"] for term in student["terms"]] == ["soft_target", "hidden_states", "distance_angle"]
    assert all(term["gradient_norm"] > 0 for term in student["terms"])
    again: list[Artifact] = []
    pipeline.compile(read_recipe(recipe_file(*changes)), until="distill", on_stage=again.append)
    assert all(artifact.cached for artifact in again)


LOSSES = """[[distill.losses]]
kind = "soft_target"
[[distill.losses]]
kind = "hidden_states"
weight = 0.1
[[distill.losses]]
kind = "distance_angle"
"""


def read_keys(labels: Path) -> list[str]:
    import pyarrow.parquet as pq

    return pq.read_table(labels / "labels.parquet")["key"].to_pylist()  # type: ignore[no-any-return]
