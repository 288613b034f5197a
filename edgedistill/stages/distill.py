"""distill: train the student on the teacher's soft labels, and beside it the controls that prove what that was worth.

Three runs differ in one thing each: "distilled" learns the recipe's losses on the transfer set; the control "labels" learns the gold labels
alone; the control "train_rows" learns the teacher's soft labels of the training rows alone, which tells what the transfer set bought. All
start from the same weights and take the same number of steps of the same size.

A finished student may learn on through a quantizer's arithmetic (`fake_quant.py`), where quantizing it loses too much.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from edgedistill import fake_quant, memory, plugins
from edgedistill.errors import RecipeError, StageError
from edgedistill.exporters.onnx import works_on_first_token
from edgedistill.features import EMBEDDING, TOKEN_LEVEL, needs_of
from edgedistill.models import check_folder, check_ids, load_model, load_tokenizer, same_ids, save
from edgedistill.progress import tick
from edgedistill.recipe import Distill, Student
from edgedistill.stages.prepare import read_settings
from edgedistill.stages.teach import read_embeddings, teacher_logits
from edgedistill.store import Stage, plain
from edgedistill.tables import Rows, make_rows, read_rows
from edgedistill.tasks import together
from edgedistill.training import Column, Schedule, batch_of, pad, stacked, train

Run = Literal["distilled", "labels", "train_rows", "off_policy"]
PROGRESS = {
    "distilled": "distilling",
    "labels": "control: labels alone",
    "train_rows": "control: training rows alone",
    "off_policy": "control: fixed answers alone",
}
QUANTIZED_RATE = 0.5  # of the learning rate, for a finished student that only has to find its way on a grid
SENTENCE_LEVEL = 'Take losses of whole texts instead: "soft_target", "similarity_preserving", "distance_angle" or "in_batch_ranking".'


@dataclass(frozen=True)
class Params:
    """share: of the steps that the recipe asks for; a trial of a search takes a part of them. scheme: the quantizer that it learns through, if any."""

    run: Run
    student: Student
    distill: Distill
    task: str
    precision: str
    seed: int
    share: float = 1.0
    scheme: str | None = None


def run(
    out: Path,
    params: Params,
    *,
    prepared: Path,
    transfer: Path,
    labels: Path,
    start: Path,
    teacher: Path | None = None,
    graphs: Path | None = None,
) -> None:
    """Writes `model/` (a Hugging Face folder), `facts.json` and `held_out.json` (how it answers the held-out texts).

    start: the student's weights to begin with: an untrained student, or one that was trained for a part of the steps.
    teacher: its artifact, given when a loss looks inside it while the student learns.
    graphs: of the student as it begins, given when it learns through a quantizer.
    """
    given = {"prepared": prepared, "transfer": transfer, "labels": labels, "start": start, "teacher": teacher, "graphs": graphs}
    inputs = {name: path for name, path in given.items() if path is not None}
    if params.distill.processes > 1:
        _in_processes(out, params, inputs)
    else:
        _learn(out, params, inputs)


def _learn(out: Path, params: Params, inputs: Mapping[str, Path]) -> None:
    """One process's part. Every process does the same; the Trainer divides the rows, and rank 0 writes."""
    from torch import distributed

    from edgedistill.objective import Objective

    prepared, transfer, labels, start = (inputs[name] for name in ("prepared", "transfer", "labels", "start"))
    task, settings = plugins.find("tasks", params.task), read_settings(prepared)
    classes = settings["labels"]
    rows = read_rows(transfer / "transfer.parquet")
    first = not distributed.is_initialized() or distributed.get_rank() == 0
    student = load_model(start / "model", task.HUB_TASK, classes, dtype="float32")
    tokenizer = load_tokenizer(start / "model", params.student.max_tokens)

    # What the runs differ in: the rows and the losses. The step count is the same for all and follows from the transfer set.
    losses = params.distill.losses if params.run != "labels" else [{"kind": "hard_label", "weight": 1.0, "of": task.hard_kind(settings)}]
    rows_a_step = params.distill.batch_size * params.distill.processes
    steps = params.distill.steps or max(1, round(params.distill.epochs * len(rows.texts) / rows_a_step))
    steps = max(1, round(params.share * steps))
    if params.run == "labels":
        rows = _with_gold(prepared, transfer)
    real = range(len(rows) if params.run == "labels" else _fact(transfer, "training_rows"))
    places = [*real] if params.run != "distilled" else _with_real_rows(len(rows.texts), transfer, params.distill.real_rows)
    texts = [rows.texts[place] for place in places]
    encodings = tokenizer.encode_batch(texts)
    tokens, offsets = [encoding.ids for encoding in encodings], [encoding.offsets for encoding in encodings]
    hard = [task.hard(rows.target(place), settings, text, offset) for place, text, offset in zip(places, texts, offsets, strict=True)]
    columns: dict[str, Column] = {"labels": stacked(hard)}
    if params.run != "labels":
        said = teacher_logits(labels / "labels.parquet", [rows.keys[place] for place in places], task, settings)
        columns["teacher_logits"] = said
        if hasattr(task, "positions"):
            columns |= on_tokens(said, [task.positions(text, offset) for text, offset in zip(texts, offsets, strict=True)], offsets)
    needs = needs_of(losses)
    if EMBEDDING in needs:
        columns[EMBEDDING] = read_embeddings(labels / "labels.parquet", [rows.keys[place] for place in places])
    check_ids(student, tokens, str(start / "model"))
    watched, ids = None, None
    if needs & TOKEN_LEVEL:
        watched, ids = _watched_teacher(inputs.get("teacher"), task.HUB_TASK, classes, tokenizer, texts, params.student.max_tokens)
    if not params.distill.dropout:
        no_dropout(student)
    # A control that does not learn is a finding, and a search drops such a candidate; a student that does not learn is a mistake.
    judged = params.run == "distilled" and params.share > 0.5
    pad_id = student.config.pad_token_id or 0
    batches = sample(tokens, columns, params.distill.batch_size, pad_id)
    settle = None
    if params.scheme is not None:
        arithmetic = plugins.find("quantizers", params.scheme).ARITHMETIC
        example = {name: batches[0][name] for name in ("input_ids", "attention_mask")} if works_on_first_token(inputs["graphs"]) else None
        settle = fake_quant.attach(student, arithmetic, example)
    objective = Objective(losses, student, columns, watched, ids, steps if judged else None)
    terms, warnings = objective.balance(batches)
    objective.train()
    train(
        objective,
        tokens,
        columns,
        None,
        schedule(params, start, steps),
        pad_id=pad_id,
        checkpoints=out / "checkpoints",
        label=f"learning through {params.scheme}" if params.scheme else PROGRESS[params.run],
    )
    objective.close()
    if settle is not None:
        settle()
    if first:
        facts = json.loads((start / "facts.json").read_text())
        if (transfer / "held_out.parquet").is_file():
            held = read_rows(transfer / "held_out.parquet")
            said = teacher_logits(labels / "labels.parquet", held.keys, task, settings)
            _answer_held_out(out / "held_out.json", student, tokenizer, held, said, task, settings)
        facts |= {"run": params.run, "steps": steps, "batch_size": rows_a_step, "rows": len(texts), "losses": losses}
        facts |= {"scheme": params.scheme} if params.scheme else {}
        facts |= {"terms": [term | {"last": last} for term, last in zip(terms, objective.last(), strict=True)], "warnings": warnings}
        save(student, load_tokenizer(start / "model"), out / "model")
        (out / "facts.json").write_text(json.dumps(facts, indent=1))


