"""What every runtime's runner does, whatever runs the model: answer texts one by one, as an app would, and time the three parts.

A runtime gives how a model is opened; `serve` speaks the lines that `runtimes/__init__.py` describes. Free of torch and pydantic: it runs on devices.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from time import monotonic_ns, perf_counter_ns
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt


class Model(Protocol):
    """What a runtime's `open_model` gives."""

    def encode(self, text: str, tokens: int | None = None) -> tuple[list[int], list[tuple[int, int]]]:
        """Token ids of a text and where each stands in it (start, end, characters); with `tokens`, repeated and cut to exactly that many."""

    def logits(self, ids: list[int]) -> npt.NDArray[np.float32]:
        """Logits of one text, float32 [outputs], or [tokens, outputs] where the model answers token by token."""


class Writer(Protocol):
    """What a runtime's `open_writer` gives, for tasks whose answer is written."""

    def encode(self, text: str, tokens: int | None = None) -> tuple[list[int], list[tuple[int, int]]]:
        """Token ids of the whole prompt and where each stands in the text."""

    def write(self, prompt: Sequence[int], constrained: bool = True) -> Any:
        """What is written behind a prompt: an object with text, ids, scores, first_ns and rest_ns. constrained: under the task's grammar."""

    def forced(self, prompt: Sequence[int], answer: Sequence[int]) -> Any:
        """A given answer (ids) held against what would have been written: an object with likeliest, scores and lead."""


Open = Callable[[Path, Path, int, int], Model]
OpenWriter = Callable[[Path, Path, int, int, dict[str, Any], str], Writer]


def writes(task: Any) -> bool:
    """Whether the answer to a task is written token by token."""
    return hasattr(task, "written")


def open_for(
    task: Any, runtime: Any, model: Path, tokenizer: Path, max_tokens: int, threads: int, settings: dict[str, Any], kv_cache: str = "f16"
) -> Any:
    """A model opened as its task needs it: for its logits, or to write. runtime: a plugin of runtimes/. kv_cache: of decoders, as in llama.load."""
    if writes(task):
        return runtime.open_writer(model, tokenizer, max_tokens, threads, settings, kv_cache)
    return runtime.open_model(model, tokenizer, max_tokens, threads)


def first_line(
    model: Path,
    tokenizer: Path,
    max_tokens: int,
    task: str,
    settings: dict[str, Any],
    first_text: str,
    *,
    threads: int,
    kv_cache: str = "f16",
) -> dict[str, Any]:
    """A runner's first line (`runtimes/`)."""
    return {
        "model": str(model),
        "tokenizer": str(tokenizer),
        "max_tokens": max_tokens,
        "threads": threads,
        "task": task,
        "settings": settings,
        "first_text": first_text,
        **({"kv_cache": kv_cache} if kv_cache != "f16" else {}),  # not every runner knows another
    }


def output(task: Any, model: Any, ids: list[int]) -> Any:
    """What `task.answer` takes for one text: logits, or what was written."""
    return model.write(ids) if writes(task) else model.logits(ids)


def open_tokenizer(file: Path, max_tokens: int) -> Any:
    """A bundle's tokenizer.json: no padding, longer texts cut to max_tokens."""
    from tokenizers import Tokenizer

    loaded = Tokenizer.from_file(str(file))
    loaded.no_padding()
    loaded.enable_truncation(max_tokens)
    return loaded


def encode(tokenizer: Any, text: str, tokens: int | None) -> tuple[list[int], list[tuple[int, int]]]:
    """`Model.encode` of whatever is tokenized by the tokenizers library."""
    encoding = tokenizer.encode(text)
    if tokens is None:
        return encoding.ids, encoding.offsets
    return _cut_to(encoding.ids, tokens), _cut_to(encoding.offsets, tokens)


