"""A board without a system: static students as bare-metal C on a Cortex-M3 that qemu plays, held against ONNX Runtime."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from edgedistill import plugins
from edgedistill.bundle_format import read_golden, read_manifest, write_golden
from edgedistill.errors import DeviceMemoryError, StageError, TargetError
from edgedistill.exporters.onnx import batches, export
from edgedistill.limits import Limits
from edgedistill.links import qemu_system
from edgedistill.stages.agree import on_target
from edgedistill.stages.app import assemble
from edgedistill.stages.bench import bench
from edgedistill.stages.verify import hello
from edgedistill.target import Link, find_target
from tests.all_scripts import cased_bundle, strings, wide_bundle
from tests.test_pipeline import edgedistill
from tests.tiny_bundle import MAX_TOKENS, seal
from tests.tiny_models import SENTENCES, tiny_static

LINK = Link(kind="qemu_system")
SCHEMES = find_target("cortex-m3").schemes


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A static student with pairs and a hidden layer, exported."""
    folder = tmp_path_factory.mktemp("static")
    export(tiny_static(folder / "model"), folder / "graphs", SENTENCES, MAX_TOKENS)
    return folder / "graphs"


def bundle_of(graphs: Path, scheme: str, out: Path) -> Path:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(graphs / "tokenizer.json"))
    rows = batches([tokenizer.encode(text).ids for text in SENTENCES], 0)
    if scheme != "float":
        plugins.find("quantizers", scheme).quantize(graphs, out / "quantized", rows, frozenset())
    (out / "bundle").mkdir()
    shutil.copyfile((graphs if scheme == "float" else out / "quantized") / "model.onnx", out / "bundle" / "model.onnx")
    shutil.copyfile(graphs / "tokenizer.json", out / "bundle" / "tokenizer.json")
    return seal(out / "bundle", scheme)


