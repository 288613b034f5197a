"""quantize, for answers that are written: one scheme applied to a decoder, and what that loses.

Judged without the test rows, on texts of the transfer set that the calibration does not see: at each token of the teacher's answers the KL of the
quantized decoder from its float and how often the likeliest token is the same (teacher-forced, so that one near tie does not make all that follows
differ); and, written freely under the grammar, how much less often the answer is the teacher's.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgedistill import plugins
from edgedistill.llama_causal import open_decoder
from edgedistill.prompts import Prompts, open_prompts
from edgedistill.stages.prepare import read_settings
from edgedistill.stages.quantize import CALIBRATION_ROWS, Loss, Params, keep_sensitive
from edgedistill.stages.write import read_written
from edgedistill.store import Stage
from edgedistill.tables import make_rows, read_rows
from edgedistill.writer import open_writer

JUDGED_ROWS, WRITTEN_ROWS = 96, 64


@dataclass(frozen=True)
class Rows:
    """Prompts with the teacher's answers, in the student's tokens. stop: the token that ends an answer."""

    prompts: Prompts
    texts: Sequence[str]
    answers: Sequence[str]
    stop: int

    def ids(self) -> list[tuple[list[int], list[int]]]:
        """(prompt, answer with the stop token) of each row."""
        found = []
        for text, answer in zip(self.texts, self.answers, strict=True):
            prompt = self.prompts.encode(text)[0]
            found.append((prompt, [*self.prompts.answer(answer), self.stop][: self.prompts.max_tokens - len(prompt)]))
        return found


def run(out: Path, params: Params, *, prepared: Path, transfer: Path, labels: Path, graphs: Path, plain: Path | None = None) -> None:
    """Writes `model.gguf`, the quantizer's `facts.json` and `loss.json`."""
    quantizer = plugins.find("quantizers", params.scheme)
    task, settings = plugins.find("tasks", params.task), read_settings(prepared)
    file, max_tokens = f"model.{quantizer.FORMAT}", params.max_tokens
    prompts, stop = open_prompts(graphs / "tokenizer.json", settings, max_tokens), _stop(graphs / file)
    rows = read_rows(transfer / "transfer.parquet")
    held = read_rows(transfer / "held_out.parquet") if (transfer / "held_out.parquet").is_file() else make_rows([])
    order = np.random.default_rng(params.seed).permutation(len(rows))

    def of(texts: Sequence[str], keys: Sequence[str]) -> Rows:
        return Rows(prompts, texts, read_written(labels / "labels.parquet", keys), stop)

    def chosen(places: Any) -> Rows:
        return of([rows.texts[place] for place in places], [rows.keys[place] for place in places])

    calibration = [[*prompt, *answer] for prompt, answer in chosen(order[:CALIBRATION_ROWS]).ids()]
    behind = order[CALIBRATION_ROWS : CALIBRATION_ROWS + JUDGED_ROWS]
    judged = chosen(behind if len(behind) >= JUDGED_ROWS // 2 else order[:JUDGED_ROWS])  # a tiny transfer set: better so than not at all
    free = of(held.texts[:WRITTEN_ROWS], held.keys[:WRITTEN_ROWS]) if len(held) else judged

    def answered(model: Path) -> tuple[list[npt.NDArray[np.float32]], list[Any]]:
        """The logits at each token of the teacher's answers, and what is written freely; side by side, each on one thread of llama.cpp's."""
        with ThreadPoolExecutor(2) as pool:
            logits, written = pool.submit(forced, model, judged), pool.submit(said, model, graphs, free, task, settings)
            return logits.result(), written.result()

    reference, before = answered(graphs / file)
    right = [task.answer(answer, settings)["target"] for answer in free.answers]
    top1 = 0.0

    def loss_with(keep: frozenset[str], folder: Path) -> Loss:
        nonlocal top1
        folder.mkdir(exist_ok=True)
        quantizer.quantize(graphs, folder, calibration, keep)
        found, after = answered(folder / file)
        lost = [
            task.judge(one, answer, settings)[0] - task.judge(other, answer, settings)[0]
            for one, other, answer in zip(before, after, right, strict=True)
        ]
        flips = float(np.mean([one != other for one, other in zip(before, after, strict=True)]))
        top1 = float(np.mean(np.concatenate(reference).argmax(-1) == np.concatenate(found).argmax(-1)))
        apart = task.divergence(np.concatenate(reference), np.concatenate(found), settings).mean()
        return Loss(surely(lost), flips, float(apart))

    keep: frozenset[str] = frozenset()
    loss = loss_with(keep, out)
    if params.allowed_drop is not None and loss.drop > params.allowed_drop:
        keep, loss = keep_sensitive(quantizer, graphs, out, loss, params.allowed_drop, loss_with)
    facts = {
        **vars(loss),
        "top1": top1,
        "kept_in_float": sorted(keep),
        "judged_rows": len(judged.texts),
        "through_quantizer": plain is not None,
    }
    (out / "loss.json").write_text(json.dumps(facts, indent=1))


def surely(lost: Sequence[float]) -> float:
    """How much is lost at least, with 95 %, as far as these rows can tell; 0 when it may be nothing.

    A few dozen answers are written, and one of them is points of exact match: what may be luck must not send whole layers back to float.
    """
    values = np.asarray(lost, dtype=float)
    return max(0.0, float(values.mean() - 1.96 * values.std(ddof=1) / np.sqrt(len(values)))) if len(values) > 1 else 0.0


def forced(model: Path, rows: Rows) -> list[npt.NDArray[np.float32]]:
    """The logits at each token of the given answers, float32 [tokens of the answer, vocabulary]."""
    ids = rows.ids()
    decoder = open_decoder(model, max(len(prompt) + len(answer) for prompt, answer in ids))
    return [decoder.logits([*prompt, *answer[:-1]])[len(prompt) - 1 :] for prompt, answer in ids]


def said(model: Path, graphs: Path, rows: Rows, task: Any, settings: dict[str, Any]) -> list[Any]:
    """What the decoder answers to each text, as the task has it."""
    writer = open_writer(model, graphs / "tokenizer.json", rows.prompts.max_tokens, 1, settings)
    return [task.answer(writer.write(writer.encode(text)[0]), settings)["target"] for text in rows.texts]


def _stop(model: Path) -> int:
    from edgedistill.gguf_file import read_gguf

    return int(read_gguf(model).facts["tokenizer.ggml.eos_token_id"])


QUANTIZE = Stage("quantize", 7, run, ("numpy",))
