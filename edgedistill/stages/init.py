"""Init: look at a data file and write a recipe for it.

`look` reads the file as `prepare` will, and guesses what a person would: the encoding, the separator, which column is the text and which
the class. `write_recipe` turns what it saw into a recipe with the reason beside each choice, and `describe` says it in plain lines.
Nothing is asked; a guess that is wrong is corrected in the recipe, where it stands in the open.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgedistill import tables
from edgedistill.duplicates import near_duplicates, normalised
from edgedistill.errors import DataError
from edgedistill.recipe import Data
from edgedistill.slices import words
from edgedistill.stages import prepare

TEXT_NAMES = (
    "text",
    "body",
    "sentence",
    "question",
    "message",
    "content",
    "utterance",
    "query",
    "description",
    "review",
    "comment",
    "tweet",
)
LABEL_NAMES = ("label", "class", "category", "target", "intent", "queue", "topic", "sentiment", "department", "tag", "spam", "type")
MOST_CLASSES = 1000
NEAR_ROWS = 20_000  # near-duplicates are counted up to here, so that a look takes seconds
MAX_TOKENS = (32, 64, 128, 256, 512)
FEW_ROWS = 10
# Plain text files people keep labelled examples in: fastText, tab between, TREC, `label: text`. The first that fits nearly all lines is
# taken.
PATTERNS = (
    r"^__label__(?P<label>\S+)\s+(?P<text>.+)$",
    r"^(?P<label>[^\t]{1,60})\t(?P<text>[^\t]+)$",
    r"^(?P<text>[^\t]+)\t(?P<label>[^\t]{1,60})$",
    r"^(?P<label>\w+):(?P<fine>\w+) (?P<text>.+)$",
    r"^(?P<label>[\w-]+): +(?P<text>.+)$",
)


@dataclass(frozen=True)
class Column:
    """What one column holds. filled: share of rows with a value. words: mean, of those."""

    name: str
    filled: float
    distinct: int
    words: float
    numbers: bool
    example: str


@dataclass(frozen=True)
class Profile:
    """What a look at a data file showed. Plain JSON values throughout (`store.plain`).

    classes: (name, rows), largest first. bad_rows, lengths, scripts: as in prepare's card. near_duplicates: None when there are too many
    rows to count them in seconds. odd_length: a remark on a text out of all proportion, or "".
    """

    path: str
    format: str
    encoding: str
    delimiter: str | None
    pattern: str | None
    rows: int
    columns: tuple[Column, ...]
    text: str
    label: str
    classes: tuple[tuple[str, int], ...]
    bad_rows: dict[str, Any]
    exact_duplicates: int
    near_duplicates: int | None
    conflicting_texts: int
    lengths: dict[str, dict[str, int]]
    scripts: dict[str, float]
    odd_length: str
    max_chars: int

    @property
    def max_tokens(self) -> int:
        """Enough for 99 of 100 texts: sub-word tokenizers make about one and a half tokens of a word, and add two of their own."""
        wanted = 1.5 * self.lengths["words"]["p99"] + 2
        return next((size for size in MAX_TOKENS if size >= wanted), MAX_TOKENS[-1])


def look(path: Path) -> Profile:
    """See what a data file holds. Raises DataError when it cannot be read, or when nothing in it looks like texts and classes."""
    encoding = "utf-8"
    if path.is_file() and tables.ENDINGS.get(path.suffix.lower()) != "parquet":
        encoding = tables.detect_encoding(path.read_bytes())
    pattern, table = _read(path, encoding)
    columns = tuple(_column(name, values) for name, values in table.columns.items())
    text, label = _guess(table, columns)

    texts, labels = table.columns[text], prepare.without_point_zero(table.columns[label])
    max_chars = int(Data.model_fields["max_chars"].default)
    bad = list(table.bad)
    good: list[tuple[str, str]] = []
    for number, value, name in zip(table.numbers, texts, labels, strict=True):
        reason = prepare.why_bad(value, name, max_chars)
        if reason:
            bad.append(tables.BadRow(number, reason))
        else:
            good.append((value or "", (name or "").strip()))
    groups: dict[str, set[str]] = {}
    for value, name in good:
        groups.setdefault(normalised(value), set()).add(name)
    threshold = float(Data.model_fields["near_duplicate"].default)
    kept = [value for value, _ in good]
    lengths = prepare.lengths(kept)
    return Profile(
        path=path.as_posix(),
        format=table.format,
        encoding=encoding,
        delimiter=table.delimiter,
        pattern=pattern,
        rows=len(table) + len(table.bad),
        columns=columns,
        text=text,
        label=label,
        classes=tuple(sorted(Counter(name for _, name in good).items(), key=lambda item: (-item[1], item[0]))),
        bad_rows=prepare.bad_rows(bad, table.unit),
        exact_duplicates=len(good) - len(groups),
        near_duplicates=len(near_duplicates(list(groups), threshold)) if len(groups) <= NEAR_ROWS else None,
        conflicting_texts=sum(len(names) > 1 for names in groups.values()),
        lengths=lengths,
        scripts=prepare.scripts(kept),
        odd_length=prepare.odd_length(lengths),
        max_chars=max_chars,
    )


def _read(path: Path, encoding: str) -> tuple[str | None, tables.Table]:
    """The table, and the pattern that it was read with when the file is plain lines."""
    if path.suffix.lower() not in {".txt", ".text", ""} or not path.is_file():
        return None, tables.read_table(path, encoding=encoding)
    for pattern in PATTERNS:
        table = tables.read_table(path, format="lines", encoding=encoding, pattern=pattern)
        labels = {label.strip() for label in table.columns["label"] if label}
        if len(table.bad) <= 0.02 * (len(table) + len(table.bad)) and 2 <= len(labels) <= max(2, len(table) // 2):
            return pattern, table
    raise DataError(
        "no known way of writing a label beside a text fits these lines.",
        where=str(path),
        write='Give a csv, or write the recipe by hand with format = "lines" and pattern = "(?P<label>…) (?P<text>…)" under [data].',
    )


# --- guessing ---------------------------------------------------------------------------------------------------------------------------


def _column(name: str, values: Sequence[str | None]) -> Column:
    filled = [value for value in values if value is not None and value not in prepare.MISSING and value.strip()]
    counts = [len(value.split()) for value in filled]
    return Column(
        name=name,
        filled=round(len(filled) / max(1, len(values)), 4),
        distinct=len({value.strip() for value in filled}),
        words=round(sum(counts) / max(1, len(counts)), 2),
        numbers=bool(filled) and all(re.fullmatch(r"[-+]?\d+([.,]\d+)?", value.strip()) for value in filled),
        example=filled[0][:60] if filled else "",
    )


def _guess(table: tables.Table, columns: Sequence[Column]) -> tuple[str, str]:
    """The text and the label column. A telling name counts most, then what the values look like."""
    rows = len(table)
    texts = [column for column in columns if _can_be_text(column)]
    best = max(texts, key=_like_text, default=None)
    labels = [column for column in columns if column is not best and _can_be_label(column, rows)]
    chosen = max(labels, key=lambda column: _like_label(column, rows), default=None)
    if best is None and len(labels) > 1 and chosen:  # short texts that repeat, such as city names: the one with more values is the text
        best = max(
            (column for column in labels if column is not chosen and not column.numbers), key=lambda column: column.distinct, default=None
        )
    if best is None or chosen is None:
        missing = "texts" if best is None else "classes (a column with a few values that come back again and again)"
        seen = "; ".join(_seen(column, rows) for column in columns) or "nothing"
        raise DataError(
            f"no column looks like {missing}. Seen: {seen}.",
            where=table.where,
            write="Give a file with a column of texts and a column of classes, or write the recipe by hand.",
        )
    return best.name, chosen.name


def _can_be_text(column: Column) -> bool:
    return column.distinct >= 2 and not column.numbers and (column.words >= 2 or _named(column, TEXT_NAMES) > 0 or _unspaced(column))


def _unspaced(column: Column) -> bool:
    """Chinese and Japanese texts have no spaces to count words by."""
    return len(words(column.example)) >= 4


def _like_text(column: Column) -> float:
    return 30 * _named(column, TEXT_NAMES) + min(column.words, 40) + column.filled + min(column.distinct, 1000) / 1000


def _can_be_label(column: Column, rows: int) -> bool:
    return 2 <= column.distinct <= min(MOST_CLASSES, max(2, rows // 2)) and column.words <= 6 and len(column.example) <= 60


def _like_label(column: Column, rows: int) -> float:
    return 3 * _named(column, LABEL_NAMES) + column.filled - column.distinct / rows - 0.2 * column.words - 0.5 * column.numbers


def _named(column: Column, names: Sequence[str]) -> float:
    """1 when the column is called one of `names`, a half when one is a word of its name (`ticket_body`), else 0. Earlier ones tell more."""
    parts = re.findall(r"[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", column.name).lower())
    for place, name in enumerate(names):
        if name in parts or f"{name}s" in parts:
            return (1 if len(parts) == 1 else 0.5) - 0.01 * place
    return 0.0


def _seen(column: Column, rows: int) -> str:
    kind = "numbers" if column.numbers else f"{column.words:g} words on average"
    if column.distinct < 2:
        kind = "empty" if not column.distinct else "one value only"
    elif column.distinct >= rows * 0.98:
        kind += ", all different"
    else:
        kind += f", {column.distinct} different"
    return f"{json.dumps(column.name, ensure_ascii=False)} ({kind})"


# --- telling ----------------------------------------------------------------------------------------------------------------------------


def describe(profile: Profile) -> list[str]:
    """What was seen, in plain lines; warnings come last and begin with "Warning:"."""
    sizes = [rows for _, rows in profile.classes]
    words, chars = profile.lengths["words"], profile.lengths["characters"]
    near = "" if profile.near_duplicates is None else f", {profile.near_duplicates} near"
    how = [f"{profile.format}", profile.encoding if profile.format != "parquet" else ""]
    how += [f"separated by {json.dumps(profile.delimiter)}"] if profile.delimiter else []
    shares = ", ".join(f"{name} {share:.1%}" for name, share in list(profile.scripts.items())[:4] if share >= 0.0005)
    lines = [
        f"{profile.path}: {profile.rows} rows ({', '.join(part for part in how if part)})",
        f"text: column {_quoted(profile.text)}; {words['p50']} words in the middle, {words['p99']} at the 99th percentile, "
        f"{chars['max']} characters at most",
        f"label: column {_quoted(profile.label)}; {len(sizes)} classes: "
        + ", ".join(f"{_shown(name)} {rows / sum(sizes):.0%}" for name, rows in profile.classes[:8])
        + (f" and {len(sizes) - 8} more" if len(sizes) > 8 else ""),
        f"duplicates: {profile.exact_duplicates} exact{near}",
        f"scripts: {shares or 'no letters'}",
    ]
    return lines + [f"Warning: {line}" for line in warnings(profile)]


def warnings(profile: Profile) -> list[str]:
    """What is likely to spoil a build, or the trust in its figures."""
    lines = []
    sizes = [rows for _, rows in profile.classes]
    usable = sum(sizes)
    if profile.bad_rows["total"]:
        lines.append(f"{_count(profile.bad_rows['total'], 'row', 'rows')} cannot be used: {prepare.describe_bad(profile.bad_rows)}")
    if sizes[0] > 10 * sizes[-1] or sizes[0] > 0.8 * usable:
        (most, rows), (least, few) = profile.classes[0], profile.classes[-1]
        lines.append(f"the classes are out of balance: {_shown(most)} has {rows} rows, {_shown(least)} has {few}")
    single = [name for name, rows in profile.classes if rows == 1]
    rare = [name for name, rows in profile.classes if rows < FEW_ROWS]
    if single:
        lines.append(
            f"{_count(single, 'class has', 'classes have')} a single row and cannot be split; merge or remove first: {_some(single)}"
        )
    if rare:
        lines.append(f"{len(rare)} of {len(sizes)} classes {'has' if len(rare) == 1 else 'have'} fewer than {FEW_ROWS} rows: {_some(rare)}")
    twins = profile.exact_duplicates + (profile.near_duplicates or 0)
    if twins > 0.2 * usable:
        lines.append(f"{twins} of {usable} rows are duplicates and will be removed; {usable - twins} are left")
    if profile.conflicting_texts:
        lines.append(
            f"{_count(profile.conflicting_texts, 'text stands', 'texts stand')} with more than one label; the majority's is kept, ties are removed"
        )
    mixed = [name for name, share in profile.scripts.items() if share >= 0.02]
    if len(mixed) > 1:
        lines.append(f"the texts mix scripts ({', '.join(mixed)}); the teacher must know all of these languages")
    if profile.odd_length:
        lines.append(profile.odd_length)
    if usable - twins < 200:
        lines.append(f"{usable - twins} different rows are few; a held-out fifth of them gives coarse figures")
    return lines


def _count(things: int | Sequence[str], one: str, many: str) -> str:
    number = things if isinstance(things, int) else len(things)
    return f"{number} {one if number == 1 else many}"


def _some(names: Sequence[str]) -> str:
    return ", ".join(map(_shown, names[:5])) + (" …" if len(names) > 5 else "")


def _shown(name: str) -> str:
    """A class name for one line: quoted when it would not read as a word, and never longer than a few."""
    name = name if len(name) <= 40 else name[:39] + "…"
    return name if re.fullmatch(r"[\w.-]+", name) else json.dumps(name, ensure_ascii=False)


# --- the recipe -------------------------------------------------------------------------------------------------------------------------


def write_recipe(profile: Profile, *, train: str | None = None) -> str:
    """The text of a recipe.toml for the file, each choice with its reason beside it. train: the file's path as seen from the recipe."""
    data = [
        ("train", train or profile.path, f"{profile.rows} rows"),
        ("text", profile.text, f"{profile.lengths['words']['p50']} words in the middle"),
        ("label", profile.label, f"{len(profile.classes)} classes"),
    ]
    if profile.pattern:
        data += [("format", profile.format, "plain lines"), ("pattern", profile.pattern, "each named group is a column")]
    if profile.encoding != "utf-8":
        data.append(("encoding", profile.encoding, "the file is not UTF-8"))
    if profile.format == "csv" and profile.delimiter != ",":
        data.append(("delimiter", profile.delimiter or ",", "what separates the columns"))
    if profile.bad_rows["total"]:
        data.append(("bad_rows", "drop", f"{profile.bad_rows['total']} rows cannot be used; they are left out and counted"))
    latin = profile.scripts.get("Latin", 0.0) >= 0.8 or not profile.scripts
    teacher = ("all-MiniLM-L6-v2", "small and quick to fine-tune; all-mpnet-base-v2 is better and 5 times slower")
    if not latin:
        teacher = ("paraphrase-multilingual-MiniLM-L12-v2", "knows some 50 languages, as the scripts of the texts ask for")
    return "\n".join(
        [
            f"# Written by `edgedistill init` after looking at {_quoted(profile.path)}.",
            _line("name", _slug(profile.path), "names the bundle"),
            _line("task", "classify", "one class a text"),
            "",
            "[data]",
            *(_line(*entry) for entry in data),
            '# test = "test.csv"          # else a fifth of the rows is held out, stratified and free of duplicates',
            '# traffic = "logs.jsonl"     # unlabelled production inputs: the teacher labels them, the student learns from them',
            "",
            "[teacher]",
            _line("model", f"hf:sentence-transformers/{teacher[0]}", teacher[1]),
            _line("license", "apache-2.0", "terms of that model; unknown terms stop the build"),
            "",
            "[student]",
            _line("family", "auto", "the cheapest that meets the bar"),
            f"max_tokens = {profile.max_tokens}  # 99 of 100 texts have at most {profile.lengths['words']['p99']} words",
            "",
            "[compile]",
            'targets = ["laptop-x86"]  # `edgedistill targets` lists more',
            "",
            "[budget]",
            "accuracy_drop = 0.01  # one point below the teacher at most; the target has its own limits of time and size",
            "",
        ]
    )


def _line(key: str, value: str, why: str) -> str:
    return f"{key} = {_quoted(value)}  # {why}"


def _quoted(value: str) -> str:
    """A TOML basic string. JSON's escapes are TOML's, but TOML escapes DEL too."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _slug(path: str) -> str:
    """A recipe's name from a file's: lower case letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", Path(path).stem.lower()).strip("-")[:64].strip("-") or "classifier"
