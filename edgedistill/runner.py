"""The process that has one model loaded, on this machine or at the end of a link: JSON lines in, JSON lines out (`runtimes/` has the lines).

Whatever it does, the caller gets an answer or one sentence: it may die, hang, or print what is no answer.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from edgedistill.errors import DeviceMemoryError, StageError
from edgedistill.limits import NONE, Limits, hold, ran_out, release, settled_bytes

LONGEST_LINE = 1 << 28  # characters; more is no answer
# Why a runner usually ends so.
SIGNALS = {
    signal.SIGILL: "it came to an instruction that this processor does not have (SIGILL): it was built for a newer one",
    signal.SIGKILL: "it was killed (SIGKILL), as a system does that has no memory left",
    signal.SIGSEGV: "it read memory that is not its own (SIGSEGV)",
    signal.SIGABRT: "it gave up (SIGABRT), as programs do that get no memory",
}


class RunnerProcess:
    """A runner behind a command. name: what it is called in errors. seconds, seconds_a_text: how long an answer may take."""

    def __init__(
        self,
        command: Sequence[str],
        request: dict[str, Any],
        *,
        name: str,
        seconds: float = 120,
        seconds_a_text: float = 1,
        env: Mapping[str, str] | None = None,
        same_clock: bool = True,
        explain: Callable[[int, str], str | None] = lambda code, said: None,
        limits: Limits = NONE,
        held: Literal["here", "under emulation", "there"] = "here",
    ) -> None:
        """same_clock: the runner is on this machine. explain: what an exit code and the last words mean on this link, where it knows better than we.

        limits: what the runner is held to: here, here without what its emulator takes for itself, or there, by the command.
        """
        self._name, self._seconds, self._a_text, self._explain, self._limits = name, seconds, seconds_a_text, explain, limits
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  # closed with the runner
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        started = time.monotonic_ns()
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            encoding="utf-8",
            errors="replace",
            env=os.environ | {"PYTHONUTF8": "1", **(env or {})},
        )
        threading.Thread(target=self._read, daemon=True).start()
        self._group = None
        try:
            if held != "there":
                pid = self._process.pid
                self._group = hold(pid, limits, settled_bytes(pid) if held == "under emulation" and limits.memory_mb else 0)
            # The monotonic clock is one for all processes of a machine, so there the runner can tell its own cold start.
            self.hello = self.ask(request | ({"started_ns": started} if same_clock else {}))
        except BaseException:
            self.close()
            raise

    def _read(self) -> None:
        assert self._process.stdout  # a pipe
        while line := self._process.stdout.readline(LONGEST_LINE):
            self._lines.put(line)
        self._lines.put("")

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Send one request, wait for its answer. Raises StageError with what the runner did instead of answering."""
        assert self._process.stdin  # a pipe
        allowed = self._seconds + self._a_text * len(request.get("texts", ()))
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._lines.get(timeout=allowed)
        except BrokenPipeError:
            line = ""
        except queue.Empty:
            self._process.kill()
            raise StageError(f"{self._name} gave no answer within {allowed:.0f} s and was stopped: it hangs.") from None
        if not line:
            raise self._no_room(words := self._last_words()) or StageError(f"{self._name} stopped: {words}")
        try:
            answer = json.loads(line)
        except json.JSONDecodeError:
            answer = None
        if not isinstance(answer, dict):
            self._process.kill()
            raise StageError(f"{self._name} printed what is no answer: {line.strip()[:80]!r}.")
        if "error" in answer:
            raise self._no_room(answer["error"]) or StageError(f"{self._name}: {answer['error']}")
        return answer

    def _no_room(self, said: str) -> DeviceMemoryError | None:
        if not ran_out(self._limits, said):
            return None
        given = f"the device gives it {self._limits.memory_mb:g} MB (limits.memory_mb)"
        return DeviceMemoryError(f"{self._name} ran out of memory: {given}. It said: {said.strip()[:120]}")

    def close(self) -> None:
        """End the process and wait for it."""
        if self._process.stdin:
            with contextlib.suppress(BrokenPipeError):  # it is gone already
                self._process.stdin.close()
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.close()
        release(self._group)

    def _last_words(self) -> str:
        try:
            code = self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:  # it closed its output and lives on
            self._process.kill()
            code = self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        said = lines[-1] if lines else ""
        if ran_out(self._limits, " ".join(lines)):
            return "out of memory"
        if known := self._explain(code, said):
            return known
        # A shell tells of a signal by 128 and its number.
        number = -code if code < 0 else code - 128 if code > 128 else 0
        if known := {int(sign): words for sign, words in SIGNALS.items()}.get(number):
            return f"{known}."
        return f"exit code {code}{f', {said}' if said else ', and it said nothing'}"
