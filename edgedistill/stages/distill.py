"""distill: train the student on the teacher's soft labels, and beside it the controls that prove what that was worth.

Three runs differ in one thing each: "distilled" learns the recipe's losses on the transfer set; the control "labels" learns the gold labels
alone; the control "train_rows" learns the teacher's soft labels of the training rows alone, which tells what the transfer set bought. All
start from the same weights and take the same number of steps of the same size.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from edgedistill import plugins
from edgedistill.errors import StageError
from edgedistill.models import load_model, load_tokenizer, save
from edgedistill.progress import tick
from edgedistill.recipe import Distill, Student
from edgedistill.stages.prepare import read_settings
from edgedistill.stages.teach import teacher_logits
from edgedistill.store import Stage, plain
from edgedistill.tables import read_rows
from edgedistill.training import Column, Schedule, stacked, train

Run = Literal["distilled", "labels", "train_rows"]
DEFAULT_FAMILY = "transformer"  # what family = "auto" stands for until there is a search


@dataclass(frozen=True)
class Params:
    run: Run
    student: Student
    distill: Distill
    task: str
    precision: str
    seed: int


def run(out: Path, params: Params, *, prepared: Path, transfer: Path, labels: Path, source: Path) -> None:
    """Writes `model/` (a Hugging Face folder) and `facts.json`. source: the teacher's artifact, or a model folder to start from."""
    inputs = {"prepared": prepared, "transfer": transfer, "labels": labels, "source": source}
    if params.distill.processes > 1:
        _in_processes(out, params, inputs)
    else:
        _learn(out, params, **inputs)


def _learn(out: Path, params: Params, *, prepared: Path, transfer: Path, labels: Path, source: Path) -> None:
    """One process's part. Every process does the same; the Trainer divides the rows, and rank 0 writes."""
    from torch import distributed

    task, settings = plugins.find("tasks", params.task), read_settings(prepared)
    classes = settings["labels"]
    rows = read_rows(transfer / "transfer.parquet")
    first = not distributed.is_initialized() or distributed.get_rank() == 0
    start = out / "checkpoints" / "start"
    if first and not (start / "facts.json").is_file():
        family = plugins.find("students", DEFAULT_FAMILY if params.student.family == "auto" else params.student.family)
        folder = source / "model" if (source / "model").is_dir() else source
        start.mkdir(parents=True, exist_ok=True)
        facts = family.start(folder, start, params.student, rows.texts, classes, task.HUB_TASK, params.seed)
        (start / "facts.json").write_text(json.dumps(facts))
    if distributed.is_initialized():
        distributed.barrier()
    student = load_model(start, task.HUB_TASK, classes, dtype="float32")
    tokenizer = load_tokenizer(start, params.student.max_tokens)

    # What the runs differ in: the rows and the losses. The step count is the same for all and follows from the transfer set.
    losses = params.distill.losses if params.run != "labels" else [{"kind": "hard_label", "weight": 1.0, "of": task.hard_kind(settings)}]
    real = range(_fact(transfer, "training_rows"))
    places = [*real] if params.run != "distilled" else _with_real_rows(len(rows.texts), transfer, params.distill.real_rows)
    rows_a_step = params.distill.batch_size * params.distill.processes
    steps = params.distill.steps or max(1, round(params.distill.epochs * len(rows.texts) / rows_a_step))
    texts = [rows.texts[place] for place in places]
    encodings = tokenizer.encode_batch(texts)
    offsets = [encoding.offsets for encoding in encodings]
    said = teacher_logits(labels / "labels.parquet", [rows.keys[place] for place in places], task, settings)
    hard = [task.hard(rows.target(place), settings, text, offset) for place, text, offset in zip(places, texts, offsets, strict=True)]
    columns: dict[str, Column] = {"labels": stacked(hard), "teacher_logits": said}
    if hasattr(task, "positions"):
        columns |= on_tokens(said, [task.positions(text, offset) for text, offset in zip(texts, offsets, strict=True)], offsets)
    if not params.distill.dropout:
        no_dropout(student)
    student.train()
    train(
        student,
        [encoding.ids for encoding in encodings],
        columns,
        combined(losses),
        Schedule(
            steps,
            params.distill.learning_rate,
            params.distill.batch_size,
            params.precision,
            params.seed,
            average=params.distill.average or None,
        ),
        pad_id=student.config.pad_token_id or 0,
        checkpoints=out / "checkpoints",
        label={"distilled": "distilling", "labels": "control: labels alone", "train_rows": "control: training rows alone"}[params.run],
    )
    if first:
        facts = json.loads((start / "facts.json").read_text())
        facts |= {"run": params.run, "steps": steps, "batch_size": rows_a_step, "rows": len(texts), "losses": losses}
        save(student, load_tokenizer(start), out / "model")
        (out / "facts.json").write_text(json.dumps(facts, indent=1))


