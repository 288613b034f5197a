"""quantize: one scheme applied to the float graph; layers that lose too much stay in float.

How much is lost is judged without the test rows: on texts of the transfer set that the calibration does not see, by how much less often the
quantized student agrees with the teacher than its float does. A student that learned on through the quantizer has seen those texts once more than its
float has, so both are judged on the held-out texts there. When that is more than the budget leaves, every layer is quantized all but
one in turn; the layers whose stay in float wins most back, per byte that it costs, stay in float until the loss fits.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from edgedistill import plugins
from edgedistill.int8_safety import require_saturation_free
from edgedistill.progress import tick
from edgedistill.stages.prepare import read_settings
from edgedistill.stages.teach import teacher_logits
from edgedistill.store import Stage
from edgedistill.tables import Rows, read_rows
from edgedistill.tasks import together
from edgedistill.training import pad

CALIBRATION_ROWS, JUDGED_ROWS, BATCH = 256, 1024, 32
FEWEST_HELD_OUT = 64
PADDING = ("[PAD]", "<pad>")  # BERT's name for it, and that of RoBERTa and MPNet, whose position numbers depend on it


@dataclass(frozen=True)
class Params:
    """allowed_drop: how much agreement with the teacher may be lost, as a share; None quantizes every layer and only measures."""

    scheme: str
    max_tokens: int
    seed: int
    allowed_drop: float | None = None
    task: str = "classify"


@dataclass(frozen=True)
class Loss:
    """What a quantized graph loses against its float on the judged rows."""

    drop: float  # agreement with the teacher in the task's metric, float minus quantized
    flips: float  # share of rows answered differently
    divergence: float  # the task's mean distance of quantized from float logits: falls smoothly where the shares jump


def run(out: Path, params: Params, *, prepared: Path, transfer: Path, labels: Path, graphs: Path, plain: Path | None = None) -> None:
    """Writes `model.onnx` or `model.gguf`, the quantizer's `facts.json` and `loss.json`.

    plain: the float graph of the student before it learned through the quantizer, where `graphs` are of one that did: the loss counts from there.
    """
    quantizer = plugins.find("quantizers", params.scheme)
    file = f"model.{quantizer.FORMAT}"
    rows = read_rows(transfer / "transfer.parquet")
    order = np.random.default_rng(params.seed).permutation(len(rows.texts))
    tokenizer = _tokenizer(graphs, params.max_tokens)
    calibration = _batches(tokenizer, _encoded(tokenizer, [rows.texts[place] for place in order[:CALIBRATION_ROWS]]))
    judged = order[CALIBRATION_ROWS : CALIBRATION_ROWS + JUDGED_ROWS]
    if len(judged) < 64:  # a tiny transfer set: better to judge on what was calibrated on than not at all
        judged = order[:JUDGED_ROWS]
    task, settings = plugins.find("tasks", params.task), read_settings(prepared)
    asked = _ask(task, settings, tokenizer, labels, [rows.texts[place] for place in judged], [rows.keys[place] for place in judged])
    before = (plain or graphs) / file
    reference = asked.said(before)

    def loss_with(keep: frozenset[str], folder: Path) -> Loss:
        folder.mkdir(exist_ok=True)
        quantizer.quantize(graphs, folder, calibration, keep)
        if quantizer.FORMAT == "onnx":  # whoever wrote the quantizer: a binary that saturates on some x86 is no candidate anywhere
            require_saturation_free(folder / file)
        return compare(task, settings, asked.texts, reference, asked.said(folder / file), asked.teacher)

    keep: frozenset[str] = frozenset()
    loss = loss_with(keep, out)
    if params.allowed_drop is not None and loss.drop > params.allowed_drop:
        keep, loss = keep_sensitive(quantizer, graphs, out, loss, params.allowed_drop, loss_with)
    facts: dict[str, Any] = {
        **vars(loss),
        "kept_in_float": sorted(keep),
        "judged_rows": len(judged),
        "through_quantizer": plain is not None,
    }
    held = read_rows(transfer / "held_out.parquet") if (transfer / "held_out.parquet").is_file() else None
    if held is not None and len(held) >= FEWEST_HELD_OUT:
        unseen = _ask(task, settings, tokenizer, labels, held.texts, held.keys)
        drop = compare(task, settings, unseen.texts, unseen.said(before), unseen.said(out / file), unseen.teacher).drop
        facts["unseen_drop"] = drop
    (out / "loss.json").write_text(json.dumps(facts, indent=1))


@dataclass(frozen=True)
class _Asked:
    """Texts that a graph can be asked, and what the teacher says of them. positions: where the words of each text are answered, if it is by word."""

    texts: Sequence[str]
    batches: list[dict[str, npt.NDArray[Any]]]
    positions: list[npt.NDArray[Any]] | None
    teacher: Any

    def said(self, model: Path) -> list[npt.NDArray[Any]]:
        """The logits of each text, as the task has them: [outputs] or [words, outputs]."""
        logits = _logits(model, self.batches)
        return logits if self.positions is None else [row[places] for row, places in zip(logits, self.positions, strict=True)]


def _ask(task: ModuleType, settings: dict[str, Any], tokenizer: Any, labels: Path, texts: list[str], keys: list[str]) -> _Asked:
    encodings = _encoded(tokenizer, texts)
    positions = None
    if hasattr(task, "positions"):
        positions = [task.positions(text, row.offsets) for text, row in zip(texts, encodings, strict=True)]
    return _Asked(texts, _batches(tokenizer, encodings), positions, teacher_logits(labels / "labels.parquet", keys, task, settings))


def keep_sensitive(
    quantizer: ModuleType,
    graphs: Path,
    out: Path,
    loss: Loss,
    allowed: float,
    loss_with: Callable[[frozenset[str], Path], Loss],
) -> tuple[frozenset[str], Loss]:
    """Keep the most sensitive layers in float until the loss fits. Leaves the result in `out`; gives the kept layers and the loss."""
    trial = out / "trial"
    file = f"model.{quantizer.FORMAT}"
    quantized_bytes = (out / file).stat().st_size
    layers = quantizer.layers(graphs)
    gains = {}
    for done, layer in enumerate(layers, 1):
        one = loss_with(frozenset([layer]), trial)
        cost = max(1, (trial / file).stat().st_size - quantized_bytes)
        gains[layer] = (loss.divergence - one.divergence) / cost
        tick("sensitivity of each layer", done, len(layers))
    keep: frozenset[str] = frozenset()
    for layer in sorted(gains, key=lambda name: -gains[name]):
        if gains[layer] <= 0:
            break
        keep |= {layer}
        loss = loss_with(keep, trial)
        if loss.drop <= allowed:
            break
    loss = loss_with(keep, out)
    shutil.rmtree(trial)
    return keep, loss


def compare(task: ModuleType, settings: dict[str, Any], texts: Sequence[str], reference: Any, quantized: Any, teacher: Any) -> Loss:
    """reference, quantized, teacher: logits of each text as the task has them, [outputs] or [words, outputs]."""

    def answers(logits: Any) -> list[Any]:
        said = [task.answer(row, settings, text)["target"] for row, text in zip(logits, texts, strict=True)]
        return together(task, said, settings)

    right, before, after = answers(teacher), answers(reference), answers(quantized)
    gained = [
        np.sum([task.judge(one, other, settings) for one, other in zip(said, right, strict=True)], axis=0) for said in (before, after)
    ]
    drop = float(gained[0][0] / (gained[0][1] or 1) - gained[1][0] / (gained[1][1] or 1))
    flips = float(np.mean([one != other for one, other in zip(before, after, strict=True)]))
    rows = [np.concatenate([np.atleast_2d(row) for row in logits]) for logits in (reference, quantized)]
    return Loss(drop, flips, float(task.divergence(*rows, settings).mean()))


def calibration_batches(rows: Rows, graphs: Path, max_tokens: int, count: int, seed: int) -> list[dict[str, npt.NDArray[Any]]]:
    """`count` rows drawn from the transfer set, as the graph's inputs."""
    tokenizer, order = _tokenizer(graphs, max_tokens), np.random.default_rng(seed).permutation(len(rows.texts))
    return _batches(tokenizer, _encoded(tokenizer, [rows.texts[place] for place in order[:count]]))


