"""Node on this machine: onnxruntime-node, or node-llama-cpp's library, runs the bundle, by the same JavaScript as in a page."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from typing import Any

from edgedistill import javascript
from edgedistill.errors import StageError, TargetError
from edgedistill.javascript import refuses
from edgedistill.limits import NONE, Limits
from edgedistill.runner import RunnerProcess
from edgedistill.target import Link

HOW = "measured"
ABOUT = "Node on this machine"
KV_TYPES = ("f16",)  # node-llama-cpp lets nobody choose


def ready(link: Link) -> str | None:
    """None, or what to install."""
    missing = [package for command, package in (("node", "nodejs"), ("npm", "npm")) if shutil.which(command) is None]
    return f"{'Node' if 'nodejs' in missing else 'npm'} is missing. Run: sudo apt-get install {' '.join(missing)}" if missing else None


def identity(link: Link, runtime: str = "onnxruntime") -> str:
    """What answers: Node's version and the runner's digest."""
    said = subprocess.run(["node", "--version"], capture_output=True, text=True, check=False).stdout.strip()  # noqa: S607  # the user's own Node
    return f"Node {said}, runner {javascript.identity(javascript.node_packages(runtime))[:8]}"


def open_runner(link: Link, runtime: str, request: dict[str, Any], limits: Limits = NONE) -> RunnerProcess:
    """The runner in Node. Raises StageError when something is to be installed or cannot be fetched."""
    if runtime not in javascript.TASKS:
        raise TargetError(f"the link node runs {' and '.join(javascript.TASKS)}, not {runtime}.", where="target: runtime")
    if runtime == "llama_cpp" and (sys.platform, platform.machine()) != ("linux", "x86_64"):
        raise TargetError(
            "the link node has llama.cpp for 64-bit x86 Linux alone.", where="target: link", write='Write kind = "local_cpp".'
        )
    if missing := ready(link):
        raise StageError(missing)
    modules = javascript.node_modules(runtime)
    # The modules are links to where they are kept, and look for each other beside the link.
    command = ["node", "--preserve-symlinks", "--preserve-symlinks-main", str(modules.parent / "node.mjs"), str(modules)]
    return RunnerProcess(command, request, name="the runner in Node")


__all__ = ["ABOUT", "HOW", "KV_TYPES", "identity", "open_runner", "ready", "refuses"]
