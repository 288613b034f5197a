"""tables.py: any data file in, rows of strings out, or one error that says where and what to write."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgedistill import tables
from edgedistill.digests import text_key
from edgedistill.errors import DataError

# Any text that a UTF-8 file can hold, with the characters that parsers trip over made frequent.
AWKWARD = st.text(
    st.one_of(st.sampled_from("\"',;\t|\\\n\r\u2028\u0085\ufeff\x00 é漢🙂"), st.characters(exclude_categories=["Cs"])), max_size=12
)


def save(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def error_of(path: Path, **options: str) -> str:
    with pytest.raises(DataError) as caught:
        tables.read_table(path, where=path.name, **options)
    assert caught.value.exit_code == 2
    return str(caught.value)


# --- what is read --------------------------------------------------------------------------------------------------------------------------


def test_csv_with_everything_awkward(tmp_path: Path) -> None:
    """A byte-order mark in the first column's name, CRLF in texts, quoted newlines that shift the line numbers, an index column lost."""
    path = save(tmp_path, "a.csv", b'\xef\xbb\xbf,"ticket body, ""raw""",\xc3\xa9tat\r\n0,"one\r\ntwo",a\r\n\r\n1,"x, y",b\r\n')
    table = tables.read_table(path)
    assert table.columns == {"unnamed_1": ["0", "1"], 'ticket body, "raw"': ["one\r\ntwo", "x, y"], "état": ["a", "b"]}
    assert table.numbers == [2, 5]
    assert not table.bad


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_separator_is_detected(tmp_path: Path, delimiter: str) -> None:
    """A European spreadsheet's csv is read as one column, because texts hold more commas than the file has semicolons."""
    rows = [["text", "label"], ["a, b, c, d", "x"], ["e, f", "y"], ["g; h | i", "x"]]
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter).writerows(rows)
    table = tables.read_table(save(tmp_path, "a.csv", text.getvalue()))
    assert table.delimiter == delimiter
    assert table.columns == {"text": [row[0] for row in rows[1:]], "label": [row[1] for row in rows[1:]]}


def test_one_column_csv(tmp_path: Path) -> None:
    """A traffic log of one column is cut at the commas of its texts."""
    assert tables.read_table(save(tmp_path, "a.csv", "text\nhello there\nhow; are you\n")).columns == {
        "text": ["hello there", "how; are you"]
    }


def test_spaces_after_commas(tmp_path: Path) -> None:
    """`a, "b, c"` written by hand: the quote after the space does not open a quoted field, and the row looks ragged."""
    assert tables.read_table(save(tmp_path, "a.csv", 'text, label\n1, "b, c"\n')).columns == {"text": ["1"], "label": ["b, c"]}


def test_tsv_that_never_quotes(tmp_path: Path) -> None:
    """A quote that begins a text in a tsv swallows all following lines."""
    table = tables.read_table(save(tmp_path, "a.tsv", 'text\tlabel\n"Hi he said\tx\nplain\ty\n'))
    assert table.columns == {"text": ['"Hi he said', "plain"], "label": ["x", "y"]}


def test_huge_field(tmp_path: Path) -> None:
    """The csv library's limit of 128 kB makes a megabyte-long text an error nobody understands, before our own limit is asked."""
    table = tables.read_table(save(tmp_path, "a.csv", "text,label\n" + "a" * 1_000_000 + ",x\n"))
    assert len(table.columns["text"][0] or "") == 1_000_000


def test_ragged_and_wrongly_quoted_rows_are_kept_apart(tmp_path: Path) -> None:
    """One bad row stops the reader, or its fields land in the wrong columns."""
    table = tables.read_table(save(tmp_path, "a.csv", 'text,label\na,x\nb,y,z\n"c"d,x\nlonely\ne,y\n'))
    assert table.columns["text"] == ["a", "e"]
    assert table.numbers == [2, 6]
    assert table.bad == [
        tables.BadRow(3, "not as many fields as the header's 2"),
        tables.BadRow(4, 'a quote inside a quoted field is not doubled ("")'),
        tables.BadRow(5, "not as many fields as the header's 2"),
    ]


def test_jsonl(tmp_path: Path) -> None:
    """Numbers, booleans, null and absent keys become other classes than the same values in a csv; a bad line takes the file with it."""
    lines = [
        '{"text": "a\u2028b", "label": 1}',
        '{"text": "c", "label": 1.0}',
        "",
        '{"label": true}',
        "{oops",
        "[1]",
        r'{"text": "\ud83d"}',
    ]
    table = tables.read_table(save(tmp_path, "a.jsonl", "\r\n".join(lines)))
    assert table.columns == {"text": ["a\u2028b", "c", None], "label": ["1", "1", "true"]}
    assert table.numbers == [1, 2, 4]
    assert [(row.number, row.reason) for row in table.bad] == [
        (5, "not valid JSON"),
        (6, "not a JSON object"),
        (7, "half a surrogate pair, which is no character"),
    ]


