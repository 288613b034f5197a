"""Tables: data files in, rows out.

People's files are csv, tsv, jsonl, parquet or plain lines, in any encoding, with any separator. Here each becomes a `Table`: every value
is a string or None, every row remembers the line it came from, and a row that cannot be read is kept as a `BadRow` for the caller to
judge. What makes the whole file unreadable raises DataError at once.

What `prepare` writes is `Rows`: parquet with one fixed schema, which every later stage reads.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgedistill.digests import text_key
from edgedistill.errors import DataError, nearest

ENDINGS = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".conll": "conll",
    ".bio": "conll",
    ".iob": "conll",
}
FORMATS = ("csv", "tsv", "jsonl", "parquet", "lines", "conll")
WHOLE_LINE = r"(?P<text>.*)"  # the pattern of a plain text file that has no other: one text a line


@dataclass(frozen=True)
class BadRow:
    """A row that could not be read. number: where it starts, counted as the table's `unit` says."""

    number: int
    reason: str


@dataclass(frozen=True)
class Table:
    """What a data file holds.

    columns: name → one value a row. numbers: the source line (text files) or row (parquet) of each row, from 1. nested: columns that hold
    lists, objects or bytes; they are named here, because they are neither a text nor a class. lists: those of them that hold lists, each as JSON:
    what tasks with several answers a row read.
    """

    where: str
    format: str
    columns: dict[str, list[str | None]]
    numbers: list[int]
    bad: list[BadRow]
    nested: tuple[str, ...] = ()
    unit: str = "line"
    delimiter: str | None = None
    lists: dict[str, list[str | None]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.numbers)

    def take(self, places: Sequence[int]) -> Table:
        """The rows at `places`; the bad rows stay."""
        columns, lists = (
            {name: [values[place] for place in places] for name, values in group.items()} for group in (self.columns, self.lists)
        )
        return replace(self, columns=columns, lists=lists, numbers=[self.numbers[place] for place in places])


def read_table(
    path: Path,
    *,
    format: str = "auto",
    encoding: str = "utf-8",
    delimiter: str | None = None,
    pattern: str | None = None,
    skip: int = 0,
    where: str = "",
) -> Table:
    """Read a data file; all values become strings or None.

    format: one of FORMATS, or auto to go by the file's ending. delimiter: of a csv; else it is detected. pattern: of lines; each named
    group is a column. skip: rows of a csv or tsv right behind the header that are no data.
    where: what to call the file in errors, else its path. Raises DataError when the file as a whole cannot be read.
    """
    where = where or str(path)
    if path.is_dir():
        raise DataError("this is a folder; a data file is expected.", where=where)
    if not path.is_file():
        raise DataError("there is no such file.", where=where, write="Check the path; a relative path starts at the recipe's folder.")
    kind = format_of(path, format, pattern, where)
    if path.stat().st_size == 0:
        raise DataError("the file is empty.", where=where, write=_WANTED)
    if kind == "parquet":
        return _read_parquet(path, where)
    text = read_text(path, encoding, where)
    if not text.strip():
        raise DataError("the file is empty.", where=where, write=_WANTED)
    if kind == "jsonl":
        return _read_jsonl(text, where)
    if kind == "lines":
        return _read_lines(text, pattern or WHOLE_LINE, where)
    if kind == "conll":
        return _read_conll(text, where)
    return _read_csv(text, kind, delimiter or ("\t" if kind == "tsv" else sniff_delimiter(text)), where, skip)


def format_of(path: Path, format: str = "auto", pattern: str | None = None, where: str = "") -> str:
    """Which of FORMATS the file is. A pattern says `lines`, unless the ending says otherwise."""
    if format != "auto":
        if format not in FORMATS:
            raise DataError(f'there is no format "{format}".', where=where or str(path), write=nearest(format, FORMATS))
        return format
    ending = path.suffix.lower()
    if ending in ENDINGS:
        return ENDINGS[ending]
    if pattern is not None:
        return "lines"
    raise DataError(
        f'the ending "{ending}" does not say what the file is.' if ending else "the file has no ending that says what it is.",
        where=where or str(path),
        write=f'Use {", ".join(ENDINGS)}, or write format = "csv" (or tsv, jsonl, parquet, lines) under [data].',
    )


def read_text(path: Path, encoding: str, where: str = "") -> str:
    """The decoded file without its byte-order mark. Raises DataError that names the first line and byte that are not in `encoding`."""
    where = where or str(path)
    try:
        name = codecs.lookup(encoding).name
        content = path.read_bytes()
        if name == "utf-8":
            content = content.removeprefix(codecs.BOM_UTF8)
        return content.decode(encoding)
    except LookupError:
        raise DataError(
            f'there is no text encoding called "{encoding}".', where=where, write='Write encoding = "utf-8" or "latin-1" under [data].'
        ) from None
    except UnicodeDecodeError as problem:
        line = content.count(b"\n", 0, problem.start) + 1
        byte = problem.start - content.rfind(b"\n", 0, problem.start)
        better = detect_encoding(content)
        raise DataError(
            f"line {line} is not {encoding}: its byte {byte} is 0x{content[problem.start]:02x}.",
            where=where,
            write=f'Save the file as UTF-8, or write encoding = "{better}" under [data].',
        ) from None


