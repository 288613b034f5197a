"""Is an int8 graph right on every CPU? x86 without VNNI multiplies 8-bit numbers by an instruction that saturates.

`vpmaddubsw` (AVX2) multiplies unsigned activations a with signed weights w and adds two neighbours into *16 bits with saturation*:
a0·w0 + a1·w1 is clipped at 32767. CPUs with VNNI, and arm64, add into 32 bits. So a weight matrix that uses all of int8 gives other answers on
an older laptop than on the machine it was tested on. Activations reach 255, so the sum is safe exactly when the positive parts of two neighbours
along the inner dimension sum to at most 128, and the negative ones too: 255 · 128 = 32640. Weights of 7 bits (`reduce_range`) always are.
ONNX Runtime multiplies unsigned weights (u8 × u8) in wider steps, which never saturate; 4-bit weights are too small to.

This is a proof over the weights, needs no such CPU, and takes milliseconds.
Source: Intel 64 and IA-32 Architectures Software Developer's Manual, PMADDUBSW; onnxruntime/core/mlas, the U8S8 and U8U8 AVX2 kernels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgedistill.errors import StageError

LARGEST_PAIR = 32767 // 255  # 128

# Where each operator keeps its weight, and which of its axes is the inner dimension.
_WEIGHT_INPUT = {"MatMulInteger": 1, "MatMulIntegerToFloat": 1, "DynamicQuantizeMatMul": 1, "QAttention": 1, "QLinearMatMul": 3, "QGemm": 3}
_WEIGHT_INPUT |= {"QLinearConv": 3, "ConvInteger": 1}
_DEQUANTIZED = {
    "MatMul": 1,
    "Gemm": 1,
    "Conv": 1,
    "Attention": 1,
}  # behind a DequantizeLinear: ONNX Runtime makes integer operators of these


def saturation_free(model: Path) -> list[str]:
    """The nodes of a graph whose integer products could saturate on x86 without VNNI, one line each; empty when there is none."""
    import onnx
    from onnx import TensorProto, numpy_helper

    graph = onnx.load(str(model)).graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    weights |= {
        node.output[0]: node.attribute[0].t for node in graph.node if node.op_type == "Constant" and node.attribute[0].name == "value"
    }
    makers = {output: node for node in graph.node for output in node.output}
    found = []
    for node in graph.node:
        name = _integer_weight(node, makers)
        if name is None:
            continue
        weight = weights.get(name)
        if weight is None:
            if not _unsigned(name, makers, weights):
                found.append(f"{node.name or node.output[0]} ({node.op_type}): both sides are computed, so nothing bounds their products")
        elif weight.data_type == TensorProto.INT8:
            worst = _largest_pair(numpy_helper.to_array(weight), node)
            if worst > LARGEST_PAIR:
                found.append(
                    f"{node.name or node.output[0]} ({node.op_type}): two neighbouring weights of {name} sum to {worst}, {LARGEST_PAIR} is safe"
                )
    return found


def require_saturation_free(model: Path) -> None:
    """Raise StageError when `model` would answer differently on an x86 CPU without VNNI."""
    found = saturation_free(model)
    if found:
        raise StageError(
            f"{len(found)} integer products of the quantized graph saturate on x86 CPUs without VNNI; the first: {found[0]}.",
            where=str(model),
            write="Quantize these weights to 7 bits (reduce_range=True) or to unsigned 8 bits.",
        )


def _integer_weight(node: Any, makers: dict[str, Any]) -> str | None:
    """The name of the integer tensor that `node` multiplies with, or None when the node multiplies no integers."""
    if node.op_type in _WEIGHT_INPUT:
        return str(node.input[_WEIGHT_INPUT[node.op_type]])
    if node.op_type in _DEQUANTIZED:
        sides = [makers.get(name) for name in node.input[:2]]
        if all(side is not None and side.op_type == "DequantizeLinear" for side in sides):
            return str(sides[_DEQUANTIZED[node.op_type]].input[0])  # type: ignore[union-attr]  # checked on the line above
    return None


def _unsigned(name: str, makers: dict[str, Any], weights: dict[str, Any]) -> bool:
    """Whether a computed tensor is surely uint8: the output of a quantizer with an unsigned zero point."""
    from onnx import TensorProto

    maker = makers.get(name)
    if maker is None:
        return False
    if maker.op_type == "DynamicQuantizeLinear":
        return True
    zero = weights.get(maker.input[2]) if maker.op_type == "QuantizeLinear" and len(maker.input) > 2 else None
    return maker.op_type == "QuantizeLinear" and (len(maker.input) < 3 or (zero is not None and zero.data_type == TensorProto.UINT8))


def _largest_pair(weight: npt.NDArray[np.int8], node: Any) -> int:
    """The largest sum of the positive parts, or of the negative parts, of two neighbours (0 and 1, 2 and 3, …) along the inner dimension."""
    if "Conv" in node.op_type:
        rows = weight.reshape(len(weight), -1).T  # [C·k·k, M]
    elif any(attribute.name == "transB" and attribute.i for attribute in node.attribute):
        rows = weight.T
    else:
        rows = np.moveaxis(weight, -2, 0).reshape(weight.shape[-2], -1)  # [K, N]; leading axes are separate products
    rows = rows.astype(np.int32)
    if len(rows) % 2:
        rows = np.concatenate([rows, np.zeros_like(rows[:1])])
    positive, negative = np.maximum(rows, 0), np.maximum(-rows, 0)
    return int(max((positive[0::2] + positive[1::2]).max(initial=0), (negative[0::2] + negative[1::2]).max(initial=0)))