def test_lines(tmp_path: Path) -> None:
    """TREC's own format cannot be read, or its empty last line is a bad row."""
    path = save(tmp_path, "a.txt", "DESC:manner How did it ?\r\nLOC:city Where ?\r\nno label here\r\n\r\n")
    table = tables.read_table(path, pattern=r"^(?P<label>[A-Z]+):(?P<fine>\w+) (?P<text>.*)$")
    assert table.format == "lines"
    assert table.columns == {"label": ["DESC", "LOC"], "fine": ["manner", "city"], "text": ["How did it ?", "Where ?"]}
    assert table.bad == [tables.BadRow(3, "does not match the pattern")]


def test_parquet_from_pandas(tmp_path: Path) -> None:
    """A label column that pandas made float because of one empty cell has classes "1.0" here and "1" in the test file."""
    frame = pd.DataFrame(
        {"text": ["a", "b", None], "label": [1, None, 2], "ok": [True, False, True], "kind": pd.Categorical(["x", "y", "x"])}
    )
    frame["vector"] = [[1.0], [2.0], [3.0]]
    frame["bytes"] = [b"\xff", b"a", b"b"]
    frame.to_parquet(tmp_path / "a.parquet")
    table = tables.read_table(tmp_path / "a.parquet")
    assert table.columns == {
        "text": ["a", "b", None],
        "label": ["1", None, "2"],
        "ok": ["true", "false", "true"],
        "kind": ["x", "y", "x"],
    }
    assert table.nested == ("vector", "bytes")
    assert (table.unit, table.numbers) == ("row", [1, 2, 3])


def test_a_folder_called_like_a_partition(tmp_path: Path) -> None:
    """pyarrow takes `label=7/` in the path for a column, and the classes are gone."""
    folder = tmp_path / "label=7"
    folder.mkdir()
    pq.write_table(pa.table({"text": ["a"], "label": ["x"]}), folder / "a.parquet")
    assert tables.read_table(folder / "a.parquet").columns["label"] == ["x"]


@pytest.mark.parametrize(
    ("encoding", "detected"),
    [("utf-8", "utf-8"), ("utf-8-sig", "utf-8"), ("utf-16", "utf-16"), ("latin-1", "latin-1"), ("cp1252", "cp1252")],
)
def test_encodings(tmp_path: Path, encoding: str, detected: str) -> None:
    """The encoding that the error offers, or `init` writes, does not read the file."""
    text = "text,label\nça va ÿ,x\n" + ("“quoted” – so,y\n" if encoding == "cp1252" else "")
    path = save(tmp_path, "a.csv", text.encode(encoding))
    assert tables.detect_encoding(path.read_bytes()) == detected
    assert tables.read_table(path, encoding=detected).columns["text"][0] == "ça va ÿ"


# --- what is refused -----------------------------------------------------------------------------------------------------------------------

WANTED = "A data file has a row for each example, with a text and its class."


def test_missing_file(tmp_path: Path) -> None:
    """A traceback of open() for a mistyped path."""
    assert error_of(tmp_path / "a.csv") == "a.csv: there is no such file. Check the path; a relative path starts at the recipe's folder."


def test_folder(tmp_path: Path) -> None:
    """IsADirectoryError for a folder."""
    (tmp_path / "d.csv").mkdir()
    assert error_of(tmp_path / "d.csv") == "d.csv: this is a folder; a data file is expected."


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.parquet"])
@pytest.mark.parametrize("content", [b"", b"\xef\xbb\xbf\r\n \n"])
def test_empty_file(tmp_path: Path, name: str, content: bytes) -> None:
    """An empty file gives StopIteration, or a set of no rows that fails much later."""
    if name == "a.parquet" and content:
        return
    assert error_of(save(tmp_path, name, content)) == f"{name}: the file is empty. {WANTED}"


def test_header_only(tmp_path: Path) -> None:
    """A header and nothing else is taken for data of no classes."""
    assert error_of(save(tmp_path, "a.csv", "text,label\n")) == f"a.csv: the file has a header but no rows. {WANTED}"
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "a.parquet")
    assert error_of(tmp_path / "a.parquet") == f"a.parquet: the file has columns but no rows. {WANTED}"