def _tokenizer(graphs: Path, max_tokens: int) -> Any:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(graphs / "tokenizer.json"))
    tokenizer.enable_truncation(max_tokens)
    return tokenizer


def _encoded(tokenizer: Any, texts: Sequence[str]) -> list[Any]:
    return list(tokenizer.encode_batch(list(texts)))


def _batches(tokenizer: Any, encodings: Sequence[Any]) -> list[dict[str, npt.NDArray[Any]]]:
    """Real rows as the graph's inputs."""
    pad_id = next((found for token in PADDING if (found := tokenizer.token_to_id(token)) is not None), 0)
    ids = [encoding.ids for encoding in encodings]
    # Not sorted by length: the caller's order must hold for the labels. Lengths vary little in a batch of a narrow task.
    return [pad(ids[begin : begin + BATCH], pad_id) for begin in range(0, len(ids), BATCH)]


def _logits(model: Path, batches: list[dict[str, npt.NDArray[Any]]]) -> list[npt.NDArray[Any]]:
    """Of each row, [outputs] or [tokens, outputs]."""
    if model.suffix == ".gguf":
        from edgedistill.llama import open_file

        rows = [ids[mask == 1] for batch in batches for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)]
        opened = open_file(model, max(map(len, rows)))
        return [opened.outputs(row.tolist()) for row in rows]
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    return [row for batch in batches for row in session.run(["logits"], batch)[0]]


QUANTIZE = Stage("quantize", 6, run, ("onnx", "onnxruntime", "numpy"))
