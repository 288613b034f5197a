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

    clean = onnx.ModelProto()
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
    """The logits of all rows, float32 [rows, classes]."""
    opened = session(model)
    return np.concatenate([opened.run(None, batch)[0] for batch in batches])


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
