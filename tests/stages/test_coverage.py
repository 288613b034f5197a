"""Coverage: clusters, drift, distance and names, each against what can be worked out by hand."""

from __future__ import annotations

import json
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedistill.clusters import assign, cluster, directions, names
from edgedistill.stages import coverage, embed
from edgedistill.stages.coverage import cover, divergence, divergence_facts, drift, expected_coverage, kin_of
from edgedistill.stages.transfer import write_families
from edgedistill.tables import make_rows, write_rows
from tests.conftest import tickets


def points(degrees: list[float]) -> np.ndarray:
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def alone(count: int) -> list[list[int]]:
    return [[] for _ in range(count)]


def test_covered_is_within_the_radius_of_the_fifth_neighbour() -> None:
    """A radius of another rank, or a distance compared the wrong way round."""
    traffic = points([0, 1, 2, 3, 4, 5, 90, 91, 92, 93, 94, 95])
    near = points([5.9, 120])  # radii of the first six: 5, 4, 3, 3, 4, 5 degrees
    covered, away = cover(traffic, near, alone(12))
    assert covered.tolist() == [False] * 3 + [True] * 3 + [False] * 6
    chord = lambda degrees: 2 * np.sin(np.radians(degrees) / 2)  # noqa: E731
    assert away[0] == pytest.approx(chord(5.9) / chord(5), rel=1e-3)
    assert away[6] == pytest.approx(chord(30) / chord(5), rel=1e-3)


def test_a_text_and_what_was_grown_from_it_do_not_cover_it() -> None:
    """Coverage of 100 % because every traffic text, or a typo of it, stands in the transfer set."""
    kin = kin_of(["a", "b"], ["a", "a typo", "a and b", "c"], {"a typo": ["a"], "a and b": ["a", "b"]})
    assert kin == [[0, 1, 2], [2]]
    traffic, others = points([0, 10, 20, 30, 40, 50, 60]), points([0, 0.1, 0.2, 100])
    assert cover(traffic, others, alone(7))[0][0]
    covered, away = cover(traffic, others, [[0, 1, 2], *alone(6)])
    assert not covered[0] and away[0] > 1


def test_expected_coverage_is_that_of_samples_of_one_population() -> None:
    """A yardstick that a perfect transfer set cannot meet, or that a poor one passes."""
    draw = np.random.default_rng(0)
    seen = []
    for _ in range(12):
        both = draw.normal(size=(320, 6)).astype(np.float32)
        covered, _ = cover(directions(both[:200], np.zeros(6)), directions(both[200:], np.zeros(6)), alone(200))
        seen.append(covered.mean())
    assert np.mean(seen) == pytest.approx(expected_coverage(200, 120), abs=0.02)
    assert expected_coverage(2, 1) == pytest.approx(1.0)  # no five others: the radius is as far as they go


def test_divergence_by_hand() -> None:
    """Nats for bits, or a KL divergence that is infinite where a cluster is empty."""
    assert divergence(np.array([1.0, 0.0]), np.array([0.0, 1.0])) == pytest.approx(1.0)
    assert divergence(np.array([0.5, 0.5]), np.array([0.5, 0.5])) == pytest.approx(0.0)
    # m = (3/4, 1/4): ½ log2(4/3) + ½ (½ log2(2/3) + ½ log2 2)
    by_hand = 0.5 * np.log2(4 / 3) + 0.5 * (0.5 * np.log2(2 / 3) + 0.5 * np.log2(2))
    assert divergence(np.array([1.0, 0.0]), np.array([0.5, 0.5])) == pytest.approx(by_hand)


@given(st.lists(st.integers(0, 50), min_size=2, max_size=6).filter(sum), st.lists(st.integers(0, 50), min_size=6, max_size=6).filter(sum))
def test_divergence_stays_in_its_bounds(p: list[int], q: list[int]) -> None:
    """A distance below 0 or above 1, or one that depends on the order."""
    a, b = np.array(p) / sum(p), np.array(q[: len(p)], float)
    if not b.sum():
        return
    b /= b.sum()
    value = float(divergence(a, b))
    assert -1e-9 <= value <= 1 + 1e-9 and value == pytest.approx(float(divergence(b, a)))


def test_chance_tells_sampling_noise_from_drift() -> None:
    """A drift read out of two samples of the same texts, or a true one not seen."""
    same = divergence_facts(np.array([100, 100, 100]), np.array([205, 195, 200]), 0)
    other = divergence_facts(np.array([100, 100, 100]), np.array([300, 200, 100]), 0)
    assert same["value"] < same["chance"] and other["value"] > other["chance"] and other["low"] < other["value"] < other["high"]


def test_drift_is_transfer_minus_traffic_with_its_interval() -> None:
    """A sign turned round, or an interval that does not hold what it should."""
    found = drift(np.arange(400) < 100, np.arange(400) < 200, 0)
    assert (found["traffic_share"].value, found["transfer_share"].value, found["drift"].value) == (0.25, 0.5, 0.25)
    wide = 1.96 * np.sqrt(0.25 * 0.75 / 400 + 0.5 * 0.5 / 400)
    assert found["drift"].low == pytest.approx(0.25 - wide, abs=0.01) and found["drift"].high == pytest.approx(0.25 + wide, abs=0.01)


