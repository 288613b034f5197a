"""prepare: clean rows, no text on both sides of the split, and a card that counts what was removed."""

from __future__ import annotations

import csv
import json
import random
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgedistill import tables
from edgedistill.duplicates import normalised
from edgedistill.errors import DataError
from edgedistill.recipe import Data, SliceByColumn
from edgedistill.stages import prepare
from edgedistill.store import plain

Row = tuple[str, str]
WORDS = [a + b for a in ("ka", "lo", "mi", "te", "su", "ra", "po", "ne") for b in ("bar", "dil", "gon", "fex", "zum", "wit")]


def sentences(count: int, seed: int = 0, words: int = 8) -> list[str]:
    """Different texts, none near another."""
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=words)) for _ in range(count)]


def rows_of(count: int, seed: int = 0) -> list[Row]:
    return [(text, "ab"[place % 2]) for place, text in enumerate(sentences(count, seed))]


def save(folder: Path, name: str, rows: list[Any], header: tuple[str, ...] = ("text", "label")) -> Path:
    path = folder / name
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def run(
    folder: Path, train: list[Any], *, test: list[Any] | None = None, traffic: str = "", seed: int = 0, **options: Any
) -> dict[str, Any]:
    """Prepare these rows under `folder`/out; gives the card."""
    header = options.pop("header", ("text", "label"))
    out = folder / "out"
    out.mkdir(exist_ok=True)
    inputs = {"train": save(folder, "train.csv", train, header)}
    names: dict[str, Any] = {"train": "train.csv"}
    if test is not None:
        inputs["test"], names["test"] = save(folder, "test.csv", test, header), "test.csv"
    if traffic:
        inputs["traffic"], names["traffic"] = folder / "traffic.txt", "traffic.txt"
        inputs["traffic"].write_text(traffic, encoding="utf-8")
    prepare.run(out, prepare.Params(Data(**names, **options), seed), **inputs)
    card: dict[str, Any] = json.loads((out / "card.json").read_text(encoding="utf-8"))
    return card


def error_of(folder: Path, train: list[Any], **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        run(folder, train, **options)
    assert caught.value.exit_code == 2
    return str(caught.value)


def read(folder: Path, name: str) -> tables.Rows:
    return tables.read_rows(folder / "out" / f"{name}.parquet")


def jaccard(a: str, b: str) -> float:
    """The definition, written out: sets of character 5-grams of the normalised texts."""
    one, two = ({text[i : i + 5] for i in range(max(1, len(text) - 4))} for text in map(normalised, (a, b)))
    return len(one & two) / len(one | two)


# --- the split -----------------------------------------------------------------------------------------------------------------------------


def test_split_by_default(tmp_path: Path) -> None:
    """The files that later stages read are not there, or labels do not mean what classes.json says."""
    rows = [(text, ["10", "9", "2"][place % 3]) for place, text in enumerate(sentences(60))]
    card = run(tmp_path, rows)
    train, test = read(tmp_path, "train"), read(tmp_path, "test")
    classes = json.loads((tmp_path / "out" / "classes.json").read_text())
    assert classes == ["2", "9", "10"]
    assert (len(train), len(test)) == (48, 12)
    label_of = dict(rows)
    for side in (train, test):
        assert [classes[label] for label in side.labels] == [label_of[text] for text in side.texts]
        assert side.numbers.tolist() == sorted(side.numbers)
        assert all(rows[number - 2][0] == text for number, text in zip(side.numbers, side.texts, strict=True))
    assert card["split"] == {
        "method": "stratified hold-out, after deduplication",
        "test_share": 0.2,
        "seed": 0,
        "train_rows": 48,
        "test_rows": 12,
    }
    assert not (tmp_path / "out" / "traffic.parquet").exists()


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.lists(st.integers(5, 40), min_size=2, max_size=5),
    share=st.sampled_from([0.1, 0.2, 0.33, 0.5]),
    seed=st.integers(0, 3),
    noise=st.randoms(use_true_random=False),
)
def test_split_properties(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], share: float, seed: int, noise: random.Random
) -> None:
    """A text or its near-duplicate stands on both sides; a class is over- or under-drawn; a second run splits otherwise."""
    folder = tmp_path_factory.mktemp("p")
    labels = [f"class {number}" for number, size in enumerate(sizes) for _ in range(size)]
    base = [(text, label) for text, label in zip(sentences(len(labels), seed, words=10), labels, strict=True)]
    copies = [(text, label) for text, label in base for _ in range(noise.choice((0, 0, 1, 2)))]
    copies = [(noise.choice((text.upper(), f"  {text}", text + "!", text.replace(" ", "  "))), label) for text, label in copies]
    rows = [*base, *copies]
    noise.shuffle(rows)
    try:
        run(folder, rows, seed=seed, test_share=share)
    except DataError as error:
        assert "fewer than the" in str(error)
        return
    train, test = read(folder, "train"), read(folder, "test")
    first = [(folder / "out" / name).read_bytes() for name in ("train.parquet", "test.parquet", "card.json")]
    run(folder, rows, seed=seed, test_share=share)
    assert first == [(folder / "out" / name).read_bytes() for name in ("train.parquet", "test.parquet", "card.json")]

    assert not {*train.keys} & {*test.keys}
    assert len({normalised(text) for text in train.texts + test.texts}) == len(train) + len(test)
    assert not [(a, b) for a in train.texts for b in test.texts if jaccard(a, b) >= 0.9]
    kept = Counter([*train.labels.tolist(), *test.labels.tolist()])
    held = Counter(test.labels.tolist())
    assert sum(kept.values()) == len(base)
    assert all(abs(held[label] - size * len(test) / len(base)) <= 1 for label, size in kept.items())


