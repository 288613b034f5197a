"""int4 block weights: every 64 weights share a scale and a zero point, and each weight is one of 16 steps. Activations stay in float.

Buys size, above all where the word table is most of the model; speed less than int8 does, since weights are unpacked on the way into the products.
Products become `MatMulNBits`, tables `GatherBlockQuantized`; attention-score products hold no weights, and the classifier head is too narrow to be
worth it (a few kilobytes, and every answer passes through it).

Which block, and why (2-layer cut of MiniLM, 9,067 tokens, TREC-6; int8 is 7.47 MB; divergence is KL from the float logits on 861 test rows):

    blocks                           MB     divergence   accuracy (float 0.908)
    16, smallest and largest         5.85   0.0021       0.908
    32, smallest and largest         4.82   0.0028       0.906
    32, the same, symmetric          4.70   0.0041       0.905
    64, smallest and largest         4.30   0.0043       0.904
    64, searched                     4.27   0.0032       0.909   ← this one
    128, smallest and largest        4.04   0.0063       0.904

Scale and zero point are not taken from the smallest and largest weight of the block (round to nearest), but searched: ranges shrunk step by step,
the scale then fitted by least squares, and the one kept whose error, weighted by how strongly each input is driven on real rows, is least. That
costs a second at compile time and nothing on the device.

Sources: arXiv:2306.00978 (AWQ: inputs that are driven strongly matter more), arXiv:2210.17323 (GPTQ, of which this is the cheap part), llama.cpp's
`make_qkx2_quants` (the search), https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html#quantize-to-int4uint4.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgedistill.fake_quant import BLOCK, SHRINK, Arithmetic, table_block
from edgedistill.int8_safety import require_saturation_free
from edgedistill.onnx_graph import Batch, left_sides, products, replace, save_graph, tables

FORMAT = "onnx"
ABOUT = "int4 weights and embedding in blocks of 64, scales searched on real rows; the smallest file; faster than float, slower than int8"

NARROW = 32  # outputs below which a product stays in float: the classifier head
# Rounds activations to 8 bits, a scale a block: 1.2 to 1.7 times as fast as level 0 (VNNI), with the same flips. Its price: float additions in another
# order push a rounding step now and then, so between CPUs logits differ by up to 0.004 of their spread (250 real rows, none answered otherwise).
ACCURACY_LEVEL = 4
ARITHMETIC = Arithmetic(products="int4_block", tables="int4_block", activations="int8_block", narrowest_product=NARROW, narrowest_table=32)


def quantize(graphs: Path, out: Path, calibration: Sequence[Batch], keep_float: frozenset[str]) -> None:
    """Write `out/model.onnx` and `out/facts.json` from `graphs/products.onnx`. `calibration` tells how strongly each input is driven."""
    import onnx

    model = onnx.load(str(graphs / "products.onnx"))
    weights = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    wide = [node for node in _wide(model.graph) if node.name not in keep_float]
    driven = {name: (values**2).mean(axis=0) for name, values in left_sides(model, wide, calibration).items()} if calibration else {}
    changed: dict[str, list[Any]] = {}
    constants: dict[str, Any] = {}
    for node in wide:
        weight = weights[node.input[1]]
        new, parts = _product(node, weight, driven.get(node.input[0]))
        changed[node.name] = [new]
        constants |= {part.name: part for part in parts}
    for node in tables(model.graph):
        if node.name not in keep_float:
            new, parts = block_table(node, weights[node.input[0]])
            changed[node.name] = [new]
            constants |= {part.name: part for part in parts}
    replace(model, changed, list(constants.values()))
    save_graph(model, out / "model.onnx")
    require_saturation_free(out / "model.onnx")
    facts = {
        "scheme": f"4-bit weights, blocks of {BLOCK}, scale and zero point searched",
        "bytes": (out / "model.onnx").stat().st_size,
        "float_bytes": (graphs / "model.onnx").stat().st_size,
        "kept_float": sorted(keep_float),
        "saturation_free": True,  # 4-bit weights cannot: 2 · 15 · 127 is far below 32767
    }
    (out / "facts.json").write_text(json.dumps(facts, indent=1))


def layers(graphs: Path) -> list[str]:
    """The nodes that would be quantized: products with a weight, but the narrow head, and the embedding tables."""
    import onnx

    graph = onnx.load(str(graphs / "products.onnx")).graph
    return [node.name for node in (*tables(graph), *_wide(graph))]


def block_quantize(
    rows: npt.NDArray[np.float32], importance: npt.NDArray[np.float32] | None = None, block: int = BLOCK
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
    """Steps 0…15 [rows, blocks, block], scales [rows, blocks] and zero points 0…15 [rows, blocks] of a matrix [rows, width].

    A weight is (step − zero point) · scale. importance [width]: how much an error at each place weighs. The width is padded with zeros.
    """
    count = -(-rows.shape[1] // block)
    padding = count * block - rows.shape[1]
    x = np.pad(rows.astype(np.float32), ((0, 0), (0, padding))).reshape(len(rows), count, block)
    if importance is None:
        importance = np.ones(rows.shape[1], np.float32)
    weight = np.pad(importance.astype(np.float32), (0, padding)).reshape(1, count, block)
    weight = weight + 1e-6 * weight.mean() + np.float32(1e-30)
    low = np.minimum(x.min(axis=2, keepdims=True), 0)  # a block keeps an exact zero, so padding stays zero
    high = np.maximum(x.max(axis=2, keepdims=True), 0)
    best = np.full((*x.shape[:2], 1), np.inf, np.float32)
    steps, scales, zeros = np.zeros(x.shape, np.uint8), np.ones_like(best), np.zeros(best.shape, np.uint8)
    for shrink in np.asarray(SHRINK, np.float32):
        scale = np.maximum((high - low) * shrink / 15, np.float32(1e-12))
        zero = np.clip(np.rint(-low * shrink / scale), 0, 15)
        step = np.clip(np.rint(x / scale) + zero, 0, 15)
        centred = step - zero
        fitted = (weight * x * centred).sum(axis=2, keepdims=True) / np.maximum(
            (weight * centred**2).sum(axis=2, keepdims=True), np.float32(1e-30)
        )
        fitted = np.where(fitted > 0, fitted, scale)
        error = (weight * (x - centred * fitted) ** 2).sum(axis=2, keepdims=True)
        better = error < best
        best = np.where(better, error, best)
        steps, scales, zeros = (
            np.where(better, step, steps).astype(np.uint8),
            np.where(better, fitted, scales),
            np.where(better, zero, zeros).astype(np.uint8),
        )
    return steps, scales[..., 0].astype(np.float32), zeros[..., 0]


def pack(steps: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Two 4-bit numbers a byte along the last axis, the first in the low half; an odd end is filled with 0."""
    if steps.shape[-1] % 2:
        steps = np.concatenate([steps, np.zeros_like(steps[..., :1])], axis=-1)
    return (steps[..., 0::2] | (steps[..., 1::2] << 4)).astype(np.uint8)


