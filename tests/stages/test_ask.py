"""A budget of teacher calls: never exceeded, never spent twice, spent where the answer is open."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedistill.models import load_model, load_tokenizer, save
from edgedistill.quick_student import Words, committee, doubt
from edgedistill.recipe import Teacher, Transfer
from edgedistill.stages import ask
from edgedistill.stages.teach import read_labels
from edgedistill.stages.transfer import write_families
from edgedistill.tables import make_rows, read_rows, write_rows
from edgedistill.teachers import transformers as local
from tests.conftest import QUEUES, tickets

CLASSES = ["account", "billing", "delivery"]


def params(calls: int, choose: str = "active", quotas: dict[str, float] | None = None) -> ask.Params:
    options = Transfer(choose=choose, quotas=quotas or {})  # type: ignore[arg-type]
    return ask.Params(Teacher(model="m", calls=calls), options, {"asks": "(?i)refund"}, "classify", 32, "float32", 0)


def oracle(texts: list[str]) -> Any:
    """places → logits of a teacher that knows every word of every queue."""
    return lambda places: np.array([[8.0 * any(word in texts[place] for word in QUEUES[name]) for name in CLASSES] for place in places])


def none(text: str) -> list[str]:
    return []


@pytest.mark.parametrize("choose", ["active", "random"])
@pytest.mark.parametrize(("budget", "count"), [(64, 300), (300, 300), (33, 200)])
def test_the_budget_is_spent_to_the_last_call_and_on_no_text_twice(choose: str, budget: int, count: int) -> None:
    """Calls left over, or paid twice for one text."""
    texts = [text for text, _ in tickets(count)]
    chosen, rounds = ask.spend(texts, 60, budget, params(budget, choose), texts, none, oracle(texts))
    assert len(chosen) == len(set(chosen)) == budget == sum(entry["calls"] for entry in rounds)
    assert chosen == ask.spend(texts, 60, budget, params(budget, choose), texts, none, oracle(texts))[0]


def test_both_choices_start_alike_and_with_real_texts() -> None:
    """A control that differs from what it controls in more than the choice."""
    texts = [text for text, _ in tickets(300)]
    active, random = (ask.spend(texts, 100, 120, params(120, choose), texts, none, oracle(texts))[0] for choose in ("active", "random"))
    assert active[:36] == random[:36] and max(active[:36]) < 100 and active[36:] != random[36:]


@pytest.mark.parametrize("choose", ["active", "random"])
def test_real_texts_are_asked_about_before_grown_ones(choose: str) -> None:
    """Calls spent on what was grown while real texts go unlabelled."""
    texts = [text for text, _ in tickets(300)]
    chosen, _ = ask.spend(texts, 200, 120, params(120, choose), texts, none, oracle(texts))
    assert max(chosen) < 200
    chosen, _ = ask.spend(texts, 60, 120, params(120, choose), texts, none, oracle(texts))
    assert set(range(60)) <= set(chosen) or choose == "active"
    assert sum(place < 60 for place in chosen) >= 50


def test_calls_go_where_the_answer_is_open() -> None:
    """A committee whose doubt says nothing: calls spent on texts whose answer is plain."""
    easy = [text for text, _ in tickets(400)]
    hard = [f"{a} {b} {filler}" for a in QUEUES["billing"] for b in QUEUES["delivery"] for filler in ("please", "today", "again")]
    texts = [*easy, *hard]
    chosen, _ = ask.spend(texts, len(texts), 160, params(160), texts, none, oracle(texts))
    random, _ = ask.spend(texts, len(texts), 160, params(160, "random"), texts, none, oracle(texts))
    among = [sum(place >= len(easy) for place in found) for found in (chosen, random)]
    assert among[0] > 1.3 * among[1]


def test_quota_holds_for_what_is_asked() -> None:
    """A slice that the recipe wants and that the choice then leaves out."""
    texts = [text for text, _ in tickets(600)]
    belongs = lambda text: ["asks"] if "refund" in text else []  # noqa: E731
    share = sum("refund" in text for text in texts) / len(texts)
    chosen, _ = ask.spend(texts, 100, 120, params(120, quotas={"asks": 0.3}), texts, belongs, oracle(texts))
    assert share < 0.15 and sum("refund" in texts[place] for place in chosen) >= 36


@given(st.lists(st.tuples(st.floats(0, 1), st.sampled_from("abc")), min_size=1, max_size=60), st.integers(0, 80))
def test_pick_takes_the_most_doubtful_one_of_a_family_first(candidates: list[tuple[float, str]], count: int) -> None:
    """A round that takes one text twice, comes out short, or buys one question many times while others are open."""
    scores, families = np.array([score for score, _ in candidates]), [family for _, family in candidates]
    picked = [place - 7 for place in ask.pick(np.arange(len(candidates)) + 7, scores, families, count)]
    assert len(picked) == len(set(picked)) == min(count, len(candidates))
    kinds = len(set(families))
    first = picked[:kinds]
    assert len({families[place] for place in first}) == len(first)
    for place in first:
        assert scores[place] == max(score for score, family in candidates if family == families[place])


def test_doubt_is_small_where_one_answer_is_far_ahead() -> None:
    """Members that are sure of different answers, taken for sure; many small chances taken for doubt between two."""
    sure = np.array([[[1.0, 0.0]], [[0.0, 1.0]]])
    agreed = np.array([[[1.0, 0.0]], [[1.0, 0.0]]])
    assert doubt(sure) == pytest.approx(1.0) and doubt(agreed) == pytest.approx(0.0)
    assert doubt(np.array([[[0.5, 0.3, 0.2]]])) == pytest.approx(0.8) and doubt(np.ones((2, 3, 1))).tolist() == [0, 0, 0]


def test_doubt_of_several_classes_and_of_numbers() -> None:
    """A multi-label or scored text whose doubt is that of one class among others: nought, or nonsense."""
    assert doubt(np.array([[[0.9, 0.5]], [[1.1, 0.5]]]), "any of") == pytest.approx(1.0)
    assert doubt(np.array([[[0.0, 0.8]]]), "any of") == pytest.approx(0.4)
    assert doubt(np.array([[[1.0], [3.0]], [[3.0], [3.0]]]), "numbers").tolist() == [1.0, 0.0]
    assert ask.soft_labels("classify", np.array([[1.0, 1.0]]))[0] == "one of"
    assert ask.soft_labels("multi_label", np.array([[0.0, 5.0]]))[0] == "any of"
    assert ask.soft_labels("score", np.array([[4.5]])) == ("numbers", np.array([[4.5]]))


def test_committee_learns() -> None:
    """A quick student that knows no better than chance after hundreds of labels."""
    rows = tickets(400)
    words = Words.of([text for text, _ in rows])
    gold = np.eye(3)[[CLASSES.index(queue) for _, queue in rows]]
    answers = committee(words, range(300), gold[:300], range(300, 400), 0)
    assert answers.sum(axis=2) == pytest.approx(1.0)
    assert (answers.mean(axis=0).argmax(axis=1) == gold[300:].argmax(axis=1)).mean() > 0.9


@pytest.fixture
def inputs(tiny_teacher: Path, tmp_path: Path) -> dict[str, Path]:
    import torch

    torch.manual_seed(1)
    save(load_model(tiny_teacher, "text-classification", CLASSES), load_tokenizer(tiny_teacher), tmp_path / "teacher" / "model")
    for name in ("prepared", "transfer"):
        (tmp_path / name).mkdir()
    rows = tickets(200)
    (tmp_path / "prepared" / "classes.json").write_text(json.dumps(CLASSES))
    texts = list(dict.fromkeys(text for text, _ in rows))
    labels = [0] * 50 + [-1] * (len(texts) - 50)
    write_rows(tmp_path / "prepared" / "train.parquet", make_rows(texts[:50], labels[:50]))
    write_rows(tmp_path / "transfer" / "transfer.parquet", make_rows(texts, labels))
    write_rows(tmp_path / "transfer" / "held_out.parquet", make_rows([text for text, _ in tickets(30, 5)]))
    write_families(tmp_path / "transfer" / "families.parquet", {})
    facts = {"training_rows": 50, "traffic_rows": 0, "grown_rows": len(texts) - 50}
    (tmp_path / "transfer" / "facts.json").write_text(json.dumps(facts))
    return {name: tmp_path / name for name in ("prepared", "teacher", "transfer")}


def test_a_killed_run_repeats_no_call(inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Teacher calls paid twice after a kill, a budget exceeded by what is held out, or another choice after the resume."""
    monkeypatch.setattr(ask, "SHARD", 8)
    real, asked, kills = local.logits, [], [24, 60]  # in the first part, and in a round

    def counting(model: Path, texts: list[str], *rest: Any) -> Any:
        if kills and len(asked) >= kills[0]:
            kills.pop(0)
            raise KeyboardInterrupt
        asked.extend(texts)
        return real(model, texts, *rest)

    monkeypatch.setattr(local, "logits", counting)
    out = tmp_path / "out"
    for _ in range(3):
        try:
            ask.run(out, params(100), **inputs)
        except KeyboardInterrupt:
            continue
    assert not kills and len(asked) == len(set(asked)) == 100
    monkeypatch.setattr(local, "logits", real)
    ask.run(tmp_path / "whole", params(100), **inputs)
    kept = read_rows(out / "transfer.parquet")
    assert kept.keys == read_rows(tmp_path / "whole" / "transfer.parquet").keys
    facts = json.loads((out / "facts.json").read_text())
    held = read_rows(out / "held_out.parquet")
    assert (facts["calls"], facts["rows"], facts["held_out_rows"], len(held)) == (100, 90, 10, 10)
    assert facts["training_rows"] == (kept.labels >= 0).sum() and all(kept.labels[: facts["training_rows"]] >= 0)
    assert read_labels(out / "labels.parquet", [*kept.keys, *held.keys]).shape == (100, 3)
