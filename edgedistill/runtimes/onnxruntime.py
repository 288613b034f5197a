"""ONNX Runtime on a CPU: runs model.onnx with its tokenizer, and as a program of its own measures what it runs.

`python -m edgedistill.runtimes.onnxruntime` is the runner; see `runtimes/__init__.py` for its lines. Needs onnxruntime, tokenizers and numpy.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic_ns, perf_counter_ns
from typing import Any

import numpy as np
import numpy.typing as npt

FORMAT = "onnx"
ABOUT = "ONNX Runtime, CPU"


@dataclass(frozen=True)
class Model:
    """A loaded model with its tokenizer."""

    session: Any
    tokenizer: Any
    wants: tuple[str, ...]  # names of the graph's inputs

    def encode(self, text: str, tokens: int | None = None) -> tuple[list[int], list[tuple[int, int]]]:
        """Token ids of a text and where each stands in it (start, end, characters); with `tokens`, repeated and cut to exactly that many."""
        encoding = self.tokenizer.encode(text)
        if tokens is None:
            return encoding.ids, encoding.offsets
        return _cut_to(encoding.ids, tokens), _cut_to(encoding.offsets, tokens)

    def logits(self, ids: list[int]) -> npt.NDArray[np.float32]:
        """Logits of one text, float32 [outputs], or [tokens, outputs] where the model answers token by token."""
        row = np.array([ids], dtype=np.int64)
        feeds = {"input_ids": row, "attention_mask": np.ones_like(row), "token_type_ids": np.zeros_like(row)}
        return np.asarray(self.session.run(["logits"], {name: feeds[name] for name in self.wants})[0][0])


def _cut_to(values: list[Any], count: int) -> list[Any]:
    first, *inner, last = values
    room = count - 2
    return [first, *((inner or [last]) * (room // max(len(inner), 1) + 1))[:room], last]


def open_model(model: Path, tokenizer: Path, max_tokens: int, threads: int) -> Model:
    """Load a model for one text at a time. threads: of ONNX Runtime's pool."""
    import onnxruntime
    from tokenizers import Tokenizer

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    loaded = Tokenizer.from_file(str(tokenizer))
    loaded.no_padding()
    loaded.enable_truncation(max_tokens)
    return Model(session, loaded, tuple(node.name for node in session.get_inputs()))


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
    model: Model, answer: Any, settings: dict[str, Any], texts: list[str], tokens: int | None = None, wants: Sequence[str] = ()
) -> dict[str, Any]:
    """Answer each text alone, as an app would, and time its three parts, nanoseconds."""
    times: dict[str, list[int]] = {"tokenize_ns": [], "model_ns": [], "decode_ns": []}
    found: dict[str, list[Any]] = {name: [] for name in wants}
    for text in texts:
        start = perf_counter_ns()
        ids, offsets = model.encode(text, tokens)
        tokenized = perf_counter_ns()
        logits = model.logits(ids)
        ran = perf_counter_ns()
        said = answer(logits, settings, text, offsets)
        done = perf_counter_ns()
        for name, spent in zip(times, (tokenized - start, ran - tokenized, done - ran), strict=True):
            times[name].append(spent)
        for name in wants:
            found[name].append(said if name == "answers" else logits.tolist() if name == "logits" else ids)
    return {**times, **found, "peak_bytes": peak_bytes()}


def _serve() -> None:
    from edgedistill.plugins import find

    hello = json.loads(sys.stdin.readline())
    answer = find("tasks", hello["task"]).answer
    import onnxruntime  # noqa: F401  # counted into the baseline: every model pays it
    import tokenizers  # noqa: F401

    baseline, begin = peak_bytes(), perf_counter_ns()
    model = open_model(Path(hello["model"]), Path(hello["tokenizer"]), hello["max_tokens"], hello["threads"])
    loaded = perf_counter_ns()
    measure(model, answer, hello["settings"], [hello["first_text"]])
    cold = monotonic_ns() - hello["started_ns"]
    _say({"load_ms": (loaded - begin) / 1e6, "cold_start_ms": cold / 1e6, "baseline_bytes": baseline, "peak_bytes": peak_bytes()})
    for line in sys.stdin:
        request = json.loads(line)
        _say(measure(model, answer, hello["settings"], request["texts"], request.get("tokens"), request.get("wants", ())))


def _say(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    try:
        _serve()
    except Exception as problem:
        _say({"error": f"{type(problem).__name__}: {problem}"})
        sys.exit(1)
