"""export: the float graph, once a format, checked against torch before anything is built on it."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

from edgedistill import plugins
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
    rows = read_rows(prepared / "train.parquet")
    step = max(1, len(rows.texts) // CHECKED_ROWS)
    exporter = plugins.find("exporters", params.format)
    hub_task = plugins.find("tasks", params.task).HUB_TASK
    facts = exporter.export(model / "model", out, rows.texts[::step][:CHECKED_ROWS], params.max_tokens, hub_task)
    facts |= {"parameters": _parameters(model / "model" / "model.safetensors")}
    (out / "facts.json").write_text(json.dumps(facts, indent=1))


def _parameters(weights: Path) -> int:
    """Number of parameters, from the header alone."""
    from safetensors import safe_open

    with safe_open(weights, framework="numpy") as tensors:
        return sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118  # not a dict


EXPORT = Stage("export", 4, run, ("torch", "transformers", "onnx", "onnxruntime", "onnxscript"))
