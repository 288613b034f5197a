"""Prepare: data files in, clean rows and a data card out.

A figure is worth what the test set is worth, so this stage is strict about it. Texts that are equal after normalisation, or nearly equal,
are one row (`duplicates`); only then is the test set held out, so a near-duplicate never stands on both sides. Its rows are marked with
the slices that they belong to (`slices`).

Everything that was removed is counted in `card.json`, with examples. Nothing is dropped silently: a row that cannot be used stops the
stage, unless the recipe says `bad_rows = "drop"`.

Writes `train.parquet`, `test.parquet` and `traffic.parquet` (see `tables.Rows`), `classes.json`, `card.json`, and `task.json` when the
task has more settings than its labels (tasks/).
"""

from __future__ import annotations

import json
import operator
import random
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from edgedistill import plugins, tables
from edgedistill.duplicates import near_duplicates, normalised
from edgedistill.errors import DataError, nearest
from edgedistill.recipe import Data, SliceByColumn, Traffic
from edgedistill.slices import BUILT_IN, Baseline, baseline, letters, slices_of, words
from edgedistill.store import Stage
from edgedistill.templates import draw_texts, read_templates

FEWEST_ROWS = 10  # below this no split, and no figure from it, means anything
EXAMPLES = 3
FIRST = 5  # line numbers named in an error and in the card
SHOWN_CHARS = 200
COMPARISON = re.compile(r"\s*(<=|>=|<|>)\s*(-?\d+(?:\.\d+)?)\s*")
COMPARE: dict[str, Callable[[float, float], bool]] = {"<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt}
MISSING = frozenset({"nan", "NaN", "<NA>", "#N/A"})  # what pandas and spreadsheets write for "nothing"


@dataclass(frozen=True)
class Params:
    """What changes the prepared rows. labels: the teacher's own, when they rule because it is used as it is."""

    data: Data
    seed: int = 0
    task: str = "classify"
    labels: tuple[str, ...] | None = None


def run(out: Path, params: Params, *, train: Path, test: Path | None = None, templates: Path | None = None, **traffic: Path) -> None:
    """Clean, deduplicate, split, decontaminate, describe. Raises DataError, whose text says which rows and what to write.

    traffic: the files of `Data.unlabelled`, by its names.
    """
    data, task = params.data, plugins.find("tasks", params.task)
    files: dict[str, Any] = {}
    leaks: dict[str, Any] = {}

    train_rows, files["train"] = _load(train, data, data.train, task, labelled=data.labelled, sliced=test is None)
    if templates is not None:
        drawn = draw_texts(read_templates(templates, data.templates or str(templates)), data.template_rows, params.seed)
        train_rows = train_rows.and_drawn(drawn)
        files["train"]["drawn_from_templates"] = len(drawn)
    if data.labelled and params.task == "classify":
        _two_classes(train_rows, files["train"])
    train_rows = _deduplicated(train_rows, files["train"], data.near_duplicate)
    _enough_left(train_rows, files["train"], task, one_side=test is None)
    if test is not None:
        test_rows, files["test"] = _load(test, data, data.test or str(test), task, labelled=data.labelled, sliced=True)
        test_rows = _deduplicated(test_rows, files["test"], data.near_duplicate)
        test_rows, leaks["test_in_train"] = _without_leaks(test_rows, train_rows, data.near_duplicate)
        if not test_rows.texts:
            raise DataError(
                "every row of the test file also stands in the training file.",
                where=files["test"]["source"],
                write="Give other test rows, or leave test out: rows are then held out of train.",
            )
        _known_labels(test_rows, train_rows, task, files["test"]["source"])
        split: dict[str, Any] = {"method": "test file", "test_share": None, "seed": None}
    else:
        train_rows, test_rows = _held_out(train_rows, data.test_share, params.seed, files["train"]["source"], task)
        stratified = all(task.stratum(target) is not None for target in train_rows.targets)
        split = {
            "method": f"{'stratified' if stratified else 'random'} hold-out, after deduplication",
            "test_share": data.test_share,
            "seed": params.seed,
        }

    settings = task.settings([target for target in train_rows.targets if target is not None], data, params.labels)
    classes = settings["labels"]
    _labels_of_the_teacher(train_rows, task, settings, params.labels, files["train"]["source"])
    base = baseline(train_rows.texts)
    slices = [
        sorted({*slices_of(text, base)} - {*data.slices} | {*marks}) for text, marks in zip(test_rows.texts, test_rows.marks, strict=True)
    ]
    tables.write_rows(out / "train.parquet", _as_rows(train_rows, task, settings))
    tables.write_rows(out / "test.parquet", _as_rows(test_rows, task, settings, slices))
    samples = {"train": train_rows, "test": test_rows}
    if traffic:
        rows = _Sample([], [], [], [])
        for name, asked in data.unlabelled().items():
            usable, files[name] = _load_traffic(traffic[name], asked, params, task)
            rows = rows.and_all(_deduplicated(usable, files[name], data.near_duplicate))
        if len(traffic) > 1:
            joined: dict[str, Any] = {}
            rows = _deduplicated(rows, joined, data.near_duplicate)
            leaks["traffic_in_traffic"] = {"exact": joined["exact_duplicates_removed"], "near": joined["near_duplicates"]["removed"]}
        rows, leaks["traffic_in_test"] = _without_leaks(rows, test_rows, data.near_duplicate)
        rows, leaks["traffic_in_train"] = _without_leaks(rows, train_rows, 1.0)  # a variant of a training text is welcome
        samples["traffic"] = rows
        tables.write_rows(out / "traffic.parquet", _as_rows(rows, task, settings))

    class_table = _class_table(task, settings, train_rows, test_rows)
    slice_table = _slice_table(slices, base, data, files)
    length_table = {name: lengths(sample.texts) for name, sample in samples.items()}
    card = {
        "task": params.task,
        "files": files,
        "leaks_removed": leaks,
        "split": {**split, "train_rows": len(train_rows.texts), "test_rows": len(test_rows.texts)},
        "classes": class_table,
        "lengths": length_table,
        "scripts": {name: scripts(sample.texts) for name, sample in samples.items()},
        "slices": slice_table,
        "warnings": _warnings(class_table, slice_table, length_table, files, leaks, len(test_rows.texts)),
    }
    (out / "classes.json").write_text(json.dumps(classes, ensure_ascii=False), encoding="utf-8")
    more = {name: value for name, value in settings.items() if name != "labels"}
    if more:
        (out / "task.json").write_text(json.dumps(more, ensure_ascii=False), encoding="utf-8")
    (out / "card.json").write_text(json.dumps(card, ensure_ascii=False, indent=1), encoding="utf-8")


PREPARE = Stage("prepare", 3, run, packages=("datasketch", "pyarrow", "scikit-learn"))


def read_settings(prepared: Path) -> dict[str, Any]:
    """The task's settings on this data, as tasks/ explains them."""
    more = json.loads((prepared / "task.json").read_text(encoding="utf-8")) if (prepared / "task.json").is_file() else {}
    return {"labels": json.loads((prepared / "classes.json").read_text(encoding="utf-8")), **more}


# --- reading and cleaning ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Sample:
    """Usable rows of one file. marks: the user's slices that each row belongs to. targets: as the task reads them; None for unlabelled."""

    texts: list[str]
    targets: list[Any]
    numbers: list[int]
    marks: list[list[str]]

    @cached_property
    def labels(self) -> list[str]:
        """Targets as strings that are equal when the targets are; "" for unlabelled."""
        return ["" if target is None else target if isinstance(target, str) else json.dumps(target) for target in self.targets]

    def and_drawn(self, texts: Sequence[str]) -> _Sample:
        """With unlabelled texts behind its own."""
        return self.and_all(_Sample([*texts], [None] * len(texts), [0] * len(texts), [[] for _ in texts]))

    def and_all(self, other: _Sample) -> _Sample:
        """With the rows of another file behind its own."""
        return _Sample(
            [*self.texts, *other.texts], [*self.targets, *other.targets], [*self.numbers, *other.numbers], [*self.marks, *other.marks]
        )

    def take(self, places: Iterable[int]) -> _Sample:
        chosen = list(places)
        return _Sample(
            texts=[self.texts[place] for place in chosen],
            targets=[self.targets[place] for place in chosen],
            numbers=[self.numbers[place] for place in chosen],
            marks=[self.marks[place] for place in chosen],
        )


def _load(
    path: Path, data: Data, source: str, task: ModuleType, *, labelled: bool = True, sliced: bool = False
) -> tuple[_Sample, dict[str, Any]]:
    """The usable rows of a file, and its entry in the card. sliced: whether test rows come from it, which the user's slices are for."""
    table = _read(path, data, source, data.format, data.pattern, labelled=labelled, skip=data.skip)
    return _usable(table, data, source, task, labelled=labelled, sliced=sliced)


def _load_traffic(path: Path, asked: Traffic, params: Params, task: ModuleType) -> tuple[_Sample, dict[str, Any]]:
    """The unlabelled inputs as `[data.traffic]` asks for them: its rows of one kind, cut into several texts, so many by chance."""
    data = params.data.model_copy(update={"text": "text" if asked.pattern else asked.text or params.data.text})
    format = asked.format
    if asked.pattern:
        format = "lines"
    elif format == "auto" and path.suffix.lower() not in {*tables.ENDINGS, ".txt"}:
        format = data.format
    table = _read(path, data, asked.file, format, asked.pattern, labelled=False)
    rows = len(table)
    if asked.only is not None:
        values = tables.column(table, asked.only.column, key="data.traffic.only", option="only")
        table = table.take([place for place, value in enumerate(values) if value == asked.only.value])
        if not len(table):
            raise DataError(
                f'no row has {asked.only.column} = "{asked.only.value}" (data.traffic.only).',
                where=asked.file,
                write=nearest(asked.only.value, {value for value in values if value is not None}),
            )
    sample, facts = _usable(table, data, asked.file, task, labelled=False)
    facts["rows_of_another_kind"] = rows - len(table)
    if asked.split is not None:
        sample = _cut(sample, re.compile(asked.split))
        facts["texts_cut"] = len(sample.texts)
        if not sample.texts:
            raise DataError(f"cut at {asked.split} (data.traffic.split), nothing is left of any text.", where=asked.file)
    if asked.rows is not None and asked.rows < len(sample.texts):
        chosen = random.Random(f"traffic {params.seed}").sample(range(len(sample.texts)), asked.rows)  # noqa: S311  # a sample, not a secret
        sample = sample.take(sorted(chosen))
        facts["rows_drawn"] = asked.rows
    return sample, facts


def _cut(sample: _Sample, at: re.Pattern[str]) -> _Sample:
    """Each text cut wherever `at` matches, and what matches left out; so are empty pieces."""
    pieces = []
    for text, number in zip(sample.texts, sample.numbers, strict=True):
        ends = [0, *(edge for match in at.finditer(text) for edge in match.span()), len(text)]
        cut = [text[begin:end].strip() for begin, end in zip(ends[::2], ends[1::2], strict=True)]
        pieces += [(piece, number) for piece in cut if not is_blank(piece)]
    return _Sample([text for text, _ in pieces], [None] * len(pieces), [number for _, number in pieces], [[] for _ in pieces])


def _usable(
    table: tables.Table, data: Data, source: str, task: ModuleType, *, labelled: bool, sliced: bool = False
) -> tuple[_Sample, dict[str, Any]]:
    """The usable rows of a table, and its entry in the card."""
    if not len(table):
        raise DataError(f"no row can be used: {describe_bad(bad_rows(table.bad, table.unit))}.", where=source)
    rows_read = len(table) + len(table.bad)
    texts = _texts(table, data, task)
    labels: list[str | None] = _labels(table, data, task) if labelled else [None] * len(texts)
    if labelled and data.classes:
        table, texts, labels = _made_classes(table, texts, labels, data)
    marks = _marks(table, texts, data) if sliced else [[] for _ in texts]

    bad = list(table.bad)
    good: list[int] = []
    targets: list[Any] = []
    for place, (text, label) in enumerate(zip(texts, labels, strict=True)):
        reason, target = why_bad(text, label, data.max_chars, labelled=labelled), None
        if labelled and not reason:
            try:
                target = task.read((label or "").strip(), text, data)
            except ValueError as problem:
                reason = str(problem)
        targets.append(target)
        if reason:
            bad.append(tables.BadRow(table.numbers[place], reason))
        else:
            good.append(place)
    facts: dict[str, Any] = {
        "source": source,
        "format": table.format,
        "encoding": None if table.format == "parquet" else data.encoding,
        "delimiter": table.delimiter,
        "rows_read": rows_read,
        "rows_of_no_class": rows_read - len(table) - len(table.bad),
        "bad_rows": bad_rows(bad, table.unit),
    }
    if bad and data.bad_rows == "stop":
        raise DataError(
            f"{len(bad)} of {facts['rows_read']} rows cannot be used: {describe_bad(facts['bad_rows'])}.",
            where=source,
            write='Correct them, or write bad_rows = "drop" under [data] to leave them out and count them.',
        )
    if not good:
        raise DataError(f"no row can be used: {describe_bad(facts['bad_rows'])}.", where=source)
    everything = _Sample([text or "" for text in texts], targets, table.numbers, marks)
    return everything.take(good), facts


def _texts(table: tables.Table, data: Data, task: ModuleType) -> list[str | None]:
    """The texts; of a task that reads words, a column of lists of words is joined into texts."""
    joined = getattr(task, "joined", None)
    cells = tables.column(table, data.text, key="data.text", lists=joined is not None)
    return [cell and joined(cell) for cell in cells] if joined and data.text in table.lists else cells


def _labels(table: tables.Table, data: Data, task: ModuleType) -> list[str | None]:
    if isinstance(data.label, list):
        columns = [tables.column(table, name, key="data.label") for name in data.label]
        return [None if None in cells else json.dumps(cells) for cells in zip(*columns, strict=True)]
    return without_point_zero(tables.column(table, data.label, key="data.label", lists=getattr(task, "LISTS", False)))


def _made_classes(
    table: tables.Table, texts: list[str | None], labels: list[str | None], data: Data
) -> tuple[tables.Table, list[str | None], list[str | None]]:
    """Classes out of a column's values by the rules of `[data.classes]`; rows that no rule takes are left out."""
    found = [None if label is None else class_of(label.strip(), data.classes) for label in labels]
    kept = [place for place, name in enumerate(found) if name is not None or labels[place] is None]
    return table.take(kept), [texts[place] for place in kept], [found[place] for place in kept]


def class_of(value: str, rules: Mapping[str, str | list[str]]) -> str | None:
    """The class of a value: the first whose rule takes it. A rule is a value, a list of values, or a comparison such as `<= -0.5`."""
    for name, rule in rules.items():
        for wanted in [rule] if isinstance(rule, str) else rule:
            compared = COMPARISON.fullmatch(wanted)
            if compared is None:
                if value == wanted:
                    return name
                continue
            try:
                number = float(value)
            except ValueError:
                continue
            if COMPARE[compared[1]](number, float(compared[2])):
                return name
    return None


def _read(path: Path, data: Data, source: str, format: str, pattern: str | None, *, labelled: bool, skip: int = 0) -> tables.Table:
    """A data file; a plain text file of unlabelled inputs has one a line."""
    if format == "auto" and not labelled and pattern is None and path.suffix.lower() == ".txt":
        format = "lines"
    table = tables.read_table(
        path, format=format, encoding=data.encoding, delimiter=data.delimiter, pattern=pattern, skip=skip, where=source
    )
    if table.format == "lines" and pattern is None:
        return tables.Table(table.where, table.format, {data.text: table.columns["text"]}, table.numbers, table.bad)
    return table


def why_bad(text: str | None, label: str | None, max_chars: int, *, labelled: bool = True) -> str:
    """Why a row cannot be used, or "". Whitespace, control and format characters (zero-width space) are nothing to read."""
    if text is None or text in MISSING:
        return "no text"
    if is_blank(text):
        return "text empty after trimming"
    if len(text) > max_chars:
        return f"text longer than max_chars = {max_chars}"
    if labelled and (label is None or label in MISSING or is_blank(label)):
        return "no label"
    return ""


def is_blank(text: str) -> bool:
    """Whether nothing is left of a text after trimming."""
    return not text.strip() or all(unicodedata.category(char) in {"Cc", "Cf", "Zs", "Zl", "Zp"} for char in text)


def without_point_zero(labels: Sequence[str | None]) -> list[str | None]:
    """`1.0` → `1` when all labels are so: pandas writes whole numbers as floats as soon as one cell is empty."""
    if all(label is None or label in MISSING or re.fullmatch(r"-?\d+\.0", label) for label in labels):
        return [label and label.removesuffix(".0") for label in labels]
    return list(labels)


def bad_rows(bad: Collection[tables.BadRow], unit: str) -> dict[str, Any]:
    """The card's entry for rows that cannot be used: how many, why, and where the first ones stand."""
    by_reason: dict[str, list[int]] = defaultdict(list)
    for row in bad:
        by_reason[row.reason].append(row.number)
    return {
        "total": len(bad),
        "unit": unit,
        "by_reason": [
            {"reason": reason, "rows": len(numbers), "first": sorted(numbers)[:FIRST]}
            for reason, numbers in sorted(by_reason.items(), key=lambda item: (-len(item[1]), item[0]))
        ],
    }


def describe_bad(facts: dict[str, Any]) -> str:
    """`no label (lines 5, 9), not valid JSON (line 88)`."""
    return ", ".join(f"{entry['reason']} ({_places(entry, facts['unit'])})" for entry in facts["by_reason"])


def _places(entry: dict[str, Any], unit: str) -> str:
    more = entry["rows"] - len(entry["first"])
    return f"{unit}{'s' * (entry['rows'] > 1)} {', '.join(map(str, entry['first']))}" + (f" and {more} more" if more else "")


def _marks(table: tables.Table, texts: Sequence[str | None], data: Data) -> list[list[str]]:
    """The user's slices of each row."""
    marks: list[list[str]] = [[] for _ in texts]
    for name, rule in sorted(data.slices.items()):
        if isinstance(rule, SliceByColumn):
            values = tables.column(table, rule.column, key=f"data.slices.{name}", option=f"slices.{name}")
            hits = [value == rule.value for value in values]
        else:
            compiled = re.compile(rule)
            hits = [bool(compiled.search(text or "")) for text in texts]
        for mark, hit in zip(marks, hits, strict=True):
            if hit:
                mark.append(name)
    return marks


def _two_classes(sample: _Sample, facts: dict[str, Any]) -> None:
    names = set(sample.labels)
    if len(names) < 2:
        raise DataError(
            f'all {len(sample.labels)} usable rows have the one class "{_short(names.pop())}"; there is nothing to tell apart.',
            where=facts["source"],
            write="Give rows of at least two classes, or name the column of the classes with label = … under [data].",
        )


# --- duplicates -------------------------------------------------------------------------------------------------------------------------


def _deduplicated(sample: _Sample, facts: dict[str, Any], threshold: float) -> _Sample:
    """One row for each text; what was removed is added to `facts`.

    Of equal texts with unequal labels the majority's label stays; at a tie nobody knows, and all of them go. Of near-duplicates the first
    stays.
    """
    groups: dict[str, list[int]] = defaultdict(list)
    for place, text in enumerate(sample.texts):
        groups[normalised(text)].append(place)
    kept: list[int] = []
    conflicts: list[dict[str, Any]] = []
    exact = tied = outvoted = 0
    for places in groups.values():
        votes = Counter(sample.labels[place] for place in places).most_common()
        if len(votes) > 1:
            tie = votes[0][1] == votes[1][1]
            conflicts.append({"text": _short(sample.texts[places[0]]), "labels": dict(votes), "kept": None if tie else votes[0][0]})
            if tie:
                tied += len(places)
                continue
            outvoted += len(places) - votes[0][1]
        kept.append(next(place for place in places if sample.labels[place] == votes[0][0]))
        exact += votes[0][1] - 1
    kept.sort()

    texts = list(groups)
    pairs = near_duplicates([normalised(sample.texts[place]) for place in kept], threshold)
    removed = {kept[pair.removed] for pair in pairs}
    facts |= {
        "exact_duplicates_removed": exact,
        "conflicting_labels": {
            "texts": len(conflicts),
            "resolved_by_majority": sum(conflict["kept"] is not None for conflict in conflicts),
            "rows_outvoted": outvoted,
            "rows_dropped_as_ties": tied,
            "examples": conflicts[:EXAMPLES],
        },
        "near_duplicates": {
            "removed": len(pairs),
            "threshold": threshold,
            "removed_with_another_label": sum(sample.labels[kept[pair.kept]] != sample.labels[kept[pair.removed]] for pair in pairs),
            "examples": [
                {
                    "kept": _short(sample.texts[kept[pair.kept]]),
                    "removed": _short(sample.texts[kept[pair.removed]]),
                    "similarity": round(pair.similarity, 3),
                    "at": [sample.numbers[kept[pair.kept]], sample.numbers[kept[pair.removed]]],
                }
                for pair in pairs[:EXAMPLES]
            ],
        },
        "unique_texts": len(texts),
        "rows_left": len(kept) - len(removed),
    }
    return sample.take(place for place in kept if place not in removed)


def _without_leaks(sample: _Sample, other: _Sample, threshold: float) -> tuple[_Sample, dict[str, Any]]:
    """The rows of `sample` that do not stand in `other`, exactly or nearly, and the card's entry about the rest."""
    mine = [normalised(text) for text in sample.texts]
    theirs = [normalised(text) for text in other.texts]
    known = set(theirs)
    exact = {place for place, text in enumerate(mine) if text in known}
    rest = [place for place in range(len(mine)) if place not in exact]
    pairs = near_duplicates([mine[place] for place in rest], threshold, against=theirs)
    near = {rest[pair.removed] for pair in pairs}
    facts = {
        "exact": len(exact),
        "near": len(near),
        "examples": [
            {
                "kept": _short(other.texts[pair.kept]),
                "removed": _short(sample.texts[rest[pair.removed]]),
                "similarity": round(pair.similarity, 3),
            }
            for pair in pairs[:EXAMPLES]
        ],
    }
    return sample.take(place for place in rest if place not in near), facts


def _enough_left(sample: _Sample, facts: dict[str, Any], task: ModuleType, *, one_side: bool) -> None:
    """Duplicates may leave too little to learn from, or a class too small to stand on both sides of a split."""
    sizes = Counter(task.stratum(target) for target in sample.targets if target is not None)
    stratified = bool(sizes) and None not in sizes
    conflicts = facts["conflicting_labels"]
    if len(sample.texts) < FEWEST_ROWS or (stratified and len(sizes) < 2):
        of_classes = f" of {len(sizes)} class{'es' * (len(sizes) != 1)}" if stratified else ""
        raise DataError(
            f"only {len(sample.texts)} rows{of_classes} are left of {facts['rows_read']}: "
            f"{facts['bad_rows']['total']} could not be used, {facts['exact_duplicates_removed']} were exact and "
            f"{facts['near_duplicates']['removed']} near duplicates, "
            f"{conflicts['rows_outvoted'] + conflicts['rows_dropped_as_ties']} contradicted each other.",
            where=facts["source"],
            write=f"Give at least {FEWEST_ROWS} different texts{' of two classes' * stratified}; "
            "near_duplicate = 1 under [data] removes exact ones only.",
        )
    single = sorted(name for name, rows in sizes.items() if rows < 2) if stratified else []
    if one_side and single:
        one = len(single) == 1
        raise DataError(
            f"{len(single)} of {len(sizes)} classes {'has' if one else 'have'} a single row left after duplicates were removed "
            f"and cannot stand on both sides of the split: {_listed(single)}.",
            where=facts["source"],
            write=f"Add rows, merge {'it with another class' if one else 'them with other classes'}, "
            "or give a test file with test = … under [data].",
        )


# --- the split --------------------------------------------------------------------------------------------------------------------------


def _held_out(sample: _Sample, test_share: float, seed: int, source: str, task: ModuleType) -> tuple[_Sample, _Sample]:
    """A split; where the task has classes, a stratified one: each class has the same share in the test set, give or take one row."""
    from sklearn.model_selection import train_test_split

    strata = [task.stratum(target) for target in sample.targets]
    stratify = None if None in strata else strata
    classes = len(set(strata))
    count = len(sample.texts)
    held = int(np.ceil(test_share * count))
    if min(held, count - held) < classes:
        raise DataError(
            f"test_share = {test_share:g} leaves {min(held, count - held)} of {count} rows on one side of the split, "
            f"fewer than the {classes} classes.",
            where=source,
            write="Add rows, write a test_share nearer to 0.5 under [data], or give a test file with test = ….",
        )
    train, test = train_test_split(np.arange(count), test_size=test_share, random_state=seed, stratify=stratify)
    train_sample, test_sample = sample.take(sorted(train)), sample.take(sorted(test))
    lost = sorted({*_names(test_sample, task)} - {*_names(train_sample, task)})
    if lost:
        raise DataError(
            f"test_share = {test_share:g} leaves no training row of {len(lost)} class{'es' * (len(lost) > 1)}: {_listed(lost)}.",
            where=source,
            write="Write a smaller test_share under [data], or add rows for them.",
        )
    return train_sample, test_sample


def _names(sample: _Sample, task: ModuleType) -> Counter[str]:
    """The classes that stand in a sample's targets, and in how many rows each."""
    return Counter(name for target in sample.targets if target is not None for name in {*task.names(target, {})})


def _known_labels(test: _Sample, train: _Sample, task: ModuleType, source: str) -> None:
    known = _names(train, task)
    strange = Counter({name: rows for name, rows in _names(test, task).items() if name not in known})
    if not strange:
        return
    listed = ", ".join(f'"{_short(name)}" ({rows} row{"s" * (rows > 1)})' for name, rows in sorted(strange.items())[:10])
    close = nearest(min(strange), known)
    advice = "Add training rows for them, or take these rows out of the test file."
    raise DataError(
        f"{len(strange)} label{'s' * (len(strange) > 1)} in the test file that training never has: {listed}.",
        where=source,
        write=f"{close} {advice}" if close.startswith("Did you mean") else advice,
    )


def _labels_of_the_teacher(train: _Sample, task: ModuleType, settings: dict[str, Any], labels: tuple[str, ...] | None, source: str) -> None:
    """A teacher that is used as it is can only answer in its own labels: rows that carry others cannot be judged."""
    if labels is None:
        return
    known = set(task.classes(settings))
    strange = sorted(name for name in _names(train, task) if name not in known)
    if strange:
        raise DataError(
            f"{len(strange)} label{'s' * (len(strange) > 1)} in the data that the teacher does not have: {_listed(strange)}. "
            f"It has {_listed(sorted(known))}.",
            where=source,
            write="Rename them in the data, leave these rows out, or take a teacher that can be fine-tuned.",
        )


def _as_rows(sample: _Sample, task: ModuleType, settings: dict[str, Any], slices: list[list[str]] | None = None) -> tables.Rows:
    targets = [None if target is None else task.number(target, settings) for target in sample.targets]
    return tables.make_rows(
        sample.texts,
        [target if isinstance(target, int) else -1 for target in targets],
        slices,
        sample.numbers,
        [None if target is None else json.dumps(target) for target in targets],
    )


# --- the card ---------------------------------------------------------------------------------------------------------------------------


def lengths(texts: Sequence[str]) -> dict[str, dict[str, int]]:
    """min, p50, p90, p99 and max of the texts' lengths, in characters and in words."""
    return {"characters": _spread([len(text) for text in texts]), "words": _spread([len(words(text)) for text in texts])}


def _spread(values: Sequence[int]) -> dict[str, int]:
    if not values:
        return {}
    points = np.percentile(values, [0, 50, 90, 99, 100], method="higher")
    return dict(zip(("min", "p50", "p90", "p99", "max"), map(int, points), strict=True))


def odd_length(table: dict[str, dict[str, int]]) -> str:
    """A remark when the longest text is out of all proportion, which a stray quote in a csv makes, else ""."""
    most, usual = table["characters"].get("max", 0), table["characters"].get("p99", 0)
    if most < 2000 or most < 20 * usual:
        return ""
    return f"the longest text has {most} characters, {most // usual} times the 99th percentile: rows may have run together at a stray quote"


def scripts(texts: Iterable[str]) -> dict[str, float]:
    """Which scripts the letters are in, as shares that add up to 1, the largest first."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(letters(text))
    total = counts.total()
    return {name: round(rows / total, 6) for name, rows in sorted(counts.items(), key=lambda item: (-item[1], item[0]))}


def _class_table(task: ModuleType, settings: dict[str, Any], train: _Sample, test: _Sample) -> list[dict[str, Any]]:
    in_train, in_test = _names(train, task), _names(test, task)
    total = len(train.texts)
    return [
        {"name": name, "train_rows": in_train[name], "test_rows": in_test[name], "train_share": round(in_train[name] / total, 4)}
        for name in task.classes(settings)
        if in_train or in_test
    ]


def _slice_table(slices: Sequence[Sequence[str]], base: Baseline, data: Data, files: dict[str, Any]) -> list[dict[str, Any]]:
    """Each slice with the number of its test rows and what it means."""
    counts = Counter(name for names in slices for name in names)
    about = {name: text.format(long_words=base.long_words) for name, (text, _) in BUILT_IN.items()}
    blank = sum(
        entry["rows"]
        for facts in files.values()
        for entry in facts["bad_rows"]["by_reason"]
        if entry["reason"] == "text empty after trimming"
    )
    about["empty_after_trimming"] = f"nothing to read, so not a row but a bad row: {blank} left out"
    for name, rule in data.slices.items():
        about[name] = f"{rule.column} = {rule.value}" if isinstance(rule, SliceByColumn) else f"matches {rule}"
    return [
        {"name": name, "rows": counts[name], "about": text, "built_in": name not in data.slices} for name, text in sorted(about.items())
    ]


def _warnings(
    classes: Sequence[dict[str, Any]],
    slices: Sequence[dict[str, Any]],
    length_table: dict[str, Any],
    files: dict[str, Any],
    leaks: dict[str, Any],
    test_rows: int,
) -> list[str]:
    """What a careful reader of the card would point at."""
    lines = []
    if test_rows < 200:
        lines.append(f"the test set has {test_rows} rows: one row is {1 / test_rows:.1%}, so small differences cannot be told")
    untested = [entry["name"] for entry in classes if not entry["test_rows"]]
    if untested:
        lines.append(f"no test row of {_listed(untested)}: nothing is known about how well these are recognised")
    rare = [entry["name"] for entry in classes if entry["train_rows"] < 10]
    if rare:
        lines.append(f"fewer than 10 training rows of {_listed(rare)}")
    lines += [f"{name}: {remark}" for name, table in length_table.items() if (remark := odd_length(table))]
    for name, facts in files.items():
        near = facts["near_duplicates"]
        if near["removed_with_another_label"]:
            lines.append(f"{name}: {near['removed_with_another_label']} near-duplicates had another label than the text that stayed")
        if facts["conflicting_labels"]["texts"]:
            conflicts = facts["conflicting_labels"]["texts"]
            lines.append(f"{name}: {conflicts} text{' stands' if conflicts == 1 else 's stand'} with more than one label")
        if facts.get("rows_of_no_class"):
            lines.append(f"{name}: {facts['rows_of_no_class']} of {facts['rows_read']} rows are of no class that [data.classes] makes")
        if facts["bad_rows"]["total"] > 0.1 * facts["rows_read"]:
            lines.append(f"{name}: {facts['bad_rows']['total']} of {facts['rows_read']} rows could not be used")
    leaked = leaks.get("test_in_train")
    if leaked and leaked["exact"] + leaked["near"]:
        lines.append(f"test: {leaked['exact'] + leaked['near']} rows also stood in training and were taken out")
    lines += [f"slice {entry['name']}: no test row belongs to it" for entry in slices if not entry["built_in"] and not entry["rows"]]
    return lines


def _listed(names: Sequence[str], most: int = 10) -> str:
    shown = ", ".join(f'"{_short(name)}"' for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")


def _short(text: str) -> str:
    return text if len(text) <= SHOWN_CHARS else text[: SHOWN_CHARS - 1] + "…"
