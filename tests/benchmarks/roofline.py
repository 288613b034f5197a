"""How near a binary is to what this machine can do at all: `python -m tests.benchmarks.roofline BUNDLE [BUNDLE …]`.

Three limits are measured first, on one thread, as medians: multiply-adds a second of float32 and of int8 products (large ones, through ONNX
Runtime), bytes a second read from memory that no cache holds, and what a node of a graph costs that computes nothing. Then each bundle answers its own
golden texts under ONNX Runtime's profiler, which tells the shapes and the time of every node. An answer cannot be quicker than the largest of

    operations / peak        bytes of weights read / bandwidth        nodes × cost of a node

(roofline: Williams, Waterman and Patterson, CACM 52(4), 2009; the third is what small graphs meet first). Weights of a small student stay in
the cache, so the second limit is generous to them.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

from edgedistill.bundle_format import read_golden, read_manifest

PRODUCTS = frozenset(
    {"MatMul", "Gemm", "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "QGemm", "MatMulNBits", "FusedMatMul"}
)
ATTENTION = frozenset({"Attention", "QAttention", "MultiHeadAttention"})
WIDTH = {"float": 4.0, "int8": 1.0, "uint8": 1.0}


@dataclass(frozen=True)
class Limits:
    """float_macs, int8_macs: multiply-adds a second. bandwidth: bytes a second. node: seconds."""

    float_macs: float
    int8_macs: float
    bandwidth: float
    node: float


def session(model: Any, **options: Any) -> Any:
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = settings.inter_op_num_threads = 1
    settings.log_severity_level = 3
    for name, value in options.items():
        setattr(settings, name, value)
    content = model if isinstance(model, str) else model.SerializeToString()
    return onnxruntime.InferenceSession(content, settings, providers=["CPUExecutionProvider"])


def median_seconds(work: Callable[[], Any], rounds: int = 21) -> float:
    times = []
    for _ in range(rounds + 2):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times[2:])


def limits() -> Limits:
    """Of this machine, one thread."""
    size = 1024
    draw = np.random.default_rng(0)
    macs = []
    for kind, op, values in (
        (TensorProto.FLOAT, "MatMul", draw.standard_normal((size, size)).astype(np.float32)),
        (TensorProto.INT8, "MatMulInteger", draw.integers(-64, 64, (size, size)).astype(np.int8)),
    ):
        left = values if op == "MatMul" else draw.integers(0, 255, (size, size)).astype(np.uint8)
        graph = helper.make_graph(
            [helper.make_node(op, ["x", "w"], ["y"])],
            "product",
            [helper.make_tensor_value_info("x", kind if op == "MatMul" else TensorProto.UINT8, [size, size])],
            [helper.make_tensor_value_info("y", kind if op == "MatMul" else TensorProto.INT32, [size, size])],
            [onnx.numpy_helper.from_array(values, "w")],
        )
        opened = session(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10))
        macs.append(size**3 / median_seconds(lambda opened=opened, left=left: opened.run(None, {"x": left})))
    far = np.ones(64 * 1024 * 1024, np.float32)  # 256 MB
    bandwidth = far.nbytes / median_seconds(lambda: far.sum(), 7)
    idle = []
    for count in (10, 210):
        nodes = [helper.make_node("Sin", [f"t{place}"], [f"t{place + 1}"]) for place in range(count)]
        info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("t0", f"t{count}")]
        opened = session(
            helper.make_model(
                helper.make_graph(nodes, "idle", info[:1], info[1:]), opset_imports=[helper.make_opsetid("", 17)], ir_version=10
            )
        )
        idle.append(median_seconds(lambda opened=opened: opened.run(None, {"t0": np.zeros(1, np.float32)}), 301))
    return Limits(macs[0], macs[1], bandwidth, (idle[1] - idle[0]) / 200)


def work_of(event: dict[str, Any], weights: dict[str, tuple[int, ...]]) -> tuple[float, float, bool]:
    """Multiply-adds and bytes of weights of one node, and whether it multiplies in int8."""
    args = event["args"]
    inputs = [next(iter(entry.items())) for entry in args.get("input_type_shape", [])]
    outputs = [next(iter(entry.items())) for entry in args.get("output_type_shape", [])]
    op = args["op_name"]
    read = sum(WIDTH.get(kind, 0.0) * float(np.prod(shape)) for kind, shape in inputs if tuple(shape) in weights.values())
    if op in PRODUCTS and outputs:
        inner = inputs[0][1][-1]
        return float(np.prod(outputs[0][1])) * inner, read, "Integer" in op or op in ("DynamicQuantizeMatMul", "QGemm")
    if op in ATTENTION and inputs:
        rows, tokens, width = inputs[0][1]
        out = outputs[0][1][-1]
        scores = 2.0 * rows * tokens * tokens * out
        projected = float(rows * tokens * width * inputs[1][1][-1]) if op != "MultiHeadAttention" else 0.0
        return scores + projected, read, op == "QAttention"
    return 0.0, 0.0 if "Gather" in op else read, False


def profile(bundle: Path, rounds: int = 20) -> dict[str, Any]:
    """What one answer takes, medians over the bundle's golden texts: seconds, float and int8 multiply-adds, bytes of weights, nodes, time by operator."""
    manifest = read_manifest(bundle)
    model = str(bundle / manifest.model)
    weights = {tensor.name: tuple(tensor.dims) for tensor in onnx.load(model).graph.initializer if len(tensor.dims) > 1}
    rows = [golden.ids for golden in read_golden(bundle / "golden.jsonl") if 8 <= len(golden.ids) <= 32]
    timed = session(model)
    with tempfile.TemporaryDirectory() as scratch:
        watched = session(model, enable_profiling=True, profile_file_prefix=str(Path(scratch) / "profile"))
        batches = [{"input_ids": np.array([ids], np.int64), "attention_mask": np.ones((1, len(ids)), np.int64)} for ids in rows]
        seconds = [median_seconds(lambda batch=batch: timed.run(None, batch), rounds) for batch in batches]
        for batch in batches:
            watched.run(None, batch)
        events = json.loads(Path(watched.end_profiling()).read_text())
    totals: Counter[str] = Counter()
    by_operator: Counter[str] = Counter()
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            macs, read, whole = work_of(event, weights)
            totals["int8" if whole else "float"] += macs
            totals["bytes"] += read
            totals["nodes"] += 1
            by_operator[event["args"]["op_name"]] += event["dur"] / 1e6
    share = {name: value / len(rows) for name, value in totals.items()}
    return {
        "name": manifest.name,
        "target": manifest.target,
        "tokens": statistics.median(map(len, rows)),
        "seconds": statistics.median(seconds),
        **share,
        "by": by_operator,
    }


