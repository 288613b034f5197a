"""Bad input through the user's own command: one clear error, the right exit code, nothing lost."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import tickets, write_csv
from tests.test_pipeline import edgedistill

Write = Callable[..., Path]


def fails(recipe: Path, tmp_path: Path, code: int, *words: str) -> str:
    """Compile up to prepare must end with `code` and one error paragraph that holds `words`, no traceback."""
    done = edgedistill("compile", recipe, "--until", "prepare", home=tmp_path / "home")
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr and done.stderr.count("Error: ") == 1
    for word in words:
        assert word in done.stderr, done.stderr
    return done.stderr


def test_missing_recipe(tmp_path: Path) -> None:
    """A traceback for a file that is not there."""
    done = edgedistill("compile", tmp_path / "no.toml", home=tmp_path)
    assert (done.returncode, done.stderr) == (2, f"Error: {tmp_path / 'no.toml'}: there is no such file.\n")


def test_missing_data_file(recipe_file: Write, tmp_path: Path) -> None:
    """The same for the data, with the nearest name."""
    fails(
        recipe_file(('"tickets.csv"', '"tikets.csv"')), tmp_path, 2, 'data.train: there is no file or folder "tikets.csv"', '"tickets.csv"?'
    )


def test_missing_column(recipe_file: Write, tmp_path: Path) -> None:
    """A KeyError for a misspelt column."""
    fails(recipe_file(('text  = "body"', 'text = "bodi"')), tmp_path, 2, '"bodi"', 'Did you mean "body"?')


def test_unknown_target_and_stage(recipe_file: Write, tmp_path: Path) -> None:
    """A misspelt name on the command line found after the training."""
    recipe = recipe_file()
    done = edgedistill("compile", recipe, "-t", "laptop-x68", home=tmp_path / "home")
    assert (done.returncode, done.stderr) == (
        2,
        'Error: compile.targets: there is no target called "laptop-x68". Did you mean "laptop-x86"?\n',
    )
    done = edgedistill("compile", recipe, "--until", "distil", home=tmp_path / "home")
    assert (done.returncode, done.stderr) == (2, 'Error: --until: there is no stage "distil" to stop after. Did you mean "distill"?\n')


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([], "no rows"),
        ([("a b c", "x")] * 30, "class"),
        ([("same text", "x"), ("same text", "y")] * 15, ""),
        ([*tickets(30), ("", "billing")], 'bad_rows = "drop"'),
        ([*tickets(30), ("  ", "billing")], 'bad_rows = "drop"'),
        ([*tickets(30), ("nan", "")], 'bad_rows = "drop"'),
        ([*tickets(30), ("x" * 1_000_001, "billing")], 'bad_rows = "drop"'),
    ],
    ids=["empty", "one class", "all duplicates", "empty text", "blank text", "no label", "a megabyte"],
)
def test_bad_rows(recipe_file: Write, tmp_path: Path, rows: list[tuple[str, str]], words: str) -> None:
    """Rows that would spoil the training, taken in silence."""
    write_csv(tmp_path / "tickets.csv", rows)
    fails(recipe_file(), tmp_path, 2, words)


def test_not_utf8(recipe_file: Write, tmp_path: Path) -> None:
    """A UnicodeDecodeError without the line, or mojibake in the training set."""
    recipe = recipe_file()
    (tmp_path / "tickets.csv").write_bytes("body,queue\ncafé,billing\n".encode("latin-1"))
    fails(recipe, tmp_path, 2, "UTF-8", "line 2", 'encoding = "latin-1"')


def test_label_never_seen_in_training(recipe_file: Write, tmp_path: Path) -> None:
    """A test class that no model can answer counted as an error of the model."""
    write_csv(tmp_path / "test.csv", [("my spaceship is late", "space"), ("refund the invoice please now", "billing")])
    fails(recipe_file(('label = "queue"', 'label = "queue"\ntest = "test.csv"')), tmp_path, 2, '"space"')


def test_wrong_digest(recipe_file: Write, tmp_path: Path) -> None:
    """Data that changed under the recipe."""
    fails(recipe_file(('"tickets.csv"', f'"tickets.csv#sha256={"0" * 64}"')), tmp_path, 2, "has another SHA-256 than the recipe says")


def test_unknown_terms_stop_before_the_teacher_is_asked(recipe_file: Write, tmp_path: Path, tiny_teacher: Path) -> None:
    """A teacher taught and asked before anybody looked at its terms."""
    silent = Path(shutil.copytree(tiny_teacher, tmp_path / "silent"))
    (silent / "README.md").unlink()
    recipe = recipe_file(('license       = "mit"', ""), (f'"{tiny_teacher}"', '"silent"'))
    done = edgedistill("compile", recipe, "--until", "teach", home=tmp_path / "home")
    assert done.returncode == 2 and "the terms of the teacher are unknown" in done.stderr
    assert not list((tmp_path / "home" / "store").glob("teacher-*"))


def test_remote_code_stops(recipe_file: Write, tmp_path: Path, tiny_teacher: Path) -> None:
    """Code of a model folder that is run."""
    evil = Path(shutil.copytree(tiny_teacher, tmp_path / "evil"))
    config = (evil / "config.json").read_text().replace("{", '{"auto_map": {"AutoModel": "evil.Evil"},', 1)
    (evil / "config.json").write_text(config)
    (evil / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    done = edgedistill("compile", recipe_file((f'"{tiny_teacher}"', '"evil"')), "--until", "teach", home=tmp_path / "home")
    assert done.returncode == 2 and "the model asks to run code of its own" in done.stderr
    assert not (tmp_path / "ran").exists()


def test_layers_that_do_not_exist(recipe_file: Write, tmp_path: Path) -> None:
    """An IndexError after the teacher was trained."""
    done = edgedistill("compile", recipe_file(("layers     = 2", "layers = [0, 9]")), "--until", "distill", home=tmp_path / "home")
    assert done.returncode == 2 and "student.layers = [0, 9] does not fit a model of 4 layers" in done.stderr


def test_altered_store_entry_is_said(recipe_file: Write, tmp_path: Path) -> None:
    """A student trained on rows that somebody edited in the store."""
    recipe = recipe_file()
    edgedistill("compile", recipe, "--until", "prepare", home=tmp_path / "home", check=0)
    (entry,) = (tmp_path / "home" / "store").glob("prepare-*")
    (entry / "classes.json").write_text("[]")
    done = edgedistill("compile", recipe, "--until", "prepare", home=tmp_path / "home")
    assert done.returncode == 4 and "was altered after it was written. Delete the folder" in done.stderr


def test_full_disk(recipe_file: Write, tmp_path: Path) -> None:
    """A traceback, or a half result, on a full disk. A real small file system where we may mount one."""
    import subprocess

    home = tmp_path / "small"
    home.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(home)], capture_output=True, check=False).returncode:
        pytest.skip("may not mount a file system here; test_store.py writes to /dev/full instead")
    try:
        done = edgedistill("compile", recipe_file(), "--until", "teach", home=home)
    finally:
        subprocess.run(["umount", str(home)], check=True)
    assert done.returncode == 4 and "no space is left on the disk" in done.stderr and "Traceback" not in done.stderr


def test_verify_refuses_what_is_no_bundle(tmp_path: Path) -> None:
    """A traceback for a folder that is no bundle."""
    done = edgedistill("verify", tmp_path, home=tmp_path)
    assert (done.returncode, done.stderr) == (
        2,
        f"Error: {tmp_path}: this is no bundle: it has no manifest.json. Give the folder that compile wrote.\n",
    )


def test_init_then_plan(tmp_path: Path, tiny_teacher: Path) -> None:
    """A recipe from init that plan refuses. Awkward columns: spaces, quotes, accents; semicolons between them."""
    rows = "\n".join(f"{number};{text};{queue}" for number, (text, queue) in enumerate(tickets(90)))
    (tmp_path / "exports.csv").write_text(f'N° ;"what ""they"" wrote, é";Queue name\n{rows}\n', encoding="utf-8")
    done = edgedistill("init", tmp_path / "exports.csv", home=tmp_path / "home", check=0)
    assert "Next: edgedistill plan" in done.stdout
    again = edgedistill("init", tmp_path / "exports.csv", home=tmp_path / "home")
    assert again.returncode == 2 and "there is a recipe already" in again.stderr
    recipe = tmp_path / "recipe.toml"
    text = recipe.read_text(encoding="utf-8")
    line = next(line for line in text.splitlines() if line.startswith("model"))
    recipe.write_text(text.replace(line, f'model = "{tiny_teacher}"'), encoding="utf-8")
    edgedistill("plan", recipe, home=tmp_path / "home", check=0)
    edgedistill("compile", recipe, "--until", "prepare", home=tmp_path / "home", check=0)