def test_another_seed_is_another_split(tmp_path: Path) -> None:
    """The seed of the recipe changes nothing."""
    run(tmp_path, rows_of(60), seed=0)
    first = read(tmp_path, "test").keys
    run(tmp_path, rows_of(60), seed=1)
    assert read(tmp_path, "test").keys != first


# --- duplicates ----------------------------------------------------------------------------------------------------------------------------


def test_exact_duplicates_and_conflicts(tmp_path: Path) -> None:
    """Case, spaces or Unicode forms keep a copy of a test row in training; contradicting labels are resolved by file order."""
    rows = rows_of(40)
    extra = [
        ("Same Text here", "a"),
        ("same  text HERE", "b"),
        ("ｓame text here", "b"),
        ("a tie between two", "a"),
        ("A tie between two", "b"),
    ]
    card = run(tmp_path, [*rows, *extra, rows[0], rows[0]])
    facts = card["files"]["train"]
    assert facts["rows_read"] == 47
    assert facts["exact_duplicates_removed"] == 3
    assert facts["conflicting_labels"] == {
        "texts": 2,
        "resolved_by_majority": 1,
        "rows_outvoted": 1,
        "rows_dropped_as_ties": 2,
        "examples": [
            {"text": "Same Text here", "labels": {"b": 2, "a": 1}, "kept": "b"},
            {"text": "a tie between two", "labels": {"a": 1, "b": 1}, "kept": None},
        ],
    }
    assert facts["rows_left"] == 41
    everything = [read(tmp_path, "train"), read(tmp_path, "test")]
    found = {text: int(label) for side in everything for text, label in zip(side.texts, side.labels, strict=True)}
    assert found["same  text HERE"] == 1
    assert "a tie between two" not in found
    assert "train: 2 texts stand with more than one label" in card["warnings"]


def test_near_duplicates(tmp_path: Path) -> None:
    """A copy with one more question mark is trained on and tested on."""
    rows = rows_of(40)
    twin = (rows[3][0] + " ?", rows[3][1])
    card = run(tmp_path, [*rows, twin])
    near = card["files"]["train"]["near_duplicates"]
    assert near["removed"] == 1
    assert near["examples"] == [
        {"kept": rows[3][0], "removed": twin[0], "similarity": round(jaccard(rows[3][0], twin[0]), 3), "at": [5, 42]}
    ]
    assert run(tmp_path, [*rows, twin], near_duplicate=1)["files"]["train"]["near_duplicates"]["removed"] == 0


# --- a test file and traffic ---------------------------------------------------------------------------------------------------------------


