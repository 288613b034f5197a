"""Static int8 (QDQ): the range of each activation is fixed beforehand, on real rows, and written into the graph.

Saves the pass over each activation that dynamic quantization makes to find its range, and is the form that accelerators read: every product stands
between `QuantizeLinear` and `DequantizeLinear`, which ONNX Runtime turns into one integer product when it loads the graph.

What is left in float, and why: attention scores and their softmax (both sides are activations, heavy-tailed; with them quantized by their smallest
and largest value the logits were noise: FACTS §1), and what each product gives, which the next layer norm wants in full.

A range can be chosen in several ways: all that was seen (min–max), all but the outermost 0.01 % (percentile), or what loses least information
(entropy: least KL divergence of the histograms). None is best everywhere, so all are tried, and the one whose graph stays nearest to the float
graph on the calibration rows is kept; `facts.json` tells which, and the figures of each. Padding is left out of the ranges.

Weights have 7 bits and a scale for each output channel, as in onnx_int8_dynamic.py; a table has 8 bits and a scale for each row.
Sources: arXiv:1712.05877, arXiv:2004.09602 (calibrators compared), onnxruntime.quantization.calibrate.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgedistill.int8_safety import require_saturation_free
from edgedistill.onnx_graph import Batch, left_sides, products, quiet, replace, run, save_graph, tables

FORMAT = "onnx"
ABOUT = "int8 weights and activations, ranges calibrated on real rows; no pass over activations at run time"

Array = npt.NDArray[Any]
Range = tuple[float, float]


def min_max(values: Array) -> Range:
    return float(values.min()), float(values.max())


def percentile(values: Array) -> Range:
    low, high = np.percentile(values, (0.01, 99.99))
    return float(low), float(high)


def entropy(values: Array) -> Range:
    """ONNX Runtime's own search. 1024 bins against 128 steps: with its default of 128 bins there is nothing to search."""
    key = hashlib.sha256(values.tobytes()).digest()
    if key not in _SEARCHED:
        _SEARCHED[key] = _search(values)
    return _SEARCHED[key]


# Sensitivity quantizes the same graph once a layer, with the same activations; the search takes most of a second for a few of them.
_SEARCHED: dict[bytes, Range] = {}


def _search(values: Array) -> Range:
    from onnxruntime.quantization.calibrate import HistogramCollector

    with quiet():
        collector = HistogramCollector("entropy", False, 1024, 128, 99.99, "same")
        collector.collect({"x": values})
        low, high, *_ = collector.compute_collection_result()["x"]
    return max(float(low), float(values.min())), min(float(high), float(values.max()))


CALIBRATORS: dict[str, Callable[[Array], Range]] = {"min_max": min_max, "percentile": percentile, "entropy": entropy}


def quantize(graphs: Path, out: Path, calibration: Sequence[Batch], keep_float: frozenset[str]) -> None:
    """Write `out/model.onnx` and `out/facts.json` from `graphs/products.onnx`. `calibration` fixes the ranges; it may not be empty."""
    import onnx

    model = onnx.load(str(graphs / "products.onnx"))
    nodes = [node for node in products(model.graph) if node.name not in keep_float]
    seen = left_sides(model, nodes, calibration)
    rows = sum(len(batch["input_ids"]) for batch in calibration)
    pooled = frozenset(name for name, values in seen.items() if len(values) == rows)  # one row a text: the token axis is gone
    reference = run(graphs / "products.onnx", calibration)
    divergence = {}
    kept: tuple[float, str, Any] | None = None
    for name, calibrator in CALIBRATORS.items():
        candidate = _with_ranges(model, nodes, {tensor: calibrator(values) for tensor, values in seen.items()}, keep_float, pooled)
        save_graph(candidate, out / "model.onnx")
        divergence[name] = _divergence(reference, run(out / "model.onnx", calibration))
        if kept is None or divergence[name] < kept[0]:
            kept = (divergence[name], name, candidate)
    assert kept is not None
    save_graph(kept[2], out / "model.onnx")
    require_saturation_free(out / "model.onnx")
    facts = {
        "scheme": "7-bit signed weights, per channel; uint8 activations, calibrated",
        "calibrator": kept[1],
        "divergence": divergence,  # KL(float ‖ quantized) on the calibration rows, nats
        "bytes": (out / "model.onnx").stat().st_size,
        "float_bytes": (graphs / "model.onnx").stat().st_size,
        "kept_float": sorted(keep_float),
        "saturation_free": True,
    }
    (out / "facts.json").write_text(json.dumps(facts, indent=1))


def layers(graphs: Path) -> list[str]:
    """The nodes that would be quantized: products with a weight, and the embedding tables."""
    import onnx

    graph = onnx.load(str(graphs / "products.onnx")).graph
    return [node.name for node in (*tables(graph), *products(graph))]


