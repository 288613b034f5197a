"""What a graph does for an answer of so many tokens: nodes, multiply-adds by kind, numbers written. Told by ONNX Runtime's profiler, here.

The profile is of the graph as ONNX Runtime optimizes it, so that fused operators count as the one node that they are.
"""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from edgedistill.latency_model import Estimate, estimate
from edgedistill.target import Target

PRODUCTS = frozenset(
    {"MatMul", "Gemm", "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "QGemm", "MatMulNBits", "FusedMatMul"}
    | {"QLinearMatMul"}
)
INT8 = frozenset({"MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "QGemm", "QAttention", "QLinearMatMul"})
ATTENTION = frozenset({"Attention", "QAttention", "MultiHeadAttention"})


def does(model: Path, tokens: int) -> dict[str, float]:
    """How much of each feature of latency_model.FEATURES one answer takes. model: an ONNX file of this package's making."""
    import onnxruntime

    with tempfile.TemporaryDirectory() as scratch:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.enable_profiling, options.profile_file_prefix = True, f"{scratch}/profile"
        session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        row = np.ones((1, tokens), np.int64)
        session.run(None, {node.name: row if node.name != "token_type_ids" else np.zeros_like(row) for node in session.get_inputs()})
        events = json.loads(Path(session.end_profiling()).read_text())
    found = {"answers": 1.0, "tokens": float(tokens)} | dict.fromkeys(("nodes", "float_macs", "int8_macs", "int4_macs", "elements"), 0.0)
    for event in events:
        if event.get("cat") != "Node" or not event["name"].endswith("_kernel_time"):
            continue
        found["nodes"] += 1
        kind, macs, elements = _work(event["args"])
        found[f"{kind}_macs"] += macs
        found["elements"] += elements
    return found


def _work(args: dict[str, Any]) -> tuple[str, float, float]:
    """Kind and number of a node's multiply-adds, and the numbers that it writes."""
    inputs, outputs = ([next(iter(entry.values())) for entry in args.get(f"{side}_type_shape", [])] for side in ("input", "output"))
    op, written = args["op_name"], float(sum(math.prod(shape) for shape in outputs))
    kind = "int4" if op == "MatMulNBits" else "int8" if op in INT8 else "float"
    if op in PRODUCTS and outputs:
        return kind, float(math.prod(outputs[0])) * inputs[0][-1], written
    if op in ATTENTION and inputs:
        rows, tokens, width = inputs[0]
        projected = float(rows * tokens * width * inputs[1][-1]) if op != "MultiHeadAttention" else 0.0
        return kind, projected + 2.0 * rows * tokens * tokens * outputs[0][-1], written
    return kind, 0.0, written


def estimated(target: Target, model: Path, lengths: list[int]) -> Estimate | None:
    """The median answer of texts of these lengths (tokens) on a target, by its calibration; None without one, or for a graph that is not ONNX."""
    if target.calibration is None or target.format != "onnx":
        return None
    return estimate(target.calibration, does(model, max(1, int(np.median(lengths)))))
