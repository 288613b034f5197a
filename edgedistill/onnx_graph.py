"""What exporters and quantizers share about ONNX files: write them the same every time, run them, keep their libraries quiet."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Batch = dict[str, npt.NDArray[np.int64]]
"""The inputs of one run: `input_ids` and `attention_mask`, each int64 [B, T]."""


def save_graph(model: Any, path: Path) -> None:
    """Write an `onnx.ModelProto` so that the same graph gives the same bytes on every machine.

    Exporters leave Python stack traces (with the paths of the machine) in doc strings and metadata; those go. Shapes that a tool guessed for
    inner values go too: ONNX Runtime infers them again, and a stale one is an error at load.
    """
    import onnx

    clean = onnx.ModelProto()  # a copy: the caller's graph stays as it is
    clean.CopyFrom(model)
    clean.ClearField("doc_string")
    clean.ClearField("metadata_props")
    graph = clean.graph
    graph.ClearField("doc_string")
    graph.ClearField("metadata_props")
    graph.ClearField("value_info")
    for part in (*graph.node, *graph.initializer, *graph.input, *graph.output):
        part.ClearField("doc_string")
        part.ClearField("metadata_props")
    graph.name = "edgedistill"
    domains = {node.domain for node in graph.node} - {entry.domain for entry in clean.opset_import}
    clean.opset_import.extend(onnx.helper.make_opsetid(domain, 1) for domain in sorted(domains))  # the fusions forget to name theirs
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(clean.SerializeToString(deterministic=True))


def session(model: Path | bytes, *, optimize: bool = True) -> Any:
    """An onnxruntime session on one CPU thread, warnings off. `optimize=False` runs the graph as it is written."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model if isinstance(model, bytes) else str(model), options, providers=["CPUExecutionProvider"])


def run(model: Path | bytes, batches: Sequence[Batch]) -> npt.NDArray[np.float32]:
    """The logits of all rows, float32 [rows, classes]; of a graph that answers token by token, those of all real tokens."""
    opened = session(model)
    found = [(batch, opened.run(None, batch)[0]) for batch in batches]
    return np.concatenate([logits[batch["attention_mask"].astype(bool)] if logits.ndim == 3 else logits for batch, logits in found])


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Stages print nothing: warnings, log lines and progress bars of the libraries inside the block are dropped. Errors still raise."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def products(graph: Any) -> list[Any]:
    """The `MatMul` nodes whose right side is a constant [K, N]. Attention-score products are not among them: both their sides are computed."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    return [node for node in graph.node if node.op_type == "MatMul" and len(shapes.get(node.input[1], ())) == 2]


def tables(graph: Any) -> list[Any]:
    """The `Gather` nodes that look rows up in a constant float table [rows, width ≥ 32]: words and positions, not attention biases."""
    wide = {tensor.name for tensor in graph.initializer if tensor.data_type == 1 and len(tensor.dims) == 2 and tensor.dims[1] >= 32}
    return [node for node in graph.node if node.op_type == "Gather" and node.input[0] in wide]


def left_sides(model: Any, nodes: Sequence[Any], batches: Sequence[Batch]) -> dict[str, npt.NDArray[np.float32]]:
    """What flows into `nodes` on real rows: the left input of each, float32 [tokens, width]. Padding is left out, it is never an answer's input."""
    import onnx

    if not nodes:
        return {}
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    names = sorted({node.input[0] for node in nodes})
    probe.graph.ClearField("output")
    probe.graph.output.extend(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names)
    opened = session(probe.SerializeToString())
    found: dict[str, list[npt.NDArray[np.float32]]] = {name: [] for name in names}
    for batch in batches:
        kept = batch["attention_mask"].astype(bool)
        for name, values in zip(names, opened.run(names, batch), strict=True):
            found[name].append(values[kept] if values.shape[:2] == kept.shape else values.reshape(-1, values.shape[-1]))
    return {name: np.concatenate(parts) for name, parts in found.items()}


def replace(model: Any, changed: dict[str, list[Any]], constants: Sequence[Any]) -> None:
    """Put the nodes `changed[name]` where the node `name` stands, add `constants`, and drop the constants that nothing reads any more."""
    graph = model.graph
    nodes = [new for node in graph.node for new in (changed.get(node.name, [node]) if node.name else [node])]
    graph.ClearField("node")
    graph.node.extend(nodes)
    used = {name for node in graph.node for name in node.input}
    kept = [tensor for tensor in (*graph.initializer, *constants) if tensor.name in used]
    graph.ClearField("initializer")
    graph.initializer.extend(kept)
