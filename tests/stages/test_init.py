"""init: from a data file to a recipe that builds, with no question asked."""

from __future__ import annotations

import csv
import json
import random
import tomllib
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgedistill import recipe as recipes
from edgedistill.errors import DataError
from edgedistill.stages import init, prepare
from edgedistill.store import plain

TOPICS = {
    "billing": ["invoice", "payment", "refund", "card", "charge"],
    "technical": ["crash", "login", "error", "screen", "update"],
    "sales": ["price", "offer", "quote", "licence", "discount"],
}


def tickets(count: int = 120, seed: int = 0) -> list[tuple[str, str]]:
    draw = random.Random(seed)
    openings = ["I need help with the", "There is something wrong with my", "Could you please look at the", "Why do I see a"]
    closings = ["today", "since last week", "on my phone", "for our team", "again and again", "in Berlin", "please call me", "it is urgent"]
    rows = []
    for _ in range(count):
        label = draw.choice(list(TOPICS))
        words = " and ".join(draw.sample(TOPICS[label], 2))
        rows.append((f"{draw.choice(openings)} {words} {draw.choice(closings)}, number {draw.randint(1, 10**6)}", label))
    return rows


def save(path: Path, rows: list[Any], header: tuple[str, ...] = ("text", "label"), delimiter: str = ",", encoding: str = "utf-8") -> Path:
    with path.open("w", newline="", encoding=encoding) as file:
        csv.writer(file, delimiter=delimiter).writerows([header, *rows])
    return path


def data_of(profile: init.Profile) -> recipes.Data:
    return recipes.Data(**tomllib.loads(init.write_recipe(profile))["data"])


def test_awkward_columns(tmp_path: Path) -> None:
    """The index or a serial number is taken for the label, or a column's name breaks the recipe's TOML."""
    text, label = 'ticket body, "raw"\\ é\x7f', " queue = # ]"
    rows = [(place, 1000 + place, body, queue, "open") for place, (body, queue) in enumerate(tickets())]
    profile = init.look(save(tmp_path / "My tickets (2).csv", rows, ("", "id", text, label, "state"), ";", "latin-1"))
    assert (profile.text, profile.label, profile.delimiter, profile.encoding) == (text, label, ";", "latin-1")
    written = tomllib.loads(init.write_recipe(profile, train="tickets.csv"))
    assert written["name"] == "my-tickets-2"
    assert written["data"] == {"train": "tickets.csv", "text": text, "label": label, "encoding": "latin-1", "delimiter": ";"}
    out = tmp_path / "out"
    out.mkdir()
    prepare.run(out, prepare.Params(data_of(profile)), train=Path(profile.path))
    assert json.loads((out / "classes.json").read_text()) == sorted(TOPICS)


@pytest.mark.parametrize(
    ("header", "chosen"),
    [
        (("label", "text"), ("text", "label")),
        (("category", "ticketBody"), ("ticketBody", "category")),
        (("v1", "v2"), ("v2", "v1")),
        (("spam", "sms_message"), ("sms_message", "spam")),
    ],
)
def test_columns_by_name_and_content(tmp_path: Path, header: tuple[str, str], chosen: tuple[str, str]) -> None:
    """Text and label change places, or columns without telling names are not found."""
    profile = init.look(save(tmp_path / "a.csv", [(label, text) for text, label in tickets()], header))
    assert (profile.text, profile.label) == chosen


def test_numbers_as_labels(tmp_path: Path) -> None:
    """A label column of 0 and 1 is no label because it is numbers; a score with a hundred values is one."""
    draw = random.Random(0)
    frame = pd.DataFrame(
        [(text, float(label == "sales"), round(draw.random(), 2)) for text, label in tickets()], columns=["sentence", "y", "score"]
    )
    frame.to_parquet(tmp_path / "a.parquet")
    profile = init.look(tmp_path / "a.parquet")
    assert (profile.text, profile.label) == ("sentence", "y")
    assert {name for name, _ in profile.classes} == {"0", "1"}
    assert data_of(profile).format == "auto"


@pytest.mark.parametrize(
    ("line", "groups"),
    [
        ("__label__{label} {text}", ["label", "text"]),
        ("{label}\t{text}", ["label", "text"]),
        ("{text}\t{label}", ["text", "label"]),
        ("{label}:sub {text}", ["label", "fine", "text"]),
        ("{label}: {text}", ["label", "text"]),
    ],
)
def test_plain_lines(tmp_path: Path, line: str, groups: list[str]) -> None:
    """A fastText or TREC file needs a pattern that its owner has to find out."""
    path = tmp_path / "a.txt"
    path.write_text("".join(line.format(text=text, label=label) + "\n" for text, label in tickets()))
    profile = init.look(path)
    assert {name for name, _ in profile.classes} == set(TOPICS)
    data = data_of(profile)
    assert data.format == "lines"
    assert data.pattern is not None
    assert [name for name in ("label", "fine", "text") if f"(?P<{name}>" in data.pattern] == sorted(
        groups, key=["label", "fine", "text"].index
    )


