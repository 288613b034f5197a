"""The ARM devices: the C++ runner, cross-built, under qemu on named processors. Built once in .venv; a minute when it is not there yet."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from edgedistill import native
from edgedistill.bundle_format import read_golden, write_golden
from edgedistill.errors import InputError, ParityError, StageError, TargetError
from edgedistill.links import qemu
from edgedistill.stages.bench import bench
from edgedistill.stages.bundle import QUANTIZED_APART, Params, golden_vectors
from edgedistill.target import Link, find_target
from tests.all_scripts import cased_bundle, differences, strings, wide_bundle
from tests.links.test_browser import request
from tests.test_pipeline import edgedistill
from tests.tiny_bundle import LABELS, MAX_TOKENS
from tests.tiny_models import SENTENCES

CPUS = ("cortex-a53", "cortex-a72", "cortex-a76")


@pytest.fixture
def arm(native_home: Path) -> Path:
    """The folder of the runner for 64-bit ARM."""
    lacking = qemu.ready(Link(kind="qemu", cpu="cortex-a72"))
    if lacking:
        if os.environ.get("CI"):
            pytest.fail(lacking)
        pytest.skip(lacking)
    return native.build("aarch64")


def emulated(cpu: str, *arguments: str, given: str | None = None) -> subprocess.CompletedProcess[str]:
    """`edge` on a processor."""
    command = [*qemu.command(qemu.CPUS[cpu], program="edge"), *arguments]
    return subprocess.run(command, input=given, capture_output=True, text=True, timeout=1200)


@pytest.mark.parametrize("cpu", CPUS)
def test_golden_vectors_on_three_processors(arm: Path, tiny_bundle: Path, cpu: str) -> None:
    """A tokenizer of our own that gives other ids, or an int8 model that answers otherwise on ARM."""
    done = emulated(cpu, "--bundle", str(tiny_bundle), "--golden")
    assert done.returncode == 0, done.stdout + done.stderr
    said = json.loads(done.stdout)
    assert (said["golden"], said["vectors"]) == ("equal", len(list(read_golden(tiny_bundle / "golden.jsonl"))))
    assert said["worst_logit"] <= 0.05 < said["allowed"]


def test_app_answers_arguments_and_lines(arm: Path, tiny_bundle: Path) -> None:
    """An app whose answer is not the one that was measured, or that eats a line."""
    golden = {vector.text: vector.answer for vector in read_golden(tiny_bundle / "golden.jsonl")}
    done = emulated("cortex-a72", "--bundle", str(tiny_bundle), *SENTENCES[:2])
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(line["text"], line["answer"]) for line in lines] == [(text, golden[text]) for text in SENTENCES[:2]]
    assert all(0 < line["confidence"] <= 1 and line["ms"] > 0 for line in lines)
    piped = emulated("cortex-a72", "--bundle", str(tiny_bundle), given="\n".join(SENTENCES[:3]))
    assert [json.loads(line)["answer"] for line in piped.stdout.splitlines()] == [golden[text] for text in SENTENCES[:3]]
    lost = emulated("cortex-a72", "--bundle", "/nowhere", "a")
    assert (lost.returncode, lost.stderr) == (2, "edge: cannot read /nowhere/manifest.json\n")


def test_a_changed_golden_vector_is_named(arm: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    """A check that passes whatever the device answers."""
    bundle = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    vectors = list(read_golden(bundle / "golden.jsonl"))
    other = next(label for label in LABELS if label != vectors[2].answer)
    write_golden(bundle / "golden.jsonl", [*vectors[:2], vectors[2].__class__(**{**vars(vectors[2]), "answer": other}), *vectors[3:]])
    done = emulated("cortex-a53", "--bundle", str(bundle), "--golden")
    said = json.loads(done.stdout)
    assert done.returncode == 1
    assert (said["vector"], said["answer"], said["wanted"]) == (3, vectors[2].answer, other)


def test_bench_goes_through_the_link(arm: Path, tiny_bundle: Path, own_home: Path) -> None:
    """An emulated run that passes or fails a latency budget, or shows milliseconds that nobody can have."""
    done = edgedistill("bench", tiny_bundle, "-t", "raspberry-pi-4", "--json", home=own_home, check=3)
    result = json.loads(done.stdout)
    assert (result["how"], result["state"]) == ("emulated", "UNDECIDED")
    assert result["golden"]["vectors"] >= 64 and result["golden"]["wrong"] == []
    assert result["samples"]["model_ns"] == [] and result["cold_start_ms"] is None and "p90_ms" not in result
    assert len(result["instructions"]) == 8 and min(result["instructions"]) > 10_000 and result["uncounted"] == ""
    assert result["reason"] == "emulated: the answers are those of raspberry-pi-4, the clock is not; only a run on the device can tell"


@pytest.mark.long
@pytest.mark.parametrize("cpu", ["cortex-a76", "x86-64-v3"])
def test_instructions_repeat(arm: Path, tiny_bundle: Path, cpu: str) -> None:
    """A count that moves by itself, so that a regression cannot be told from it; or that counts more than the model."""
    link, texts = Link(kind="qemu", cpu=cpu), [SENTENCES[0], " ".join(SENTENCES[:3])]
    first, second = (qemu.instructions(link, request(tiny_bundle), texts) for _ in range(2))
    assert first == pytest.approx(second, rel=0.001)
    assert 50_000 < first[0] < first[1] < 50_000_000


def test_a_qemu_without_plugins(arm: Path, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bench that fails where all but the counting works."""
    (tmp_path / "bad.so").write_text("no plugin")
    monkeypatch.setattr(native, "counting_plugin", lambda: tmp_path / "bad.so")
    link = Link(kind="qemu", cpu="cortex-a72")
    with pytest.raises(StageError) as error:
        qemu.instructions(link, request(tiny_bundle), SENTENCES[:1])
    assert str(error.value) == (
        "the counting runner on cortex-a72 stopped: this qemu takes no plugins, as static ones do not; Debian's qemu-user does."
    )