def _with_ranges(model: Any, nodes: Sequence[Any], ranges: dict[str, Range], keep_float: frozenset[str], pooled: frozenset[str]) -> Any:
    import onnx

    biases = {node.input[0]: node for node in model.graph.node if node.op_type == "Add"}

    weights = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    quantized = onnx.ModelProto()
    quantized.CopyFrom(model)
    changed: dict[str, list[Any]] = {}
    constants: dict[str, Array] = {}
    done: set[str] = set()  # query, key and value read one tensor: it is quantized once
    for node in nodes:
        left, right = node.input[0], node.input[1]
        new = []
        if left not in done:
            scale, zero = _activation_scale(ranges[left])
            constants |= {f"{left}_scale": scale, f"{left}_zero": zero}
            facts = [f"{left}_scale", f"{left}_zero"]
            new.append(onnx.helper.make_node("QuantizeLinear", [left, *facts], [f"{left}_q"], name=f"{left}_quantize"))
            new.append(onnx.helper.make_node("DequantizeLinear", [f"{left}_q", *facts], [f"{left}_dq"], name=f"{left}_dequantize"))
            done.add(left)
        steps, scales = _weight_steps(weights[right])
        constants |= {f"{right}_q": steps, f"{right}_scale": scales, f"{right}_zero": np.zeros(len(scales), np.int8)}
        parts = [f"{right}_q", f"{right}_scale", f"{right}_zero"]
        new.append(onnx.helper.make_node("DequantizeLinear", parts, [f"{right}_dq"], name=f"{node.name}_weight", axis=1))
        add = biases.get(node.output[0])
        if left in pooled and add is not None and weights.get(add.input[1], scales[:, None]).shape == scales.shape:
            # ONNX Runtime turns a flat MatMul and Add into a float Gemm before it looks for integer products, so here the Gemm is written out.
            unit = (constants[f"{left}_scale"] * scales).astype(np.float32)
            bias = np.clip(np.rint(weights[add.input[1]] / unit), -(2**31), 2**31 - 1).astype(np.int32)
            constants |= {f"{right}_bias": bias, f"{right}_bias_scale": unit, f"{right}_bias_zero": np.zeros(len(unit), np.int32)}
            parts = [f"{right}_bias", f"{right}_bias_scale", f"{right}_bias_zero"]
            new.append(onnx.helper.make_node("DequantizeLinear", parts, [f"{right}_bias_dq"], name=f"{node.name}_bias", axis=0))
            inputs = [f"{left}_dq", f"{right}_dq", f"{right}_bias_dq"]
            new.append(onnx.helper.make_node("Gemm", inputs, list(add.output), name=node.name))
            changed[add.name] = []
        else:
            new.append(onnx.helper.make_node("MatMul", [f"{left}_dq", f"{right}_dq"], list(node.output), name=node.name))
        changed[node.name] = new
    for node in tables(model.graph):
        if node.name not in keep_float:
            changed[node.name], parts_of_table = _table(node, weights[node.input[0]])
            constants |= parts_of_table
    replace(quantized, changed, [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()])
    return quantized


def _activation_scale(span: Range) -> tuple[Array, Array]:
    """Scale and zero point of uint8 for a range, which is widened to hold 0: that must stay exact."""
    low, high = min(span[0], 0.0), max(span[1], 0.0)
    scale = max((high - low) / 255, 1e-12)
    return np.array(scale, np.float32), np.array(np.clip(round(-low / scale), 0, 255), np.uint8)


def _weight_steps(weight: Array) -> tuple[Array, Array]:
    """Steps −64…64 [K, N] and scales [N] of a weight [K, N]: 7 bits, so that no x86 CPU saturates (int8_safety.py)."""
    scales = np.maximum(np.abs(weight).max(axis=0) / 64, 1e-12).astype(np.float32)
    return np.rint(weight / scales).astype(np.int8), scales


def _table(node: Any, table: Array) -> tuple[list[Any], dict[str, Array]]:
    """A table [rows, width] in int8 with a scale for each row, dequantized after the look-up. It is never multiplied, so all 8 bits are used."""
    import onnx

    stem, found = node.input[0], node.output[0]
    scales = np.maximum(np.abs(table).max(axis=1, keepdims=True) / 127, 1e-12).astype(np.float32)
    constants = {f"{stem}_q": np.rint(table / scales).astype(np.int8), f"{stem}_scale": scales}
    nodes = [
        onnx.helper.make_node("Gather", [f"{stem}_q", node.input[1]], [f"{found}_q"], name=node.name),
        onnx.helper.make_node("Cast", [f"{found}_q"], [f"{found}_steps"], name=f"{node.name}_cast", to=onnx.TensorProto.FLOAT),
        onnx.helper.make_node("Gather", [f"{stem}_scale", node.input[1]], [f"{found}_scale"], name=f"{node.name}_scale"),
        onnx.helper.make_node("Mul", [f"{found}_steps", f"{found}_scale"], list(node.output), name=f"{node.name}_mul"),
    ]
    return nodes, constants


def _divergence(reference: Array, logits: Array) -> float:
    """Mean KL(reference ‖ logits), nats."""

    def log_softmax(values: Array) -> Array:
        shifted = values - values.max(axis=1, keepdims=True)
        return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))

    right, ours = log_softmax(reference.astype(np.float64)), log_softmax(logits.astype(np.float64))
    return float((np.exp(right) * (right - ours)).sum(axis=1).mean())
