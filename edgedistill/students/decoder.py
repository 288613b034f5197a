"""A decoder with fewer layers and a task vocabulary, cut out of the teacher: it writes what the task's answers are made of, and little else.

It starts from the teacher's own weights: kept layers, kept rows of the token table, which is the head too. Of a small decoder the general
vocabulary is the larger part, and each token written pays for all of it. Sources: DistilGPT-2, arXiv:1910.01108; layers dropped and healed by
distillation, Minitron, arXiv:2407.14679; vocabulary: `decoder_cut.py`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgedistill.decoder_cut import cut_decoder
from edgedistill.recipe import Student
from edgedistill.students.transformer import which_layers

ABOUT = "decoder: layers cut from a teacher that writes, task vocabulary"
TASKS = frozenset({"generate"})
OPTIONS = frozenset({"layers", "vocabulary"})
DEFAULT_LAYERS = 4


def start(source: Path, out: Path, options: Student, texts: Sequence[str], classes: list[str], task: str, seed: int) -> dict[str, Any]:
    """Write the student before any training under `out`. texts: prompts and answers, of which the vocabulary is made."""
    before = json.loads((source / "config.json").read_text(encoding="utf-8"))["num_hidden_layers"]
    layers = which_layers(DEFAULT_LAYERS if options.layers is None else options.layers, before)
    kept = None if options.vocabulary == "full" else texts
    most = options.vocabulary if isinstance(options.vocabulary, int) else None
    facts = cut_decoder(source, out, kept, most=most, layers=layers)
    for name in ("tokenizer_config.json", "chat_template.jinja"):
        if (source / name).is_file() and not (out / name).is_file():
            shutil.copyfile(source / name, out / name)
    config = json.loads((out / "config.json").read_text(encoding="utf-8"))
    return {
        "architecture": config["model_type"],
        "layers": facts["layers"],
        "layers_before": facts["layers_before"],
        "width": config["hidden_size"],
        "vocabulary": facts["vocabulary"],
        "vocabulary_before": facts["vocabulary_before"],
        "parameters": _parameters(out),
        "parameters_before": _parameters(source),
        "texts_with_equal_ids": len(texts) if options.vocabulary == "task" else None,
    }


def _parameters(folder: Path) -> int:
    import math

    from safetensors import safe_open

    count = 0
    for file in folder.glob("*.safetensors"):
        with safe_open(file, framework="numpy") as tensors:
            count += sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118  # not a dict
    return count


def learning_rate(facts: Mapping[str, Any]) -> float:
    return 1e-3


def sizes(options: Student, teacher: Mapping[str, Any]) -> list[Student]:
    """A ladder of candidates from the cheapest to the dearest; what `options` fixes stays fixed."""
    depths = [options.layers] if options.layers is not None else [depth for depth in (2, 4, 6, 8) if depth <= teacher["layers"]]
    return [options.model_copy(update={"family": "decoder", "layers": depth}) for depth in depths]