def test_a_device_that_answers_otherwise_stops_the_bundle(arm: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bundle that ships for a device on which it answers otherwise."""
    pi = find_target("raspberry-pi-4")
    params = Params("tiny", "classify", pi.model_dump(mode="json"), MAX_TOKENS, (), {})
    assert golden_vectors(tiny_bundle, params, pi, {"labels": LABELS}, SENTENCES[:2], QUANTIZED_APART)
    opened = qemu.open_runner

    def shuffled(link: Link, runtime: str, request: dict) -> object:  # a device that has its labels in another order
        return opened(link, runtime, request | {"settings": {"labels": LABELS[::-1]}})

    monkeypatch.setattr(qemu, "open_runner", shuffled)
    with pytest.raises(ParityError) as error:
        golden_vectors(tiny_bundle, params, pi, {"labels": LABELS}, SENTENCES[:2], QUANTIZED_APART)
    assert "the model answers otherwise on raspberry-pi-4 than here: tiny:" in str(error.value)
    assert "First: vector 1, 'how far is the moon from the earth ?': answer" in str(error.value)


def test_wrong_target(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor that qemu does not know, or tools that are not there, as a traceback."""
    with pytest.raises(TargetError) as error:
        qemu.open_runner(Link(kind="qemu", cpu="cortex-a71"), "onnxruntime", {})
    assert str(error.value) == 'target: link.cpu: qemu plays no processor "cortex-a71". Did you mean "cortex-a7"?'
    monkeypatch.setattr(shutil, "which", lambda command: None)
    with pytest.raises(InputError) as lacking:
        bench(tiny_bundle, "raspberry-pi-4")
    assert str(lacking.value).startswith("raspberry-pi-4: qemu is missing. Run: sudo apt-get install qemu-user")
    monkeypatch.setattr(native, "built", lambda machine, runtime: Path("/nowhere"))
    with pytest.raises(StageError) as unbuilt:
        native.build("aarch64")
    assert str(unbuilt.value) == "the C++ runner cannot be built here. Run: sudo apt-get install g++-aarch64-linux-gnu cmake npm"


# --- the tokenizer of our own against the reference ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory, tiny_bundle: Path) -> Path:
    return wide_bundle(tiny_bundle, tmp_path_factory.mktemp("wide"))


@pytest.mark.parametrize(("count", "cased"), [(1500, False), (500, True), pytest.param(20_000, False, marks=pytest.mark.long)])
def test_same_tokens_as_the_reference(arm: Path, wide: Path, tmp_path: Path, count: int, cased: bool) -> None:
    """A device whose tokenizer cuts some script otherwise: it answers with confidence, and wrongly."""
    bundle = cased_bundle(wide, tmp_path) if cased else wide
    command = [*qemu.command(qemu.CPUS["cortex-a72"], program="edge"), "--bundle", str(bundle), "--ids"]
    wrong = differences(command, bundle, strings(count, seed=count))
    assert wrong == [], f"{len(wrong)} of {count}"


def test_tables_are_those_of_the_library() -> None:
    """Character tables that an upgrade of tokenizers left behind."""
    from scripts import unicode_tables

    found = unicode_tables.tables()
    assert unicode_tables.HEADER.read_text() == unicode_tables.header([*found, *unicode_tables.further_tables()])
    assert unicode_tables.RESOURCE.read_text() == unicode_tables.resource(found)


def test_another_tokenizer_is_refused(arm: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    """Wrong ids that look like answers."""
    bundle = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    facts = json.loads((bundle / "tokenizer.json").read_text())
    facts["pre_tokenizer"] = {"type": "ByteLevel"}
    (bundle / "tokenizer.json").write_text(json.dumps(facts))
    done = emulated("cortex-a72", "--bundle", str(bundle), "x")
    assert done.returncode == 2
    assert done.stderr == (
        "edge: the tokenizer has a pre-tokenizer of type ByteLevel, which this program does not know: it reads BERT's WordPiece\n"
    )


def test_what_the_runner_cannot_answer_is_said_before_anything_runs(
    recipe_file: Callable[..., Path], tiny_teacher: Path, tmp_path: Path
) -> None:
    """A refusal that comes when the student is trained."""
    from edgedistill.pipeline import plan
    from edgedistill.recipe import read_recipe

    assert (
        qemu.refuses("generate", tiny_teacher / "tokenizer.json")
        == 'the C++ runner of onnxruntime has no answer to the task "generate" yet.'
    )
    teacher = Path(shutil.copytree(tiny_teacher, tmp_path / "teacher"))
    facts = json.loads((teacher / "tokenizer.json").read_text())
    facts["model"]["type"] = "BPE"
    (teacher / "tokenizer.json").write_text(json.dumps(facts))
    recipe = read_recipe(recipe_file((str(tiny_teacher), str(teacher)), ('"laptop-x86"', '"raspberry-pi-4"')))
    with pytest.raises(TargetError) as error:
        plan(recipe)
    assert str(error.value) == (
        "raspberry-pi-4: the C++ runner cuts texts by WordPiece, and this model's tokenizer is BPE. Take another target, "
        'or write [link] kind = "build_only" in a target file of your own.'
    )
