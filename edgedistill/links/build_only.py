"""The device is not at hand: the binary is built and its answers are checked on this machine, and nothing is said of its speed there."""

from __future__ import annotations

from typing import Any

from edgedistill.limits import NONE, Limits
from edgedistill.links import local
from edgedistill.runner import RunnerProcess
from edgedistill.target import Link

HOW = "not measured"
ABOUT = "no device: binaries are built, answers are checked on this machine, speed is not claimed"


def ready(link: Link) -> str | None:
    """Always: nothing of the device is needed."""
    return None


def open_runner(link: Link, runtime: str, request: dict[str, Any], limits: Limits = NONE) -> RunnerProcess:
    """A runner on this machine, for the answers alone."""
    return local.open_runner(link, runtime, request)