def test_what_it_says(tmp_path: Path) -> None:
    """Duplicates, bad rows, imbalance and contradictions are found out only after an hour of training."""
    rows = tickets(100)
    extra = [
        *rows[:30],
        ("", "billing"),
        ("no label here", ""),
        (rows[0][0], "sales" if rows[0][1] != "sales" else "billing"),
        ("one of a kind", "rare"),
    ]
    profile = init.look(save(tmp_path / "a.csv", [*rows, *extra]))
    lines = init.describe(profile)
    path = (tmp_path / "a.csv").as_posix()
    assert lines[0] == f'{path}: 134 rows (csv, utf-8, separated by ",")'
    assert lines[1].startswith('text: column "text"; ')
    assert lines[2].startswith('label: column "label"; 4 classes: ')
    assert lines[3].startswith("duplicates: 31 exact, ")
    assert lines[4] == "scripts: Latin 100.0%"
    shown = "\n".join(lines[5:])
    assert "Warning: 2 rows cannot be used: no label (line 133), no text (line 132)" in shown
    assert "Warning: the classes are out of balance: " in shown
    assert "Warning: 1 class has a single row and cannot be split; merge or remove first: rare" in shown
    assert "Warning: 1 text stands with more than one label; the majority's is kept, ties are removed" in shown
    assert all(line.startswith("Warning: ") for line in lines[5:])
    assert data_of(profile).bad_rows == "drop"
    assert json.loads(json.dumps(plain(profile)))["exact_duplicates"] == 31


def test_other_scripts_ask_for_another_teacher(tmp_path: Path) -> None:
    """An English teacher is proposed for Russian tickets."""
    russian = str.maketrans("abcdefghijklmnopqrstuvwxyz", "абцдефгхийклмнопярстувщхыз")
    profile = init.look(save(tmp_path / "a.csv", [(text.lower().translate(russian), label) for text, label in tickets()]))
    assert "multilingual" in tomllib.loads(init.write_recipe(profile))["teacher"]["model"]
    mixed = init.look(
        save(tmp_path / "b.csv", [(text.lower().translate(russian) if i % 2 else text, label) for i, (text, label) in enumerate(tickets())])
    )
    assert any(
        "the texts mix scripts (Latin, Cyrillic)" in line or "the texts mix scripts (Cyrillic, Latin)" in line
        for line in init.describe(mixed)
    )


def test_max_tokens_follow_the_lengths(tmp_path: Path) -> None:
    """Every student is built for 128 tokens, or long texts are cut off."""
    short = init.look(save(tmp_path / "a.csv", tickets()))
    long = init.look(save(tmp_path / "b.csv", [(f"{text} " * 30, label) for text, label in tickets()]))
    assert short.max_tokens == 32
    assert long.max_tokens == 512


def test_a_whole_recipe(tmp_path: Path) -> None:
    """What init writes is refused by compile."""
    path = tmp_path / "recipe.toml"
    path.write_text(init.write_recipe(init.look(save(tmp_path / "tickets.csv", tickets())), train="tickets.csv"), encoding="utf-8")
    recipe = recipes.read_recipe(path)
    assert (recipe.name, recipe.task, recipe.teacher.license, recipe.compile.targets) == (
        "tickets",
        "classify",
        "apache-2.0",
        ["laptop-x86"],
    )
    assert recipe.budget.accuracy_drop == 0.01


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
def test_any_string_is_valid_toml(text: str) -> None:
    """Some character of a column's name ends the string or the line."""
    assert tomllib.loads(f"key = {init._quoted(text)}  # {init._quoted(text)}")["key"] == text


@given(st.text(max_size=80))
def test_any_file_name_gives_a_name(name: str) -> None:
    """A file called "Ünïcode!.csv" gives a recipe whose name is refused."""
    slug = init._slug(f"x/{name}.csv")
    assert 1 <= len(slug) <= 64
    assert slug[0].isalnum()
    assert all(char.isascii() and (char.islower() or char.isdigit() or char == "-") for char in slug)


# --- what is refused -----------------------------------------------------------------------------------------------------------------------


def error_of(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        init.look(path)
    return str(caught.value).replace(str(path), path.name)


ADVICE = "Give a file with a column of texts and a column of classes, or write the recipe by hand."


def test_no_labels(tmp_path: Path) -> None:
    """A log without classes gives a recipe with some other column as the label."""
    rows = [(place, text, "web") for place, (text, _) in enumerate(tickets(40))]
    mean = f"{sum(len(text.split()) for _, text, _ in rows) / 40:.4g}"
    assert error_of(save(tmp_path / "a.csv", rows, ("id", "body", "source"))) == (
        "a.csv: no column looks like classes (a column with a few values that come back again and again). Seen: "
        f'"id" (numbers, all different); "body" ({mean} words on average, all different); "source" (one value only). {ADVICE}'
    )


def test_no_texts(tmp_path: Path) -> None:
    """A table of measurements gives a recipe with a number as the text."""
    rows = [(place, place % 7, "ab"[place % 2]) for place in range(40)]
    assert error_of(save(tmp_path / "a.csv", rows, ("id", "size", "kind"))).startswith("a.csv: no column looks like texts. Seen: ")


def test_lines_without_labels(tmp_path: Path) -> None:
    """Plain prose is cut at its first colon into labels."""
    path = tmp_path / "a.txt"
    path.write_text("\n".join(text for text, _ in tickets(30)))
    assert error_of(path) == (
        "a.txt: no known way of writing a label beside a text fits these lines. "
        'Give a csv, or write the recipe by hand with format = "lines" and pattern = "(?P<label>…) (?P<text>…)" under [data].'
    )


def test_missing_file(tmp_path: Path) -> None:
    """`edgedistill init` of a mistyped path ends in a traceback."""
    assert error_of(tmp_path / "a.csv") == "a.csv: there is no such file. Check the path; a relative path starts at the recipe's folder."
    assert error_of(tmp_path / "a") == ("a: there is no such file. Check the path; a relative path starts at the recipe's folder.")