def detect_encoding(content: bytes) -> str:
    """The likeliest encoding: utf-8 proves itself, utf-16 has a mark; cp1252 and latin-1 differ only in what the bytes 0x80–0x9f mean."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    for encoding in ("utf-8", "cp1252"):
        try:
            content.decode(encoding)
        except UnicodeDecodeError:
            continue
        if encoding == "utf-8" or re.search(rb"[\x80-\x9f]", content):
            return encoding
    return "latin-1"


def column(table: Table, name: str, *, key: str, option: str = "", lists: bool = False) -> list[str | None]:
    """The values of a column. key: where in the recipe the name stands (`data.text`). option: the key's own last word, for the advice.

    lists: a column of lists will do, each as JSON. Raises DataError with the nearest name when there is no such column.
    """
    if name in table.columns:
        return table.columns[name]
    if lists and name in table.lists:
        return table.lists[name]
    if name in table.nested:
        raise DataError(f'the column "{name}" ({key}) holds lists, objects or bytes, not text.', where=table.where)
    trimmed = [known for known in table.columns if known.strip() == name.strip()]  # `id, body` has a column " body"
    if len(trimmed) == 1:
        return table.columns[trimmed[0]]
    close = nearest(name, table.columns)
    columns = "" if close.startswith("Known") else f" The columns are {_listed(table.columns)}."
    raise DataError(
        f'there is no column "{name}", which {key} names.',
        where=table.where,
        write=f"{close}{columns} Write {option or key.rsplit('.', 1)[-1]} = … under [data].",
    )


_WANTED = "A data file has a row for each example, with a text and its class."


# --- csv and tsv ------------------------------------------------------------------------------------------------------------------------


def sniff_delimiter(text: str) -> str:
    """The separator that cuts the header into most columns and the next rows into as many. A header settles what csv.Sniffer guesses."""
    sample = text[:65536]

    def fit(delimiter: str) -> tuple[float, int]:
        rows = [row for _, row in islice(_records(sample, delimiter), 50) if isinstance(row, list) and row]
        rows = rows[:-1] if len(sample) < len(text) and len(rows) > 1 else rows  # the sample may cut the last one
        width = len(rows[0]) if rows else 1
        return (sum(len(row) == width for row in rows) / len(rows), width) if width > 1 else (0.0, 1)

    return max((",", ";", "\t", "|"), key=fit)  # max keeps the first of equals: a comma


def _records(
    text: str, delimiter: str, quoting: Literal[0, 3] = csv.QUOTE_MINIMAL, trim: bool = False
) -> Iterator[tuple[int, list[str] | str]]:
    """(line it starts on, fields), or (line, what is wrong). A reader goes on after a wrong record at the next line."""
    csv.field_size_limit(2**31 - 1)  # the library stops at 128 kB, and a long text deserves our own message
    # newline="" keeps the newlines inside quotes as they are.
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, quoting=quoting, skipinitialspace=trim, strict=True)
    while True:
        line = reader.line_num + 1
        try:
            record: list[str] | str = next(reader)
        except StopIteration:
            return
        except csv.Error as problem:
            record = str(problem)
        yield line, record


def _read_csv(text: str, kind: str, delimiter: str, where: str, skip: int = 0) -> Table:
    first = next((row for _, row in _records(text, delimiter) if row), [])
    trim = isinstance(first, list) and len(first) > 1 and all(name.startswith(" ") for name in first[1:])  # written as `a, b, "c"`
    records = list(_records(text, delimiter, trim=trim))
    if kind == "tsv" and any(isinstance(row, str) for _, row in records):
        records = list(_records(text, delimiter, csv.QUOTE_NONE))  # many programs write tabs and never quote
    records = [(line, row) for line, row in records if row and not (isinstance(row, list) and len(row) == 1 and not row[0].strip())]
    line, header = records[0]
    if isinstance(header, str):
        raise DataError(f"line {line}, the header, cannot be read: {header}.", where=where)
    names = [name or f"unnamed_{place}" for place, name in enumerate(header, 1)]  # pandas writes its index without a name
    _no_twins(names, where)
    records = [records[0], *records[1 + skip :]]
    if len(records) == 1:
        raise DataError("the file has a header but no rows.", where=where, write=_WANTED)

    rows: list[list[str]] = []
    numbers: list[int] = []
    bad: list[BadRow] = []
    for line, row in records[1:]:
        if isinstance(row, str):
            if "unexpected end" in row:  # everything from here on was swallowed: dropping "one row" would lose the rest of the file
                raise DataError(
                    f"the quote opened in the row of line {line} is never closed.", where=where, write="Close it, or double it."
                )
            bad.append(BadRow(line, 'a quote inside a quoted field is not doubled ("")'))
        elif len(row) != len(names):
            bad.append(BadRow(line, f"not as many fields as the header's {len(names)}"))
        else:
            rows.append(row)
            numbers.append(line)
    columns = {name: [row[place] or None for row in rows] for place, name in enumerate(names)}
    return Table(where, kind, columns, numbers, bad, delimiter=delimiter)


def _no_twins(names: Sequence[str], where: str) -> None:
    for name in names:
        if names.count(name) > 1:
            raise DataError(f'the column "{name}" stands twice in the header.', where=where, write="Rename one of them.")


# --- jsonl, lines, parquet --------------------------------------------------------------------------------------------------------------


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """The lines that are not blank, numbered. Only \\n and \\r\\n end a line: str.splitlines would cut at U+2028 inside a text."""
    for number, line in enumerate(text.split("\n"), 1):
        line = line.removesuffix("\r")
        if line.strip():
            yield number, line


def _read_jsonl(text: str, where: str) -> Table:
    if text.lstrip().startswith("["):
        raise DataError("the file is one JSON array; jsonl has one object a line.", where=where, write="Write each object on its own line.")
    found: list[tuple[int, dict[str, Any]]] = []
    bad: list[BadRow] = []
    for number, line in _lines(text):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            bad.append(BadRow(number, "not valid JSON"))
            continue
        if not isinstance(value, dict):
            bad.append(BadRow(number, "not a JSON object"))
        elif not all(_is_unicode(part) for pair in value.items() for part in pair):
            bad.append(BadRow(number, "half a surrogate pair, which is no character"))
        else:
            found.append((number, value))
    names = list(dict.fromkeys(name for _, value in found for name in value))
    nested = tuple(name for name in names if any(isinstance(value.get(name), (dict, list)) for _, value in found))
    columns = {name: [as_text(value.get(name)) for _, value in found] for name in names if name not in nested}
    lists = {name: [_as_json(value.get(name)) for _, value in found] for name in nested}
    return Table(where, "jsonl", columns, [number for number, _ in found], bad, nested, lists=lists)


def _as_json(value: Any) -> str | None:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list) else None


def _read_conll(text: str, where: str) -> Table:
    """Word and tag on a line, the last column being the tag; a blank line ends a sentence (CoNLL-2003). Columns: `tokens` and `tags`, lists."""
    tokens: list[list[str]] = []
    tags: list[list[str]] = []
    numbers: list[int] = []
    bad: list[BadRow] = []
    broken = False
    inside = False
    for number, line in enumerate(text.split("\n"), 1):
        parts = line.split()
        if not parts or parts[0] == "-DOCSTART-":
            inside = broken = False
            continue
        if not inside:
            tokens.append([])
            tags.append([])
            numbers.append(number)
            inside = True
        if len(parts) < 2 and not broken:
            bad.append(BadRow(number, "a word without a tag"))
            broken = True
        tokens[-1].append(parts[0])
        tags[-1].append(parts[-1] if len(parts) > 1 else "")
    kept = [place for place, found in enumerate(tags) if all(found)]
    lists: dict[str, list[str | None]] = {
        "tokens": [json.dumps(tokens[place], ensure_ascii=False) for place in kept],
        "tags": [json.dumps(tags[place], ensure_ascii=False) for place in kept],
    }
    return Table(where, "conll", {}, [numbers[place] for place in kept], bad, ("tokens", "tags"), lists=lists)


def _is_unicode(value: Any) -> bool:
    """JSON can spell half a surrogate pair, which no UTF-8 file can hold."""
    if not isinstance(value, str):
        return True
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _read_lines(text: str, pattern: str, where: str) -> Table:
    try:
        compiled = re.compile(pattern)
    except re.error as problem:
        raise DataError(f"the pattern is not a regular expression: {problem}.", where=where) from None
    names = list(compiled.groupindex)
    if not names:
        raise DataError("the pattern has no named groups.", where=where, write=r"Write such as (?P<label>\w+) (?P<text>.*).")
    matches = [(number, compiled.match(line)) for number, line in _lines(text)]
    hits = [(number, match) for number, match in matches if match]
    columns = {name: [match[name] or None for _, match in hits] for name in names}
    bad = [BadRow(number, "does not match the pattern") for number, match in matches if not match]
    return Table(where, "lines", columns, [number for number, _ in hits], bad)


def _read_parquet(path: Path, where: str) -> Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # ParquetFile, not read_table: that one takes "label=1/" in a path for a column.
        with pq.ParquetFile(path) as file:
            names = list(file.schema_arrow.names)
            _no_twins(names, where)
            kinds = {name: file.schema_arrow.field(name).type for name in names}
            plain = [name for name in names if not pa.types.is_nested(kinds[name])]
            listed = [name for name in names if pa.types.is_list(kinds[name]) or pa.types.is_large_list(kinds[name])]
            table = file.read(columns=[*plain, *listed], use_threads=False)
    except (pa.ArrowException, OSError) as problem:
        raise DataError(
            f"the file is not a whole parquet file: {str(problem).splitlines()[0].rstrip('.')}.",
            where=where,
            write="Write it or fetch it again.",
        ) from None
    if table.num_rows == 0:
        raise DataError("the file has columns but no rows.", where=where, write=_WANTED)
    columns: dict[str, list[str | None]] = {}
    for name in plain:
        try:
            columns[name] = [as_text(value) for value in table[name].to_pylist()]
        except UnicodeDecodeError:
            continue  # bytes that are no text: named among the nested ones
    nested = tuple(name for name in names if name not in columns)
    lists = {name: [_as_json(value) for value in table[name].to_pylist()] for name in listed}
    return Table(where, "parquet", columns, list(range(1, table.num_rows + 1)), [], nested, unit="row", lists=lists)


def as_text(value: Any) -> str | None:
    """One value as a string: 1, 1.0 and "1" are the same class; NaN and null are None; true is "true" in every format."""
    if value is None or isinstance(value, str):
        return value or None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, bytes):
        return value.decode() or None
    if isinstance(value, (float, Decimal)):
        if math.isnan(value):
            return None
        return str(int(value)) if math.isfinite(value) and value == int(value) else str(value)
    return str(value)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)


# --- prepared rows ----------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rows:
    """Prepared rows, column by column; all columns are equally long.

    keys: `text_key` of each text, unique. labels: index into classes.json, int32; -1 for unlabelled and for tasks whose answer is no single
    class. slices: the named subsets that the row belongs to. numbers: its line or row in the source file, int64. targets: the right answer
    of any task as JSON, None for unlabelled; what the JSON holds is the task's own (tasks/).
    """

    keys: list[str]
    texts: list[str]
    labels: NDArray[np.int32]
    slices: list[list[str]]
    numbers: NDArray[np.int64]
    targets: list[str | None]

    def __len__(self) -> int:
        return len(self.keys)

    def target(self, row: int) -> Any:
        """The right answer to a row, or None when nobody said."""
        value = self.targets[row]
        return None if value is None else json.loads(value)


def make_rows(
    texts: Sequence[str],
    labels: Sequence[int] | NDArray[Any] | None = None,
    slices: Sequence[Sequence[str]] | None = None,
    numbers: Sequence[int] | NDArray[Any] | None = None,
    targets: Sequence[str | None] | None = None,
) -> Rows:
    """Rows from plain columns: the keys are made from the texts; what is left out is unlabelled, in no slice, numbered from 1.

    labels alone are targets too: a class by its index.
    """
    count = len(texts)
    if targets is None:
        targets = [None] * count if labels is None else [str(int(label)) if label >= 0 else None for label in labels]
    rows = Rows(
        keys=[text_key(text) for text in texts],
        texts=list(texts),
        labels=np.full(count, -1, np.int32) if labels is None else np.asarray(labels, np.int32),
        slices=[[] for _ in texts] if slices is None else [list(names) for names in slices],
        numbers=np.arange(1, count + 1, dtype=np.int64) if numbers is None else np.asarray(numbers, np.int64),
        targets=list(targets),
    )
    assert len(rows.labels) == len(rows.slices) == len(rows.numbers) == len(rows.targets) == count, "columns of unequal length"
    return rows


def write_rows(path: Path, rows: Rows) -> None:
    """Write prepared rows as parquet. The same rows and pyarrow give the same bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema(
        [
            ("key", pa.string()),
            ("text", pa.string()),
            ("label", pa.int32()),
            ("slices", pa.list_(pa.string())),
            ("row", pa.int64()),
            ("target", pa.string()),
        ]
    )
    table = pa.table([rows.keys, rows.texts, rows.labels, rows.slices, rows.numbers, rows.targets], schema=schema)
    pq.write_table(table, path, compression="zstd")


def read_rows(path: Path) -> Rows:
    """Read what `write_rows` wrote."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        table = file.read(use_threads=False)
    return Rows(
        keys=table["key"].to_pylist(),
        texts=table["text"].to_pylist(),
        labels=table["label"].to_numpy(),
        slices=table["slices"].to_pylist(),
        numbers=table["row"].to_numpy(),
        targets=table["target"].to_pylist(),
    )
