"""What a device gives a process, held for real: memory by the kernel, cores by affinity, time by a cgroup."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from edgedistill import limits, native
from edgedistill.errors import DeviceMemoryError, StageError, TargetError
from edgedistill.limits import Limits
from edgedistill.links import local_cpp
from edgedistill.report import overall, verdicts
from edgedistill.runner import RunnerProcess
from edgedistill.stages.bench import bench
from edgedistill.stages.benchmark import Held
from edgedistill.stages.select import choose
from edgedistill.target import Link, find_target
from tests.links.test_browser import request
from tests.test_pipeline import edgedistill
from tests.test_report import report, variant

TARGET = """
name    = "small"
about   = "a small board"
isa     = "x86-64-v3"
runtime = "onnxruntime"
schemes = ["onnx_int8_dynamic"]
[link]
kind = "{kind}"
{option}
[limits]
{limits}
"""
FACTS = "import json, os, sys\nfor line in sys.stdin:\n    print(json.dumps({'cores': len(os.sched_getaffinity(0))}), flush=True)\n"
BLOCK = "import json, sys\nfor line in sys.stdin:\n"
BLOCK += "    x = bytearray(json.loads(line).get('size', 1))\n    print(json.dumps({'got': len(x)}), flush=True)\n"


def target(folder: Path, given: str, kind: str = "local_cpp", option: str = "") -> str:
    file = folder / "small.toml"
    file.write_text(TARGET.format(kind=kind, option=option, limits=given))
    return str(file)


def process(code: str, held: Limits) -> RunnerProcess:
    return RunnerProcess([sys.executable, "-c", code], {}, name="the runner", limits=held)


def test_memory_and_cores_of_any_process() -> None:
    """A limit that is written down and not held."""
    one = process(BLOCK, Limits(memory_mb=60))
    assert one.ask({"size": 20_000_000})["got"] == 20_000_000
    with pytest.raises(DeviceMemoryError) as error:
        one.ask({"size": 100_000_000})
    assert str(error.value) == "the runner ran out of memory: the device gives it 60 MB (limits.memory_mb). It said: out of memory"
    one.close()
    many = process(FACTS, Limits())
    single = process(FACTS, Limits(cores=1))
    assert (many.hello["cores"], single.hello["cores"]) == (len(os.sched_getaffinity(0)), 1)
    many.close()
    single.close()


@pytest.fixture
def cpp(native_home: Path) -> None:
    if lacking := local_cpp.ready(Link(kind="local_cpp")):
        if os.environ.get("CI"):
            pytest.fail(lacking)
        pytest.skip(lacking)
    native.build(native.this_machine())


def test_a_binary_without_room(cpp: None, tiny_bundle: Path, tmp_path: Path) -> None:
    """A bundle that answers on the build machine and dies on a board of 6 MB, where a user finds it."""
    fits = bench(tiny_bundle, target(tmp_path, "memory_mb = 64"))
    assert fits.golden and fits.golden.good and next(check for check in fits.checks if check.name == "memory_mb").said == "answers in 64 MB"
    done = edgedistill("bench", tiny_bundle, "-t", target(tmp_path, "memory_mb = 6"), home=Path(os.environ["EDGEDISTILL_HOME"]), check=1)
    last = done.stdout.splitlines()[-1]
    assert last.startswith("FAIL: the C++ runner ran out of memory: the device gives it 6 MB (limits.memory_mb). It said: ")
    small = bench(tiny_bundle, target(tmp_path, "memory_mb = 6"))
    assert (small.state, small.golden, small.timings.model_ns) == ("FAIL", None, [])
    assert 'failures="1"' in small.junit() and "ran out of memory" in small.one_line()


def test_the_student_without_room_is_not_chosen(cpp: None, tiny_bundle: Path) -> None:
    """A compile that stops at the one variant that has no room, or ships it."""
    held = Held(
        lambda given: local_cpp.open_runner(Link(kind="local_cpp"), "onnxruntime", request(tiny_bundle), given), Limits(memory_mb=6)
    )
    assert held.no_room and held.no_room.startswith("the C++ runner ran out of memory: the device gives it 6 MB")
    assert len(held.ask({"texts": ["a"], "wants": ["answers"]})["answers"]) == 1
    held.close()
    teacher, small, other = variant("teacher", "teacher"), variant("small"), variant("other")
    lost = small.model_copy(update={"no_room": held.no_room})
    made = report(lost, other).model_copy(update={"target": {"limits": {"memory_mb": 6}}})
    assert overall(verdicts(made, lost)) == "FAIL" and verdicts(made, lost)[0].limit == "memory_mb"
    choice = choose(made)
    assert (choice.chosen, choice.state) == ("other", "PASS")
    assert choice.rejected["small"].startswith("the C++ runner ran out of memory: the device gives it 6 MB")
    alone = choose(made.model_copy(update={"variants": [teacher, lost]}))
    assert (
        alone.state == "FAIL" and "ran out of memory" in alone.reasons[0] and alone.advice[0].startswith("To fit into the device's memory")
    )


@pytest.mark.long
@pytest.mark.parametrize("cpu", ["cortex-a53", "x86-64-v3"])
def test_an_emulated_board_has_its_own_memory(native_home: Path, tiny_bundle: Path, tmp_path: Path, cpu: str) -> None:
    """A limit that qemu uses up for itself. (Too small a one is not tried: qemu may hang in place of dying, DECISIONS.md.)"""
    option = f'cpu = "{cpu}"'
    fits = bench(tiny_bundle, target(tmp_path, "memory_mb = 64", "qemu", option))
    assert fits.golden and fits.golden.good, fits.reason


def test_processor_time(cpp: None, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A quota that nothing holds, a cgroup that stays behind, or a traceback where none can be made."""
    spin = "import json, sys, time\nfor line in sys.stdin:\n    t, c = time.monotonic(), time.process_time()\n    while time.monotonic() - t < 1: pass\n"
    spin += "    print(json.dumps({'share': time.process_time() - c}), flush=True)\n"
    try:
        one = process(spin, Limits(cpu_quota=0.2))
    except StageError as error:
        assert "no cgroup can be made here" in str(error)
    else:
        group = one._group
        assert group is not None and group.is_dir()
        assert one.ask({})["share"] < 0.5
        one.close()
        assert not group.exists()
    monkeypatch.setattr(limits, "CGROUPS", tmp_path / "none")
    with pytest.raises(StageError) as error:
        process(FACTS, Limits(cpu_quota=0.5))
    assert str(error.value) == (
        "target: limits.cpu_quota: no cgroup can be made here (No such file or directory), and limits.cpu_quota needs one. "
        "Leave it out, or run as root."
    )


def test_limits_that_nobody_holds(tmp_path: Path) -> None:
    """A limit in a target file whose link does nothing about it."""
    with pytest.raises(TargetError) as error:
        find_target(target(tmp_path, "memory_mb = 64", "browser"))
    assert str(error.value).endswith('limits: the link "browser" holds none; these do: adb, local, local_cpp, qemu, qemu_system, ssh.')
    assert limits.shell(Limits(memory_mb=64, cores=2)) == "ulimit -d 62500 && exec taskset 3 "
    assert limits.shell(Limits()) == "exec "
    with pytest.raises(StageError) as quota:
        limits.shell(Limits(cpu_quota=0.5))
    assert str(quota.value) == "target: limits.cpu_quota: a processor quota is held on this machine alone. Leave it out."
