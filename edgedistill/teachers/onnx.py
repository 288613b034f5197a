"""A teacher that can only be run: an ONNX model with its tokenizer, a black box. It is never trained, and nobody looks inside.

The folder holds config.json (its `id2label` names the outputs), tokenizer.json and one `.onnx` file, in it or below it. Which inputs the model
wants is read from the file. What comes out may be logits, probabilities (their logarithms then stand for logits: a softmax gives the same
probabilities back) or only the numbers of labels (hard answers: each counts as sure).
What is no logits yet gets one more node at the end; the weights, and a model that gives logits, stay byte for byte what they were, so that
what is benchmarked is the user's own file.

Texts of exactly equal length share a batch and nothing is padded: a graph that quantizes on the run would see the padding.
"""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgedistill.errors import SourceError, StageError
from edgedistill.models import load_tokenizer
from edgedistill.onnx_graph import session
from edgedistill.recipe import Teacher

TEACHABLE = False
BATCH = 32
SURE = 10.0  # logit of a hard answer, the others being 0
LEAST = 1e-9  # probability that is as good as none
PROBE = ("a short text to look at the outputs", "Anna Smith lives at 12 Park Lane.", "?")


def labels(model: Path, task: str) -> list[str] | None:
    """The names of its outputs, by config.json."""
    names = _config(model).get("id2label") or {}
    if not names:
        raise SourceError(
            "config.json names no labels.",
            where=str(model),
            write='Add "id2label": {"0": "…", "1": "…"}, the outputs of the model in order.',
        )
    return [names[place] for place in sorted(names, key=int)]


def has_head(model: Path, classes: Sequence[str], task: str) -> bool:
    """Whether its labels are exactly these, in this order: nothing can be put into another."""
    return labels(model, task) == list(classes)


def adopt(model: Path, out: Path, classes: list[str], task: str) -> None:
    """Copy file, tokenizer and config. Raises StageError when what comes out is no answer to the task."""
    out.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(_onnx_file(model), out / "model.onnx")
    for name in ("tokenizer.json", "config.json"):
        shutil.copyfile(model / name, out / name)
    _give_logits(out / "model.onnx", load_tokenizer(out, 64), classes, by_token=task == "token-classification")


def fine_tune(model: Path, *_: Any) -> None:
    """Never: it can only be run."""
    raise StageError(
        "an ONNX teacher can only be run, not fine-tuned.",
        where="teacher.fine_tune",
        write='Write fine_tune = "auto", or give the model that the file was exported from with kind = "transformers".',
    )


def logits(
    model: Path,
    texts: Sequence[str],
    classes: list[str],
    task: str,
    options: Teacher,
    max_tokens: int,
    precision: str,
    positions: Callable[[str, Sequence[tuple[int, int]]], npt.NDArray[np.int64]] | None = None,
) -> Any:
    """Its logits, float32 [len(texts), classes]; with `positions` a list of float32 [words, classes]."""
    opened = _session(str(model / "model.onnx"))
    encodings = load_tokenizer(model, max_tokens).encode_batch(list(texts))
    by_length: dict[int, list[int]] = defaultdict(list)
    for place, encoding in enumerate(encodings):
        by_length[len(encoding.ids)].append(place)
    out: list[Any] = [None] * len(texts)
    for places in by_length.values():
        for begin in range(0, len(places), BATCH):
            part = places[begin : begin + BATCH]
            found = opened.run(["logits"], _feeds(opened, [encodings[place].ids for place in part]))[0]
            for place, row in zip(part, found.astype(np.float32), strict=True):
                out[place] = row[positions(texts[place], encodings[place].offsets)] if positions else row
    return out if positions else np.stack(out) if out else np.zeros((0, len(classes)), np.float32)


@lru_cache(maxsize=1)
def _session(file: str) -> Any:
    """The model that was asked last stays loaded: labelling asks shard by shard."""
    return session(Path(file))


def _feeds(opened: Any, ids: list[list[int]]) -> dict[str, npt.NDArray[Any]]:
    """What the graph's inputs are called tells what they want. Raises StageError for one that nobody knows."""
    tokens = np.array(ids, np.int64)
    known = {"input_ids": tokens, "attention_mask": np.ones_like(tokens), "token_type_ids": np.zeros_like(tokens)}
    strange = [entry.name for entry in opened.get_inputs() if entry.name not in known]
    if strange:
        raise StageError(
            f"the ONNX teacher wants an input that texts do not give: {', '.join(strange)}.",
            where="teacher.model",
            write="Export it with the inputs input_ids, attention_mask and, if need be, token_type_ids (int64).",
        )
    return {entry.name: known[entry.name] for entry in opened.get_inputs()}


