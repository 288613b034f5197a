"""The whole pipeline on a tiny real teacher: every stage really runs, through the user's own command."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgedistill.pipeline import _controls, _lineage
from edgedistill.recipe import read_recipe
from tests.conftest import RECIPE, cpu_seconds, share_native, tickets, write_csv

Write = Callable[..., Path]


def edgedistill(*arguments: str | Path, home: Path, check: int | None = None, timeout: float = 900) -> subprocess.CompletedProcess[str]:
    """The user's command in a process of its own. Where the machine's clock drifted it is given again, as its answer advises."""
    command = [sys.executable, "-m", "edgedistill.cli", *map(str, arguments)]
    environment = os.environ | {"EDGEDISTILL_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    for _ in range(3):
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=environment)
        if not (done.returncode == 3 and "clock drifted" in done.stdout + done.stderr):
            break
    if check is not None:
        assert done.returncode == check, done.stdout + done.stderr
    return done


class Run:
    """One finished compile that many tests look at."""

    def __init__(self, folder: Path, teacher: Path) -> None:
        self.folder, self.home = folder, folder / "home"
        share_native(self.home)
        write_csv(folder / "tickets.csv", tickets())
        (folder / "recipe.toml").write_text(RECIPE.format(teacher=teacher))
        self.compile = edgedistill("compile", folder / "recipe.toml", "-o", folder / "out", "--json", home=self.home)
        self.out = folder / "out" / "laptop-x86"
        self.bundle = self.out / "bundle"

    def copy_of_bundle(self, place: Path) -> Path:
        return Path(shutil.copytree(self.bundle, place))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_teacher: Path) -> Iterator[Run]:
    made = Run(tmp_path_factory.mktemp("run"), tiny_teacher)
    assert made.compile.returncode == 0, made.compile.stdout + made.compile.stderr
    yield made


def test_json_is_one_document(run: Run) -> None:
    """Progress mixed into what a script parses."""
    (outcome,) = json.loads(run.compile.stdout)
    assert outcome["target"] == "laptop-x86" and outcome["state"] == "PASS"
    assert {variant["scheme"] for variant in outcome["variants"]} == {
        "float",
        "onnx_int8_dynamic",
        "onnx_int8_static",
        "onnx_int8_int4_table",
        "onnx_int4_block",
    }
    assert {variant["role"] for variant in outcome["variants"]} == {"teacher", "student", "control"}


def test_what_ships_is_what_was_measured(run: Run) -> None:
    """A bundle that holds another file than the one the figures are of."""
    from edgedistill.digests import file_digest

    report = json.loads((run.out / "report.json").read_text())
    choice = json.loads((run.out / "choice.json").read_text())
    chosen = next(variant for variant in report["variants"] if variant["name"] == choice["chosen"])
    assert file_digest(run.bundle / "model.onnx") == chosen["model_sha256"]
    assert len(chosen["timings"]["real"]["model_ns"]) >= 1000, "p99 needs a thousand samples"
    assert {"16", "32"} <= chosen["timings"].keys()


def test_bundle_holds_what_a_device_needs_and_nothing_more(run: Run) -> None:
    """A file too many, or one that the apps look for and do not find."""
    names = {file.name for file in run.bundle.iterdir()}
    assert names == {"manifest.json", "model.onnx", "tokenizer.json", "golden.jsonl", "report.json", "MODEL_CARD.md"}
    manifest = json.loads((run.bundle / "manifest.json").read_text())
    assert manifest["labels"] == ["account", "billing", "delivery"]
    assert manifest["lineage"]["teacher"]["license"] == "mit"
    assert str(run.folder) not in (run.bundle / "manifest.json").read_text(), "a path of this machine ships"
    assert json.loads((run.bundle / "tokenizer.json").read_text())["padding"] is None


def test_golden_vectors_cover_the_awkward(run: Run) -> None:
    """A device that is checked on easy strings alone."""
    from edgedistill.bundle_format import read_golden

    vectors = list(read_golden(run.bundle / "golden.jsonl"))
    texts = [vector.text for vector in vectors]
    assert len(vectors) >= 64
    assert "" in texts and max(map(len, texts)) >= 10_000
    assert any("\u0301" in text for text in texts) and any("\u202e" in text for text in texts) and any("\x00" in text for text in texts)
    assert all(len(vector.ids) <= 32 for vector in vectors)


def test_student_answers_as_in_torch(run: Run) -> None:
    """A shipped binary that answers otherwise than the model that was trained."""
    import torch

    from edgedistill.bundle_format import read_golden
    from edgedistill.models import load_model

    (folder,) = [
        path for path in (run.home / "store").glob("distill-*") if json.loads((path / "facts.json").read_text())["run"] == "distilled"
    ]
    model = load_model(folder / "model", "text-classification", ["account", "billing", "delivery"])
    agree = []
    for golden in read_golden(run.bundle / "golden.jsonl"):
        ids = torch.tensor([golden.ids])
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0].detach().numpy()
        agree.append(np.abs(logits - golden.logits).max() < 0.5)
    assert np.mean(agree) > 0.95


def test_second_compile_is_all_hits_and_the_same_bytes(run: Run) -> None:
    """Work done twice, or a bundle that differs from build to build."""
    from edgedistill.bundle_format import digests

    before = digests(run.out)
    start = cpu_seconds()
    again = edgedistill("compile", run.folder / "recipe.toml", "-o", run.folder / "out", home=run.home, check=0)
    assert cpu_seconds() - start < 15  # 5 s
    assert all("cached" in line for line in again.stderr.splitlines() if line.strip())
    assert digests(run.out) == before


def test_plan_runs_nothing_and_says_what_is_cached(run: Run, tmp_path: Path) -> None:
    """A plan that trains, or that calls something cached that is not."""
    steps = json.loads(edgedistill("plan", run.folder / "recipe.toml", "--json", home=run.home, check=0).stdout)
    assert all(step["cached"] for step in steps)
    fresh = json.loads(edgedistill("plan", run.folder / "recipe.toml", "--json", home=tmp_path / "empty", check=0).stdout)
    assert not any(step["cached"] for step in fresh)
    assert not list((tmp_path / "empty").rglob("artifact.json"))
    assert len(fresh) == len(steps)


def test_changed_budget_runs_select_again_and_nothing_before(run: Run, tmp_path: Path) -> None:
    """A new training for a new limit. An impossible one ends with exit code 1, the nearest miss, and advice."""
    recipe = tmp_path / "recipe.toml"
    shutil.copy(run.folder / "tickets.csv", tmp_path / "tickets.csv")
    recipe.write_text((run.folder / "recipe.toml").read_text() + "size_mb = 0.001\n")
    done = edgedistill("compile", recipe, "-o", tmp_path / "out", home=run.home, check=1)
    fresh = {line.split()[0] for line in done.stderr.splitlines() if line.strip() and "cached" not in line}
    assert fresh <= {"select", "bundle", "foretell", "page"}
    assert "No student meets every limit. The nearest miss is" in done.stdout
    assert "or allow size_mb = " in done.stdout and "No bundle was written" in done.stdout
    assert not (tmp_path / "out" / "laptop-x86" / "bundle").exists()
    assert (tmp_path / "out" / "laptop-x86" / "report.html").is_file()


def test_a_student_learns_through_its_quantizers(run: Run, tmp_path: Path) -> None:
    """Another arithmetic on the way than the recipe asks for, a second training of the student itself, or a binary that is not the one that learned."""
    recipe = tmp_path / "recipe.toml"
    shutil.copy(run.folder / "tickets.csv", tmp_path / "tickets.csv")
    text = (run.folder / "recipe.toml").read_text().replace("[distill]", '[distill]\nthrough_quantizer = "always"')
    recipe.write_text(text)
    done = edgedistill("compile", recipe, "-o", tmp_path / "out", "--until", "quantize", home=run.home, check=0)
    fresh = [line.split()[0] for line in done.stderr.splitlines() if line.strip() and "cached" not in line and not line.startswith(" ")]
    assert sorted(fresh) == ["distill"] * 3 + ["export"] * 3 + ["quantize"] * 3, "one of each for every scheme that says its arithmetic"
    learned = [json.loads(file.read_text()) for file in (run.home / "store").glob("quantize-*/loss.json")]
    assert sum(loss["through_quantizer"] for loss in learned) == 3
    schemes = {json.loads(file.read_text()).get("scheme") for file in (run.home / "store").glob("distill-*/facts.json")}
    assert schemes == {None, "onnx_int8_dynamic", "onnx_int8_int4_table", "onnx_int4_block"}


def test_second_target_reuses_the_student(run: Run) -> None:
    """A training a device. A device that is not at hand is undecided: exit code 3, a bundle, and no speed claimed."""
    done = edgedistill("compile", run.folder / "recipe.toml", "-t", "raspberry-pi-4", "-o", run.folder / "out", home=run.home, check=3)
    fresh = {line.split()[0] for line in done.stderr.splitlines() if line.strip() and "cached" not in line and not line.startswith(" ")}
    assert fresh <= {"benchmark", "select", "bundle", "foretell", "page"}
    report = json.loads((run.folder / "out" / "raspberry-pi-4" / "report.json").read_text())
    assert report["how"] == "emulated" and all(not variant["timings"] for variant in report["variants"])
    assert report["where"].startswith("cortex-a72 in qemu")
    students = [variant for variant in report["variants"] if variant["role"] == "student"]
    assert all(any("answers on raspberry-pi-4 are those of this machine" in note for note in variant["notes"]) for variant in students)
    assert edgedistill("verify", run.folder / "out" / "raspberry-pi-4" / "bundle", home=run.home).returncode == 0


def test_verify_passes_and_finds_a_wrong_answer(run: Run, tmp_path: Path) -> None:
    """A verify that passes whatever the model answers."""
    from edgedistill.bundle_format import Golden, digests, read_golden, read_manifest, write_golden, write_manifest

    assert "golden vectors equal" in edgedistill("verify", run.bundle, home=run.home, check=0).stdout
    spoiled = run.copy_of_bundle(tmp_path / "spoiled")
    first, *rest = read_golden(spoiled / "golden.jsonl")
    write_golden(spoiled / "golden.jsonl", [Golden(first.text, first.ids, [value + 1 for value in first.logits], first.answer), *rest])
    manifest = read_manifest(spoiled)
    write_manifest(spoiled, type(manifest)(**{**vars(manifest), "files": digests(spoiled)}))
    done = edgedistill("verify", spoiled, home=run.home, check=1)
    assert "1 of" in done.stdout and "a logit differs by 1." in done.stdout


def test_verify_refuses_a_changed_byte(run: Run, tmp_path: Path) -> None:
    """A damaged model that is run."""
    damaged = run.copy_of_bundle(tmp_path / "damaged")
    content = bytearray((damaged / "model.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (damaged / "model.onnx").write_bytes(content)
    done = edgedistill("verify", damaged, home=run.home, check=2)
    assert done.stderr.startswith(f'Error: {damaged}: "model.onnx" was changed after the bundle was made')


def test_bench_measures_the_bundle_again(run: Run) -> None:
    """A bench that repeats old figures instead of measuring."""
    result = json.loads(edgedistill("bench", run.bundle, "--json", home=run.home, check=0).stdout)
    assert len(result["samples"]["model_ns"]) >= 1000 and result["state"] == "PASS"
    done = edgedistill("bench", run.bundle, "--csv", home=run.home, check=0)
    csv = done.stdout.splitlines()
    assert "PASS" in done.stderr and csv[0] == "tokenize_ns,model_ns,decode_ns" and len(csv) > 1000


def test_bench_for_ci(run: Run, tmp_path: Path) -> None:
    """A CI job that has to read a table, or a missed limit that its report shows green."""
    from xml.etree import ElementTree

    done = edgedistill("bench", run.bundle, "--budget-only", "--junit", tmp_path / "bench.xml", home=run.home, check=0)
    assert done.stdout.count("\n") == 1 and done.stdout.startswith("PASS tickets for laptop-x86, measured: ")
    suite = ElementTree.parse(tmp_path / "bench.xml").getroot()
    names = [case.get("name") for case in suite]
    assert names[0] == "golden vectors" and "p90_ms" in names and suite.get("failures") == "0" and not list(suite.iter("failure"))

    tight = tmp_path / "tight.toml"
    target = (Path(__file__).parents[1] / "targets" / "laptop-x86.toml").read_text()
    tight.write_text(target.replace("size_mb       = 25", "size_mb = 0.001"))
    done = edgedistill("bench", run.bundle, "-t", tight, "--budget-only", "--junit", tmp_path / "bench.xml", home=run.home, check=1)
    assert done.stdout.startswith("FAIL tickets for laptop-x86, measured: ") and "size_mb of at most 0.001 FAIL" in done.stdout
    (failure,) = ElementTree.parse(tmp_path / "bench.xml").getroot().iter("failure")
    assert "size_mb of at most 0.001 FAIL" in str(failure.get("message"))


def test_compare_is_paired(run: Run) -> None:
    """Two runs compared on different rows. A bundle against itself differs in nothing."""
    result = json.loads(edgedistill("compare", run.bundle, run.out, "--json", home=run.home, check=0).stdout)
    assert result["rows"] > 0 and result["accuracy_gain"] == {"value": 0.0, "low": 0.0, "high": 0.0} and result["flips"] == 0


def test_report_renders_again(run: Run, tmp_path: Path) -> None:
    """A page that can only be made while compiling."""
    edgedistill("report", run.out, "-o", tmp_path / "page.html", home=run.home, check=0)
    assert (tmp_path / "page.html").read_text() == (run.out / "report.html").read_text()


STAGES = [
    "prepare", "teacher", "transfer", "label", "embed", "coverage", "distill",
    "export", "quantize", "benchmark", "select", "bundle", "foretell", "page",
]  # fmt: skip


def test_kill_9_in_every_stage_and_resume(recipe_file: Write, tmp_path: Path) -> None:
    """Finished work lost to a kill, a half result taken for a whole one, a lock left behind, or a training that starts again from nothing."""
    recipe, home = (
        recipe_file(("steps         = 60", "steps = 200\ncontrol = false"), ("epochs        = 6", "epochs = 12")),
        tmp_path / "home",
    )
    command = [sys.executable, "-m", "edgedistill.cli", "compile", str(recipe), "-o", str(tmp_path / "out")]
    finished: set[str] = set()
    for stage in STAGES:
        victim = subprocess.Popen(command, env=os.environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        # The stages that checkpoint are killed after their first checkpoint, the others as soon as their draft is there.
        sign = "checkpoints/checkpoint-*/trainer_state.json" if stage in ("teacher", "distill") else ""
        while victim.poll() is None and not list((home / "store" / "drafts").glob(f"{stage}-*[!k]/{sign}".rstrip("/"))):
            time.sleep(0.002)
        victim.send_signal(signal.SIGKILL)
        victim.wait()
        results = {path.name for path in (home / "store").glob("*-*")}
        assert results >= finished, f"killed in {stage}: finished work is gone"
        assert all((home / "store" / name / "artifact.json").is_file() for name in results), f"killed in {stage}: half a result stands"
        finished = results
    done = edgedistill("compile", recipe, "-o", tmp_path / "out", home=home, check=0)
    fresh = [line for line in done.stderr.splitlines() if not line.startswith(" ") and "cached" not in line]
    assert not any(line.startswith(("teacher", "distill")) for line in fresh), fresh
    edgedistill("verify", tmp_path / "out" / "laptop-x86" / "bundle", home=home, check=0)


def test_two_processes_train_one_student(recipe_file: Write, tmp_path: Path) -> None:
    """A recipe with processes = 2 that trains twice, deadlocks, or learns nothing."""
    inside = '[[distill.losses]]\nkind = "soft_target"\n[[distill.losses]]\nkind = "hidden_states"\nweight = 0.01\n[compile]'
    recipe = recipe_file(("steps         = 60", "steps = 30\nprocesses = 2\ncontrol = false"), ("[compile]", inside))
    edgedistill("compile", recipe, "--until", "distill", home=tmp_path / "home", check=0)
    (folder,) = (tmp_path / "home" / "store").glob("distill-*")
    facts = json.loads((folder / "facts.json").read_text())
    assert facts["batch_size"] == 32 and facts["steps"] == 30


# --- the search -------------------------------------------------------------------------------------------------------------------------

SEARCH = """
[[search.students]]
family = "transformer"
layers = 1
ffn    = 32
[[search.students]]
family = "transformer"
layers = 4
[[search.students]]
family = "transformer"
layers = 1
"""


def searching(write: Write, *changes: tuple[str, str]) -> Path:
    """The recipe with a search over three sizes in the place of its one student."""
    return write(('family     = "transformer"\nlayers     = 2\n', ""), ("[compile]", SEARCH + "[compile]"), *changes)


def test_search_ends_at_one_student_for_each_target(recipe_file: Write, tmp_path: Path) -> None:
    """A search that trains everything, or whose choice is not what ships."""
    phone = Path(__file__).parent.parent / "targets" / "android-arm64-mid.toml"
    absent = phone.read_text().replace('kind = "qemu"', 'kind = "build_only"')
    (tmp_path / "phone.toml").write_text(absent)  # beside the recipe
    recipe = searching(recipe_file, ('targets = ["laptop-x86"]', 'targets = ["laptop-x86", "phone.toml"]'))
    edgedistill("compile", recipe, "-o", tmp_path / "out", home=tmp_path / "home", check=3)
    details = json.loads((tmp_path / "out" / "laptop-x86" / "details.json").read_text())
    record = details["search"]
    assert [entry["name"] for entry in record["candidates"]] == [
        "transformer layers=1 ffn=32",
        "transformer layers=4",
        "transformer layers=1",
    ]
    assert set(record["targets"]) == {"laptop-x86", "android-arm64-mid"}
    assert all(entry["costs"]["laptop-x86"][0]["p50_ms"] > 0 for entry in record["candidates"]), "costs were not measured before training"
    assert all(cost["p50_ms"] is None for entry in record["candidates"] for cost in entry["costs"]["android-arm64-mid"]), (
        "a clock nobody read"
    )
    assert {entry["name"]: entry["larger"] for entry in record["candidates"]} == {
        "transformer layers=1 ffn=32": "transformer layers=1",
        "transformer layers=1": "transformer layers=4",
        "transformer layers=4": "",
    }, "a student that is a part of one that has learned begins there"
    chosen = record["targets"]["laptop-x86"]["chosen"]
    assert any(entry["finished"] for entry in record["candidates"] if entry["name"] == chosen)
    again = edgedistill("compile", recipe, "-o", tmp_path / "out", home=tmp_path / "home", check=3)
    assert "cached" in again.stderr and " s\n" not in "".join(line for line in again.stderr.splitlines(True) if line.startswith("distill"))


def test_a_killed_search_goes_on(recipe_file: Write, tmp_path: Path) -> None:
    """A search that trains again what it had tried before it was killed."""
    recipe, home = searching(recipe_file, ("steps         = 60", "steps = 200\ncontrol = false")), tmp_path / "home"
    command = [sys.executable, "-m", "edgedistill.cli", "compile", str(recipe), "--until", "distill"]
    victim = subprocess.Popen(command, env=os.environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def trials() -> dict[str, int]:
        return {path.parent.name: path.stat().st_mtime_ns for path in (home / "store").glob("distill-*/artifact.json")}

    while victim.poll() is None and len(trials()) < 2:
        time.sleep(0.002)
    victim.send_signal(signal.SIGKILL)
    assert victim.wait() == -signal.SIGKILL, "the search was over before it could be killed"
    before = trials()
    edgedistill("compile", recipe, "--until", "distill", home=home, check=0)
    after = trials()
    assert len(before) >= 2 and len(after) > len(before)
    assert {name: after[name] for name in before} == before, "a finished trial was trained again"


def test_budget_that_nothing_can_meet_stops_before_training(recipe_file: Write, tmp_path: Path) -> None:
    """Hours of training for a student that was too large from the start."""
    recipe = searching(recipe_file, ("accuracy_drop = 0.5", "accuracy_drop = 0.5\nsize_mb = 0.01"))
    done = edgedistill("compile", recipe, home=tmp_path / "home", check=1)
    assert "none of the 3 students can meet the budget, whatever it learns: the nearest is transformer layers=1 ffn=32 as" in done.stderr
    assert not list((tmp_path / "home" / "store").glob("distill-*")), "something was trained"


@pytest.mark.parametrize(
    ("asked", "labelled", "runs"),
    [
        ("true", True, ["labels", "train_rows"]),
        ("true", False, ["train_rows"]),
        ('"labels"', True, ["labels"]),
        ('"labels"', False, []),
        ("false", True, []),
    ],
)
def test_the_controls_that_are_asked_for(asked: str, labelled: bool, runs: list[str], run: Run, tmp_path: Path) -> None:
    """A control that takes as long as the student and that nobody asked for, one of labels where there are none; a student made anew for it."""
    text = (run.folder / "recipe.toml").read_text().replace("[distill]", f"[distill]\ncontrol = {asked}", 1)
    (run.folder / "controls.toml").write_text(text)
    recipe = read_recipe(run.folder / "controls.toml")
    recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"labelled": labelled})})
    assert _controls(recipe) == runs
    if labelled:
        steps = json.loads(edgedistill("plan", run.folder / "controls.toml", "--json", home=run.home, check=0).stdout)
        planned = [step for step in steps if step["stage"] == "distill"]
        assert len(planned) == 1 + len(runs) and all(step["cached"] for step in planned)


def test_lineage_says_how_the_traffic_is_read(recipe_file: Write) -> None:
    """A model whose transfer set cannot be made again, or a bundle with a path of this machine."""
    teacher: Any = SimpleNamespace(terms={}, model=SimpleNamespace(origin="given", key="0"))
    table = '{file = "secret/log.txt", rows = 9}'
    for given, kept in (('"secret/log.txt"', []), (table, [9]), (f"[{table}, {table}]", [9, 9])):
        recipe = read_recipe(recipe_file(('label = "queue"', f'label = "queue"\ntraffic = {given}')))
        found = _lineage(recipe, {}, [teacher], None)
        assert "secret" not in json.dumps(found)
        asked = found["recipe"]["data"].get("traffic", [])
        assert [one["rows"] for one in (asked if isinstance(asked, list) else [asked])] == kept
