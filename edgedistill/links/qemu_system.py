"""A board without a system that qemu plays: a Cortex-M3 (mps2-an385) answers as bare-metal C over semihosting. Static students alone.

    [link]
    kind = "qemu_system"

The program of sample_apps/microcontroller is made of the model (microcontroller.py), linked for the memory that `[limits]` give, and run. Its answers
are the board's, its time is not: what its clock counts here are instructions, since `-icount` gives each of them the same time.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from edgedistill import microcontroller, plugins
from edgedistill.digests import file_digest, tree_digest
from edgedistill.errors import StageError
from edgedistill.limits import NONE, OF_A_BOARD, Limits
from edgedistill.microcontroller import Size
from edgedistill.native import app_folder
from edgedistill.runner import RunnerProcess
from edgedistill.target import Link

HOW = "emulated"
ABOUT = "qemu plays a Cortex-M3 board without a system (mps2-an385): right answers, no latency"
HOLDS_LIMITS = OF_A_BOARD
FAMILIES = frozenset({"static"})  # of students, that run there
QEMU = "qemu-system-arm"
# Each instruction takes 2^5 ns of the board's clock, which has 25 MHz (Application Note AN385): a tick is 40 ns.
SHIFT, NS_A_TICK = 5, 40


def ready(link: Link) -> str | None:
    """None, or what to install."""
    wanted = {QEMU: [QEMU], microcontroller.COMPILER: list(microcontroller.PACKAGES), "make": ["make"]}
    missing = [package for command, packages in wanted.items() if shutil.which(command) is None for package in packages]
    return f"a Cortex-M3 cannot be played here. Run: sudo apt-get install {' '.join(missing)}" if missing else None


def refuses(task: str, tokenizer: Path, runtime: str = "onnxruntime") -> str | None:
    """Why the board's program does not answer this task or read this tokenizer, or None."""
    if task not in microcontroller.TASKS:
        return f"the task is {task}, and the program of a board answers {', '.join(sorted(microcontroller.TASKS))}."
    return microcontroller.refused(json.loads(tokenizer.read_text(encoding="utf-8"))) if tokenizer.is_file() else None


def identity(link: Link, runtime: str = "onnxruntime") -> str:
    """What answers: the digest of the C and of what writes it."""
    return f"cortex-m3 in qemu, C {tree_digest(app_folder('microcontroller'))[:4]}{file_digest(Path(microcontroller.__file__))[:4]}"


class Board:
    """The board with one program loaded; speaks as other runners do."""

    def __init__(self, elf: Path, task: str, settings: dict[str, Any]) -> None:
        command = [QEMU, "-M", "mps2-an385", "-display", "none", "-monitor", "none", "-serial", "none", "-icount", f"shift={SHIFT}"]
        command += ["-semihosting-config", "enable=on,target=native", "-kernel", str(elf)]
        self._task, self._settings = task, settings
        self._process = RunnerProcess(command, {"hello": True}, name="the program on the board", seconds=60, same_clock=False)
        self.hello: dict[str, Any] = {"load_ms": 0.0, "cold_start_ms": 0.0, "baseline_bytes": 0, "peak_bytes": 0}

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Texts in, what is wanted of them out. Times are those of a clock that counts instructions."""
        said = [self._process.ask({"text": text}) for text in request["texts"]]
        times = {
            name: [one["ticks"][place] * NS_A_TICK for one in said] for place, name in enumerate(("tokenize_ns", "model_ns", "decode_ns"))
        }
        wanted = {name: [one[name] for one in said] for name in ("ids", "logits") if name in request.get("wants", ())}
        if "answers" in request.get("wants", ()):
            wanted["answers"] = [self._answer(one) for one in said]
        return {**times, "peak_bytes": 0, **wanted}

    def _answer(self, said: dict[str, Any]) -> dict[str, Any]:
        """What the board said, with what its program leaves to the task: the answer in the form that is judged, and shares of the labels."""
        whole: dict[str, Any] = plugins.find("tasks", self._task).answer(np.array(said["logits"], np.float32), self._settings, "", [])
        # The board's own words come last. Numbers it gives with nine digits, so a vector or a score stays the task's.
        return whole | {name: said[name] for name in ("answer", "confidence") if name in said and self._task in ("classify", "multi_label")}

    def instructions(self, text: str) -> int:
        """Of the whole answer, text in to answer out."""
        return int(sum(self._process.ask({"text": text})["ticks"])) * NS_A_TICK >> SHIFT

    def close(self) -> None:
        try:
            self._process.ask({"quit": True})  # the end of input is not enough for every debugger
        except StageError:
            pass  # it has ended already, and whoever asked has been told why
        finally:
            self._process.close()


def open_runner(link: Link, runtime: str, request: dict[str, Any], limits: Limits = NONE) -> Board:
    """Make the program of a model and start it. Raises DeviceMemoryError when it has no room in what `limits` give, StageError for another student."""
    if missing := ready(link):
        raise StageError(missing)
    return Board(_program(request, limits), request["task"], request["settings"])


def instructions(link: Link, request: dict[str, Any], texts: list[str], runtime: str = "onnxruntime") -> list[int]:
    """How many instructions an answer takes, tokenizing and decoding included, for each text. The same every time."""
    board = Board(_program(request, NONE), request["task"], request["settings"])
    try:
        return [board.instructions(text) for text in texts]
    finally:
        board.close()


def footprint(link: Link, request: dict[str, Any], limits: Limits) -> Size:
    """What the program takes of the board's flash and RAM, stack included."""
    return microcontroller.size_of(_program(request, limits))


def _program(request: dict[str, Any], limits: Limits) -> Path:
    model, tokenizer = Path(request["model"]), Path(request["tokenizer"])
    return microcontroller.program(model, tokenizer, request["max_tokens"], request["task"], request["settings"], limits)