def main(bundles: list[str]) -> None:
    machine = limits()
    print(
        f"this machine, one thread: {machine.float_macs / 1e9:.0f} G multiply-adds/s in float32, {machine.int8_macs / 1e9:.0f} in int8; "
        f"{machine.bandwidth / 1e9:.1f} GB/s from memory; {machine.node * 1e6:.2f} µs a node"
    )
    for bundle in bundles:
        found = profile(Path(bundle))
        bounds = {
            "operations": found.get("float", 0) / machine.float_macs + found.get("int8", 0) / machine.int8_macs,
            "bytes": found["bytes"] / machine.bandwidth,
            "nodes": found["nodes"] * machine.node,
        }
        limit = max(bounds, key=bounds.__getitem__)
        print(
            f"{found['name']}: {found['seconds'] * 1e6:.0f} µs for {found['tokens']:.0f} tokens; limits: "
            + ", ".join(f"{name} {1e6 * value:.0f} µs" for name, value in bounds.items())
            + f"; {found['seconds'] / bounds[limit]:.1f} × the largest ({limit}), {found['seconds'] / sum(bounds.values()):.1f} × their sum"
        )
        total = sum(found["by"].values())
        print("    " + ", ".join(f"{name} {value / total:.0%}" for name, value in found["by"].most_common(6)))


if __name__ == "__main__":
    main(sys.argv[1:])