def _config(model: Path) -> dict[str, Any]:
    for name in ("config.json", "tokenizer.json"):
        if not (model / name).is_file():
            raise SourceError(
                f"this is no ONNX teacher: it has no {name}.",
                where=str(model),
                write="Give the folder that holds config.json, tokenizer.json and the .onnx file.",
            )
    try:
        config: dict[str, Any] = json.loads((model / "config.json").read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as problem:
        raise SourceError(f"config.json cannot be read: {problem}.", where=str(model)) from None
    return config


def _onnx_file(model: Path) -> Path:
    files = sorted(model.rglob("*.onnx"))
    if len(files) != 1:
        found = f"{len(files)}: {', '.join(file.relative_to(model).as_posix() for file in files)}" if files else "none"
        raise SourceError(
            f"an ONNX teacher is one .onnx file; here stand {found}.",
            where=str(model),
            write="Put the one you mean into a folder of its own.",
        )
    return files[0]


def _give_logits(file: Path, tokenizer: Any, classes: list[str], by_token: bool) -> None:
    """See to it that the graph has an output `logits`, of the task's shape."""
    import onnx

    opened = session(file)
    outputs = [entry.name for entry in opened.get_outputs()]
    ids = [tokenizer.encode(text).ids for text in PROBE]
    seen = [dict(zip(outputs, opened.run(None, _feeds(opened, [row])), strict=True)) for row in ids]

    def fits(name: str, end: int | None = None) -> bool:
        wanted = [(1, len(row), len(classes)) if by_token else (1, len(classes)) for row in ids]
        return all(np.shape(found[name]) == shape[:end] for found, shape in zip(seen, wanted, strict=True))

    spread = [name for name in outputs if fits(name) and seen[0][name].dtype.kind == "f"]
    hard = [name for name in outputs if fits(name, -1) and getattr(seen[0][name], "dtype", np.dtype("O")).kind == "i"]
    if not spread and not hard:
        shapes = ", ".join(f"{name} {list(np.shape(value))}" for name, value in seen[0].items())
        wants = f"[1, {len(ids[0])} tokens, {len(classes)} labels]" if by_token else f"[1, {len(classes)} labels]"
        raise StageError(
            f"the ONNX teacher does not answer: for one text it gives {shapes}, and none of them is {wants}.",
            where="teacher.model",
            write="Give a model that ends in logits, probabilities or label numbers, with a name for each label in the id2label of config.json.",
        )
    name = "logits" if "logits" in spread else (spread or hard)[0]
    values = [found[name] for found in seen]
    if name in spread and not all((row >= 0).all() and np.allclose(row.sum(axis=-1), 1, atol=1e-3) for row in values):
        if name == "logits":
            return
        nodes, constants = [onnx.helper.make_node("Identity", [name], ["logits"])], []
    elif name in spread:
        nodes = [onnx.helper.make_node("Max", [name, "least"], ["some"]), onnx.helper.make_node("Log", ["some"], ["logits"])]
        constants = [onnx.numpy_helper.from_array(np.array(LEAST, np.float32), "least")]
    else:
        nodes = [onnx.helper.make_node("OneHot", [name, "depth", "sure"], ["logits"], axis=-1)]
        constants = [
            onnx.numpy_helper.from_array(np.array(len(classes), np.int64), "depth"),
            onnx.numpy_helper.from_array(np.array([0, SURE], np.float32), "sure"),
        ]
    graph = onnx.load(str(file))
    if name == "logits":  # probabilities under the name of logits
        for node in graph.graph.node:
            node.output[:] = ["logits_given" if output == "logits" else output for output in node.output]
        for node in nodes:
            node.input[:] = ["logits_given" if entry == "logits" else entry for entry in node.input]
    graph.graph.node.extend(nodes)
    graph.graph.initializer.extend(constants)
    graph.graph.ClearField("output")
    graph.graph.output.append(onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, None))
    file.write_bytes(graph.SerializeToString())
