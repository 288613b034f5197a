"""A writer of further texts: it learns what the texts are made of, repeats none of them, and reads nothing that is held out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgedistill.errors import StageError
from edgedistill.recipe import Transfer, Writer
from edgedistill.stages import compose, transfer
from edgedistill.tables import make_rows, read_rows, write_rows
from tests.conftest import tickets
from tests.test_faults import Write
from tests.test_pipeline import edgedistill
from tests.tiny_decoders import tiny_decoder


@pytest.fixture(scope="module")
def composed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `prepared/` and what a writer wrote after 40 passes over it, `written/`."""
    folder = tmp_path_factory.mktemp("composed")
    texts = list(dict.fromkeys(text for text, _ in tickets(260)))
    for name in ("prepared", "written"):
        (folder / name).mkdir()
    write_rows(folder / "prepared" / "train.parquet", make_rows(texts[:150], [0] * 150))
    write_rows(folder / "prepared" / "test.parquet", make_rows(texts[150:190]))
    writer = Writer(model="tiny", growth=1, epochs=40, learning_rate=5e-3)
    params = compose.Params(writer, 0.2, 64, "float32", 0)
    compose.run(folder / "written", params, prepared=folder / "prepared", model=tiny_decoder(folder / "decoder"))
    return folder


def test_a_writer_writes_new_texts_of_the_same_kind(composed: Path) -> None:
    """Texts that are copies, that come twice, that have no end, or that are made of other words than the ones it was taught."""
    texts = read_rows(composed / "written" / "written.parquet").texts
    taught = set(read_rows(composed / "prepared" / "train.parquet").texts)
    facts = json.loads((composed / "written" / "facts.json").read_text())
    assert facts["wanted"] == 120 == len(texts) == facts["new"] and facts["taught"] == 120, "a fifth of 150 rows is held out"
    assert facts["written"] >= len(texts) and len(set(texts)) == len(texts) and not taught & set(texts)
    words = {word for text in taught for word in text.lower().split()}
    known = [word in words for text in texts for word in text.lower().split()]
    assert sum(known) / len(known) > 0.5, "an untaught one of random weights writes hardly a word of them"


def test_what_was_written_joins_the_transfer_set_cleaned(composed: Path, tiny_teacher: Path) -> None:
    """A written text that repeats a test row or a held-out one, or that counts as a real one."""
    test = read_rows(composed / "prepared" / "test.parquet").texts
    written = composed / "leaky"
    written.mkdir()
    write_rows(
        written / "written.parquet", make_rows([test[0], test[1].upper(), *read_rows(composed / "written" / "written.parquet").texts])
    )
    out = composed / "out"
    out.mkdir()
    params = transfer.Params(Transfer(growth=3, held_out=0.2), 0.9, 0, {})
    transfer.run(out, params, prepared=composed / "prepared", model=tiny_teacher, written=written)
    facts, rows = json.loads((out / "facts.json").read_text()), read_rows(out / "transfer.parquet")
    assert not {test[0], test[1].upper()} & set(rows.texts) and facts["dropped_like_test"]["exact"] >= 2
    assert facts["training_rows"] == 120 and facts["traffic_rows"] == 0 and 0 < facts["written_rows"] <= 120
    assert facts["rows"] == len(rows) == 360 and (rows.labels[120:] == -1).all()


def test_a_writer_that_only_repeats_itself_stops_the_build() -> None:
    """A build that asks for ever for what never comes, or goes on with nothing."""
    known = ["one text", "another"]
    with pytest.raises(StageError, match=r"of 3 texts that the writer wrote none is new\..*Teach it less"):
        compose.collect(lambda: ["one text", "another ", "one  text"], 10, known)
    some = iter([[f"text {place}" for place in range(100)], ["text 1"] * 100])
    assert compose.collect(lambda: next(some), 200, known) == compose.Found([f"text {place}" for place in range(100)], 200)


def test_a_recipe_with_a_writer(recipe_file: Write, tmp_path: Path) -> None:
    """Texts of a model under unknown terms, found out after the teacher was trained; a writer that never reaches the transfer set."""
    tiny_decoder(tmp_path / "decoder")
    section = '[transfer.writer]\nmodel = "decoder"\ngrowth = 0.5\nepochs = 20\nlearning_rate = 5e-3\n'
    recipe = recipe_file(("[student]", section + "[student]"))
    done = edgedistill("compile", recipe, "--until", "teach", home=tmp_path / "home")
    assert (
        done.returncode == 2 and "the terms of the transfer.writer are unknown" in done.stderr and "under [transfer.writer]" in done.stderr
    )
    assert not list((tmp_path / "home" / "store").glob("teacher-*"))
    recipe = recipe_file(("[student]", section + 'license = "mit"\n[student]'))
    edgedistill("compile", recipe, "--until", "teach", home=tmp_path / "home", check=0)
    facts = json.loads(next((tmp_path / "home" / "store").glob("transfer-*/facts.json")).read_text())
    assert facts["written_rows"] > 0.3 * facts["training_rows"]
