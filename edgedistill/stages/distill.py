"""distill: train the student on the teacher's soft labels, and beside it the controls that prove what that was worth.

Three runs differ in one thing each: "distilled" learns the recipe's losses on the transfer set; the control "labels" learns the gold labels
alone; the control "train_rows" learns the teacher's soft labels of the training rows alone, which tells what the transfer set bought. All
start from the same weights and take the same number of steps of the same size.
"""

from __future__ import annotations

import json
import subprocess
import sys
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
from edgedistill.stages.teach import read_labels
from edgedistill.store import Stage, plain
from edgedistill.tables import Rows, make_rows, read_rows
from edgedistill.training import Schedule, pad, train

Run = Literal["distilled", "labels", "train_rows"]
MOST_HELD_OUT = 1000  # rows: enough to tell candidates apart, few enough to be spared


@dataclass(frozen=True)
class Params:
    """share: of the steps that the recipe asks for. held_out: share of the training rows that are left out and answered at the end."""

    run: Run
    student: Student
    distill: Distill
    task: str
    precision: str
    seed: int
    share: float = 1.0
    held_out: float = 0.0


def run(out: Path, params: Params, *, prepared: Path, transfer: Path, labels: Path, start: Path) -> None:
    """Writes `model/` (a Hugging Face folder), `facts.json` and, when rows are held out, `held_out.json` (how each was answered).

    start: the student's weights to begin with: an untrained student, or one that was trained for a part of the steps.
    """
    inputs = {"prepared": prepared, "transfer": transfer, "labels": labels, "start": start}
    if params.distill.processes > 1:
        _in_processes(out, params, inputs)
    else:
        _learn(out, params, **inputs)


def _learn(out: Path, params: Params, *, prepared: Path, transfer: Path, labels: Path, start: Path) -> None:
    """One process's part. Every process does the same; the Trainer divides the rows, and rank 0 writes."""
    from torch import distributed

    classes = json.loads((prepared / "classes.json").read_text())
    task = plugins.find("tasks", params.task)
    rows = read_rows(transfer / "transfer.parquet")
    first = not distributed.is_initialized() or distributed.get_rank() == 0
    student = load_model(start / "model", task.HUB_TASK, classes, dtype="float32")
    tokenizer = load_tokenizer(start / "model", params.student.max_tokens)

    # What the runs differ in: the rows and the losses. The step count is the same for all and follows from the transfer set.
    losses = params.distill.losses if params.run != "labels" else [{"kind": "hard_label", "weight": 1.0}]
    rows_a_step = params.distill.batch_size * params.distill.processes
    steps = params.distill.steps or max(1, round(params.distill.epochs * len(rows.texts) / rows_a_step))
    steps = max(1, round(params.share * steps))
    if params.run == "labels":
        rows = _with_gold(prepared, transfer)
    aside = held_out(rows, params.held_out)
    labelled = [place for place, label in enumerate(rows.labels) if label >= 0]
    places = labelled if params.run != "distilled" else _with_real_rows(len(rows.texts), transfer, params.distill.real_rows)
    places = [place for place in places if place not in aside]
    texts = [rows.texts[place] for place in places]
    columns: dict[str, npt.NDArray[Any]] = {
        "labels": rows.labels[places].astype(np.int64),
    }
    if params.run != "labels":
        columns["teacher_logits"] = read_labels(labels / "labels.parquet", [rows.keys[place] for place in places])
    if not params.distill.dropout:
        no_dropout(student)
    student.train()
    train(
        student,
        [encoding.ids for encoding in tokenizer.encode_batch(texts)],
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
        if aside:
            _answer_held_out(out / "held_out.json", student, tokenizer, rows, sorted(aside))
        facts |= {"run": params.run, "steps": steps, "batch_size": rows_a_step, "rows": len(texts), "losses": losses}
        save(student, load_tokenizer(start / "model"), out / "model")
        (out / "facts.json").write_text(json.dumps(facts, indent=1))


def _with_gold(prepared: Path, transfer: Path) -> Rows:
    """Every training row but those held out: a label counts, whether or not the teacher was asked about its text."""
    train = read_rows(prepared / "train.parquet")
    held = set(read_rows(transfer / "held_out.parquet").keys) if (transfer / "held_out.parquet").is_file() else set()
    places = [place for place, key in enumerate(train.keys) if key not in held]
    return make_rows([train.texts[place] for place in places], train.labels[places])


def held_out(rows: Rows, share: float) -> set[int]:
    """Places of the labelled rows that are kept aside: the same ones for every student, drawn by the hash of the text."""
    labelled = sorted((rows.keys[place], place) for place, label in enumerate(rows.labels) if label >= 0)
    return {place for _, place in labelled[: min(MOST_HELD_OUT, round(share * len(labelled)))]}


def _answer_held_out(file: Path, student: Any, tokenizer: Any, rows: Rows, places: list[int]) -> None:
    import torch

    right = []
    with torch.inference_mode():
        for begin in range(0, len(places), 64):
            part = places[begin : begin + 64]
            ids = [encoding.ids for encoding in tokenizer.encode_batch([rows.texts[place] for place in part])]
            batch = {name: torch.from_numpy(values) for name, values in pad(ids, student.config.pad_token_id or 0).items()}
            right += (student(**batch).logits.argmax(dim=-1).numpy() == rows.labels[part]).tolist()
    file.write_text(json.dumps({"gained": list(map(float, right)), "possible": [1.0] * len(right)}))


def _with_real_rows(count: int, transfer: Path, times: int) -> list[int]:
    """Every row once, and the real ones (training, traffic) `times` times: what the teacher says of them matters most."""
    facts = json.loads((transfer / "facts.json").read_text(encoding="utf-8"))
    real = facts["training_rows"] + facts["traffic_rows"]  # they stand first
    return [*range(count), *list(range(real)) * (times - 1)]


def combined(losses: list[dict[str, Any]]) -> Any:
    """The weighted sum of a recipe's losses as one function (outputs, batch) → scalar."""
    terms = []
    for loss in losses:
        plugin = plugins.find("losses", loss["kind"])
        terms.append((plugin.loss, plugin.Options(**{key: value for key, value in loss.items() if key != "kind"})))
    return lambda outputs, batch: sum(options.weight * term(outputs, batch, options) for term, options in terms)


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
