"""The device is this machine: each binary runs in a process of its own, so that peak memory and cold start are true."""

from __future__ import annotations

import sys
from typing import Any

from edgedistill.limits import NONE, OF_A_PROCESS, Limits
from edgedistill.runner import RunnerProcess
from edgedistill.target import Link

HOW = "measured"
ABOUT = "this machine"
HOLDS_LIMITS = OF_A_PROCESS


def ready(link: Link) -> str | None:
    """Always: the device is here."""
    return None


def open_runner(link: Link, runtime: str, request: dict[str, Any], limits: Limits = NONE) -> RunnerProcess:
    """Start a runner on this machine."""
    return RunnerProcess([sys.executable, "-m", f"edgedistill.runtimes.{runtime}"], request, name=f"the runner of {runtime}", limits=limits)
