"""GGUF bundles on devices: the C++ runner with llama.cpp, here with the wheel's libraries, and cross-built for 64-bit and 32-bit ARM under qemu."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from edgedistill import llama_build, llama_native, native, plugins
from edgedistill.bundle_format import read_bundle, read_golden
from edgedistill.errors import StageError, TargetError
from edgedistill.links import local, local_cpp, qemu
from edgedistill.stages import agree
from edgedistill.stages.app import assemble
from edgedistill.stages.bench import bench
from edgedistill.stages.verify import on_runner
from edgedistill.target import Link
from tests.all_scripts import strings
from tests.links.test_browser import request
from tests.test_pipeline import edgedistill
from tests.tiny_gguf import make_gguf_bundle, shortened

NAMES = ("classify", "llama", "qwen2")
ARM = {"cortex-a53": "aarch64", "cortex-a72": "aarch64", "cortex-a76": "aarch64", "cortex-a7": "armv7"}
TARGET = """
name = "board"
about = "this machine, as a board"
isa = "x86-64-v3"
runtime = "llama_cpp"
format = "gguf"
schemes = ["gguf_q8_0"]
[budget]
p90_ms = 2000
[link]
kind = "local_cpp"
"""


def require(lacking: str | None) -> None:
    if lacking:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(lacking)


@pytest.fixture
def here(native_home: Path) -> Path:
    """The folder of the runner for this machine."""
    require(native.lacking(native.this_machine(), "llama_cpp"))
    return native.build(native.this_machine(), "llama_cpp")


def test_memory_in_fewer_bits(here: Path, tmp_path: Path) -> None:
    """A target's kv_cache that the runner in C++ does not heed, or heeds otherwise than the one in Python."""
    bundle = make_gguf_bundle(tmp_path, "generate", head_dim=32)
    asked = {"texts": ["hall to 4", "den off now please"], "wants": ["logits", "answers"]}
    seen = {}
    for kept in ("f16", "q8_0"):
        hello = request(bundle) | {"kv_cache": kept}
        for name, link in (("C++", local_cpp), ("Python", local)):
            runner = link.open_runner(Link(kind="local"), "llama_cpp", hello)
            seen[name, kept] = runner.ask(asked)["logits"]
            runner.close()
    for mine, other in zip(seen["C++", "q8_0"], seen["Python", "q8_0"], strict=True):
        np.testing.assert_allclose(mine, other, atol=2e-3)
    assert all(seen[name, "q8_0"] != seen[name, "f16"] for name in ("C++", "Python"))


def edge(here: Path, *arguments: str, given: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(here / "edge"), *arguments], input=given, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("name", NAMES)
def test_golden_vectors_here(here: Path, gguf_bundles: dict[str, Path], name: str) -> None:
    """A runner in C++ that cuts texts otherwise than the tokenizer, writes otherwise than the one in Python, or breaks the grammar."""
    bundle = gguf_bundles[name]
    runner = local_cpp.open_runner(Link(kind="local_cpp"), "llama_cpp", request(bundle))
    try:
        result = on_runner(name, 0.001, list(read_golden(bundle / "golden.jsonl")), runner)
        said = runner.ask({"texts": ["who", "x"], "tokens": 24, "wants": ["ids", "answers"]})
        hello = runner.hello
    finally:
        runner.close()
    assert result.good and result.vectors == 64, result.wrong
    assert [len(ids) for ids in said["ids"]] == [24, 24]
    assert 0 < hello["load_ms"] <= hello["cold_start_ms"] < 60_000 and hello["baseline_bytes"] < hello["peak_bytes"] < 10**9
    if name != "classify":
        assert said["prompt_tokens"] == [24, 24] and all(0 < tokens < 72 for tokens in said["answer_tokens"])
        assert all(0 < first < whole for first, whole in zip(said["first_ns"], said["model_ns"], strict=True))
        assert all(0 <= one["confidence"] <= 1 and one["answer"]["do"] in ("set", "off") for one in said["answers"])