def test_leaks_are_taken_out_of_the_test_file(tmp_path: Path) -> None:
    """The student is praised for rows that it was trained on."""
    train, test = rows_of(40), rows_of(30, seed=1)
    leaks = [(train[0][0].upper(), "a"), (train[1][0] + " ?", "b")]
    card = run(tmp_path, train, test=[*test, *leaks])
    assert card["leaks_removed"]["test_in_train"] == {
        "exact": 1,
        "near": 1,
        "examples": [
            {"kept": train[1][0], "removed": leaks[1][0], "similarity": round(jaccard(train[1][0], leaks[1][0]), 3)},
        ],
    }
    assert read(tmp_path, "test").texts == [text for text, _ in test]
    assert len(read(tmp_path, "train")) == 40
    assert card["split"]["method"] == "test file"
    assert "test: 2 rows also stood in training and were taken out" in card["warnings"]


def test_traffic(tmp_path: Path) -> None:
    """The teacher labels the test set for the student."""
    train, test = rows_of(40), rows_of(30, seed=1)
    new = sentences(3, seed=2)
    lines = [new[0], test[0][0], test[1][0] + " ?", train[0][0], train[1][0] + " ?", new[1], new[0], "", new[2]]
    card = run(tmp_path, train, test=test, traffic="\n".join(lines))
    traffic = read(tmp_path, "traffic")
    assert traffic.texts == [new[0], train[1][0] + " ?", new[1], new[2]]
    assert set(traffic.labels.tolist()) == {-1}
    assert card["files"]["traffic"]["exact_duplicates_removed"] == 1
    assert (card["leaks_removed"]["traffic_in_test"]["exact"], card["leaks_removed"]["traffic_in_test"]["near"]) == (1, 1)
    assert card["leaks_removed"]["traffic_in_train"]["exact"] == 1


REVIEWS = [
    ("Too long. The cast is good!<br /><br />See it.", "imdb"),
    ("Dull from the first minute to the last one.", "imdb"),
    ("Not of this source. Leave it.", "other"),
]


def with_reviews(folder: Path, **options: Any) -> list[str]:
    """The texts of these reviews that come out as traffic."""
    file = save(folder, "reviews.csv", REVIEWS, ("review", "source"))
    data = Data.model_validate({"train": "train.csv", "traffic": {"file": "reviews.csv", "text": "review", **options}})
    (folder / "out").mkdir(exist_ok=True)
    prepare.run(folder / "out", prepare.Params(data), train=save(folder, "train.csv", rows_of(40)), traffic=file)
    return read(folder, "traffic").texts


def test_traffic_of_one_kind_is_cut_into_texts(tmp_path: Path) -> None:
    """A student for sentences is shown whole reviews, or what a bracketed group of the expression matched; or rows that nobody asked for."""
    only = {"column": "source", "value": "imdb"}
    long = REVIEWS[1][0]
    assert with_reviews(tmp_path) == [text for text, _ in REVIEWS]
    assert with_reviews(tmp_path, only=only) == [text for text, _ in REVIEWS[:2]]
    assert with_reviews(tmp_path, only=only, split=r"(<br />)+|(?<=[.!?])\s+") == ["Too long.", "The cast is good!", "See it.", long]
    card = json.loads((tmp_path / "out" / "card.json").read_text())
    counted = card["files"]["traffic"]
    assert (counted["rows_read"], counted["rows_of_another_kind"], counted["texts_cut"]) == (2, 1, 4)
    drawn = with_reviews(tmp_path, split=r"(?<=[.!?])\s+", rows=3)
    assert len(drawn) == 3 and drawn == with_reviews(tmp_path, split=r"(?<=[.!?])\s+", rows=3)
    assert len(with_reviews(tmp_path, rows=99)) == 3


def test_traffic_of_several_files(tmp_path: Path) -> None:
    """The second file is left out, a text of both stands twice, or one of the test set comes in by the second."""
    train, test, new = rows_of(40), rows_of(30, seed=1), sentences(4, seed=2)
    queries = [f"{number}\t{text}" for number, text in enumerate([new[2], new[1] + " ?", test[0][0], new[3]])]
    for name, lines in (("log.txt", new[:2]), ("queries.tsv", queries)):
        (tmp_path / name).write_text("\n".join(lines), encoding="utf-8")
    traffic = [{"file": "log.txt"}, {"file": "queries.tsv", "pattern": r"\d+\t(?P<text>.*)"}]
    data = Data.model_validate({"train": "train.csv", "test": "test.csv", "traffic": traffic})
    files = {"train": save(tmp_path, "train.csv", train), "test": save(tmp_path, "test.csv", test)}
    out = tmp_path / "out"
    out.mkdir()
    prepare.run(out, prepare.Params(data), **files, traffic=tmp_path / "log.txt", traffic_2=tmp_path / "queries.tsv")
    assert read(tmp_path, "traffic").texts == [*new[:2], new[2], new[3]]
    leaks = json.loads((out / "card.json").read_text())["leaks_removed"]
    assert leaks["traffic_in_test"]["exact"] == 1 and leaks["traffic_in_traffic"] == {"exact": 0, "near": 1}
    (tmp_path / "queries.tsv").write_text("no number\n")
    with pytest.raises(DataError, match=r"queries\.tsv: no row can be used: does not match the pattern"):
        prepare.run(out, prepare.Params(data), **files, traffic=tmp_path / "log.txt", traffic_2=tmp_path / "queries.tsv")


