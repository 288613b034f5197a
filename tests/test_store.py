"""The content-addressed store: complete or absent, never half; nothing done twice; nothing altered unseen."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedistill.digests import canonical, text_key, tree_digest
from edgedistill.errors import StageError, StoreError
from edgedistill.store import Stage, Store

calls: list[str] = []


def write(out: Path, params: dict[str, str], **inputs: Path) -> None:
    calls.append("write")
    (out / "a.txt").write_text(params["text"])


WRITE = Stage("write", 1, write)


def test_second_build_is_a_hit(tmp_path: Path) -> None:
    """Work done twice."""
    store = Store(tmp_path)
    calls.clear()
    first = store.build(WRITE, {"text": "x"})
    second = store.build(WRITE, {"text": "x"})
    assert (first.cached, second.cached, calls) == (False, True, ["write"])
    assert (second.path / "a.txt").read_text() == "x"


def test_a_result_that_does_not_stand_is_made_again(tmp_path: Path) -> None:
    """Figures of a clock that drifted kept for good, though the advice is to measure again; a stage after it that finds its own of the last time."""
    store = Store(tmp_path)
    shaky = Stage("shaky", 1, write, stands=lambda folder: len(calls) > 2)
    after = Stage("after", 1, lambda out, params, shaky: calls.append("after"))
    calls.clear()
    for cached in (False, False, True):
        one = store.build(shaky, {"text": "x"})
        assert one.cached is cached and (one.path / "a.txt").read_text() == "x"
        assert store.build(after, {}, shaky=one).cached is cached
    assert calls == ["write", "after", "write", "after"]


def test_a_stage_that_grows_is_told_of_results_that_differ_in_one_input_alone(tmp_path: Path) -> None:
    """What is known already made anew, or taken from another teacher, from other params, or from a result that somebody edited."""
    store, told = Store(tmp_path), []

    def run(out: Path, params: dict[str, str], *, texts: Path, teacher: Path, earlier: list[Path]) -> None:
        told.append({folder.name for folder in earlier})
        (out / "a.txt").write_text("x")

    def build(texts: str, teacher: str = "t", params: str = "p", version: int = 1) -> Path:
        inputs = {name: SimpleNamespace(path=tmp_path, key=key) for name, key in (("texts", texts), ("teacher", teacher))}
        return store.build(Stage("grown", version, run, grows="texts"), {"params": params}, **inputs).path

    first = build("one")
    for other in ({"teacher": "u"}, {"params": "q"}, {"version": 2}):
        build("one", **other)
    second = build("two")
    assert told == [set(), set(), set(), set(), {first.name}]
    (first / "a.txt").write_text("edited")
    build("three")
    assert told[-1] == {second.name}


def test_every_part_of_the_key_counts(tmp_path: Path) -> None:
    """A stale result handed out after the params, the stage's version, an input or a package changed."""
    store = Store(tmp_path)
    keys = [
        store.key(WRITE, {"text": "x"}, {}),
        store.key(WRITE, {"text": "y"}, {}),
        store.key(Stage("write", 2, write), {"text": "x"}, {}),
        store.key(Stage("write", 1, write, ("numpy",)), {"text": "x"}, {}),
        store.key(WRITE, {"text": "x"}, {"data": "k1"}),
        store.key(WRITE, {"text": "x"}, {"data": "k2"}),
    ]
    assert len(set(keys)) == len(keys)


def test_altered_entry_is_named(tmp_path: Path) -> None:
    """A result that somebody edited, built upon in silence."""
    store = Store(tmp_path)
    made = store.build(WRITE, {"text": "x"})
    (made.path / "a.txt").write_text("y")
    with pytest.raises(StoreError) as error:
        store.build(WRITE, {"text": "x"})
    assert str(error.value) == (
        f"{made.path / 'a.txt'}: this result in the store was altered after it was written. "
        f"Delete the folder {made.path} and run again: it is made anew."
    )
    (made.path / "a.txt").unlink()
    with pytest.raises(StoreError, match="removed after it was written"):
        store.build(WRITE, {"text": "x"})


def test_copied_store_still_hits(tmp_path: Path) -> None:
    """A store restored from a backup (other file times) taken as altered."""
    store = Store(tmp_path)
    made = store.build(WRITE, {"text": "x"})
    os.utime(made.path / "a.txt", (1, 1))
    assert store.build(WRITE, {"text": "x"}).cached