@pytest.fixture(scope="module")
def static_bundle(graphs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundle_of(graphs, "onnx_int8_static", tmp_path_factory.mktemp("static-bundle"))


@pytest.fixture
def board(native_home: Path) -> None:
    if lacking := qemu_system.ready(LINK):
        if os.environ.get("CI"):
            pytest.fail(lacking)
        pytest.skip(lacking)


@pytest.mark.parametrize("scheme", [SCHEMES[0], *(pytest.param(name, marks=pytest.mark.long) for name in (*SCHEMES[1:], "float"))])
def test_same_answers_as_onnxruntime(board: None, graphs: Path, scheme: str, tmp_path: Path) -> None:
    """A table read with another zero, a pair hashed otherwise, a head in another order: each scheme, on the board, within rounding."""
    result, how = on_target(bundle_of(graphs, scheme, tmp_path), "cortex-m3")
    assert result.good and how == "emulated", result.wrong
    assert result.vectors >= 64 and result.worst_logit < 1e-3


def test_bench_says_what_it_takes(board: None, static_bundle: Path, own_home: Path) -> None:
    """A board that is said to be fast since qemu is; a count that does not repeat; flash and RAM that nobody tells."""
    counts = [bench(static_bundle, "cortex-m3").instructions for _ in range(2)]
    assert counts[0] == counts[1] and len(counts[0]) == 8 and min(counts[0]) > 10_000
    done = edgedistill("bench", static_bundle, "-t", "cortex-m3", home=own_home, check=3)
    assert "for cortex-m3, emulated" in done.stdout and "million instructions an answer" in done.stdout and "ms [" not in done.stdout
    assert " bytes of flash and " in done.stdout and "UNDECIDED: emulated" in done.stdout
    verified = edgedistill("verify", static_bundle, "-t", "cortex-m3", home=own_home, check=0)
    assert verified.stdout.endswith("on cortex-m3, emulated\n")


def test_the_app_answers(board: None, static_bundle: Path, tmp_path: Path, own_home: Path) -> None:
    """An app that builds nowhere but here, answers otherwise than its bundle, or calls a changed vector equal."""
    done = edgedistill("app", "microcontroller", "--bundle", static_bundle, "-o", tmp_path / "app", home=own_home, check=0)
    assert "make check" in done.stdout

    def make(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["make", "-s", *words], cwd=tmp_path / "app", capture_output=True, text=True, timeout=120)

    checked = make("check")
    assert checked.returncode == 0 and checked.stderr == "", checked.stderr
    vectors = list(read_golden(static_bundle / "golden.jsonl"))
    said = json.loads(checked.stdout.splitlines()[-1])
    assert (said["golden"], said["vectors"]) == ("equal", len(vectors)) and said["worst_logit"] < 1e-3
    wanted = next(one for one in vectors if one.answer is not None and "'" not in one.text and one.text.isprintable() and len(one.text) > 9)
    asked = json.loads(make("ask", f"TEXT={wanted.text}").stdout.splitlines()[-1])
    assert asked["answer"] == wanted.answer and 0 < asked["confidence"] <= 1
    changed = tmp_path / "changed"
    shutil.copytree(static_bundle, changed)
    write_golden(changed / "golden.jsonl", [vectors[0], vectors[1].__class__(**{**vars(vectors[1]), "ids": [2, 3]})])
    qemu_system.microcontroller.write_golden_c(tmp_path / "app" / "generated", list(read_golden(changed / "golden.jsonl")), 0.1)
    (tmp_path / "app" / "golden.elf").unlink()
    wrong = make("check")
    assert wrong.returncode != 0 and json.loads(wrong.stdout.splitlines()[-1]) == {"golden": "differs", "vector": 2, "in": "ids"}


@pytest.mark.parametrize(
    ("count", "cased"), [(500, False), pytest.param(500, True, marks=pytest.mark.long), pytest.param(20_000, False, marks=pytest.mark.long)]
)
def test_same_tokens_as_the_reference(board: None, static_bundle: Path, tiny_bundle: Path, tmp_path: Path, count: int, cased: bool) -> None:
    """A tokenizer without a heap that cuts some script otherwise: it answers with confidence, and wrongly."""
    from tokenizers import Tokenizer

    (tmp_path / "wide").mkdir()
    wide = wide_bundle(tiny_bundle, tmp_path / "wide")
    tokenizer = (cased_bundle(wide, tmp_path) if cased else wide) / "tokenizer.json"
    reference = Tokenizer.from_file(str(tokenizer))
    reference.enable_truncation(MAX_TOKENS)
    manifest, texts = read_manifest(static_bundle), strings(count, seed=count)
    # Only its ids are looked at: the model has fewer words than this tokenizer, and whatever stands behind its table is read for the others.
    request = hello(static_bundle, manifest, texts[0], 1) | {"tokenizer": str(tokenizer)}
    runner = qemu_system.open_runner(LINK, "onnxruntime", request)
    try:
        said = runner.ask({"texts": texts, "wants": ["ids"]})["ids"]
    finally:
        runner.close()
    wrong = [text for text, ids in zip(texts, said, strict=True) if ids != reference.encode(text).ids]
    assert wrong == [], f"{len(wrong)} of {count}"


def test_a_student_of_another_kind(board: None, tiny_bundle: Path, tmp_path: Path, recipe_file: Callable[..., Path]) -> None:
    """A transformer that is said to run on a board, or an internal error in the place of a sentence."""
    with pytest.raises(StageError) as error:
        bench(tiny_bundle, "cortex-m3")
    assert str(error.value).endswith(
        "model.onnx: a board without a system runs static students (bags of sub-words), and this model is another: it has "
        'no pooling over tokens. Write [student] family = "static".'
    )
    with pytest.raises(StageError):
        assemble("microcontroller", tiny_bundle, tmp_path / "app")
    assert not (tmp_path / "app").exists()
    done = edgedistill("compile", recipe_file(), "-t", "cortex-m3", home=tmp_path / "home", check=2)
    assert done.stderr == (
        "Error: cortex-m3: students of the family static run there, and the recipe asks for transformer. "
        'Write [student] family = "static", or [search] families = ["static"].\n'
    )


def test_a_board_that_is_too_small(board: None, static_bundle: Path, tmp_path: Path) -> None:
    """A program that overruns flash or RAM of the real chip, which the emulated board has more of."""
    request = hello(static_bundle, read_manifest(static_bundle), "a", 1)
    with pytest.raises(DeviceMemoryError) as error:
        qemu_system.open_runner(LINK, "onnxruntime", request, Limits(flash_mb=0.03))
    assert str(error.value).startswith("the program has no room on the board: it takes 0.0") and "(limits.flash_mb)." in str(error.value)
    text = (Path(__file__).parents[2] / "targets" / "cortex-m3.toml").read_text().replace("flash_mb  = 4.194304", "flash_mb = 0.03")
    (tmp_path / "small.toml").write_text(text)
    result = bench(static_bundle, str(tmp_path / "small.toml"))
    assert result.state == "FAIL" and "and the board has 0.03 (limits.flash_mb)" in result.reason


def test_limits_that_no_process_can_be_held_to(tmp_path: Path) -> None:
    """Flash of a laptop: a limit that is stated and never held."""
    (tmp_path / "odd.toml").write_text(
        'name = "odd"\nabout = "odd"\nisa = "x86-64-v3"\nruntime = "onnxruntime"\nschemes = ["onnx_int8_dynamic"]\n'
        '[link]\nkind = "local"\n[limits]\nflash_mb = 1\n'
    )
    with pytest.raises(TargetError) as error:
        find_target(str(tmp_path / "odd.toml"))
    assert 'limits: the link "local" holds no flash_mb; these do: qemu_system' in str(error.value)


def test_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """No compiler: a command that cannot be found, in the place of the one that installs it."""
    monkeypatch.setenv("PATH", "/nowhere")
    assert qemu_system.ready(LINK) == (
        "a Cortex-M3 cannot be played here. Run: sudo apt-get install qemu-system-arm gcc-arm-none-eabi libnewlib-arm-none-eabi make"
    )


@pytest.mark.long
def test_compiled_for_the_board(board: None, recipe_file: Callable[..., Path], tmp_path: Path, own_home: Path) -> None:
    """A static student that cannot go all the way to a board by the user's own command."""
    losses = 'control = false\n[[distill.losses]]\nkind = "hard_label"\n[compile]'
    recipe = recipe_file(
        ('family     = "transformer"\nlayers     = 2', 'family = "static"\nwidth = 32'),
        ("[compile]", losses),
        ("accuracy_drop = 0.5", "accuracy_drop = 0.99"),
    )
    done = edgedistill("compile", recipe, "-t", "cortex-m3", "-o", tmp_path / "out", "--json", home=own_home, check=3)
    (outcome,) = json.loads(done.stdout)
    assert outcome["state"] == "UNDECIDED"
    assert "golden vectors equal" in edgedistill("verify", outcome["bundle"], "-t", "cortex-m3", home=own_home, check=0).stdout
