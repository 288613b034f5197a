"""An Android phone over adb: the C++ runner, the model and the tokenizer are copied there once, and the runner answers there, on the phone's own clock.

    [link]
    kind    = "adb"
    # serial = "R5CT…"               which phone, when several are connected (`adb devices` lists them; an address for one over Wi-Fi)
    # machine = "aarch64"            or x86_64, for the emulator on a PC
    # folder = "/data/local/tmp/edgedistill"

The runner is the one of Linux boards. Android has another C library, so the runner's own comes along, with its loader: nothing is installed on the phone,
and no Android SDK or NDK is needed here. What lies on the phone under its digest is not sent again. Answers come from adb's shell user: an app
in the background may get slower cores. The cold start counts from the moment the runner reads its first line.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from edgedistill import native
from edgedistill.errors import StageError, TargetError
from edgedistill.limits import NONE, OF_A_PROCESS, Limits, shell
from edgedistill.native import refuses
from edgedistill.remote import NotSentError, last_line, sent
from edgedistill.runner import RunnerProcess
from edgedistill.target import Link

HOW = "measured"
ABOUT = "an Android phone over adb: bundle and runner are copied there and run there"
HOLDS_LIMITS = OF_A_PROCESS

SECONDS = 60  # for a short command there
FOLDER = "/data/local/tmp/edgedistill"  # the one place where adb's shell user may put a program and run it
# What adb says → what it means.
SAID = {
    "no devices": "no phone is connected: switch on USB debugging on it (Settings, Developer options) and plug it in",
    "unauthorized": "the phone asks whether this computer may debug it: say yes on its screen",
    "offline": "the phone is offline: plug it in again",
    "more than one device": 'several phones are connected: name one in the target file, [link] serial = "…" (adb devices lists them)',
    "not found": "there is no such phone: `adb devices` lists those that are connected",
}
NAMES = {"aarch64": ("aarch64", "arm64"), "armv7": ("armv7l", "armv8l"), "x86_64": ("x86_64",)}  # what `uname -m` says there


def ready(link: Link) -> str | None:
    """None when the phone answers, else what is wrong."""
    if shutil.which("adb") is None:
        return "adb is missing. Run: sudo apt-get install adb"
    done = _there(link, "uname -m")
    if done.returncode:
        return _meaning(done)
    found, wanted = done.stdout.decode(errors="replace").strip(), _machine(link)
    if found not in NAMES[wanted]:
        known = next((name for name, names in NAMES.items() if found in names), None)
        return f"the phone's system is {found}: " + (f'write [link] machine = "{known}"' if known else "there is no runner for it")
    return native.lacking(wanted)


def identity(link: Link, runtime: str = "onnxruntime") -> str:
    """What answers: the phone and the runner's digest."""
    return f"{link.option('serial') or 'the phone'}, runner {native.identity(_machine(link), runtime)[:8]}"


def machine(link: Link) -> dict[str, str]:
    """The phone's model and system, as it names them."""
    return dict(_facts(link.model_dump_json()))


def condition(link: Link) -> dict[str, list[float]]:
    """`temperatures` (°C, of the sensors that may be read) and `mhz` (of each core) at this moment."""
    done = _there(link, "cat /sys/class/thermal/thermal_zone*/temp; echo --; cat /sys/devices/system/cpu/cpu*/cpufreq/scaling_cur_freq")
    heat, _, clocks = done.stdout.decode(errors="replace").partition("--")
    # Sensors tell thousandths of a degree; what lies outside of a phone's life is no temperature.
    degrees = [int(line) / 1000 for line in heat.split() if line.lstrip("-").isdigit()]
    return {
        "temperatures": [value for value in degrees if 0 < value < 150],
        "mhz": [int(line) / 1000 for line in clocks.split() if line.isdigit()],
    }


def open_runner(link: Link, runtime: str, request: dict[str, Any], limits: Limits = NONE) -> RunnerProcess:
    """The C++ runner on the phone. Raises StageError when something cannot be sent, TargetError for a target that cannot be."""
    kind = _machine(link)
    libraries = {library.name: library for library in native.c_libraries(kind)}
    program = _sent(link, "runner", {**native.shipped(kind, runtime), **libraries})
    file = f"model{Path(request['model']).suffix}"  # by which a runtime tells formats apart
    model = _sent(link, "model", {file: Path(request["model"]), "tokenizer.json": Path(request["tokenizer"])})
    here = shlex.quote(program)
    return RunnerProcess(
        [*_adb(link), "shell", "-T", f"{shell(limits)}{here}/{native.LOADERS[kind]} --library-path {here} {here}/runner"],
        request | {"model": f"{model}/{file}", "tokenizer": f"{model}/tokenizer.json"},
        name="the runner on the phone",
        seconds=300,
        seconds_a_text=5,
        same_clock=False,
        explain=lambda code, said: _end(link, code, said),
        limits=limits,
        held="there",
    )


def _machine(link: Link) -> str:
    return native.known(link.option("machine", "aarch64"))


def _adb(link: Link) -> list[str]:
    serial = link.option("serial")
    if serial and not re.fullmatch(r"[\w.:-]+", serial):
        raise TargetError(f"{serial!r} is no serial number.", where="target: link.serial", write="`adb devices` lists them.")
    return ["adb", *(["-s", serial] if serial else [])]


def _there(link: Link, command: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    words = [*_adb(link), "shell", "-T", command]
    try:
        return subprocess.run(words, input=given, capture_output=True, check=False, timeout=SECONDS if not given else 10 * SECONDS)
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(words, 1, b"", b"the phone does not answer: plug it in again")


def _meaning(done: subprocess.CompletedProcess[bytes]) -> str:
    """What adb said, in a sentence without its stop."""
    said = done.stderr.decode(errors="replace")
    known = next((meaning for words, meaning in SAID.items() if words in said), "")
    return known or f"the phone cannot be reached: {last_line(said, 'adb said nothing')}"


def _end(link: Link, code: int, said: str) -> str | None:
    """Why the runner is gone, where adb or the phone's shell know it."""
    if code in (126, 127):
        return f"the phone cannot start it. Is its processor {_machine(link)}? It said: {said}"
    gone = _there(link, "true")
    return f"{_meaning(gone)}." if gone.returncode else None


def _sent(link: Link, what: str, files: Mapping[str, Path]) -> str:
    try:
        return sent(lambda command, given: _there(link, command, given), link.option("folder", FOLDER), what, files)
    except NotSentError as problem:
        raise StageError(f"{what} could not be sent to the phone: {last_line(str(problem), 'it said nothing')}.") from None


@cache
def _facts(link: str) -> tuple[tuple[str, str], ...]:
    asked = "getprop ro.product.model 2>/dev/null; getprop ro.soc.model 2>/dev/null; echo; getprop ro.build.version.release 2>/dev/null; uname -s -r -m"
    there = Link.model_validate_json(link)
    phone, _, system = _there(there, asked).stdout.decode(errors="replace").partition("\n\n")
    names = " ".join(phone.split()) or "phone unknown"
    release, kernel = ([*system.split("\n"), ""] if len(system.strip().splitlines()) > 1 else ["", system.strip()])[:2]
    return (("cpu", names), ("system", f"Android {release}, {kernel}" if release else kernel or "system unknown"))


__all__ = ["ABOUT", "HOLDS_LIMITS", "HOW", "condition", "identity", "machine", "open_runner", "ready", "refuses"]