def test_failure_leaves_no_result_and_keeps_the_draft(tmp_path: Path) -> None:
    """Half a result found later as if it were whole, or a checkpoint lost by a failure."""

    def fail(out: Path, params: object) -> None:
        if (out / "checkpoint").is_file():
            (out / "done").write_text("resumed")
            return
        (out / "checkpoint").write_text("half")
        raise ValueError("boom")

    stage, store = Stage("fail", 1, fail), Store(tmp_path)
    with pytest.raises(StageError, match="the stage fail failed: ValueError: boom"):
        store.build(stage, {})
    assert store.find(stage, store.key(stage, {}, {})) is None
    assert (store.build(stage, {}).path / "done").read_text() == "resumed"


def test_full_disk_is_said(tmp_path: Path) -> None:
    """A traceback where the disk is full. /dev/full gives the real error of the system."""

    def fill(out: Path, params: object) -> None:
        with Path("/dev/full").open("w") as stream:
            stream.write("x" * 100_000)

    with pytest.raises(StoreError) as error:
        Store(tmp_path).build(Stage("fill", 1, fill), {})
    assert "no space is left on the disk while the stage fill was writing. Free some space, or set EDGEDISTILL_HOME" in str(error.value)
    assert error.value.exit_code == 4


BUILDER = """
    import sys, time
    from pathlib import Path
    from edgedistill.store import Stage, Store
    def slow(out, params):
        mark = out / "mark"
        resumed = mark.is_file()
        mark.write_text("")
        (Path(sys.argv[1]) / f"ran-{sys.argv[2]}").write_text("resumed" if resumed else "fresh")
        time.sleep(float(sys.argv[3]))
        (out / "result").write_text(sys.argv[2])
    made = Store(Path(sys.argv[1]) / "store").build(Stage("slow", 1, slow), {})
    print((made.path / "result").read_text(), made.cached)
"""


def _builder(folder: Path, name: str, seconds: float) -> subprocess.Popen[str]:
    script = folder / "builder.py"
    script.write_text(textwrap.dedent(BUILDER))
    return subprocess.Popen([sys.executable, str(script), str(folder), name, str(seconds)], stdout=subprocess.PIPE, text=True)


def _wait_for(path: Path) -> None:
    for _ in range(400):
        if path.exists():
            return
        time.sleep(0.05)
    raise AssertionError(f"{path.name} never came")


def test_two_builders_at_once(tmp_path: Path) -> None:
    """Two builds on one store that spoil each other's files: one works, the other waits and takes its result."""
    first = _builder(tmp_path, "one", 1.5)
    _wait_for(tmp_path / "ran-one")
    second = _builder(tmp_path, "two", 0)
    assert first.communicate()[0].split() == ["one", "False"]
    assert second.communicate()[0].split() == ["one", "True"]
    assert not (tmp_path / "ran-two").exists()


def test_killed_builder_resumes(tmp_path: Path) -> None:
    """kill -9 that leaves a lock behind, or throws away what was checkpointed."""
    first = _builder(tmp_path, "one", 60)
    _wait_for(tmp_path / "ran-one")
    first.send_signal(signal.SIGKILL)
    first.wait()
    second = _builder(tmp_path, "two", 0)
    assert second.communicate(timeout=30)[0].split() == ["two", "False"]
    assert (tmp_path / "ran-two").read_text() == "resumed"


@given(
    st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))
)
def test_canonical_ignores_order_and_loses_nothing(value: object) -> None:
    """Two keys for one value, or one key for two."""
    assert json.loads(canonical(value)) == value
    if isinstance(value, dict):
        assert canonical(dict(reversed(value.items()))) == canonical(value)


def test_tree_digest_sees_names_and_content(tmp_path: Path) -> None:
    """A renamed or edited file in a model folder that goes unseen."""
    seen = set()
    for name, content in (("a", "1"), ("b", "1"), ("a", "2")):
        folder = tmp_path / f"{name}{content}"
        folder.mkdir()
        (folder / name).write_text(content)
        seen.add(tree_digest(folder))
    assert len(seen) == 3


@given(st.text(), st.text())
def test_text_key_tells_texts_apart(a: str, b: str) -> None:
    """A soft label given to another text."""
    assert (text_key(a) == text_key(b)) == (a == b)


def test_inputs_are_passed_as_paths(tmp_path: Path) -> None:
    """A stage that is handed something else than the finished folder of its input."""
    seen = {}

    def look(out: Path, params: object, *, data: Path) -> None:
        seen["data"] = data

    Store(tmp_path).build(Stage("look", 1, look), {}, data=SimpleNamespace(path=tmp_path / "d", key="k"))
    assert seen == {"data": tmp_path / "d"}
