"""An Android phone over adb: the real client, its own server on a port of its own, and what stands for a phone (tests/phone.py).

The phone's shell is this machine's, so the runner, its loader and its C library really run as they would there; Android itself was not at hand.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgedistill import native
from edgedistill.bundle_format import read_golden
from edgedistill.errors import StageError, TargetError
from edgedistill.links import adb
from edgedistill.stages.bench import bench
from edgedistill.stages.verify import on_runner
from edgedistill.target import Link, find_target
from tests.links.test_browser import request
from tests.phone import Phone
from tests.test_pipeline import edgedistill

TARGET = """
name    = "phone"
about   = "what stands for a phone"
isa     = "x86-64-v3"
runtime = "onnxruntime"
schemes = ["onnx_int8_dynamic"]
[budget]
p90_ms = 2000
[link]
kind    = "adb"
serial  = "{serial}"
machine = "{machine}"
folder  = "{folder}/there"
"""


@pytest.fixture
def phone(tmp_path: Path, native_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Phone]:
    lacking = [] if shutil.which("adb") else ["adb"]
    lacking += [missing] if (missing := native.lacking(native.this_machine())) else []
    if lacking:
        if os.environ.get("CI"):
            pytest.fail(str(lacking))
        pytest.skip(str(lacking))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(free.getsockname()[1]))
    monkeypatch.setenv("HOME", str(tmp_path))  # adb makes itself a key there
    folder = tmp_path / "phone"
    (folder / "bin").mkdir(parents=True)
    running = Phone(folder)
    said = subprocess.run(["adb", "connect", running.serial], capture_output=True, text=True, timeout=60).stdout
    assert said.strip() == f"connected to {running.serial}"
    yield running
    running.close()
    subprocess.run(["adb", "kill-server"], capture_output=True, timeout=60)


def target(phone: Phone, **changes: str) -> Path:
    file = phone.folder / "phone.toml"
    file.write_text(TARGET.format(**{"serial": phone.serial, "machine": native.this_machine(), "folder": str(phone.folder)} | changes))
    return file


def test_a_bundle_is_measured_on_the_phone(phone: Phone, tiny_bundle: Path) -> None:
    """Answers of this machine that pass for the phone's; a C library taken from the phone; files that are sent anew each time."""
    done = edgedistill("bench", tiny_bundle, "-t", target(phone), "--budget-only", home=Path(os.environ["EDGEDISTILL_HOME"]), check=0)
    vectors = len(list(read_golden(tiny_bundle / "golden.jsonl")))
    assert done.stdout.startswith(f"PASS tiny for phone, measured: tiny: {vectors} golden vectors equal")
    sent = {path: path.stat().st_mtime_ns for path in (phone.folder / "there").rglob("*")}
    names = {path.name for path in sent if path.is_file()}
    assert names == {
        "runner",
        "libonnxruntime.so.1",
        "model.onnx",
        "tokenizer.json",
        native.LOADERS[native.this_machine()],
        *native.C_LIBRARIES,
    }
    result = bench(tiny_bundle, str(target(phone)))
    assert len(result.timings.model_ns) >= 1000 and result.cold_start_ms is not None and 0 < result.cold_start_ms < 60_000
    assert {path: path.stat().st_mtime_ns for path in (phone.folder / "there").rglob("*")} == sent


def test_a_decoder_writes_on_the_phone(phone: Phone, gguf_bundles: dict[str, Path]) -> None:
    """llama.cpp's libraries that stay here, so that the runner does not start there."""
    bundle = gguf_bundles["llama"]
    if missing := native.lacking(native.this_machine(), "llama_cpp"):
        pytest.skip(missing)
    runner = adb.open_runner(find_target(str(target(phone))).link, "llama_cpp", request(bundle))
    try:
        result = on_runner("tiny", 0.001, list(read_golden(bundle / "golden.jsonl"))[:8], runner)
    finally:
        runner.close()
    assert result.good and result.vectors == 8, result.wrong


def test_the_phone_says_what_it_is(phone: Phone) -> None:
    """A report that names this machine's processor for the phone's."""
    values = {"ro.product.model": "Edge 1", "ro.soc.model": "SM0000", "ro.build.version.release": "16"}
    cases = "".join(f"{name}) echo {value};;" for name, value in values.items())
    (phone.folder / "bin" / "getprop").write_text(f"#!/bin/sh\ncase $1 in {cases} esac\n")
    (phone.folder / "bin" / "getprop").chmod(0o755)
    facts = adb.machine(find_target(str(target(phone))).link)
    assert facts["cpu"] == "Edge 1 SM0000" and facts["system"].startswith("Android 16, Linux ")


def test_heat_and_clocks_are_told(phone: Phone, tiny_bundle: Path) -> None:
    """Clocks taken for heat, sensors that are switched off taken for frost, or a phone that gets hot and nobody hears of it."""
    sensors, cores = "34500\\n-273000\\n41200\\n", "1804800\\n2841600\\n"
    script = f"#!/bin/sh\ncase $1 in *thermal*) printf '{sensors}';; *cpufreq*) printf '{cores}';; *) exec /bin/cat \"$@\";; esac\n"
    (phone.folder / "bin" / "cat").write_text(script)
    (phone.folder / "bin" / "cat").chmod(0o755)
    link = find_target(str(target(phone))).link
    assert adb.condition(link) == {"temperatures": [34.5, 41.2], "mhz": [1804.8, 2841.6]}
    result = bench(tiny_bundle, str(target(phone)))
    assert "the device before and after: the hottest sensor 41 → 41 °C, the fastest core 2842 → 2842 MHz" in result.lines()
    (phone.folder / "bin" / "cat").write_text("#!/bin/sh\nexit 1\n")  # a phone that tells nothing
    assert adb.condition(link) == {"temperatures": [], "mhz": []}


def test_what_goes_wrong_on_the_way_is_one_sentence(phone: Phone, tiny_bundle: Path) -> None:
    """adb's own words, or a wait without end."""
    link = find_target(str(target(phone))).link
    assert adb.ready(link) is None
    other = next(name for name in native.MACHINES if name != native.this_machine())
    found = os.uname().machine
    assert adb.ready(find_target(str(target(phone, machine=other))).link) == (
        f'the phone\'s system is {found}: write [link] machine = "{native.this_machine()}"'
    )
    assert adb.ready(find_target(str(target(phone, serial="R5CT1234"))).link) == (
        "there is no such phone: `adb devices` lists those that are connected"
    )
    with pytest.raises(TargetError) as error:
        adb.ready(find_target(str(target(phone, serial="a; reboot"))).link)
    assert str(error.value) == "target: link.serial: 'a; reboot' is no serial number. `adb devices` lists them."
    with pytest.raises(StageError) as stopped:
        adb._sent(link.model_copy(update={"folder": "/proc/nowhere"}), "model", {"model.onnx": tiny_bundle / "model.onnx"})
    assert str(stopped.value).startswith("model could not be sent to the phone: ")
    phone.close()
    subprocess.run(["adb", "disconnect"], capture_output=True, timeout=60)
    gone = adb.ready(Link(kind="adb"))
    assert gone == "no phone is connected: switch on USB debugging on it (Settings, Developer options) and plug it in"


def test_without_adb(monkeypatch: pytest.MonkeyPatch) -> None:
    """A traceback where a package is missing."""
    monkeypatch.setenv("PATH", "/nowhere")
    assert adb.ready(Link(kind="adb")) == "adb is missing. Run: sudo apt-get install adb"