def test_an_unlabelled_training_file_is_read_as_asked(tmp_path: Path) -> None:
    """The pattern is passed over where nobody labelled the rows: the texts of sentence search began with their class."""
    texts = sentences(40)
    (tmp_path / "train.txt").write_text("\n".join(f"AB:c {text}" for text in texts), encoding="utf-8")
    data = Data(train="train.txt", labelled=False, format="lines", pattern=r"\w+:\w+ (?P<text>.*)")
    (tmp_path / "out").mkdir()
    prepare.run(tmp_path / "out", prepare.Params(data, task="embed"), train=tmp_path / "train.txt")
    assert {*read(tmp_path, "train").texts, *read(tmp_path, "test").texts} == {*texts}


@given(texts=st.lists(st.text(alphabet="ab .", max_size=12), max_size=4), at=st.sampled_from([r"\s+", r"(\.)", r"(?<=a)", r"x*"]))
def test_cut_loses_only_what_matches(texts: list[str], at: str) -> None:
    """A piece is lost or stands twice."""
    sample = prepare._Sample(texts, [None] * len(texts), list(range(len(texts))), [[] for _ in texts])
    cut = prepare._cut(sample, re.compile(at))
    for number, text in enumerate(texts):
        mine = [piece for piece, place in zip(cut.texts, cut.numbers, strict=True) if place == number]
        assert "".join("".join(mine).split()) == "".join(re.sub(at, "", text).split())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"only": {"column": "source", "value": "imbd"}}, 'no row has source = "imbd" (data.traffic.only). Did you mean "imdb"?'),
        (
            {"only": {"column": "sauce", "value": "imdb"}},
            'there is no column "sauce", which data.traffic.only names. Did you mean "source"?',
        ),
        ({"split": "(?s).+"}, "cut at (?s).+ (data.traffic.split), nothing is left of any text."),
    ],
)
def test_traffic_that_cannot_be_had(tmp_path: Path, options: dict[str, Any], said: str) -> None:
    """Nothing is said, or a student learns from no traffic at all."""
    with pytest.raises(DataError) as caught:
        with_reviews(tmp_path, **options)
    assert "reviews.csv" in str(caught.value) and said in str(caught.value)


# --- slices and the card -------------------------------------------------------------------------------------------------------------------


def test_user_slices(tmp_path: Path) -> None:
    """The user's slices are left out of the rows, or a slice named like a built-in one is mixed with it."""
    rows = [(text, label, "phone" if place < 30 else "web") for place, (text, label) in enumerate(rows_of(60))]
    card = run(
        tmp_path,
        rows,
        header=("text", "label", "from where"),
        slices={"phone": SliceByColumn(column="from where", value="phone"), "digits": "kabar", "none": "xyz"},
    )
    test = read(tmp_path, "test")
    assert [("phone" in names) for names in test.slices] == [number < 32 for number in test.numbers]
    assert [("digits" in names) for names in test.slices] == ["kabar" in text for text in test.texts]
    entry = {entry["name"]: entry for entry in card["slices"]}
    assert entry["phone"] == {
        "name": "phone",
        "rows": sum("phone" in names for names in test.slices),
        "about": "from where = phone",
        "built_in": False,
    }
    assert entry["empty_after_trimming"]["rows"] == 0
    assert "slice none: no test row belongs to it" in card["warnings"]