def _with_real_rows(count: int, transfer: Path, times: int) -> list[int]:
    """Every row once, and the real ones (training, traffic) `times` times: what the teacher says of them matters most."""
    real = _fact(transfer, "training_rows") + _fact(transfer, "traffic_rows")  # they stand first
    return [*range(count), *list(range(real)) * (times - 1)]


def _fact(transfer: Path, name: str) -> int:
    return int(json.loads((transfer / "facts.json").read_text(encoding="utf-8"))[name])


def on_tokens(
    said: Sequence[npt.NDArray[Any]], positions: Sequence[npt.NDArray[np.int64]], offsets: Sequence[Sequence[Any]]
) -> dict[str, Column]:
    """The teacher's answers to words, put where the student's tokens answer for the same words.

    The two may cut words into other pieces: a word is found by its characters (`positions`), so its soft target stands at the student's
    first piece of it. `mask` says which tokens that are; all others teach nothing. said: float [words, outputs] of each text; a word that
    one of both did not read any more, because the text was cut off, is left out.
    """
    logits, masks = [], []
    for words, places, tokens in zip(said, positions, offsets, strict=True):
        count = min(len(words), len(places))
        spread, mask = np.zeros((len(tokens), words.shape[1]), np.float32), np.zeros(len(tokens), bool)
        spread[places[:count]], mask[places[:count]] = words[:count], True
        logits.append(spread)
        masks.append(mask)
    return {"teacher_logits": logits, "mask": masks}


def combined(losses: list[dict[str, Any]]) -> Any:
    """The weighted sum of a recipe's losses as one function (outputs, batch) → scalar.

    Of a task that answers word by word the losses see one row for each token that answers, so that no loss has to know about masks.
    """
    terms = []
    for loss in losses:
        plugin = plugins.find("losses", loss["kind"])
        terms.append((plugin.loss, plugin.Options(**{key: value for key, value in loss.items() if key != "kind"})))

    def whole(outputs: Any, batch: dict[str, Any]) -> Any:
        mask = batch.get("mask")
        if mask is not None:
            if not mask.any():
                return outputs.logits.sum() * 0
            outputs.logits = outputs.logits[mask]
            batch = batch | {name: batch[name][mask] for name in ("labels", "teacher_logits")}
        return sum(options.weight * term(outputs, batch, options) for term, options in terms)

    return whole


def no_dropout(model: Any) -> None:
    """Switch dropout off."""
    from torch.nn import Dropout

    for module in model.modules():
        if isinstance(module, Dropout):
            module.p = 0.0


# --- several processes on this machine ------------------------------------------------------------------------------------------------


def _in_processes(out: Path, params: Params, inputs: dict[str, Path]) -> None:
    """Run `_learn` in `processes` processes through torch.distributed.run; they tell their progress line by line."""
    job = out / "job.json"
    job.write_text(json.dumps({"out": str(out), "params": plain(params), "inputs": {name: str(path) for name, path in inputs.items()}}))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={params.distill.processes}"]
    done = subprocess.Popen(
        [*command, "-m", "edgedistill.stages.distill", str(job)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    words = []
    assert done.stdout and done.stderr  # both are pipes
    for line in done.stdout:
        if line.startswith('{"tick"'):
            tick(*json.loads(line)["tick"])
        else:
            words.append(line.strip())
    stderr = done.stderr.read()
    job.unlink()
    if done.wait():
        last = [line for line in stderr.splitlines() if "Error" in line] or words or [stderr[-300:]]
        raise StageError(f"a training process failed: {last[-1].strip()}")


def _process() -> None:
    from torch import distributed

    from edgedistill.progress import listening

    job = json.loads(Path(sys.argv[1]).read_text())
    facts = job["params"]
    params = Params(**facts | {"student": Student(**facts["student"]), "distill": Distill(**facts["distill"])})
    distributed.init_process_group("gloo")
    stdout = sys.stdout

    def tell(label: str, done: int, total: int) -> None:
        if distributed.get_rank() == 0:
            stdout.write(json.dumps({"tick": [label, done, total]}) + "\n")
            stdout.flush()

    with listening(tell):
        _learn(Path(job["out"]), params, **{name: Path(path) for name, path in job["inputs"].items()})
    distributed.destroy_process_group()


DISTILL = Stage("distill", 4, run, ("torch", "transformers", "accelerate", "tokenizers"))

if __name__ == "__main__":
    _process()