def test_unknown_ending(tmp_path: Path) -> None:
    """A spreadsheet is parsed as csv."""
    advice = (
        "Use .csv, .tsv, .tab, .jsonl, .ndjson, .parquet, .pq, .conll, .bio, .iob, or "
        'write format = "csv" (or tsv, jsonl, parquet, lines) under [data].'
    )
    assert error_of(save(tmp_path, "a.xlsx", "PK")) == f'a.xlsx: the ending ".xlsx" does not say what the file is. {advice}'
    assert error_of(save(tmp_path, "data", "x")) == f"data: the file has no ending that says what it is. {advice}"
    assert error_of(save(tmp_path, "a.csv", "x"), format="jsnl") == 'a.csv: there is no format "jsnl". Did you mean "jsonl"?'


def test_not_utf8(tmp_path: Path) -> None:
    """UnicodeDecodeError with a byte offset into the whole file, which no editor can show."""
    path = save(tmp_path, "a.csv", b"text,label\nok,x\ncaf\xe9,y\n")
    assert error_of(path) == (
        'a.csv: line 3 is not utf-8: its byte 4 is 0xe9. Save the file as UTF-8, or write encoding = "latin-1" under [data].'
    )
    assert error_of(path, encoding="utf8000") == (
        'a.csv: there is no text encoding called "utf8000". Write encoding = "utf-8" or "latin-1" under [data].'
    )
    assert (
        error_of(path, encoding="hex")
        == 'a.csv: there is no text encoding called "hex". Write encoding = "utf-8" or "latin-1" under [data].'
    )


def test_repeated_header(tmp_path: Path) -> None:
    """Of two columns of one name the last silently wins."""
    assert (
        error_of(save(tmp_path, "a.csv", "text,text\na,b\n")) == 'a.csv: the column "text" stands twice in the header. Rename one of them.'
    )


def test_quote_never_closed(tmp_path: Path) -> None:
    """With bad_rows = "drop", one stray quote loses the rest of the file as "one row"."""
    path = save(tmp_path, "a.csv", 'text,label\na,x\n"b,y\n' + "c,x\n" * 50)
    assert error_of(path) == "a.csv: the quote opened in the row of line 3 is never closed. Close it, or double it."


def test_json_array(tmp_path: Path) -> None:
    """A .jsonl that is one JSON array gives a thousand bad lines."""
    assert error_of(save(tmp_path, "a.jsonl", '[{"text": "a"}]')) == (
        "a.jsonl: the file is one JSON array; jsonl has one object a line. Write each object on its own line."
    )


def test_broken_pattern(tmp_path: Path) -> None:
    """re.error, or a table without columns."""
    path = save(tmp_path, "a.txt", "x")
    assert error_of(path, pattern="(") == (
        "a.txt: the pattern is not a regular expression: missing ), unterminated subpattern at position 0."
    )
    assert error_of(path, pattern="x") == r"a.txt: the pattern has no named groups. Write such as (?P<label>\w+) (?P<text>.*)."