def schedule(params: Params, start: Path, steps: int) -> Schedule:
    """As the recipe says; where it says no learning rate, that which suits the student in `start`."""
    family, facts = plugins.find("students", params.student.family), json.loads((start / "facts.json").read_text(encoding="utf-8"))
    rate: float = params.distill.learning_rate or family.learning_rate(facts)
    return Schedule(
        steps,
        rate * (QUANTIZED_RATE if params.scheme else 1),
        params.distill.batch_size,
        params.precision,
        params.seed,
        average=params.distill.average or None,
        plain_attention=True,
    )


def _with_gold(prepared: Path, transfer: Path) -> Rows:
    """Every training row but those held out: a label counts, whether or not the teacher was asked about its text."""
    train = read_rows(prepared / "train.parquet")
    held = set(read_rows(transfer / "held_out.parquet").keys) if (transfer / "held_out.parquet").is_file() else set()
    places = [place for place, key in enumerate(train.keys) if key not in held]
    return make_rows([train.texts[place] for place in places], train.labels[places], targets=[train.targets[place] for place in places])


def _answer_held_out(
    file: Path,
    student: Any,
    tokenizer: Any,
    rows: Rows,
    teacher: Sequence[Any] | npt.NDArray[Any],
    task: ModuleType,
    settings: dict[str, Any],
) -> None:
    """How often the student answers as the teacher does, on texts that it never saw.

    Labels are not asked: the teacher was trained on these very rows, so it answers them better than it answers new ones.
    """
    import torch

    said: list[Any] = []
    right: list[Any] = []
    with torch.inference_mode():
        for begin in range(0, len(rows), 64):
            encodings = tokenizer.encode_batch(rows.texts[begin : begin + 64])
            batch = {
                name: torch.from_numpy(values)
                for name, values in pad([encoding.ids for encoding in encodings], student.config.pad_token_id or 0).items()
            }
            for row, (logits, encoding) in enumerate(zip(student(**batch).logits.float().numpy(), encodings, strict=True), begin):
                text = rows.texts[row]
                wanted = task.answer(teacher[row], settings, text)["target"]
                answer = task.answer(logits, settings, text, encoding.offsets)
                said.append(answer["target"])
                right.append(wanted)
    judged = [
        task.judge(one, other, settings) for one, other in zip(together(task, said, settings), together(task, right, settings), strict=True)
    ]
    file.write_text(json.dumps({"gained": [gained for gained, _ in judged], "possible": [possible for _, possible in judged]}))


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