def _cut_to(values: list[Any], count: int) -> list[Any]:
    first, *inner, last = values
    room = count - 2
    return [first, *((inner or [last]) * (room // max(len(inner), 1) + 1))[:room], last]


def peak_bytes() -> int:
    """Peak resident memory of this process, bytes."""
    status = Path("/proc/self/status")
    if status.is_file():
        # Not getrusage: on Linux its maximum starts from the parent's at exec.
        found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
        if found:
            return int(found[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def measure(
    model: Any,
    task: Any,
    settings: dict[str, Any],
    texts: list[str],
    tokens: int | None = None,
    wants: Sequence[str] = (),
    constrained: bool = True,
) -> dict[str, Any]:
    """Answer each text alone, as an app would, and time its three parts, nanoseconds.

    Of answers that are written also how many tokens the prompt and the answer have, and when the first one was there.
    """
    names = ("tokenize_ns", "model_ns", "decode_ns", *(("prompt_tokens", "answer_tokens", "first_ns") if writes(task) else ()))
    rows: list[
        tuple[int, ...]
    ] = []  # put into columns at the end: what is done between two answers is felt by a model of half a millisecond
    found: dict[str, list[Any]] = {name: [] for name in wants}
    writing = writes(task)
    for text in texts:
        start = perf_counter_ns()
        ids, offsets = model.encode(text, tokens)
        tokenized = perf_counter_ns()
        output = model.write(ids, constrained) if writing else model.logits(ids)
        ran = perf_counter_ns()
        said = task.answer(output, settings, text, offsets)
        done = perf_counter_ns()
        spent = (tokenized - start, ran - tokenized, done - ran)
        rows.append((*spent, len(ids), len(output.ids), output.first_ns) if writing else spent)
        for name in wants:
            numbers = list(output.scores) if writing else output.tolist() if name == "logits" else None
            written = list(output.ids) if name == "written" else None
            found[name].append({"answers": said, "logits": numbers, "ids": ids, "written": written}[name])
    times = {name: [row[place] for row in rows] for place, name in enumerate(names)}
    return {**times, **found, "peak_bytes": peak_bytes()}


def serve(open_model: Open, needs: Callable[[], None], open_writer: OpenWriter | None = None) -> None:
    """Be a runner: lines in, lines out, until the input ends. needs: imports what any model of this runtime needs, counted into the baseline.

    open_writer: of a runtime that can run decoders.
    """
    try:
        _serve(open_model, needs, open_writer)
    except Exception as problem:
        _say({"error": f"{type(problem).__name__}: {problem}"})
        sys.exit(1)


def _serve(open_model: Open, needs: Callable[[], None], open_writer: OpenWriter | None) -> None:
    from edgedistill.plugins import find

    hello = json.loads(sys.stdin.readline())
    task = find("tasks", hello["task"])
    needs()
    baseline, begin = peak_bytes(), perf_counter_ns()
    asked = (Path(hello["model"]), Path(hello["tokenizer"]), hello["max_tokens"], hello["threads"])
    if writes(task) and open_writer is None:
        raise ValueError(f"this runtime writes no answers, and the task {hello['task']} wants one")
    more = (hello["settings"], hello.get("kv_cache", "f16"))
    model: Any = open_writer(*asked, *more) if open_writer and writes(task) else open_model(*asked)
    loaded = perf_counter_ns()
    measure(model, task, hello["settings"], [hello["first_text"]])
    cold = monotonic_ns() - hello["started_ns"]
    _say({"load_ms": (loaded - begin) / 1e6, "cold_start_ms": cold / 1e6, "baseline_bytes": baseline, "peak_bytes": peak_bytes()})
    for line in sys.stdin:
        request = json.loads(line)
        if "loop" in request:
            _say({"loop_ns": [_loop_ns() for _ in range(request["loop"])]})
            continue
        if "forced" in request:
            _say({"forced": [asdict(model.forced(one["ids"], one["answer"])) for one in request["forced"]]})
            continue
        options = {name: request[name] for name in ("tokens", "wants", "constrained") if name in request}
        _say(measure(model, task, hello["settings"], request["texts"], **options))


def _loop_ns() -> int:
    """A fixed piece of arithmetic (a linear congruential generator): what it takes says how fast the processor is just now."""
    start, value = perf_counter_ns(), 1
    for _ in range(10_000):
        value = (value * 1103515245 + 12345) & 0x7FFFFFFF
    return perf_counter_ns() - start


def _say(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()