def test_corrupt_parquet(tmp_path: Path) -> None:
    """A download that was cut off gives ArrowInvalid."""
    pq.write_table(pa.table({"text": ["a"] * 1000}), tmp_path / "a.parquet")
    content = (tmp_path / "a.parquet").read_bytes()
    for damage in (content[: len(content) // 2], content[:8] + b"\x00" * 40 + content[48:], b"PAR1"):
        error = error_of(save(tmp_path, "b.parquet", damage))
        assert error.startswith("b.parquet: the file is not a whole parquet file: ")
        assert error.endswith(" Write it or fetch it again.")


def test_missing_column(tmp_path: Path) -> None:
    """KeyError for a mistyped column, with no word of what the columns are."""
    table = tables.read_table(save(tmp_path, "a.csv", "ticket body, queue\na,x\n"), where="a.csv")
    assert tables.column(table, "queue", key="data.label") == ["x"]
    with pytest.raises(DataError) as caught:
        tables.column(table, "ticket_body", key="data.text")
    assert str(caught.value) == (
        'a.csv: there is no column "ticket_body", which data.text names. Did you mean "ticket body"? '
        'The columns are "ticket body", "queue". Write text = … under [data].'
    )
    with pytest.raises(DataError) as caught:
        tables.column(table, "zzz", key="data.text")
    assert str(caught.value) == (
        'a.csv: there is no column "zzz", which data.text names. Known: queue, ticket body. Write text = … under [data].'
    )


def test_column_of_lists(tmp_path: Path) -> None:
    """A chat's list of messages is trained on as its JSON text."""
    table = tables.read_table(save(tmp_path, "a.jsonl", '{"text": ["a"], "label": 1}\n'), where="a.jsonl")
    with pytest.raises(DataError) as caught:
        tables.column(table, "text", key="data.text")
    assert str(caught.value) == 'a.jsonl: the column "text" (data.text) holds lists, objects or bytes, not text.'


# --- properties ----------------------------------------------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(AWKWARD, AWKWARD.filter(str.strip)), min_size=1, max_size=6),
    st.sampled_from([",", ";", "|"]),
    st.sampled_from(["\n", "\r\n"]),
)
def test_csv_round_trip(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]], delimiter: str, end: str) -> None:
    """Some character of some text is lost or cuts a row in two."""
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter, lineterminator=end, quoting=csv.QUOTE_ALL).writerows([("text", "label"), *rows])
    table = tables.read_table(save(tmp_path_factory.mktemp("t"), "a.csv", text.getvalue()))
    assert table.columns == {"text": [text or None for text, _ in rows], "label": [label for _, label in rows]}
    assert not table.bad


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(AWKWARD.filter(str.strip), AWKWARD.filter(str.strip)), min_size=1, max_size=6))
def test_pandas_csv_and_tsv_round_trip(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]) -> None:
    """What pandas writes, which is what most people have, is read otherwise than pandas meant it."""
    # pandas leaves a lone \r unquoted (its own reader is confused by it too), so that one is not asked of it.
    rows = [(text.replace("\r", "\n"), label.replace("\r", "\n")) for text, label in rows]
    rows = [(text, label) for text, label in rows if text.strip() and label.strip()] or [("a", "b")]
    frame = pd.DataFrame(rows, columns=["text", "label"])
    folder = tmp_path_factory.mktemp("t")
    for name, separator in (("a.csv", ","), ("a.tsv", "\t")):
        frame.to_csv(folder / name, sep=separator)
        table = tables.read_table(folder / name)
        assert table.columns["text"] == [text for text, _ in rows]
        assert table.columns["label"] == [label for _, label in rows]


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.dictionaries(st.sampled_from(["text", "label", "x y"]), st.one_of(AWKWARD, st.integers(), st.none()), min_size=1),
        min_size=1,
        max_size=6,
    ),
    st.booleans(),
)
def test_jsonl_round_trip(tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, str | int | None]], ascii: bool) -> None:
    """A text with U+2028 or an escape is cut, or a number is another class than its string."""
    lines = "\n".join(json.dumps(row, ensure_ascii=ascii) for row in rows)
    table = tables.read_table(save(tmp_path_factory.mktemp("t"), "a.jsonl", lines))
    assert len(table) == len(rows)
    for name, values in table.columns.items():
        expected = [row.get(name) for row in rows]
        assert values == [str(value) if isinstance(value, int) else value or None for value in expected]


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(st.from_regex(r"[A-Z]{1,4}", fullmatch=True), AWKWARD.map(lambda text: text.replace("\n", " ").replace("\r", " "))),
        min_size=1,
    )
)
def test_lines_round_trip(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]) -> None:
    """A line is cut at a character that is not a newline."""
    text = "".join(f"{label} {text}\n" for label, text in rows)
    table = tables.read_table(save(tmp_path_factory.mktemp("t"), "a.txt", text), pattern=r"(?P<label>\S+) (?P<text>.*)")
    assert table.columns == {"label": [label for label, _ in rows], "text": [text or None for _, text in rows]}
    assert table.numbers == list(range(1, len(rows) + 1))


@pytest.mark.parametrize(
    ("value", "text"),
    [(1, "1"), (1.0, "1"), (1.5, "1.5"), ("1", "1"), (True, "true"), (float("nan"), None), (float("inf"), "inf"), ("", None)],
)
def test_values_as_text(value: object, text: str | None) -> None:
    """The class 1 is another one than "1" or 1.0."""
    assert tables.as_text(value) == text


# --- prepared rows -------------------------------------------------------------------------------------------------------------------------


def test_rows_come_back_and_bytes_repeat(tmp_path: Path) -> None:
    """A column changes its type on the way through the file, or the same rows give other bytes and every later stage is built again."""
    rows = tables.make_rows(["a", "é\n漢🙂\x00"], [1, 0], [["digits", "typos"], []], [7, 2])
    for name in ("a.parquet", "b.parquet"):
        tables.write_rows(tmp_path / name, rows)
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    back = tables.read_rows(tmp_path / "a.parquet")
    assert (back.keys, back.texts, back.slices) == ([text_key(text) for text in rows.texts], rows.texts, rows.slices)
    assert back.labels.dtype == np.int32
    assert back.numbers.dtype == np.int64
    assert back.labels.tolist() == [1, 0]
    assert back.numbers.tolist() == [7, 2]


def test_no_rows_and_no_labels(tmp_path: Path) -> None:
    """Traffic of which nothing is left cannot be written; an unlabelled row gets class 0."""
    tables.write_rows(tmp_path / "a.parquet", tables.make_rows([]))
    assert len(tables.read_rows(tmp_path / "a.parquet")) == 0
    assert tables.make_rows(["x"]).labels.tolist() == [-1]
