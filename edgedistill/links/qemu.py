"""A device that qemu's user-mode emulation plays: the right instructions of a named processor, and the wrong clock.

    [link]
    kind = "qemu"
    cpu  = "cortex-a72"        # or another of CPUS, below

The C++ runner and its runtime's own library for the processor really run, so the answers are those of the device; its times mean nothing and are not
kept. A memory limit is held without what qemu takes for itself.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgedistill import native
from edgedistill.errors import StageError, TargetError, nearest
from edgedistill.limits import NONE, OF_A_PROCESS, Limits
from edgedistill.native import refuses
from edgedistill.runner import RunnerProcess
from edgedistill.target import Link

HOW = "emulated"
ABOUT = "other processors by qemu's user-mode emulation: right answers, no latency"
HOLDS_LIMITS = OF_A_PROCESS


@dataclass(frozen=True)
class Cpu:
    """A processor as `-cpu` names it. machine: its family in native.py. part: of an ARM core, in /proc/cpuinfo; dot: it has a dot product."""

    machine: str
    qemu: str
    part: str = ""
    dot: bool = False


# Part numbers: MIDR_EL1 of each core's Technical Reference Manual. These are the cores that qemu 7.2 knows; `max` is no ARM that anybody has.
# Of x86, qemu 7.2 translates AVX2 and nothing wider, so its Haswell (2013) stands for every x86 without VNNI.
CPUS = {
    "cortex-a53": Cpu("aarch64", "cortex-a53", "0xd03"),
    "cortex-a72": Cpu("aarch64", "cortex-a72", "0xd08"),
    "cortex-a76": Cpu("aarch64", "cortex-a76", "0xd0b", dot=True),
    "cortex-a7": Cpu("armv7", "cortex-a7", "0xc07"),
    "cortex-a15": Cpu("armv7", "cortex-a15", "0xc0f"),
    "neoverse-n1": Cpu("aarch64", "neoverse-n1", "0xd0c", dot=True),
    "x86-64-v3": Cpu("x86_64", "Haswell"),
}
QEMU = {"aarch64": "qemu-aarch64", "armv7": "qemu-arm", "x86_64": "qemu-x86_64"}
# Where Debian's cross compilers have the device's C library.
SYSTEMS = {"aarch64": Path("/usr/aarch64-linux-gnu"), "armv7": Path("/usr/arm-linux-gnueabihf")}
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
PROCESSES, ROUNDS = 3, 31  # that instructions are counted in, and answers to each text in one of them


def about(link: Link) -> str:
    """Which processor is played."""
    return f"qemu plays {_cpu(link).qemu}: right answers, no latency"


def ready(link: Link) -> str | None:
    """None, or what to install. Without a processor: for any."""
    machine = _cpu(link).machine if link.option("cpu") else "aarch64"
    wanted = [(shutil.which(QEMU[machine]) is not None, "qemu-user")]
    if machine in SYSTEMS:
        wanted.append((SYSTEMS[machine].is_dir(), native.MACHINES[machine].package))
    missing = [package for there, package in wanted if not there]
    if missing:
        what = "qemu" if "qemu-user" in missing else f"the C library of {'64' if machine == 'aarch64' else '32'}-bit ARM"
        return f"{what} is missing. Run: sudo apt-get install {' '.join(missing)}"
    return native.lacking(machine)


def identity(link: Link, runtime: str = "onnxruntime") -> str:
    """What answers: the runner's digest and the processor."""
    return f"{link.option('cpu')} in qemu, runner {native.identity(_cpu(link).machine, runtime)[:8]}"


def open_runner(link: Link, runtime: str, request: dict[str, Any], limits: Limits = NONE) -> RunnerProcess:
    """The C++ runner under emulation. Raises TargetError for a processor that is not known, StageError when something is to be installed."""
    cpu = _cpu(link)
    if missing := ready(link):
        raise StageError(missing)
    # One thread: emulated threads take turns on a lock. Answers do not depend on it.
    return RunnerProcess(
        command(cpu, runtime=runtime),
        request | {"threads": 1},
        name=f"the runner on {cpu.qemu}",
        seconds=300,
        seconds_a_text=20,
        env={"LD_LIBRARY_PATH": ""},
        limits=limits,
        held="under emulation",
    )


def instructions(link: Link, request: dict[str, Any], texts: list[str], runtime: str = "onnxruntime") -> list[int]:
    """How many instructions of the device the model takes for each text, by a plugin that counts between the runner's marks.

    A figure that repeats, for regressions and for comparing binaries; no latency follows from it. One process in twenty has its buffers placed more
    kindly and takes up to 0.4 % fewer, and an answer takes up to 0.4 % more by what was freed before it (the digits of a time are enough), so it is
    the least of 31 answers of a process, and the largest of three processes. Raises StageError where none can be had.
    """
    processes = [[min(one) for one in zip(*_counted(link, request, texts, runtime), strict=True)] for _ in range(PROCESSES)]
    return [max(counts) for counts in zip(*processes, strict=True)]


def _counted(link: Link, request: dict[str, Any], texts: list[str], runtime: str) -> list[list[int]]:
    """Each round of one process: the counts of the texts."""
    cpu = _cpu(link)
    with tempfile.TemporaryDirectory() as scratch:
        counts = Path(scratch) / "counts"
        runner = RunnerProcess(
            command(cpu, "-seed", "1", "-plugin", f"{native.counting_plugin()},out={counts}", runtime=runtime),
            request | {"threads": 1},
            name=f"the counting runner on {cpu.qemu}",
            seconds=300,
            seconds_a_text=20,
            env={"LD_LIBRARY_PATH": "", "EDGE_MARKS": "1"},
            explain=lambda code, said: (
                "this qemu takes no plugins, as static ones do not; Debian's qemu-user does." if "plugin" in said else None
            ),
        )
        try:
            for _ in range(1 + ROUNDS):  # once before, so that buffers are there
                runner.ask({"texts": texts})
        finally:
            runner.close()
        lines = [int(line) for line in counts.read_text().split()]
        return [lines[len(lines) - (back + 1) * len(texts) :][: len(texts)] for back in range(ROUNDS)]


def command(cpu: Cpu, *options: str, program: str = "runner", runtime: str = "onnxruntime") -> list[str]:
    """A program of native.py under emulation, as a command; `options` are qemu's."""
    folder = native.build(cpu.machine, runtime)
    root = ["-L", str(_root(folder, cpu))] if cpu.machine in SYSTEMS else []
    return [QEMU[cpu.machine], "-cpu", cpu.qemu, *root, *options, str(folder / program)]


def _cpu(link: Link) -> Cpu:
    cpu = link.option("cpu")
    if cpu not in CPUS:
        raise TargetError(f'qemu plays no processor "{cpu}".', where="target: link.cpu", write=nearest(cpu, CPUS))
    return CPUS[cpu]


def _root(folder: Path, cpu: Cpu) -> Path:
    """What the device's root looks like. ONNX Runtime reads /proc/cpuinfo, and stops at one of an x86."""
    root = folder / "roots" / cpu.qemu
    (root / "proc").mkdir(parents=True, exist_ok=True)
    features = FEATURES + (" atomics fphp asimdhp lrcpc dcpop asimddp" if cpu.dot else "")
    text = "".join(CPUINFO.format(number=number, features=features, part=cpu.part) for number in range(CORES))
    (root / "proc" / "cpuinfo").write_text(text)
    if not (root / "lib").is_symlink():
        (root / "lib").symlink_to(SYSTEMS[cpu.machine] / "lib")
    return root


__all__ = ["ABOUT", "HOW", "about", "identity", "open_runner", "ready", "refuses"]
