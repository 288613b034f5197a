"""quantize: one scheme applied to the float graph; layers that lose too much stay in float.

How much is lost is judged without the test rows: on texts of the transfer set that the calibration does not see, by how much less often the
quantized student agrees with the teacher than its float does. When that is more than the budget leaves, every layer is quantized all but
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
from edgedistill.progress import tick
from edgedistill.stages.teach import read_labels
from edgedistill.store import Stage
from edgedistill.tables import Rows, read_rows
from edgedistill.training import pad

CALIBRATION_ROWS, JUDGED_ROWS, BATCH = 256, 1024, 32


@dataclass(frozen=True)
class Params:
    """allowed_drop: how much agreement with the teacher may be lost, as a share; None quantizes every layer and only measures."""

    scheme: str
    max_tokens: int
    seed: int
    allowed_drop: float | None = None


@dataclass(frozen=True)
class Loss:
    """What a quantized graph loses against its float on the judged rows."""

    drop: float  # agreement with the teacher, float minus quantized
    flips: float  # share of rows answered differently
    divergence: float  # mean KL(float ‖ quantized), nats: falls smoothly where the shares jump


def run(out: Path, params: Params, *, transfer: Path, labels: Path, graphs: Path) -> None:
    """Writes `model.onnx`, the quantizer's `facts.json` and `loss.json`."""
    quantizer = plugins.find("quantizers", params.scheme)
    rows = read_rows(transfer / "transfer.parquet")
    order = np.random.default_rng(params.seed).permutation(len(rows.texts))
    calibration = _batches(rows, order[:CALIBRATION_ROWS], graphs, params.max_tokens)
    judged = order[CALIBRATION_ROWS : CALIBRATION_ROWS + JUDGED_ROWS]
    if len(judged) < 64:  # a tiny transfer set: better to judge on what was calibrated on than not at all
        judged = order[:JUDGED_ROWS]
    teacher = read_labels(labels / "labels.parquet", [rows.keys[place] for place in judged]).argmax(axis=1)
    batches = _batches(rows, judged, graphs, params.max_tokens)
    reference = _logits(graphs / "model.onnx", batches)

    def loss_with(keep: frozenset[str], folder: Path) -> Loss:
        folder.mkdir(exist_ok=True)
        quantizer.quantize(graphs, folder, calibration, keep)
        return compare(reference, _logits(folder / "model.onnx", batches), teacher)

    keep: frozenset[str] = frozenset()
    loss = loss_with(keep, out)
    if params.allowed_drop is not None and loss.drop > params.allowed_drop:
        keep, loss = keep_sensitive(quantizer, graphs, out, loss, params.allowed_drop, loss_with)
    (out / "loss.json").write_text(json.dumps({**vars(loss), "kept_in_float": sorted(keep), "judged_rows": len(judged)}, indent=1))


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
    quantized_bytes = (out / "model.onnx").stat().st_size
    layers = quantizer.layers(graphs)
    gains = {}
    for done, layer in enumerate(layers, 1):
        one = loss_with(frozenset([layer]), trial)
        cost = max(1, (trial / "model.onnx").stat().st_size - quantized_bytes)
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


def compare(reference: npt.NDArray[Any], quantized: npt.NDArray[Any], teacher: npt.NDArray[Any]) -> Loss:
    """reference, quantized: logits [rows, classes]; teacher: its answers, class indices [rows]."""
    ours, theirs = _log_softmax(quantized), _log_softmax(reference)
    divergence = float((np.exp(theirs) * (theirs - ours)).sum(axis=1).mean())
    before, after = reference.argmax(axis=1), quantized.argmax(axis=1)
    drop = float((before == teacher).mean() - (after == teacher).mean())
    return Loss(drop, float((before != after).mean()), divergence)


def _log_softmax(logits: npt.NDArray[Any]) -> npt.NDArray[Any]:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


def calibration_batches(rows: Rows, graphs: Path, max_tokens: int, count: int, seed: int) -> list[dict[str, npt.NDArray[Any]]]:
    """`count` rows drawn from the transfer set, as the graph's inputs."""
    return _batches(rows, np.random.default_rng(seed).permutation(len(rows.texts))[:count], graphs, max_tokens)


def _batches(rows: Rows, places: Sequence[int] | npt.NDArray[Any], graphs: Path, max_tokens: int) -> list[dict[str, npt.NDArray[Any]]]:
    """Real rows as the graph's inputs, like lengths together."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(graphs / "tokenizer.json"))
    tokenizer.enable_truncation(max_tokens)
    ids = [encoding.ids for encoding in tokenizer.encode_batch([rows.texts[place] for place in places])]
    # Not sorted by length: the caller's order must hold for the labels. Lengths vary little in a batch of a narrow task.
    return [pad(ids[begin : begin + BATCH], tokenizer.token_to_id("[PAD]") or 0) for begin in range(0, len(ids), BATCH)]


def _logits(model: Path, batches: list[dict[str, npt.NDArray[Any]]]) -> npt.NDArray[Any]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(["logits"], batch)[0] for batch in batches])


QUANTIZE = Stage("quantize", 1, run, ("onnx", "onnxruntime", "numpy"))