def test_card_describes_the_data(tmp_path: Path) -> None:
    """The report has nothing to show of classes, lengths and scripts."""
    rows = [*rows_of(38), ("привет мир", "a"), ("x" * 3000, "b")]
    card = run(tmp_path, rows)
    assert set(card) == {"task", "files", "leaks_removed", "split", "classes", "lengths", "scripts", "slices", "warnings"}
    assert [entry["train_rows"] + entry["test_rows"] for entry in card["classes"]] == [20, 20]
    assert set(card["lengths"]["train"]["words"]) == {"min", "p50", "p90", "p99", "max"}
    assert set(card["scripts"]["train"]) | set(card["scripts"]["test"]) == {"Latin", "Cyrillic"}
    assert "the test set has 8 rows: one row is 12.5%, so small differences cannot be told" in card["warnings"]


def test_a_swallowed_row_is_pointed_at() -> None:
    """A stray quote that made one text of a thousand lines goes unseen (it does in a well-known SMS corpus)."""
    table = prepare.lengths(["a short text"] * 500 + ["x" * 28_000])
    assert prepare.odd_length(table) == (
        "the longest text has 28000 characters, 2333 times the 99th percentile: rows may have run together at a stray quote"
    )
    assert prepare.odd_length(prepare.lengths(["a short text"] * 500)) == ""


def test_params_are_plain_json() -> None:
    """The store cannot make a key of the params."""
    params = prepare.Params(Data(train="a.csv", slices={"x": SliceByColumn(column="c", value="v")}), 3)
    assert json.loads(json.dumps(plain(params)))["data"]["slices"] == {"x": {"column": "c", "value": "v"}}
    assert replace(params, seed=4).seed == 4


# --- what is refused -----------------------------------------------------------------------------------------------------------------------


def test_bad_rows_stop(tmp_path: Path) -> None:
    """Rows without text or label are trained on as "nan", or are left out without a word."""
    rows = [*rows_of(40), ("", "a"), ("nan", "a"), (" \u200b\t", "b"), ("fine", ""), ("fine too", "NaN"), ("x" * 200, "a")]
    stop = error_of(tmp_path, rows, max_chars=150)
    assert stop == (
        "train.csv: 6 of 46 rows cannot be used: no label (lines 45, 46), no text (lines 42, 43), "
        "text empty after trimming (line 44), text longer than max_chars = 150 (line 47). "
        'Correct them, or write bad_rows = "drop" under [data] to leave them out and count them.'
    )
    card = run(tmp_path, rows, max_chars=150, bad_rows="drop")
    assert card["files"]["train"]["bad_rows"]["total"] == 6
    assert card["files"]["train"]["bad_rows"]["by_reason"][0] == {"reason": "no label", "rows": 2, "first": [45, 46]}
    assert card["files"]["train"]["rows_left"] == 40
    about = next(entry["about"] for entry in card["slices"] if entry["name"] == "empty_after_trimming")
    assert about == "nothing to read, so not a row but a bad row: 1 left out"


def test_many_bad_rows_are_not_all_listed(tmp_path: Path) -> None:
    """An error of ten thousand line numbers."""
    assert "no label (lines 2, 3, 4, 5, 6 and 95 more)" in error_of(tmp_path, [(text, "") for text in sentences(100)] + rows_of(20, 1))


def test_nothing_usable(tmp_path: Path) -> None:
    """With bad_rows = "drop", a wrong column leaves nothing, and the error is one about an empty array."""
    assert error_of(tmp_path, [("a", ""), ("b", "")], bad_rows="drop") == "train.csv: no row can be used: no label (lines 2, 3)."
    assert error_of(tmp_path, [("a",), ("b",)], bad_rows="drop") == (
        "train.csv: no row can be used: not as many fields as the header's 2 (lines 2, 3)."
    )


def test_missing_column(tmp_path: Path) -> None:
    """KeyError for a mistyped column or slice."""
    assert error_of(tmp_path, rows_of(20), label="lable") == (
        'train.csv: there is no column "lable", which data.label names. Did you mean "label"? The columns are "text", "label". '
        "Write label = … under [data]."
    )
    assert error_of(tmp_path, rows_of(20), slices={"phone": SliceByColumn(column="labl", value="a")}) == (
        'train.csv: there is no column "labl", which data.slices.phone names. Did you mean "label"? The columns are "text", "label". '
        "Write slices.phone = … under [data]."
    )