def test_names_are_the_telling_words() -> None:
    """Clusters that are all called "the"."""
    texts = [f"the {'car' if number < 40 else 'cat'} number{number}" for number in range(80)]
    found = names(texts, [number // 40 for number in range(80)], 3)
    assert found[0][0] == "car" and found[1][0] == "cat" and "the" not in found[0] and found[2] == []


def test_clusters_never_outnumber_texts_that_differ() -> None:
    """A crash of k-means, or empty clusters, where all texts are alike."""
    labels, centres = cluster(np.ones((200, 4), np.float32), 0)
    assert set(labels) == {0} and len(centres) == 1
    vectors = points([0, 1, 2, 180, 181, 182] * 40)
    labels, centres = cluster(vectors, 0, most=2)
    assert labels.tolist() == assign(vectors, centres).tolist() and len(set(labels[:3])) == 1 and labels[0] != labels[3]


def test_a_text_like_no_other_is_no_kind_of_its_own() -> None:
    """A table of kinds half of which are one text each."""
    vectors = points([float(place) for place in range(60)] * 4 + [180.0])
    labels, centres = cluster(vectors, 0)
    assert len(set(labels)) == len(centres) and np.bincount(labels).min() >= 20


def embedded(folder: Path, teacher: Path, traffic: list[str], transfer: list[str], held: list[str]) -> dict[str, Path]:
    for name in ("prepared", "transfer", "embedded", "covered"):
        (folder / name).mkdir()
    write_rows(folder / "prepared" / "train.parquet", make_rows(["nothing to see"], [0]))
    write_rows(folder / "prepared" / "traffic.parquet", make_rows(traffic))
    write_rows(folder / "transfer" / "transfer.parquet", make_rows(transfer))
    write_rows(folder / "transfer" / "held_out.parquet", make_rows(held))
    write_families(folder / "transfer" / "families.parquet", {})
    embed.run(
        folder / "embedded", embed.Params(32, "float32", 0), prepared=folder / "prepared", transfer=folder / "transfer", model=teacher
    )
    return {"embedded": folder / "embedded", "transfer": folder / "transfer"}


def test_a_kind_that_the_transfer_set_lacks_is_worst_covered_and_named(tmp_path: Path, tiny_teacher: Path) -> None:
    """A missing kind of traffic that the stage does not find, or finds without a word to know it by."""
    rows = tickets(360)
    traffic = [text for text, _ in rows]
    foreign = [" ".join(order) for order in permutations(("zebra", "quantum", "volcano", "harpsichord"))]
    held = traffic[:10]
    inputs = embedded(tmp_path, tiny_teacher, [*traffic, *foreign], [text for text, _ in tickets(720, 9)], held)
    coverage.run(tmp_path / "covered", coverage.Params(0), **inputs)
    facts = json.loads((tmp_path / "covered" / "facts.json").read_text())
    worst = facts["clusters"][0]
    assert facts["space"] == "mean of the base model's last layer" and facts["held_out_rows"] == 10
    assert {"zebra", "volcano", "quantum", "harpsichord"} & set(worst["name"].split(", "))
    assert worst["transfer_share"]["value"] < 0.02 and worst["drift"]["high"] < 0 and worst["coverage"]["value"] < 0.5
    assert all("zebra" in text for text in worst["uncovered"])
    assert facts["distance"]["value"] > facts["distance"]["chance"]
    number = json.loads((tmp_path / "covered" / "clusters.json").read_text())
    assert set(make_rows(held).keys) <= number.keys()


def test_vectors_are_the_mean_of_the_last_layer(tiny_teacher: Path) -> None:
    """Padding in the mean, or rows put back in another order."""
    import torch

    from edgedistill.models import load_model, load_tokenizer

    texts = ["refund my invoice", "the parcel was late yesterday again and again", "login"]
    vectors, _ = embed.vectors_of(tiny_teacher, texts, 32, "float32")
    model, tokenizer = load_model(tiny_teacher, "feature-extraction", ["x"]), load_tokenizer(tiny_teacher)
    for text, vector in zip(texts, vectors, strict=True):
        with torch.inference_mode():
            states = model(input_ids=torch.tensor([tokenizer.encode(text).ids])).last_hidden_state[0]
        np.testing.assert_allclose(vector, states.mean(dim=0).numpy(), atol=1e-5)


def test_a_teacher_without_vectors_gets_those_of_words(tmp_path: Path) -> None:
    """An API teacher, or a bare ONNX file, that cannot be compiled because it gives no vectors."""
    vectors, space = embed.vectors_of(tmp_path, [text for text, _ in tickets(60)], 32, "float32")
    assert space == "words (TF-IDF): this teacher gives no vectors" and len(vectors) == 60 and np.isfinite(vectors).all()
