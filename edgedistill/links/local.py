"""The device is this machine: each binary runs in a process of its own, so that peak memory and cold start are true."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from typing import Any

from edgedistill.errors import StageError
from edgedistill.target import Link

HOW = "measured"
ABOUT = "this machine"


def ready(link: Link) -> str | None:
    """Always: the device is here."""
    return None


class LocalRunner:
    """A runner process that answers JSON lines over its standard input and output."""

    def __init__(self, runtime: str, request: dict[str, Any]) -> None:
        self._runtime = runtime
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  # closed with the runner
        started = time.monotonic_ns()
        self._process = subprocess.Popen(
            [sys.executable, "-m", f"edgedistill.runtimes.{runtime}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=os.environ | {"PYTHONUTF8": "1"},
        )
        # The monotonic clock is one for all processes of a machine, so the runner can tell its own cold start.
        self.hello = self.ask(request | {"started_ns": started})

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Send one request, wait for its answer. Raises StageError with the runner's last words when it died."""
        assert self._process.stdin and self._process.stdout  # both are pipes
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
            answer: dict[str, Any] = json.loads(line)
        except (BrokenPipeError, json.JSONDecodeError):
            self._process.kill()
            code = self._process.wait()
            raise StageError(f"the runner of {self._runtime} stopped (exit code {code}): {self._last_words()}") from None
        if "error" in answer:
            raise StageError(f"{self._runtime}: {answer['error']}")
        return answer

    def close(self) -> None:
        """End the process and wait for it."""
        if self._process.stdin:
            self._process.stdin.close()
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()
        self._errors.close()

    def _last_words(self) -> str:
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing (was it killed for memory?)"


def open_runner(runtime: str, request: dict[str, Any]) -> LocalRunner:
    """Start a runner on this machine."""
    return LocalRunner(runtime, request)
