"""int8 products with int4 tables: each part of a small student in the form that suits it.

Where the time goes and where the bytes are is not the same place. The products take the time, and int8 makes them fast; the word table is most of the
file, and looking up one row of it costs next to nothing whatever its form. So products are as in `onnx_int8_dynamic`, tables as in `onnx_int4_block`.

Three layers of MiniLM with 17,004 tokens: 12.34 MB in int8, 9.45 MB here; 6.27× and 6.21× as fast as the six-layer teacher (medians of 12 rounds in
turns, tokenizing included).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgedistill.fake_quant import BLOCK, Arithmetic
from edgedistill.int8_safety import require_saturation_free
from edgedistill.onnx_graph import Batch, quiet, replace, save_graph, tables
from edgedistill.quantizers import onnx_int8_dynamic
from edgedistill.quantizers.onnx_int4_block import block_table

FORMAT = "onnx"
ABOUT = "int8 products, int4 tables; nearly as fast as int8, and much smaller where the word table is most of the model"
ARITHMETIC = Arithmetic(products="int7_channel", tables="int4_block", activations="uint8_row", narrowest_table=32)


def quantize(graphs: Path, out: Path, calibration: Sequence[Batch], keep_float: frozenset[str]) -> None:
    """Write `out/model.onnx` and `out/facts.json` from `graphs/model.onnx`. `calibration` is not used: ranges are found at run time."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    out.mkdir(parents=True, exist_ok=True)
    with quiet():
        quantize_dynamic(
            onnx.load(str(graphs / "model.onnx")),
            out / "model.onnx",
            op_types_to_quantize=["MatMul", "Attention"],
            weight_type=QuantType.QInt8,
            per_channel=True,
            reduce_range=True,  # see onnx_int8_dynamic and int8_safety
            nodes_to_exclude=sorted(keep_float),
            extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
        )
    model = onnx.load(str(out / "model.onnx"))
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    changed: dict[str, list[Any]] = {}
    constants: list[Any] = []
    for node in tables(model.graph):
        if node.name not in keep_float:
            new, parts = block_table(node, onnx.numpy_helper.to_array(weights[node.input[0]]))
            changed[node.name] = [new]
            constants += parts
    replace(model, changed, constants)
    save_graph(model, out / "model.onnx")
    require_saturation_free(out / "model.onnx")
    facts = {
        "scheme": f"7-bit signed weights, per channel, dynamic; tables of 4 bits in blocks of {BLOCK}",
        "bytes": (out / "model.onnx").stat().st_size,
        "float_bytes": (graphs / "model.onnx").stat().st_size,
        "kept_float": sorted(keep_float),
        "saturation_free": True,
    }
    (out / "facts.json").write_text(json.dumps(facts, indent=1))


def layers(graphs: Path) -> list[str]:
    """The nodes that would be quantized: products with a constant weight, fused attention, and the embedding tables."""
    return onnx_int8_dynamic.layers(graphs)