def test_one_class(tmp_path: Path) -> None:
    """A model that always says the same is trained, and is right every time."""
    assert error_of(tmp_path, [(text, "spam") for text in sentences(20)]) == (
        'train.csv: all 20 usable rows have the one class "spam"; there is nothing to tell apart. '
        "Give rows of at least two classes, or name the column of the classes with label = … under [data]."
    )


def test_all_duplicates(tmp_path: Path) -> None:
    """A file of two texts repeated is split into the same rows on both sides."""
    assert error_of(tmp_path, [("yes please", "a"), ("No thanks", "b")] * 30) == (
        "train.csv: only 2 rows of 2 classes are left of 60: 0 could not be used, 58 were exact and 0 near duplicates, "
        "0 contradicted each other. Give at least 10 different texts of two classes; "
        "near_duplicate = 1 under [data] removes exact ones only."
    )


def test_class_of_one_row(tmp_path: Path) -> None:
    """scikit-learn's "least populated class in y has only 1 member"."""
    assert error_of(tmp_path, [*rows_of(20), ("something quite rare", "rare"), ("Something quite  rare", "rare")]) == (
        "train.csv: 1 of 3 classes has a single row left after duplicates were removed and cannot stand on both sides of the split: "
        '"rare". Add rows, merge it with another class, or give a test file with test = … under [data].'
    )


def test_more_classes_than_test_rows(tmp_path: Path) -> None:
    """scikit-learn's "test_size should be greater or equal to the number of classes"."""
    rows = [(text, str(place % 6)) for place, text in enumerate(sentences(12))]
    assert error_of(tmp_path, rows) == (
        "train.csv: test_share = 0.2 leaves 3 of 12 rows on one side of the split, fewer than the 6 classes. "
        "Add rows, write a test_share nearer to 0.5 under [data], or give a test file with test = …."
    )


def test_class_without_training_row(tmp_path: Path) -> None:
    """A large test_share takes all rows of a class, and the student never hears of it."""
    rows = [(text, "rare" if place < 2 else "ab"[place % 2]) for place, text in enumerate(sentences(60))]
    assert error_of(tmp_path, rows, test_share=0.85) == (
        'train.csv: test_share = 0.85 leaves no training row of 1 class: "rare". '
        "Write a smaller test_share under [data], or add rows for them."
    )


def test_unseen_labels(tmp_path: Path) -> None:
    """Test rows that no student could get right pull its accuracy down, or shift all class numbers."""
    test = [*rows_of(20, seed=1), ("quite another thing", "c"), ("and one more of them", "c"), ("a third thing to ask", "d d")]
    assert error_of(tmp_path, rows_of(40), test=test) == (
        'test.csv: 2 labels in the test file that training never has: "c" (2 rows), "d d" (1 row). '
        "Add training rows for them, or take these rows out of the test file."
    )
    named = [(text, "refund") for text, _ in rows_of(20, seed=3)]
    test = [*rows_of(20, seed=1), ("quite another thing", "refnud")]
    assert 'Did you mean "refund"? Add training rows' in error_of(tmp_path, [*rows_of(40), *named], test=test)


def test_test_file_is_the_training_file(tmp_path: Path) -> None:
    """train and test name one file, and every figure is perfect."""
    assert error_of(tmp_path, rows_of(40), test=rows_of(40)) == (
        "test.csv: every row of the test file also stands in the training file. "
        "Give other test rows, or leave test out: rows are then held out of train."
    )


def test_labels_as_pandas_floats(tmp_path: Path) -> None:
    """The class "1.0" of a csv with one empty cell is not the class "1" of the test file; a version "1.10" is cut."""
    train = [(text, ["0.0", "1.0"][place % 2]) for place, text in enumerate(sentences(40))]
    test = [(text, ["0", "1"][place % 2]) for place, text in enumerate(sentences(20, seed=1))]
    run(tmp_path, train, test=test)
    assert json.loads((tmp_path / "out" / "classes.json").read_text()) == ["0", "1"]
    assert prepare.without_point_zero(["1.0", "1.10"]) == ["1.0", "1.10"]


# --- other tasks, other labels ----------------------------------------------------------------------------------------------------------


