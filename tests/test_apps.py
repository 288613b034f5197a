"""Sample apps as `edgedistill app` assembles them: each in a folder of its own, started as its README says."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from edgedistill import javascript, npm
from edgedistill.bundle_format import read_golden, read_manifest, write_manifest
from edgedistill.errors import InputError
from edgedistill.links import qemu
from edgedistill.stages.app import assemble
from edgedistill.target import Link
from tests.test_pipeline import edgedistill
from tests.tiny_models import SENTENCES


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with what the app's README says, and nothing else."""
    venv = tmp_path_factory.mktemp("bare") / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    pip = [str(venv / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "onnxruntime==1.32.0", "tokenizers==0.23.3"], check=True)
    return venv / "bin" / "python"


def test_python_cli_without_torch(bare_python: Path, tiny_bundle: Path, tmp_path: Path, own_home: Path) -> None:
    """An app that needs more than its README says, or answers otherwise than the bundle."""
    out = tmp_path / "app"
    done = edgedistill("app", "python_cli", "--bundle", tiny_bundle, "-o", out, home=own_home, check=0)
    assert "pip install onnxruntime tokenizers" in done.stdout
    ask = [str(bare_python), str(out / "ask.py")]
    golden = subprocess.run([*ask, "--golden"], cwd="/", capture_output=True, text=True)
    assert golden.returncode == 0, golden.stdout + golden.stderr
    assert json.loads(golden.stdout)["golden"] == "equal"
    wanted = {vector.text: vector.answer for vector in read_golden(tiny_bundle / "golden.jsonl")}
    asked = subprocess.run([*ask, SENTENCES[0]], capture_output=True, text=True, check=True)
    assert json.loads(asked.stdout)["answer"] == wanted[SENTENCES[0]]
    piped = subprocess.run(ask, input="\n".join(SENTENCES[:3]), capture_output=True, text=True, check=True)
    assert [json.loads(line)["answer"] for line in piped.stdout.splitlines()] == [wanted[text] for text in SENTENCES[:3]]
    # One changed vector must be seen.
    lines = (out / "bundle" / "golden.jsonl").read_text().splitlines()
    changed = json.loads(lines[1]) | {"ids": [2, 3]}
    (out / "bundle" / "golden.jsonl").write_text("\n".join([lines[0], json.dumps(changed), *lines[2:]]))
    wrong = subprocess.run([*ask, "--golden"], capture_output=True, text=True)
    assert wrong.returncode == 1 and json.loads(wrong.stdout)["vector"] == 2