def test_the_app_writes_and_checks_itself(here: Path, gguf_bundles: dict[str, Path], tmp_path: Path) -> None:
    """An app whose answer is not the golden one, or a check that passes whatever is written; a bundle of another format taken for its own."""
    bundle = Path(shutil.copytree(gguf_bundles["llama"], tmp_path / "bundle"))
    sure = next(vector for vector in read_golden(bundle / "golden.jsonl") if vector.answer)
    done = edge(here, "--bundle", str(bundle), sure.text)
    assert json.loads(done.stdout)["answer"] == sure.answer
    assert json.loads(json.loads(done.stdout)["written"]) == sure.answer
    whole = json.loads(edge(here, "--bundle", str(bundle), "--golden").stdout)
    assert (whole["golden"], whole["vectors"]) == ("equal", 64) and whole["worst_logit"] < 0.001
    lines = (bundle / "golden.jsonl").read_text().splitlines()
    changed = json.loads(lines[1]) | {"answer": {"do": "dance"}}
    (bundle / "golden.jsonl").write_text("\n".join([lines[0], json.dumps(changed), *lines[2:]]))
    wrong = edge(here, "--bundle", str(bundle), "--golden")
    assert wrong.returncode == 1 and json.loads(wrong.stdout)["vector"] == 2 and json.loads(wrong.stdout)["wanted"] == {"do": "dance"}
    facts = json.loads((bundle / "manifest.json").read_text())
    (bundle / "manifest.json").write_text(json.dumps(facts | {"format": "onnx"}))
    other = edge(here, "--bundle", str(bundle), "x")
    assert (other.returncode, other.stderr) == (2, "edge: the bundle is onnx, this program runs gguf\n")
    (bundle / "manifest.json").write_text(json.dumps(facts))
    (bundle / "model.gguf").write_bytes((bundle / "model.gguf").read_bytes()[:5000])
    broken = edge(here, "--bundle", str(bundle), "x")
    assert broken.returncode == 2 and broken.stderr.startswith(f"edge: llama.cpp cannot load {bundle}/model.gguf: ")


@pytest.mark.parametrize("name", NAMES)
def test_same_tokens_as_the_reference(here: Path, gguf_bundles: dict[str, Path], name: str) -> None:
    """A device whose tokenizer cuts some script otherwise, or reads texts that Qwen's tokenizer composes as they stand."""
    from tokenizers import Tokenizer

    from edgedistill.prompts import open_prompts
    from edgedistill.serving import open_tokenizer

    bundle, manifest = gguf_bundles[name], read_bundle(gguf_bundles[name])
    texts = strings(1500, seed=5)
    done = edge(here, "--bundle", str(bundle), "--ids", given="\n".join(map(json.dumps, texts)))
    assert done.returncode == 0, done.stderr
    reference = Tokenizer.from_file(str(bundle / manifest.tokenizer))
    assert reference.encode("a").ids
    if name == "classify":
        tokenizer = open_tokenizer(bundle / manifest.tokenizer, manifest.max_tokens)
        wanted = [tokenizer.encode(text).ids for text in texts]
    else:
        prompts = open_prompts(bundle / manifest.tokenizer, manifest.task_settings(), manifest.max_tokens)
        wanted = [prompts.encode(text)[0] for text in texts]
    wrong = [text for text, line, ids in zip(texts, done.stdout.splitlines(), wanted, strict=True) if json.loads(line) != ids]
    assert wrong == [], f"{len(wrong)} of {len(texts)}: {wrong[0]!a}"


def test_bench_goes_through_the_link(here: Path, gguf_bundles: dict[str, Path], tmp_path: Path, own_home: Path) -> None:
    """A link that runs ONNX alone, or figures of writing that are none."""
    (tmp_path / "board.toml").write_text(TARGET)
    done = edgedistill("bench", gguf_bundles["classify"], "-t", tmp_path / "board.toml", "--budget-only", home=own_home, check=0)
    assert done.stdout.startswith("PASS tiny for board, measured: tiny: 64 golden vectors equal")


def test_what_cannot_be_run_is_said(monkeypatch: pytest.MonkeyPatch, native_home: Path, tmp_path: Path) -> None:
    """A refusal that comes from a compiler, or a library that is not the one that was looked at."""
    assert native.refuses("tag", tmp_path, "llama_cpp") == 'the C++ runner of llama_cpp has no answer to the task "tag" yet.'
    assert native.refuses("generate", tmp_path, "llama_cpp") is None
    with pytest.raises(TargetError) as error:
        native.build("armv7", "onnxruntime")
    assert str(error.value) == "target: runtime: there is no ONNX Runtime for armv7; take a target whose runtime is llama_cpp."
    with pytest.raises(TargetError) as error:
        native.build("aarch64", "tflite")
    assert str(error.value) == "target: runtime: there is no C++ runner of tflite; there is of onnxruntime and llama_cpp."
    monkeypatch.setattr(shutil, "which", lambda command: None)
    monkeypatch.setattr(native, "built", lambda machine, runtime: Path("/nowhere"))
    with pytest.raises(StageError) as lacking:
        native.build("armv7", "llama_cpp")
    assert str(lacking.value) == "the C++ runner cannot be built here. Run: sudo apt-get install g++-arm-linux-gnueabihf cmake npm"


