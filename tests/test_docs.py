"""Documents that cannot drift from the code, and promises that can be timed."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgedistill import plugins
from edgedistill.target import target_names

ROOT = Path(__file__).parent.parent


def test_docs_are_up_to_date() -> None:
    """A verb, an option, a plugin or a target that the documents do not know. Run `make docs`."""
    done = subprocess.run([sys.executable, "scripts/docs.py", "--check"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_plugin_and_target_is_documented() -> None:
    """A file that works and that nobody can find."""
    text = (ROOT / "docs" / "verbs.md").read_text()
    for folder in plugins.FOLDERS:
        for name in plugins.names(folder):
            assert f"`{folder}/{name}`" in text
    for name in target_names():
        assert f"`{name}`" in text


@pytest.mark.parametrize("folder", plugins.FOLDERS)
def test_every_plugin_teaches(folder: str) -> None:
    """A plugin without the docstring that is its documentation, or whose import drags torch in."""
    own = {name for name in plugins.names(folder) if not plugins.made_by_a_family(folder, name)}
    for name in sorted(own | {*plugins.FAMILIES.get(folder, ())}):
        code = f"import sys, edgedistill.{folder}.{name} as p; assert p.__doc__; assert 'torch' not in sys.modules, 'imports torch'"
        subprocess.run([sys.executable, "-c", code], check=True)


def test_import_is_light() -> None:
    """`import edgedistill` that drags in torch or onnxruntime."""
    code = "import sys, edgedistill; print([name for name in ('torch', 'onnxruntime', 'pydantic', 'numpy') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_help_is_quick() -> None:
    """`--help` that makes people wait: at most 0.6 s on a quiet machine, the best of five here."""
    times = []
    for _ in range(5):
        start = time.monotonic()
        subprocess.run([sys.executable, "-m", "edgedistill.cli", "--help"], capture_output=True, check=True)
        times.append(time.monotonic() - start)
    assert min(times) < 0.6


def test_readme_commands_exist() -> None:
    """A command in the README that the program does not have."""
    from edgedistill.cli import app

    verbs = {command.callback.__name__ for command in app.registered_commands if command.callback}
    used = set(re.findall(r"^(?:\.venv/bin/)?edgedistill (\w+)", (ROOT / "README.md").read_text(), re.MULTILINE))
    assert used and used <= verbs
    targets = set(re.findall(r"^make ([\w-]+)", (ROOT / "README.md").read_text(), re.MULTILINE))
    makefile = (ROOT / "Makefile").read_text()
    assert targets and all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)


def test_no_host_names_or_machine_paths() -> None:
    """A path of one machine, or an address of a package index, in what is committed."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    for name in listed.stdout.splitlines():
        content = (ROOT / name).read_bytes()
        for forbidden in (b"/wo" + b"rk/", b"/ro" + b"ot/", b"files.python" + b"hosted", b"download.py" + b"torch"):
            assert forbidden not in content, f"{name} holds {forbidden!r}"