def test_classes_are_made_from_a_column(tmp_path: Path) -> None:
    """Rows between two classes put into one of them, or left out without a word."""
    values = ["-2.5", "-0.5", "0.1", "0.5", "3"] * 12
    card = run(
        tmp_path, list(zip(sentences(60), values, strict=True)), classes={"negative": "<= -0.5", "positive": [">= 0.5"]}
    )  # fmt: skip
    assert {entry["name"]: entry["train_rows"] + entry["test_rows"] for entry in card["classes"]} == {"negative": 24, "positive": 24}
    assert card["files"]["train"]["rows_of_no_class"] == 12
    assert "train: 12 of 60 rows are of no class that [data.classes] makes" in card["warnings"]


def test_class_rules_by_hand() -> None:
    """A value compared as text ("10" < "9"), or a comparison that takes words."""
    rules = {"low": ["< 9", "none"], "high": ">= 9"}
    assert [prepare.class_of(value, rules) for value in ("8.9", "10", "none", "much")] == ["low", "high", "low", None]


def test_rows_behind_the_header_are_skipped(tmp_path: Path) -> None:
    """The type rows of an Orange file taken for examples."""
    card = run(tmp_path, [("string", "discrete"), ("meta", "class"), *rows_of(40)], skip=2)
    assert card["files"]["train"]["rows_read"] == 40 and [entry["name"] for entry in card["classes"]] == ["a", "b"]


def prepared(folder: Path, task: str, lines: str, name: str = "train.jsonl", **options: Any) -> tuple[tables.Rows, dict[str, Any]]:
    """The training rows and the settings of a task."""
    (folder / name).write_text(lines, encoding="utf-8")
    (folder / "out").mkdir()
    labels = options.pop("labels", None)
    prepare.run(folder / "out", prepare.Params(Data(train=name, **options), 0, task, labels), train=folder / name)
    return tables.read_rows(folder / "out" / "train.parquet"), prepare.read_settings(folder / "out")


def test_spans_and_conll_are_the_same_rows(tmp_path: Path) -> None:
    """A CoNLL file and the same spans in jsonl that train two different models."""
    texts = sentences(40, words=4)
    spans = "".join(json.dumps({"text": text, "label": [[0, len(text.split()[0]), "X"]]}) + "\n" for text in texts)
    conll = "\n\n".join("\n".join(f"{word} {'B-X' if place == 0 else 'O'}" for place, word in enumerate(text.split())) for text in texts)
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    one, settings = prepared(tmp_path / "a", "tag", spans)
    other, _ = prepared(tmp_path / "b", "tag", conll, "train.conll", text="tokens", label="tags")
    assert (one.texts, one.targets) == (other.texts, other.targets)
    assert settings["labels"] == ["O", "B-X", "I-X"] and (one.labels == -1).all()


def test_bad_spans_stop_with_their_line(tmp_path: Path) -> None:
    """A span outside its text that silently teaches nothing."""
    lines = [json.dumps({"text": text, "label": []}) for text in sentences(20)]
    lines[4] = json.dumps({"text": "short text", "label": [[3, 99, "X"]]})
    with pytest.raises(DataError) as error:
        prepared(tmp_path, "tag", "\n".join(lines))
    assert str(error.value) == (
        "train.jsonl: 1 of 20 rows cannot be used: span 3–99 lies outside the text of 10 characters (line 5). "
        'Correct them, or write bad_rows = "drop" under [data] to leave them out and count them.'
    )


def test_labels_that_the_teacher_does_not_have(tmp_path: Path) -> None:
    """A ready-made teacher judged on labels that it can never give."""
    lines = "\n".join(json.dumps({"text": text, "label": [[0, 5, "NAME"]]}) for text in sentences(20, words=5) if text[5] == " ")
    with pytest.raises(DataError) as error:
        prepared(tmp_path, "tag", lines, labels=("O", "B-PER", "I-PER"))
    assert str(error.value) == (
        'train.jsonl: 1 label in the data that the teacher does not have: "NAME". It has "PER". '
        "Rename them in the data, leave these rows out, or take a teacher that can be fine-tuned."
    )


def test_unlabelled_rows_take_the_teachers_labels(tmp_path: Path) -> None:
    """Texts that nobody labelled asked for a label column."""
    rows, settings = prepared(
        tmp_path, "tag", "".join(json.dumps({"text": text}) + "\n" for text in sentences(30)), labels=("O", "X"), labelled=False
    )
    assert set(rows.targets) == {None} and settings["labels"] == ["O", "X"]
