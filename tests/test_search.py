"""The search's decisions, on scores and costs that are written down here; that it runs is tests/test_pipeline.py's part."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedistill.budget import Budget
from edgedistill.errors import RecipeError
from edgedistill.recipe import Recipe, Student, read_recipe
from edgedistill.search import Candidate, Score, cheapest, climb, dropped, ladder, name_of, needed_agreement
from edgedistill.stages.probe import Cost, excess, over_budget
from edgedistill.store import Artifact
from edgedistill.students.transformer import within


def score(right: int, rows: int = 400) -> Score:
    """The first `right` rows are right, so any two scores differ on the same rows: the tightest pairing there is."""
    return Score((np.arange(rows) < right).astype(float), np.ones(rows))


def candidate(folder: Path, family: str, *right: int) -> Candidate:
    """right: of 400 rows, after each rung."""
    name = "-".join([family, *map(str, right)])
    trials = []
    for rung, rows in enumerate(right):
        place = folder / f"{name}.{rung}"
        place.mkdir()
        (place / "held_out.json").write_text(json.dumps({"gained": score(rows).gained.tolist(), "possible": [1.0] * 400}))
        trials.append(Artifact(place, name, "distill", 1.0, cached=False))
    return Candidate(name, Student(family=family), trials[0], trials[0], trials=trials)


def test_inferior_students_go_and_the_front_stays() -> None:
    """A dear student that a cheap one beats, trained on; or a cheap one dropped for being worse than a dear one."""
    scores = {"small": score(200), "middle": score(320), "large": score(280), "largest": score(360)}
    cost = {"small": (1.0,), "middle": (2.0,), "large": (3.0,), "largest": (4.0,)}
    gone = dropped(scores, cost, keep=2)
    assert gone.keys() == {"large"}
    assert gone["large"].startswith("middle costs less and is better by 10.0 points [+")


def test_cheaper_on_one_target_only_is_not_cheaper() -> None:
    """A student that is the best for one device, dropped because it is dear on another."""
    scores = {"a": score(360), "b": score(200)}
    assert dropped(scores, {"a": (1.0, 5.0), "b": (2.0, 4.0)}, keep=1) == {}
    assert dropped(scores, {"a": (1.0, 4.0), "b": (2.0, 4.0)}, keep=1).keys() == {"b"}


def test_not_told_apart_goes_by_rank() -> None:
    """A candidate that is within chance of a cheaper one and stays for ever."""
    scores = {"a": score(300), "b": score(299), "c": score(298)}
    cost = {"a": (1.0,), "b": (2.0,), "c": (3.0,)}
    assert dropped(scores, cost, keep=2).keys() == {"c"}


@given(st.lists(st.tuples(st.integers(0, 400), st.integers(1, 9)), min_size=1, max_size=8), st.integers(1, 8))
def test_somebody_always_stays(found: list[tuple[int, int]], keep: int) -> None:
    """A search that drops its last candidate, or the best of all."""
    scores = {str(place): score(right) for place, (right, _) in enumerate(found)}
    gone = dropped(scores, {str(place): (float(cost),) for place, (_, cost) in enumerate(found)}, keep)
    best = max(right for right, _ in found)
    assert any(found[int(name)][0] == best for name in scores.keys() - gone.keys())


def test_climb_starts_near_the_bar_and_only_rises(tmp_path: Path) -> None:
    """Students trained to the end that cannot reach the bar, or that are dearer and no better."""
    order = [candidate(tmp_path, "conv", right) for right in (200, 340, 330, 350)] + [
        candidate(tmp_path, "transformer", right) for right in (345, 370)
    ]
    assert [one.name for one in climb(order, bar=0.88)] == ["conv-340", "conv-350", "transformer-345", "transformer-370"]
    assert [one.name for one in climb(order, bar=0.99)] == ["conv-350", "transformer-370"]


def test_who_still_rises_is_not_left_out(tmp_path: Path) -> None:
    """On TREC-50 three layers (0.703, then 0.828 of the teacher's answers) were left out for a convolution (0.784, 0.834): 0.859 and 0.854 in the end."""
    conv, layers, bag = (candidate(tmp_path, *found) for found in (("conv", 314, 334), ("transformer", 281, 331), ("static", 290, 300)))
    assert [one.name for one in climb([bag, conv, layers], bar=0.99)] == [conv.name, layers.name], (
        "neither may reach it; the bag cannot pass them"
    )
    assert [one.name for one in climb([bag, conv, layers], bar=0.95)] == [layers.name], "it may rise by 50 rows more, the convolution by 20"


def test_costs_against_a_budget() -> None:
    """A student dropped for latency that noise alone explains, or kept at twice the limit."""
    quick = Cost("onnx_int8_dynamic", 5.0, [1.0] * 300 + [9.0] * 20, 90.0)
    slow = Cost("float", 20.0, [3.0] * 320, 90.0)
    budget = Budget(p90_ms=2, size_mb=10)
    assert over_budget(quick, budget) == [] and over_budget(slow, budget) == ["20.00 MB, allowed 10", "p90 3.000 ms, allowed 2"]
    assert over_budget(Cost("float", 5.0, [1.9, 2.1] * 3, None), budget) == [], "six answers tell nothing"
    assert excess(slow, budget) == pytest.approx(1.0) and excess(quick, budget) == 0
    assert cheapest([quick, slow], budget, "fastest") == 1.0 and cheapest([quick, slow], budget, "smallest") == 5.0
    assert cheapest([slow], budget, "smallest") == float("inf")


def test_a_part_of_a_larger_student() -> None:
    """A student that begins with the weights of other layers than its own, or of one that it is no part of."""

    def cut(small: dict[str, Any], large: dict[str, Any]) -> Student | None:
        return within(Student(family="transformer", **small), Student(family="transformer", **large), 6)

    found = cut({"layers": [0, 5], "ffn": 768}, {"layers": [0, 2, 5]})
    assert found is not None and (found.layers, found.ffn, found.vocabulary) == ([0, 2], 768, "full")
    found = cut({"layers": 2, "width": 192}, {"layers": 4, "width": 192})
    assert found is not None and (found.layers, found.width) == ([0, 3], None), "a width that is there already is not cut again"
    assert cut({"layers": [0, 1]}, {"layers": [0, 2, 5]}) is None
    assert cut({"layers": 2, "ffn": 768}, {"layers": 3, "ffn": 512}) is None
    assert cut({"layers": 2, "vocabulary": 6000}, {"layers": 3}) is None
    assert cut({"layers": 2}, {"layers": 2}) is None


def test_names_say_what_was_asked() -> None:
    """Two candidates under one name."""
    assert name_of(Student(family="transformer", layers=[0, 5], ffn=768)) == "transformer layers=0,5 ffn=768"
    assert name_of(Student(family="conv", width=96, vocabulary=6000)) == "conv width=96 vocabulary=6000"


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ('[[search.students]]\nfamily = "auto"\n', 'search.students: a candidate needs its family, such as family = "transformer"'),
        ('[[search.students]]\nfamily = "static"\nkernel = 3\n', 'student.kernel is no option of the family "static"'),
        ('[search]\nfamilies = ["convs"]\n', 'there is no student called "convs"'),
    ],
)
def test_candidates_are_checked_before_anything_runs(section: str, words: str, recipe_file, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """A candidate that stops a search after an hour."""
    with pytest.raises(RecipeError) as error:
        read_recipe(recipe_file(('family     = "transformer"\nlayers     = 2\n', ""), ("[compile]", section + "[compile]")))
    assert words in str(error.value)


def test_a_size_needs_its_family(recipe_file) -> None:  # type: ignore[no-untyped-def]
    """A size that a search ignores."""
    with pytest.raises(RecipeError) as error:
        read_recipe(recipe_file(('family     = "transformer"\n', "")))
    assert 'layers fix a size, so the family must be said too: write family = "transformer" under [student]' in str(error.value)


def test_where_the_teacher_is_right_the_whole_difference_counts() -> None:
    """A budget of 0.97 of the teacher's tags, and a search that stops at a student with 0.94 of them."""
    assert needed_agreement(Budget(accuracy_drop=0.03), labelled=False) == pytest.approx(0.97)
    assert needed_agreement(Budget(accuracy_drop=0.03), labelled=True) == pytest.approx(0.94)


def test_a_search_looks_into_families_that_can_answer(tmp_path: Path, tiny_teacher: Path) -> None:
    """A bag of words, which has no answer for each word, started as a tagger and ending in transformers' own error."""
    recipe = recipe_of(tmp_path, "tag", "")
    assert {student.family for student in ladder(recipe, tiny_teacher)} == {"conv", "transformer"}
    assert "static" in {student.family for student in ladder(recipe_of(tmp_path, "embed", ""), tiny_teacher)}
    for asked in (
        '[student]\nfamily = "static"\n',
        '[search]\nfamilies = ["conv", "static"]\n',
        '[[search.students]]\nfamily = "static"\n',
    ):
        with pytest.raises(RecipeError) as error:
            recipe_of(tmp_path, "tag", asked)
        assert 'a student of the family "static" has no answer to the task "tag"; write "conv" or "transformer"' in str(error.value)


def recipe_of(folder: Path, task: str, more: str) -> Recipe:
    (folder / "recipe.toml").write_text(
        f'name = "r"\ntask = "{task}"\n{more}[data]\ntrain = "rows.csv"\n[teacher]\nmodel = "hf:a/b"\nlicense = "mit"\n'
        '[compile]\ntargets = ["laptop-x86"]\n'
    )
    return read_recipe(folder / "recipe.toml")
