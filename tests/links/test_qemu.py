"""The ARM devices: the C++ runner, cross-built, under qemu on named processors. Built once in .venv; a minute when it is not there yet."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from edgedistill import native
from edgedistill.bundle_format import read_golden, write_golden
from edgedistill.errors import InputError, ParityError, StageError, TargetError
from edgedistill.links import qemu
from edgedistill.stages.bench import bench
from edgedistill.stages.bundle import Params, golden_vectors
from edgedistill.target import Link, find_target
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


def emulated(cpu: str, folder: Path, *arguments: str, given: str | None = None) -> subprocess.CompletedProcess[str]:
    """`edge` on a processor."""
    command = [qemu.QEMU, "-cpu", cpu, "-L", str(qemu._root(folder, qemu.CPUS[cpu])), str(folder / "edge"), *arguments]
    return subprocess.run(command, input=given, capture_output=True, text=True, timeout=1200)


@pytest.mark.parametrize("cpu", CPUS)
def test_golden_vectors_on_three_processors(arm: Path, tiny_bundle: Path, cpu: str) -> None:
    """A tokenizer of our own that gives other ids, or an int8 model that answers otherwise on ARM."""
    done = emulated(cpu, arm, "--bundle", str(tiny_bundle), "--golden")
    assert done.returncode == 0, done.stdout + done.stderr
    said = json.loads(done.stdout)
    assert (said["golden"], said["vectors"]) == ("equal", len(list(read_golden(tiny_bundle / "golden.jsonl"))))
    assert said["worst_logit"] <= 0.05 < said["allowed"]


def test_app_answers_arguments_and_lines(arm: Path, tiny_bundle: Path) -> None:
    """An app whose answer is not the one that was measured, or that eats a line."""
    golden = {vector.text: vector.answer for vector in read_golden(tiny_bundle / "golden.jsonl")}
    done = emulated("cortex-a72", arm, "--bundle", str(tiny_bundle), *SENTENCES[:2])
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(line["text"], line["answer"]) for line in lines] == [(text, golden[text]) for text in SENTENCES[:2]]
    assert all(0 < line["confidence"] <= 1 and line["ms"] > 0 for line in lines)
    piped = emulated("cortex-a72", arm, "--bundle", str(tiny_bundle), given="\n".join(SENTENCES[:3]))
    assert [json.loads(line)["answer"] for line in piped.stdout.splitlines()] == [golden[text] for text in SENTENCES[:3]]
    lost = emulated("cortex-a72", arm, "--bundle", "/nowhere", "a")
    assert (lost.returncode, lost.stderr) == (2, "edge: cannot read /nowhere/manifest.json\n")


def test_a_changed_golden_vector_is_named(arm: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    """A check that passes whatever the device answers."""
    bundle = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    vectors = list(read_golden(bundle / "golden.jsonl"))
    other = next(label for label in LABELS if label != vectors[2].answer)
    write_golden(bundle / "golden.jsonl", [*vectors[:2], vectors[2].__class__(**{**vars(vectors[2]), "answer": other}), *vectors[3:]])
    done = emulated("cortex-a53", arm, "--bundle", str(bundle), "--golden")
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
    assert result["reason"] == "emulated: the answers are those of raspberry-pi-4, the clock is not; only a run on the device can tell"


def test_a_device_that_answers_otherwise_stops_the_bundle(arm: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bundle that ships for a device on which it answers otherwise."""
    pi = find_target("raspberry-pi-4")
    params = Params("tiny", "classify", pi.model_dump(mode="json"), MAX_TOKENS, (), {})
    assert golden_vectors(tiny_bundle, params, pi, {"labels": LABELS}, SENTENCES[:2], 0.2)
    opened = qemu.open_runner

    def shuffled(link: Link, runtime: str, request: dict) -> object:  # a device that has its labels in another order
        return opened(link, runtime, request | {"settings": {"labels": LABELS[::-1]}})

    monkeypatch.setattr(qemu, "open_runner", shuffled)
    with pytest.raises(ParityError) as error:
        golden_vectors(tiny_bundle, params, pi, {"labels": LABELS}, SENTENCES[:2], 0.2)
    assert "the model answers otherwise on raspberry-pi-4 than here: tiny:" in str(error.value)
    assert "First: vector 1, 'how far is the moon from the earth ?': answer" in str(error.value)


