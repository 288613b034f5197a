"""Dynamic int8: weights are stored in 8 bits, activations are rounded to 8 bits as they come, each product by its own range.

Needs no calibration, and is the safe first choice for text: activations of transformers have outliers that a range fixed beforehand cuts off or
wastes its steps on. The word table, most of a small student, is stored in 8 bits too.

Which of ONNX Runtime's variants, and why (MiniLM-L6 fine-tuned on TREC, 1 thread, EPYC with VNNI against the same file under `qemu-x86_64 -cpu max`,
which has AVX2 and no VNNI; error is the root mean square of logits, which have a standard deviation of 2.6):

    weights              error   × float   native and AVX2 differ by
    uint8, per tensor    0.088   1.4–1.7   0
    uint8, per channel   0.049   1.4–1.7   0
    int8, per channel    0.062   2.4       0.48   ← saturates
    7 bits, per tensor   0.243   2.4       not run
    7 bits, per channel  0.050   2.4       0      ← this one

The last column is over 24 rows. It shows that no product saturates, not that two CPUs agree to the bit: float additions in another order can push an
activation over a rounding step (of another student's 250 rows one moved, by 0.003).

Giving up the eighth bit costs nothing once each output channel has its own scale, and no CPU saturates (see int8_safety.py).
Sources: arXiv:1712.05877 (integer-only inference), https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgedistill.fake_quant import Arithmetic
from edgedistill.int8_safety import require_saturation_free
from edgedistill.onnx_graph import Batch, quiet, save_graph

FORMAT = "onnx"
ABOUT = "int8 weights and activations, ranges taken at run time; no calibration, no saturation without VNNI"
ARITHMETIC = Arithmetic(products="int7_channel", tables="uint8_tensor", activations="uint8_row")


def quantize(graphs: Path, out: Path, calibration: Sequence[Batch], keep_float: frozenset[str]) -> None:
    """Write `out/model.onnx` and `out/facts.json` from `graphs/model.onnx`. `calibration` is not used: ranges are found at run time."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    float_graph = onnx.load(str(graphs / "model.onnx"))
    out.mkdir(parents=True, exist_ok=True)
    with quiet():
        quantize_dynamic(
            float_graph,
            out / "model.onnx",
            weight_type=QuantType.QInt8,
            per_channel=True,
            reduce_range=True,
            nodes_to_exclude=sorted(keep_float),
            # The fused operators carry no types that shape inference knows; everything that is quantized here was float.
            extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
        )
    save_graph(onnx.load(str(out / "model.onnx")), out / "model.onnx")
    require_saturation_free(out / "model.onnx")
    facts = {
        "scheme": "7-bit signed weights, per channel; uint8 activations, dynamic",
        "bytes": (out / "model.onnx").stat().st_size,
        "float_bytes": (graphs / "model.onnx").stat().st_size,
        "kept_float": sorted(keep_float),
        "saturation_free": True,
    }
    (out / "facts.json").write_text(json.dumps(facts, indent=1))


def layers(graphs: Path) -> list[str]:
    """The nodes that would be quantized: products with a constant weight, fused attention, and the embedding tables."""
    import onnx

    graph = onnx.load(str(graphs / "model.onnx")).graph
    constants = {tensor.name for tensor in graph.initializer}
    return [node.name for node in graph.node if _has_weight(node, constants)]


def _has_weight(node: Any, constants: set[str]) -> bool:
    if node.op_type in ("MatMul", "Attention"):
        return node.input[1] in constants
    return node.op_type == "EmbedLayerNormalization" or (node.op_type == "Gather" and node.input[0] in constants)
