"""A 64-bit ARM device that qemu's user-mode emulation plays: the right instructions of a named processor, and the wrong clock.

The C++ runner and ONNX Runtime's own ARM library really run, so the answers are those of the device; its times mean nothing and are not kept.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from edgedistill import native
from edgedistill.errors import StageError, TargetError, nearest
from edgedistill.native import refuses
from edgedistill.runner import RunnerProcess
from edgedistill.target import Link

HOW = "emulated"
ABOUT = "64-bit ARM processors by qemu's user-mode emulation: right answers, no latency"

QEMU = "qemu-aarch64"
SYSTEM = Path("/usr/aarch64-linux-gnu")  # where Debian's cross compiler has the device's C library
# `cpu` of a target's [link] → the part number that such a processor shows in /proc/cpuinfo, and whether it has a dot product. Part numbers:
# MIDR_EL1 of each core's Technical Reference Manual. These are the cores that qemu 7.2 knows; `max` is none that anybody has.
CPUS = {"cortex-a53": ("0xd03", False), "cortex-a72": ("0xd08", False), "cortex-a76": ("0xd0b", True), "neoverse-n1": ("0xd0c", True)}
FEATURES = "fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid"
CPUINFO = """processor\t: {number}
BogoMIPS\t: 108.00
Features\t: {features}
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: {part}
CPU revision\t: 3

"""
CORES = 4


def ready(link: Link) -> str | None:
    """None, or what to install."""
    missing = [package for there, package in ((shutil.which(QEMU), "qemu-user"), (SYSTEM.is_dir(), "g++-aarch64-linux-gnu")) if not there]
    if missing:
        return f"{'qemu' if 'qemu-user' in missing else 'the C library of 64-bit ARM'} is missing. Run: sudo apt-get install {' '.join(missing)}"
    return native.lacking("aarch64")


def identity(link: Link) -> str:
    """What answers: the runner's digest and the processor."""
    return f"{_cpu(link)} in qemu, runner {native.identity('aarch64')[:8]}"


def open_runner(link: Link, runtime: str, request: dict[str, Any]) -> RunnerProcess:
    """The C++ runner under emulation. Raises TargetError for a processor that is not known, StageError when something is to be installed."""
    cpu = _cpu(link)
    if missing := ready(link):
        raise StageError(missing)
    if runtime != "onnxruntime":
        raise TargetError(f"the link qemu runs onnxruntime, not {runtime}.", where="target: runtime")
    folder = native.build("aarch64")
    command = [QEMU, "-cpu", cpu, "-L", str(_root(folder, cpu)), str(folder / "runner")]
    # One thread: emulated threads take turns on a lock. Answers do not depend on it.
    return RunnerProcess(
        command, request | {"threads": 1}, name=f"the runner on {cpu}", seconds=300, seconds_a_text=20, env={"LD_LIBRARY_PATH": ""}
    )


def _cpu(link: Link) -> str:
    cpu = str((link.model_extra or {}).get("cpu", ""))
    if cpu not in CPUS:
        raise TargetError(f'qemu plays no processor "{cpu}".', where="target: link.cpu", write=nearest(cpu, CPUS))
    return cpu


def _root(folder: Path, cpu: str) -> Path:
    """What the device's root looks like. ONNX Runtime reads /proc/cpuinfo, and stops at one of an x86."""
    root = folder / "roots" / cpu
    part, dot = CPUS[cpu]
    (root / "proc").mkdir(parents=True, exist_ok=True)
    features = FEATURES + (" atomics fphp asimdhp lrcpc dcpop asimddp" if dot else "")
    text = "".join(CPUINFO.format(number=number, features=features, part=part) for number in range(CORES))
    (root / "proc" / "cpuinfo").write_text(text)
    if not (root / "lib").is_symlink():
        (root / "lib").symlink_to(SYSTEM / "lib")
    return root


__all__ = ["ABOUT", "HOW", "identity", "open_runner", "ready", "refuses"]
