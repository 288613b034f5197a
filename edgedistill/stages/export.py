"""export: the float graph, once a format, checked against torch before anything is built on it."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import dataclass
from pathlib import Path

from edgedistill import plugins
from edgedistill.errors import StageError
from edgedistill.models import load_tokenizer
from edgedistill.serving import writes
from edgedistill.store import Stage
from edgedistill.tables import read_rows

CHECKED_ROWS = 256  # real rows on which the graph must answer as torch does


@dataclass(frozen=True)
class Params:
    format: str
    max_tokens: int
    task: str = "classify"


def run(out: Path, params: Params, *, prepared: Path, model: Path) -> None:
    """Writes the float graphs, `tokenizer.json` and `facts.json`. Raises ParityError when a graph or a tokenizer differs from torch's."""
    if (model / "model" / "model.onnx").is_file():  # a teacher that came as ONNX: what is benchmarked is its own file
        if params.format != "onnx":
            raise StageError(
                f"the teacher came as ONNX and cannot be measured as {params.format}.",
                where="compile.targets",
                write='Take a target of format onnx, or give the model that the file was exported from with kind = "transformers".',
            )
        _as_it_is(model / "model", out, params.max_tokens)
        return
    rows = read_rows(prepared / "train.parquet")
    step = max(1, len(rows.texts) // CHECKED_ROWS)
    exporter = plugins.find("exporters", params.format)
    task = plugins.find("tasks", params.task)
    texts = rows.texts[::step][:CHECKED_ROWS]
    if writes(task):  # what is written must be tokenized and scored as torch does, too
        texts = [text for row in range(0, len(rows), step) for text in (rows.texts[row], task.hard(rows.target(row), {}) or "")][
            :CHECKED_ROWS
        ]
    facts = exporter.export(model / "model", out, texts, params.max_tokens, task.HUB_TASK)
    facts |= {"parameters": _parameters(model / "model" / "model.safetensors")}
    (out / "facts.json").write_text(json.dumps(facts, indent=1))


def _as_it_is(model: Path, out: Path, max_tokens: int) -> None:
    import onnx

    shutil.copyfile(model / "model.onnx", out / "model.onnx")
    tokenizer = load_tokenizer(model, max_tokens)
    tokenizer.save(str(out / "tokenizer.json"), pretty=False)
    graph = onnx.load(str(model / "model.onnx")).graph
    halves = {node.input[1] for node in graph.node if node.op_type == "MatMulNBits"}  # two weights a byte
    count = sum(math.prod(tensor.dims) * (2 if tensor.name in halves else 1) for tensor in graph.initializer)
    (out / "facts.json").write_text(json.dumps({"parameters": count, "as_it_is": True}, indent=1))


def _parameters(weights: Path) -> int:
    """Number of parameters, from the header alone."""
    from safetensors import safe_open

    with safe_open(weights, framework="numpy") as tensors:
        return sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118  # not a dict


EXPORT = Stage("export", 4, run, ("torch", "transformers", "onnx", "onnxruntime", "onnxscript"))