def test_embedded_linux_builds_and_answers(native_home: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    """A folder that lacks a file its README's two commands need."""
    if lacking := qemu.ready(Link(kind="qemu", cpu="cortex-a72")):
        if os.environ.get("CI"):
            pytest.fail(lacking)
        pytest.skip(lacking)
    out = tmp_path / "app"
    assemble("embedded_linux", tiny_bundle, out)
    build = "cmake -B build -DCMAKE_TOOLCHAIN_FILE=toolchain-aarch64.cmake . && cmake --build build --target device"
    assert build in (out / "README.md").read_text()
    done = subprocess.run(build, shell=True, cwd=out, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    shutil.move(out / "device", tmp_path / "device")  # onto the board: nothing of the build folder is there
    root = qemu._root(tmp_path, qemu.CPUS["cortex-a53"])
    edge = [
        qemu.QEMU["aarch64"],
        "-cpu",
        "cortex-a53",
        "-L",
        str(root),
        str(tmp_path / "device" / "edge"),
        "--bundle",
        str(tmp_path / "device" / "bundle"),
    ]
    golden = subprocess.run([*edge, "--golden"], capture_output=True, text=True)
    assert golden.returncode == 0 and json.loads(golden.stdout)["golden"] == "equal"


@pytest.fixture
def playwright(native_home: Path) -> Path:
    """The folder of playwright-core."""
    if lacking := [command for command in ("chromium", "node", "npm") if shutil.which(command) is None]:
        if os.environ.get("CI"):
            pytest.fail(f"missing: {lacking}")
        pytest.skip(f"missing: {lacking}")
    return npm.kept(javascript.PLAYWRIGHT)


def opened_page(app: Path, playwright: Path, text: str, picture: Path) -> subprocess.CompletedProcess[str]:
    """The page as a person sees it: tests/web_page.mjs."""
    server = subprocess.Popen([sys.executable, str(app / "serve.py"), "0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert server.stdout
        address = server.stdout.readline().strip()
        script = [shutil.which("node"), str(Path(__file__).parent / "web_page.mjs"), str(playwright), shutil.which("chromium"), address]
        return subprocess.run([*script, text, str(picture)], capture_output=True, text=True, timeout=400)
    finally:
        server.terminate()
        server.wait(timeout=30)


def test_web_page_answers_online_and_offline(playwright: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    """A page that answers otherwise than the bundle, needs the network a second time, or says nothing when its bundle is broken."""
    out = tmp_path / "app"
    assemble("web", tiny_bundle, out)
    assert sorted(file.name for file in (out / "vendor").iterdir()) == [
        "ort-wasm-simd-threaded.wasm",
        "ort.wasm.bundle.min.mjs",
        "tokenizers.min.mjs",
    ]
    wanted = {vector.text: vector.answer for vector in read_golden(tiny_bundle / "golden.jsonl")}
    done = opened_page(out, playwright, SENTENCES[0], tmp_path / "page.png")
    assert done.returncode == 0, done.stdout + done.stderr
    online, checked, offline = (json.loads(line) for line in done.stdout.splitlines())
    assert online["online"]["answer"] == offline["offline"]["answer"] == wanted[SENTENCES[0]]
    assert online["online"]["ms"].endswith("ms on this device") and online["online"]["sure"].endswith("sure")
    assert checked["isolated"] is True
    assert (checked["checked"]["golden"], checked["checked"]["vectors"]) == ("equal", len(wanted))
    assert offline["reachable"] is False, "the network was there: nothing was shown"
    assert (tmp_path / "page.png").stat().st_size > 5000
    (out / "bundle" / "model.onnx").unlink()
    broken = opened_page(out, playwright, SENTENCES[0], tmp_path / "page.png")
    assert broken.returncode != 0 and "Error: bundle/model.onnx is not there (404)." in broken.stderr


def test_web_page_marks_spans(playwright: Path, tag_bundle: Path, tmp_path: Path) -> None:
    """Spans that are marked elsewhere in the text than the bundle says, or an answer of a tagger shown as a class."""
    out = tmp_path / "app"
    assemble("web", tag_bundle, out)
    golden = max(read_golden(tag_bundle / "golden.jsonl"), key=lambda vector: len(vector.answer or ()) if len(vector.text) < 200 else 0)
    done = opened_page(out, playwright, golden.text, tmp_path / "page.png")
    assert done.returncode == 0, done.stdout + done.stderr
    online, checked, offline = (json.loads(line) for line in done.stdout.splitlines())
    assert len(golden.answer) > 1
    assert (
        online["online"]["marks"] == offline["offline"]["marks"] == [golden.text[start:end] + label for start, end, label in golden.answer]
    )
    assert checked["checked"]["golden"] == "equal"


def test_web_page_writes(playwright: Path, gguf_bundles: dict[str, Path], tmp_path: Path) -> None:
    """A page whose decoder writes otherwise than the bundle, or needs the network a second time."""
    out = tmp_path / "app"
    assemble("web", gguf_bundles["llama"], out)
    assert not list((out / "vendor").glob("ort*"))
    vectors = read_golden(gguf_bundles["llama"] / "golden.jsonl")
    golden = next(vector for vector in vectors if vector.answer and vector.text.isascii() and vector.text.isprintable())  # no near tie
    done = opened_page(out, playwright, golden.text, tmp_path / "page.png")
    assert done.returncode == 0, done.stdout + done.stderr
    online, checked, offline = (json.loads(line) for line in done.stdout.splitlines())
    assert json.loads(online["online"]["shown"]) == json.loads(offline["offline"]["shown"]) == golden.answer
    assert online["online"]["answer"] == golden.answer["do"]
    assert (checked["checked"]["golden"], checked["checked"]["vectors"]) == ("equal", 64)
    with pytest.raises(InputError) as error:
        assemble("web", gguf_bundles["classify"], tmp_path / "other")
    assert str(error.value) == (
        f"{gguf_bundles['classify']}: of GGUF bundles web takes generate, and this one's task is classify. "
        "Apps for it: embedded_linux_gguf; or compile for a target of format onnx."
    )


def test_node_service(tiny_bundle: Path, tmp_path: Path) -> None:
    """A service that answers otherwise than the bundle, falls over a bad request, or says that a changed model is fine."""
    if lacking := [command for command in ("node", "npm") if shutil.which(command) is None]:
        if os.environ.get("CI"):
            pytest.fail(f"missing: {lacking}")
        pytest.skip(f"missing: {lacking}")
    out = tmp_path / "app"
    app = assemble("node", tiny_bundle, out)
    assert all(command in (out / "README.md").read_text() for command in app.next)
    installed = subprocess.run(app.next[0].split(), cwd=out, capture_output=True, text=True, timeout=300)
    assert installed.returncode == 0, installed.stderr
    golden = subprocess.run(["node", "server.mjs", "--golden"], cwd=out, capture_output=True, text=True, timeout=120)
    assert golden.returncode == 0 and json.loads(golden.stdout)["golden"] == "equal", golden.stdout + golden.stderr
    wanted = {vector.text: vector.answer for vector in read_golden(tiny_bundle / "golden.jsonl")}
    server = subprocess.Popen(["node", "server.mjs"], cwd=out, stdout=subprocess.PIPE, text=True, env=os.environ | {"PORT": "0"})
    try:
        assert server.stdout
        address = server.stdout.readline().strip()

        def ask(path: str, body: bytes | None = None) -> tuple[int, dict[str, Any]]:
            try:
                with urllib.request.urlopen(urllib.request.Request(address + path, body), timeout=30) as reply:
                    return reply.status, json.load(reply)
            except urllib.error.HTTPError as problem:
                return problem.code, json.load(problem)

        text = SENTENCES[0]
        assert ask(f"/?text={urllib.parse.quote(text)}")[1]["answer"] == wanted[text]
        assert ask("/", json.dumps({"text": text}).encode())[1]["answer"] == wanted[text]
        assert ask("/golden")[1]["vectors"] == len(wanted)
        bad = [ask("/"), ask("/", b"{"), ask("/", b"[]"), ask("/", b"null"), ask("/", b'{"text": 3}'), ask("/", b" " * 100_000)]
        assert [code for code, _ in bad] == [400] * 6 and all(said["error"] for _, said in bad)
        assert ask(f"/?text={urllib.parse.quote(text)}")[0] == 200, "a bad request ended it"
    finally:
        server.terminate()
        server.wait(timeout=30)
    lines = (out / "bundle" / "golden.jsonl").read_text().splitlines()
    first = json.loads(lines[0])
    (out / "bundle" / "golden.jsonl").write_text(json.dumps(first | {"logits": [value + 1 for value in first["logits"]]}) + "\n")
    changed = subprocess.run(["node", "server.mjs", "--golden"], cwd=out, capture_output=True, text=True, timeout=120)
    assert changed.returncode == 1 and json.loads(changed.stdout)["golden"] == "differs"


def test_bundle_of_another_task(tiny_bundle: Path, tmp_path: Path) -> None:
    """An app that shows a tagger's logits as if they were classes; an app written over somebody's folder."""
    bundle = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    manifest = read_manifest(bundle)
    write_manifest(bundle, manifest.__class__(**{**vars(manifest), "task": "tag"}))
    with pytest.raises(InputError) as error:
        assemble("python_cli", bundle, tmp_path / "out")
    assert str(error.value).startswith(f"{bundle}: the task of the bundle is tag; python_cli takes classify, multi_label, score, embed.")
    with pytest.raises(InputError) as full:
        assemble("python_cli", tiny_bundle, tmp_path)
    assert str(full.value) == f"{tmp_path}: the folder is not empty. Give a new folder with --out."
    with pytest.raises(InputError) as unknown:
        assemble("python_cly", tiny_bundle, tmp_path / "out")
    assert str(unknown.value) == 'there is no app called "python_cly". Did you mean "python_cli"?'
