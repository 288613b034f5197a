"""This machine by the C++ runner, as a device without Python has it: a third of the memory, and the limits of a small device can be held."""

from __future__ import annotations

from typing import Any

from edgedistill import native
from edgedistill.limits import NONE, OF_A_PROCESS, Limits
from edgedistill.native import refuses
from edgedistill.runner import RunnerProcess
from edgedistill.target import Link

HOW = "measured"
ABOUT = "this machine, by the C++ runner"
HOLDS_LIMITS = OF_A_PROCESS


def ready(link: Link) -> str | None:
    """None, or what to install."""
    if native.this_machine() not in native.MACHINES:
        return f"there is no C++ runner for {native.this_machine()} yet"
    return native.lacking(native.this_machine())


def identity(link: Link, runtime: str = "onnxruntime") -> str:
    """What answers: the runner's digest."""
    return f"C++ runner {native.identity(native.this_machine(), runtime)[:8]}"


def open_runner(link: Link, runtime: str, request: dict[str, Any], limits: Limits = NONE) -> RunnerProcess:
    """Start the C++ runner here. Raises StageError when it cannot be built."""
    command = [str(native.build(native.this_machine(), runtime) / "runner")]
    return RunnerProcess(command, request, name="the C++ runner", limits=limits)


__all__ = ["ABOUT", "HOW", "identity", "open_runner", "ready", "refuses"]