def test_wrong_target(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor that qemu does not know, or tools that are not there, as a traceback."""
    with pytest.raises(TargetError) as error:
        qemu.open_runner(Link(kind="qemu", cpu="cortex-a71"), "onnxruntime", {})
    assert str(error.value) == 'target: link.cpu: qemu plays no processor "cortex-a71". Did you mean "cortex-a76"?'
    monkeypatch.setattr(shutil, "which", lambda command: None)
    with pytest.raises(InputError) as lacking:
        bench(tiny_bundle, "raspberry-pi-4")
    assert str(lacking.value).startswith("raspberry-pi-4: qemu is missing. Run: sudo apt-get install qemu-user")
    monkeypatch.setattr(native, "built", lambda machine: Path("/nowhere"))
    with pytest.raises(StageError) as unbuilt:
        native.build("aarch64")
    assert str(unbuilt.value) == "the C++ runner cannot be built here. Run: sudo apt-get install g++-aarch64-linux-gnu cmake npm"


# --- the tokenizer of our own against the reference ---------------------------------------------------------------------------------------

SCRIPTS = [
    *[(0x20, 0x7F)] * 6, (0xA0, 0x250), (0x250, 0x300), (0x300, 0x370), (0x370, 0x400), (0x400, 0x530), (0x530, 0x590), (0x590, 0x600),
    (0x600, 0x700), (0x700, 0x780), (0x780, 0x980), (0x980, 0xE00), (0xE00, 0x1100), (0x1100, 0x1200), (0x1200, 0x1400), (0x1400, 0x1800),
    (0x1800, 0x1C00), (0x1C00, 0x1E00), (0x1E00, 0x2000), (0x2000, 0x2070), (0x2070, 0x2190), (0x2190, 0x2C00), (0x2C00, 0x3000),
    (0x3000, 0x3200), (0x3200, 0x3400), (0x4E00, 0x9FFF), (0xA000, 0xAC00), (0xAC00, 0xD7B0), (0xE000, 0xE010), (0xF900, 0xFB00),
    (0xFB00, 0xFE00), (0xFE00, 0xFFF0), (0xFFF0, 0x10000), (0x10000, 0x11000), (0x11000, 0x12000), (0x16F00, 0x17000), (0x1D100, 0x1D200),
    (0x1D400, 0x1D800), (0x1E000, 0x1E100), (0x1E900, 0x1E960), (0x1F000, 0x1FB00), (0x20000, 0x20100), (0x2F800, 0x2FA20), (0xE0000, 0xE0080),
]  # fmt: skip
MARKS = "\u0300\u0301\u0323\u0327\u0345\u0334\u302e\u302f\U0001d165\U0001d16e\u0f71\u0f72\u0591\u05b0\u1ab0\u1ac1\u093a\u20dd\u200d\ufe0f"


def strings(count: int, seed: int) -> list[str]:
    """Texts of all scripts: runs of one script, marks piled on letters, special tokens, spaces of all kinds, words too long to be looked up."""
    draw = random.Random(seed)

    def run() -> str:
        kind = draw.random()
        if kind < 0.06:
            return draw.choice(["[CLS]", "[SEP]", "[MASK]", " [UNK]", "[PAD]x", "[cls]", "##a", "[CLS][SEP]"])
        if kind < 0.12:
            return draw.choice([" ", "  ", "\t", "\n", "\r\n", "\u00a0", "\u2028", "\u0085", "\u3000", "\x0b", "\x00", "\u200b", "\ufeff"])
        if kind < 0.14:
            return draw.choice("aé語") * draw.randint(90, 110)
        first, last = draw.choice(SCRIPTS)
        chars = [chr(draw.randrange(first, last)) for _ in range(draw.randint(1, 8))]
        return "".join(
            char + draw.choice(MARKS) * draw.choice((0, 0, 0, 1, 1, 2)) + draw.choice(["", "", draw.choice(MARKS)]) for char in chars
        )

    return ["".join(run() for _ in range(draw.randint(0, 7))) for _ in range(count)]


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory, tiny_bundle: Path) -> Path:
    """The tiny bundle with a tokenizer that has a piece for every character, so that other ids show whatever goes wrong with any of them."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    folder = Path(shutil.copytree(tiny_bundle, tmp_path_factory.mktemp("wide") / "bundle"))
    chars = sorted({chr(code) for first, last in SCRIPTS for code in range(first, last) if chr(code).strip()})
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *chars, *(f"##{char}" for char in chars), "the", "##ing", "##aa", "ab"]
    tokenizer = Tokenizer(models.WordPiece({piece: place for place, piece in enumerate(dict.fromkeys(pieces))}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def differences(run: list[str], bundle: Path, texts: Sequence[str]) -> list[str]:
    """What our tokenizer cuts otherwise than the reference."""
    from tokenizers import Tokenizer

    reference = Tokenizer.from_file(str(bundle / "tokenizer.json"))
    reference.enable_truncation(MAX_TOKENS)
    done = subprocess.run([*run, "--bundle", str(bundle), "--ids"], input="\n".join(map(json.dumps, texts)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    wrong = []
    for text, line in zip(texts, done.stdout.splitlines(), strict=True):
        ours, theirs = json.loads(line), reference.encode(text).ids
        if ours != theirs:
            wrong.append(f"{text!a}: {ours} instead of {theirs}")
    return wrong


@pytest.mark.parametrize(("count", "cased"), [(1500, False), (500, True), pytest.param(20_000, False, marks=pytest.mark.long)])
def test_same_tokens_as_the_reference(arm: Path, wide: Path, tmp_path: Path, count: int, cased: bool) -> None:
    """A device whose tokenizer cuts some script otherwise: it answers with confidence, and wrongly."""
    bundle = wide
    if cased:
        bundle = Path(shutil.copytree(wide, tmp_path / "cased"))
        facts = json.loads((bundle / "tokenizer.json").read_text())
        facts["normalizer"]["lowercase"] = False
        (bundle / "tokenizer.json").write_text(json.dumps(facts))
    command = [qemu.QEMU, "-cpu", "cortex-a72", "-L", str(qemu._root(arm, qemu.CPUS["cortex-a72"])), str(arm / "edge")]
    wrong = differences(command, bundle, strings(count, seed=count))
    assert wrong == [], f"{len(wrong)} of {count}"


def test_tables_are_those_of_the_library() -> None:
    """Character tables that an upgrade of tokenizers left behind."""
    from scripts import unicode_tables

    assert unicode_tables.FILE.read_text() == unicode_tables.table()


def test_another_tokenizer_is_refused(arm: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    """Wrong ids that look like answers."""
    bundle = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    facts = json.loads((bundle / "tokenizer.json").read_text())
    facts["pre_tokenizer"] = {"type": "ByteLevel"}
    (bundle / "tokenizer.json").write_text(json.dumps(facts))
    done = emulated("cortex-a72", arm, "--bundle", str(bundle), "x")
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

    assert qemu.refuses("tag", tiny_teacher / "tokenizer.json") == 'the C++ runner has no answer to the task "tag" yet.'
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
