"""What the runners themselves cost: `python -m tests.benchmarks.runners [BUNDLE]`.

Without a bundle a BERT of three layers, 192 wide, is made, which takes about half a millisecond on a machine of its own.

(a) Overhead of the Python and the C++ runner, as a share of the model's own time (wanted: at most 3 %). In the timed answer: `model_ns` against a bare
    loop of `session.run` in this process, in turns. Outside of it: wall time of a request of many texts less what its answers took, an answer; of the
    quietest rounds, since waking a process on a crowded machine is not the runner's doing.
(b) Peak memory of the C++ runner (wanted: below 40 MB beyond the runtime library) and cold start. What the library itself takes is the peak of the
    same runner with a model of one node.
(c) Instructions of an emulated Cortex-A72 for the same texts, counted twice (wanted: within 0.1 %).
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnxruntime

from edgedistill.bundle_format import read_bundle, read_golden
from edgedistill.links import local, local_cpp, qemu
from edgedistill.stages.verify import hello
from edgedistill.target import Link

ROUNDS, TEXTS, AGAIN, STARTS = 30, 25, 8, 5


@contextmanager
def bundle_of(words: list[str]) -> Iterator[Path]:
    if words:
        yield Path(words[0])
        return
    from tests.tiny_bundle import make_bundle
    from tests.tiny_models import tiny_bert

    with tempfile.TemporaryDirectory() as scratch:
        yield make_bundle(Path(scratch), model=lambda folder: tiny_bert(folder, layers=3, hidden=192))


def overhead(bundle: Path, request: dict[str, Any], texts: list[str]) -> None:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(request["model"], options, providers=["CPUExecutionProvider"])
    ids = {golden.text: golden.ids for golden in read_golden(bundle / "golden.jsonl")}
    rows = [np.array([ids[text]], np.int64) for text in texts]
    names = [node.name for node in session.get_inputs()]
    feeds = [
        {n: row if n == "input_ids" else np.ones_like(row) if n == "attention_mask" else np.zeros_like(row) for n in names} for row in rows
    ]
    runners = {
        "Python": local.open_runner(Link(kind="local"), "onnxruntime", request),
        "C++": local_cpp.open_runner(Link(kind="local_cpp"), "onnxruntime", request),
    }
    bare: list[float] = []
    inside: dict[str, list[float]] = {name: [] for name in runners}
    parts: dict[str, list[float]] = {name: [] for name in runners}
    outside: dict[str, list[float]] = {name: [] for name in runners}
    for turn in range(ROUNDS + 3):
        taken = []
        for feed in feeds:
            begin = time.perf_counter_ns()
            session.run(["logits"], feed)
            taken.append(time.perf_counter_ns() - begin)
        for name, runner in runners.items():
            begin = time.perf_counter_ns()
            said = runner.ask({"texts": texts * AGAIN})
            wall = time.perf_counter_ns() - begin
            if turn < 3:
                continue
            inside[name].append(median(said["model_ns"]))
            own = [sum(one) for one in zip(said["tokenize_ns"], said["model_ns"], said["decode_ns"], strict=True)]
            parts[name].append(median(a + b for a, b in zip(said["tokenize_ns"], said["decode_ns"], strict=True)))
            outside[name].append((wall - sum(own)) / len(own))
        if turn >= 3:
            bare.append(median(taken))
    model = float(np.quantile(bare, 0.1))
    print(
        f"(a) the model alone, a bare loop of session.run: {model / 1e6:.3f} ms (the quietest of {ROUNDS} rounds of {len(texts)} texts, in turns)"
    )
    for name in runners:
        beside = float(np.quantile(inside[name], 0.1)) / model - 1
        print(
            f"    {name} runner: model_ns {beside:+.1%} of that; tokenizing and decoding {median(parts[name]) / model:.1%} (part of an answer); "
            f"protocol {float(np.quantile(outside[name], 0.1)) / model:.2%}"
        )
        runners[name].close()


def memory(request: dict[str, Any]) -> None:
    from onnx import TensorProto, helper, save

    def value(name: str, kind: int) -> Any:
        return helper.make_tensor_value_info(name, kind, ["batch", "sequence"])

    node = helper.make_node("Cast", ["input_ids"], ["logits"], to=TensorProto.FLOAT)
    graph = helper.make_graph([node], "empty", [value("input_ids", TensorProto.INT64)], [value("logits", TensorProto.FLOAT)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    with tempfile.TemporaryDirectory() as scratch:
        save(model, f"{scratch}/empty.onnx")
        peaks: dict[str, list[float]] = {}
        colds: list[float] = []
        for name, changes in {"bundle": {}, "empty": {"model": f"{scratch}/empty.onnx", "task": "embed"}}.items():
            for _ in range(STARTS):
                runner = local_cpp.open_runner(Link(kind="local_cpp"), "onnxruntime", request | changes)
                said = runner.ask({"texts": [request["first_text"]] * 50})
                peaks.setdefault(name, []).append(said["peak_bytes"] / 1e6)
                peaks.setdefault(f"{name} before", []).append(runner.hello["baseline_bytes"] / 1e6)
                if name == "bundle":
                    colds.append(runner.hello["cold_start_ms"])
                runner.close()
    whole, empty, before = (median(peaks[name]) for name in ("bundle", "empty", "bundle before"))
    print(
        f"(b) C++ runner: peak {whole:.1f} MB; {whole - empty:.1f} MB beyond the runtime library with a model of one node ({empty:.1f} MB, tokenizer "
        f"included), {whole - before:.1f} MB beyond the process before it loads anything ({before:.1f} MB); cold start {median(colds):.0f} ms"
    )


def repeatability(request: dict[str, Any], texts: list[str]) -> None:
    link = Link(kind="qemu", cpu="cortex-a72")
    if lacking := qemu.ready(link):
        print(f"(c) not counted: {lacking}")
        return
    one, other = (qemu.instructions(link, request, texts[:8]) for _ in range(2))
    apart = [abs(a - b) / a for a, b in zip(one, other, strict=True)]
    print(f"(c) instructions on a Cortex-A72: {median(one) / 1e6:.2f} million, counted twice: apart by {max(apart):.4%} at most")


def main(words: list[str]) -> None:
    with bundle_of(words) as bundle:
        manifest = read_bundle(bundle)
        texts = [golden.text for golden in read_golden(bundle / "golden.jsonl") if 12 <= len(golden.ids) <= 40][:TEXTS]
        request = hello(bundle, manifest, texts[0], 1)
        overhead(bundle, request, texts)
        memory(request)
        repeatability(request, texts)


if __name__ == "__main__":
    main(sys.argv[1:])