# --- ARM ----------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize("machine", ["aarch64", "armv7"])
def test_golden_vectors_on_arm(native_home: Path, gguf_bundles: dict[str, Path], machine: str, tmp_path: Path) -> None:
    """llama.cpp that writes otherwise on ARM, or a 32-bit build that reads sizes wrongly. Builds llama.cpp, minutes, when it is not there yet."""
    cpus = [cpu for cpu, of in ARM.items() if of == machine]
    require(qemu.ready(Link(kind="qemu", cpu=cpus[0])))
    for cpu in cpus:
        for name in NAMES if cpu == cpus[0] else NAMES[:2]:
            few = tmp_path / f"{cpu}-{name}"
            bundle = gguf_bundles[name] if cpu == cpus[0] else shortened(gguf_bundles[name], few, 12)
            command = [*qemu.command(qemu.CPUS[cpu], program="edge", runtime="llama_cpp"), "--bundle", str(bundle), "--golden"]
            done = subprocess.run(command, capture_output=True, text=True, timeout=600)
            assert done.returncode == 0, done.stdout + done.stderr
            assert json.loads(done.stdout)["golden"] == "equal"
    target = {"aarch64": "raspberry-pi-4-llama", "armv7": "armv7-board"}[machine]
    result = bench(shortened(gguf_bundles["llama"], tmp_path / "few", 4), target)
    assert result.golden is not None and result.golden.good and result.how == "emulated" and result.timings.model_ns == []
    assert len(result.instructions) == 4 and min(result.instructions) > 100_000, result.uncounted


@pytest.mark.long
def test_one_bundle_everywhere(native_home: Path, gguf_bundles: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A place that is left out of `verify --everywhere` because it was once for ONNX alone."""
    require(qemu.ready(Link(kind="qemu", cpu="cortex-a7")))
    monkeypatch.setattr(agree, "FEW", 3)
    found = agree.agree(shortened(gguf_bundles["llama"], tmp_path / "few", 8))
    assert agree.verdict(found).startswith(
        f"All 8 golden vectors agree on 9 of 9, 3 of them on {agree.SAME_CODE} (this machine is one with"
    )
    places = {place.name: place for place in found}
    assert set(places) == {*agree.PLACES, *agree.LLAMA_PLACES}
    board = places.pop("Cortex-M3 without a system, C")
    assert board.missing == "the task is generate, and the program of a board answers classify, embed, multi_label, score."
    for name, place in places.items():
        assert place.result is not None and place.result.good, f"{name}: {place.missing or place.result}"


@pytest.mark.long
def test_the_app_builds_and_answers(native_home: Path, gguf_bundles: dict[str, Path], tmp_path: Path) -> None:
    """A folder that lacks a file its README's two commands need. llama.cpp itself is taken from where it was built already: minutes."""
    require(qemu.ready(Link(kind="qemu", cpu="cortex-a7")))
    out = tmp_path / "app"
    app = assemble("embedded_linux_gguf", gguf_bundles["llama"], out)
    assert all(command in (out / "README.md").read_text() for command in (app.next[0], "device/edge"))
    assert (out / "llama.cpp" / "src" / "llama.cpp").is_file() and (out / "llama.cpp" / "LICENSE").is_file()
    native.build("armv7", "llama_cpp")
    (built,) = (native_home / "native").glob("llama-armv7-*[0-9a-f]")
    command = app.next[0].replace("toolchain-aarch64", "toolchain-armv7").replace("cmake -B build", f"cmake -B build -DLLAMA_BUILT={built}")
    done = subprocess.run(command, shell=True, cwd=out, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    shutil.move(out / "device", tmp_path / "device")  # onto the board: nothing of the build folder is there
    on = ["qemu-arm", "-cpu", "cortex-a7", "-L", str(qemu.SYSTEMS["armv7"]), str(tmp_path / "device" / "edge")]
    golden = subprocess.run([*on, "--bundle", str(tmp_path / "device" / "bundle"), "--golden"], capture_output=True, text=True)
    assert golden.returncode == 0 and json.loads(golden.stdout)["golden"] == "equal", golden.stderr


def test_another_source_is_refused(monkeypatch: pytest.MonkeyPatch, own_home: Path) -> None:
    """Code from an index that is not the code that was looked at, compiled and run on devices."""
    monkeypatch.setattr(llama_build, "SHA256", "0" * 64)
    with pytest.raises(StageError) as error:
        llama_native.source()
    assert str(error.value).startswith("the source of llama.cpp cannot be fetched: THESE PACKAGES DO NOT MATCH THE HASHES")
    assert list((own_home / "native").iterdir()) == []


def test_every_link_knows_both_runtimes() -> None:
    """A link of the C++ runner that asks for one runtime and opens another."""
    for name in ("local_cpp", "qemu", "ssh", "adb"):
        refuses = plugins.find("links", name).refuses
        assert refuses("generate", Path(), "llama_cpp") is None and refuses("generate", Path(), "onnxruntime") is not None