def _wide(graph: Any) -> list[Any]:
    widths = {tensor.name: tensor.dims[-1] for tensor in graph.initializer if tensor.dims}
    return [node for node in products(graph) if widths[node.input[1]] >= NARROW]


def _product(node: Any, weight: npt.NDArray[np.float32], importance: npt.NDArray[np.float32] | None) -> tuple[Any, list[Any]]:
    """`MatMulNBits` for a `MatMul` with `weight` [K, N]; blocks run along K."""
    import onnx

    steps, scales, zeros = block_quantize(weight.T, importance)
    stem = node.input[1]
    parts = [
        onnx.numpy_helper.from_array(pack(steps), f"{stem}_steps"),
        onnx.numpy_helper.from_array(scales.reshape(-1), f"{stem}_scales"),
        onnx.numpy_helper.from_array(pack(zeros).reshape(-1), f"{stem}_zeros"),
    ]
    facts: dict[str, Any] = {"K": weight.shape[0], "N": weight.shape[1], "bits": 4, "block_size": BLOCK, "accuracy_level": ACCURACY_LEVEL}
    inputs = [node.input[0], *(part.name for part in parts)]
    return onnx.helper.make_node("MatMulNBits", inputs, list(node.output), name=node.name, domain="com.microsoft", **facts), parts


def block_table(node: Any, table: npt.NDArray[np.float32]) -> tuple[Any, list[Any]]:
    """`GatherBlockQuantized` for a `Gather` from `table` [rows, width]; blocks run along the width."""
    import onnx

    block = table_block(table.shape[1])
    steps, scales, zeros = block_quantize(table, None, block)
    stem = node.input[0]
    parts = [
        onnx.numpy_helper.from_array(pack(steps.reshape(len(table), -1)[:, : table.shape[1]]), f"{stem}_steps"),
        onnx.numpy_helper.from_array(scales, f"{stem}_scales"),
        onnx.numpy_helper.from_array(pack(zeros), f"{stem}_zeros"),
    ]
    # Packed in uint8 (bits=4) rather than typed uint4: that type needs opset 21, and older operators of the graph read differently there.
    facts: dict[str, Any] = {"gather_axis": 0, "quantize_axis": 1, "block_size": block, "bits": 4}
    inputs = [parts[0].name, node.input[1], parts[1].name, parts[2].name]
    return onnx.helper.make_node("GatherBlockQuantized", inputs, list(node.output), name=node.name, domain="com.microsoft", **facts), parts
