"""The iOS package: assembled, its structure looked at, and its C++ compiled and run here. Neither Swift nor Xcode is at hand."""

from __future__ import annotations

import ctypes
import json
import os
import plistlib
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgedistill import native
from edgedistill.bundle_format import read_golden
from edgedistill.stages.app import assemble
from tests.conftest import share_native
from tests.tiny_models import SENTENCES

pytestmark = pytest.mark.long  # 150 MB are fetched, once


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("ios-home")
        share_native(folder)
        patch.setenv("EDGEDISTILL_HOME", str(folder))
        yield folder


@pytest.fixture(scope="module")
def app(home: Path, tmp_path_factory: pytest.TempPathFactory, tiny_bundle: Path) -> Path:
    out = tmp_path_factory.mktemp("ios") / "app"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEDISTILL_HOME", str(home))
        assemble("ios", tiny_bundle, out)
    return out


def test_it_is_whole(app: Path) -> None:
    """A package that names what is not in it, or a framework without the processor of phones or of the simulator."""
    package = (app / "Package.swift").read_text()
    for path in re.findall(r'path: "([^"]+)"', package):
        assert (app / path).exists(), path
    for name in re.findall(r'\.target\(\s*name: "(\w+)"', package):
        assert any((app / "Sources" / name).iterdir()), name
    for folder in re.findall(r'headerSearchPath\("([^"]+)"\)', package):
        assert any((app / "Sources" / "EdgeCore" / folder).iterdir()), folder
    assert {"manifest.json", "model.onnx", "tokenizer.json", "golden.jsonl"} <= {
        file.name for file in (app / "Sources/Edge/bundle").iterdir()
    }
    assert (app / "Sources/EdgeCore/json/nlohmann/json.hpp").is_file() and not (app / "app.toml").exists()
    framework = app / "vendor" / "onnxruntime.xcframework"
    for library in plistlib.loads((framework / "Info.plist").read_bytes())["AvailableLibraries"]:
        if library["SupportedPlatform"] == "ios" and library.get("SupportedPlatformVariant") != "maccatalyst":
            binary = framework / library["LibraryIdentifier"] / library["LibraryPath"] / "onnxruntime"
            assert binary.stat().st_size > 1e6 and (binary.parent / "Headers" / "onnxruntime_cxx_api.h").is_file()
            assert "arm64" in library["SupportedArchitectures"]


@pytest.fixture(scope="module")
def core(app: Path, home: Path, tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """Sources/EdgeCore as a library of this machine, with this machine's ONNX Runtime."""
    if shutil.which("g++") is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("g++ is missing")
    folder = tmp_path_factory.mktemp("core")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEDISTILL_HOME", str(home))
        runtime = native.onnxruntime_folder(native.this_machine(), folder / "onnxruntime")
    (folder / "include").mkdir()
    (folder / "include" / "onnxruntime").symlink_to(runtime / "include")  # as headers stand in a framework
    sources = app / "Sources" / "EdgeCore"
    paths = [
        f"-I{sources / 'json'}",
        f"-I{sources / 'shims'}",
        f"-I{folder / 'include'}",
        f"-L{runtime / 'lib'}",
        f"-Wl,-rpath,{runtime / 'lib'}",
    ]
    files = [str(file) for file in sorted(sources.glob("*.cpp"))]
    command = [
        "g++",
        "-std=c++17",
        "-O1",
        "-Wall",
        "-Wextra",
        "-shared",
        "-fPIC",
        *paths,
        *files,
        "-lonnxruntime",
        "-o",
        str(folder / "libedge.so"),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr, done.stderr
    library = ctypes.CDLL(str(folder / "libedge.so"))
    library.edge_open.restype = library.edge_ask.restype = library.edge_check.restype = ctypes.c_void_p
    library.edge_ask.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
    library.edge_check.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
    library.edge_close.argtypes = library.edge_free.argtypes = [ctypes.c_void_p]
    return library


def taken(core: ctypes.CDLL, text: int) -> str:
    found = ctypes.cast(text, ctypes.c_char_p).value
    core.edge_free(text)
    assert found is not None
    return found.decode()


def test_its_answers_are_the_bundle_s(core: ctypes.CDLL, app: Path) -> None:
    """Functions that answer otherwise than the bundle, or a check that passes whatever it sees."""
    bundle = app / "Sources" / "Edge" / "bundle"
    problem = ctypes.c_void_p()
    opened = core.edge_open(str(bundle).encode(), ctypes.byref(problem))
    assert opened and not problem
    vectors = list(read_golden(bundle / "golden.jsonl"))
    seen = json.loads(taken(core, core.edge_check(opened, ctypes.byref(problem))))
    assert seen["golden"] == "equal" and seen["vectors"] == len(vectors) >= 64
    wanted = {vector.text: vector.answer for vector in vectors if vector.answer}
    texts = [text for text in SENTENCES if text in wanted]
    said = [json.loads(taken(core, core.edge_ask(opened, text.encode(), ctypes.byref(problem)))) for text in texts]
    assert texts and [one["answer"] for one in said] == [wanted[text] for text in texts]
    assert all(0 < one["confidence"] <= 1 and one["ms"] > 0 for one in said)
    core.edge_close(opened)


def test_problems_are_sentences(core: ctypes.CDLL, app: Path, tmp_path: Path) -> None:
    """An exception that ends an app written in a language without exceptions."""
    problem = ctypes.c_void_p()
    assert not core.edge_open(str(tmp_path).encode(), ctypes.byref(problem))
    assert taken(core, problem.value or 0) == f"cannot read {tmp_path}/manifest.json"
    bundle = Path(shutil.copytree(app / "Sources" / "Edge" / "bundle", tmp_path / "bundle"))
    facts = json.loads((bundle / "tokenizer.json").read_text())
    facts["model"]["type"] = "BPE"
    (bundle / "tokenizer.json").write_text(json.dumps(facts))
    assert not core.edge_open(str(bundle).encode(), ctypes.byref(problem))
    assert (
        taken(core, problem.value or 0)
        == "the tokenizer has a model of type BPE, which this program does not know: it reads BERT's WordPiece"
    )