def _watched_teacher(teacher: Path | None, task: str, classes: list[str], tokenizer: Any, texts: list[str], max_tokens: int) -> Any:
    """The frozen teacher, and its token id of each of the student's. Raises RecipeError when position i is not the same token to both."""
    folder = teacher / "model" if teacher is not None else None
    if folder is None or not (folder / "config.json").is_file():
        raise RecipeError(
            "a loss looks inside the teacher, and this teacher can only be asked for answers.", where="distill.losses", write=SENTENCE_LEVEL
        )
    check_folder(folder)
    ids = same_ids(tokenizer, load_tokenizer(folder, max_tokens), texts)
    if ids is None:
        raise RecipeError(
            "a loss compares student and teacher token by token, and their tokenizers cut the texts into different tokens.",
            where="distill.losses",
            write=SENTENCE_LEVEL,
        )
    model = load_model(folder, task, classes, dtype="float32")
    model.requires_grad_(False)
    return model, ids


def sample(tokens: list[list[int]], columns: dict[str, Column], rows: int, pad_id: int, batches: int = 4) -> list[dict[str, Any]]:
    """A few batches from all over the rows, on which the losses are weighed before the training."""
    import torch

    places = np.random.default_rng(0).permutation(len(tokens))
    made = []
    for begin in range(0, min(batches * rows, len(places)), rows):
        chosen = places[begin : begin + rows].tolist()
        arrays = pad([tokens[place] for place in chosen], pad_id) | {name: batch_of(values, chosen) for name, values in columns.items()}
        made.append({name: torch.from_numpy(np.asarray(values)) for name, values in arrays.items()})
    return made


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

    with listening(tell), memory.held():
        _learn(Path(job["out"]), params, {name: Path(path) for name, path in job["inputs"].items()})
    distributed.destroy_process_group()


DISTILL = Stage("distill", 9, run, ("torch", "transformers", "accelerate", "tokenizers"))

if __name__ == "__main__":
    _process()
