"""One training loop for teacher and student: the Hugging Face Trainer, set up for small models on a CPU.

The Trainer brings what a loop of our own would have to grow: several processes (through accelerate and torch.distributed), bf16, gradient
clipping, and checkpoints from which a killed run goes on at the same step (the order of the rows left in that pass may differ).
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import logging
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgedistill.machine import this_machine
from edgedistill.progress import tick
from edgedistill.sources import home

AVERAGE = "average.safetensors"  # beside each checkpoint
CLEARLY = 1.2  # times as fast: below, bfloat16's rounding buys nothing
PRODUCTS = 20  # of each type, in turns
SHORT = 128  # tokens up to which plain attention trains faster than torch's blocked one

Loss = Callable[[Any, dict[str, Any]], Any]


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to learn. steps: optimizer steps. batch_size: rows a step and process. warmup: share of the steps.

    average: decay a step of the running average of the weights, which is what is kept in the end; None keeps the last weights.
    plain_attention: for short rows, as products and a softmax. The gradient of torch's blocked attention, made for long rows, takes half of a step of
    18 tokens on a CPU (DECISIONS.md). Attention with dropout is computed so anyway.
    """

    steps: int
    learning_rate: float
    batch_size: int
    precision: str
    seed: int
    warmup: float = 0.06
    weight_decay: float = 0.01
    average: float | None = None
    plain_attention: bool = False


def label_loss(logits: Any, labels: Any, kind: str = "classes") -> Any:
    """Mean loss of logits against labels over what is labelled; 0 when nothing is.

    kind: "classes" (cross-entropy; labels int64 [...], -1 for none), "yes_no" (binary cross-entropy of each class; labels float
    [..., classes], NaN for none) or "scores" (squared error; labels as the logits, NaN for none). logits: [..., outputs].
    """
    from torch.nn import functional

    logits = logits.float().reshape(-1, logits.shape[-1])
    if kind == "classes":
        labels = labels.reshape(-1)
        total = functional.cross_entropy(logits, labels, ignore_index=-1, reduction="sum")
        return total / (labels >= 0).sum().clamp(min=1)
    labels = labels.reshape(-1, labels.shape[-1])
    known = ~labels.isnan()
    compare = functional.binary_cross_entropy_with_logits if kind == "yes_no" else functional.mse_loss
    return compare(logits[known], labels[known].float(), reduction="sum") / known.sum().clamp(min=1)


Column = np.ndarray | Sequence[np.ndarray]


def stacked(rows: Sequence[np.ndarray]) -> Column:
    """Rows as one column: an array when all have one shape by the task's nature (scalars, one value a class), else the list as it is."""
    return np.stack(rows) if rows and rows[0].ndim == 0 else list(rows)


def batch_of(column: Column, places: Sequence[int]) -> np.ndarray:
    """The entries of a column for the rows of a batch. Those of unequal length are padded: -1, False or 0."""
    if isinstance(column, np.ndarray):
        return np.asarray(column[places])
    parts = [column[place] for place in places]
    fill = {"i": -1, "b": False, "f": 0.0}[parts[0].dtype.kind]
    batch = np.full((len(parts), max(map(len, parts)), *parts[0].shape[1:]), fill, parts[0].dtype)
    for row, part in enumerate(parts):
        batch[row, : len(part)] = part
    return batch


def best_precision() -> str:
    """ "bf16" where products of bfloat16 are clearly quicker here than float32's, else "float32"."""
    return "bf16" if bfloat16_gain() >= CLEARLY else "float32"


@functools.cache
def bfloat16_gain() -> float:
    """How many times as fast as float32's a product of bfloat16 is on this machine; 0.0 without the instructions.

    That they are there promises nothing: a Xeon that hides its AMX from its guests multiplies bfloat16 at half the pace of float32. Measured once and
    remembered beside the store: the precision is part of what results are found by, and stays what it was.
    """
    import torch

    checks = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    if not any(check() for check in checks if check):
        return 0.0
    machine = this_machine()
    kept, name = home() / "bfloat16.json", f"torch {torch.__version__}, {machine['cpu']} {' '.join(machine['isa'])}, {machine['system']}"
    known = _known(kept)
    if name not in known:
        times = [[_product_seconds(dtype) for dtype in (torch.float32, torch.bfloat16)] for _ in range(PRODUCTS)]
        # Each at its best: others may be at work here.
        float32, bfloat16 = (min(column) for column in zip(*times, strict=True))
        known[name] = float32 / bfloat16
        written = kept.with_suffix(f".{os.getpid()}")
        with contextlib.suppress(OSError):  # `doctor` tells it on a machine whose home cannot be written, too
            kept.parent.mkdir(parents=True, exist_ok=True)
            written.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
            written.replace(kept)
    return known[name]


def _product_seconds(dtype: Any) -> float:
    """Of a product as a step of an encoder has it: 448 tokens, 768 wide, into 768."""
    import torch

    tokens, weight = torch.ones(448, 768, dtype=dtype), torch.ones(768, 768, dtype=dtype)
    begin = time.perf_counter()
    torch.nn.functional.linear(tokens, weight)
    return time.perf_counter() - begin


def _known(file: Path) -> dict[str, float]:
    """What was measured before; a file cut short is as good as none."""
    try:
        return {str(name): float(gain) for name, gain in json.loads(file.read_text(encoding="utf-8")).items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def train(
    model: Any,
    tokens: Sequence[Sequence[int]],
    columns: Mapping[str, Column],
    loss: Loss | None,
    schedule: Schedule,
    *,
    pad_id: int,
    checkpoints: Path,
    label: str,
) -> None:
    """Train `model` in place. Goes on from the newest checkpoint under `checkpoints` when there is one.

    tokens: token ids of each row. columns: what the loss reads beside the model's outputs, one entry a row; a list of arrays when they are
    as long as the row's tokens. label: what the progress is called.
    loss: (outputs, batch) → scalar tensor; None when the model takes the whole batch and gives the scalar itself.
    """
    import torch
    from safetensors.torch import load_file, save_file
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.data import Dataset
    from transformers import Trainer, TrainerCallback, TrainingArguments

    class Rows(Dataset):  # type: ignore[type-arg]  # torch's stubs make Dataset Any under strict settings
        def __len__(self) -> int:
            return len(tokens)

        def __getitem__(self, row: int) -> dict[str, Any]:
            # "input_ids" is what the Trainer's length sampler looks at.
            return {"input_ids": tokens[row], "row": row}

    def collate(rows: list[dict[str, Any]]) -> dict[str, Any]:
        batch = pad([row["input_ids"] for row in rows], pad_id)
        places = [row["row"] for row in rows]
        return {name: torch.from_numpy(np.asarray(values)) for name, values in batch.items()} | {
            name: torch.from_numpy(batch_of(values, places)) for name, values in columns.items()
        }

    class Learner(Trainer):  # type: ignore[misc]
        def compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, **_: Any) -> Any:
            if loss is None:
                outputs = value = model(**inputs)
            else:
                outputs = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
                value = loss(outputs, inputs)
            return (value, outputs) if return_outputs else value

    class Progress(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.is_world_process_zero:
                tick(label, state.global_step, state.max_steps)

    class Average(TrainerCallback):  # type: ignore[misc]
        """The running average of the weights (Polyak and Juditsky 1992; for distillation arXiv:1703.01780): less noise than the last step's."""

        weights: dict[str, Any]  # set when training begins

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            kept = Path(_newest(checkpoints) or "") / AVERAGE
            self.weights = load_file(kept) if kept.is_file() else {name: value.clone() for name, value in _floats(model)}

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            assert schedule.average is not None  # else this callback is not there
            decay = min(schedule.average, (1 + state.global_step) / (10 + state.global_step))  # the first weights are soon forgotten
            with torch.no_grad():
                for name, value in _floats(model):
                    self.weights[name].lerp_(value, 1 - decay)

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.is_world_process_zero:
                save_file(self.weights, checkpoints / f"checkpoint-{state.global_step}" / AVERAGE)

    arguments = TrainingArguments(
        output_dir=str(checkpoints),
        max_steps=schedule.steps,
        per_device_train_batch_size=schedule.batch_size,
        learning_rate=schedule.learning_rate,
        warmup_steps=int(schedule.warmup * schedule.steps),
        weight_decay=schedule.weight_decay,
        lr_scheduler_type="linear",
        optim="adamw_torch_fused",
        bf16=schedule.precision == "bf16",
        use_cpu=True,
        seed=schedule.seed,
        data_seed=schedule.seed,
        train_sampling_strategy="group_by_length",
        save_strategy="steps",
        save_steps=max(schedule.steps // 8, 25),
        save_total_limit=1,
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        ddp_backend="gloo" if int(os.environ.get("WORLD_SIZE", "1")) > 1 else None,
    )
    checkpoints.mkdir(parents=True, exist_ok=True)
    plain = schedule.plain_attention and max(map(len, tokens)) <= SHORT
    with quiet(), sdpa_kernel(SDPBackend.MATH) if plain else contextlib.nullcontext():
        average = Average()
        callbacks = [Progress(), average] if schedule.average is not None else [Progress()]
        trainer = Learner(model=model, args=arguments, train_dataset=Rows(), data_collator=collate, callbacks=callbacks)
        trainer.train(resume_from_checkpoint=_newest(checkpoints))
    if schedule.average is not None:
        model.load_state_dict(average.weights, strict=False)  # integer buffers are not averaged
    model.eval()


def _floats(model: Any) -> list[tuple[str, Any]]:
    """The weights that can be averaged."""
    return [(name, value.detach()) for name, value in model.state_dict().items() if value.is_floating_point()]


def pad(rows: Sequence[Sequence[int]], pad_id: int) -> dict[str, np.ndarray]:
    """Rows of ids → input_ids and attention_mask, int64 [rows, longest]."""
    longest = max(map(len, rows))
    ids = np.full((len(rows), longest), pad_id, dtype=np.int64)
    mask = np.zeros((len(rows), longest), dtype=np.int64)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = row
        mask[place, : len(row)] = 1
    return {"input_ids": ids, "attention_mask": mask}


def _newest(checkpoints: Path) -> str | None:
    """The newest whole checkpoint. trainer_state.json is written last, so a folder without it, or with a part of it, was cut off by a kill."""
    whole = [folder for folder in checkpoints.glob("checkpoint-*") if _is_json(folder / "trainer_state.json")]
    return str(max(whole, key=lambda folder: int(folder.name.split("-")[1]))) if whole else None


def _is_json(file: Path) -> bool:
    try:
        json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Stages print nothing: hold back what the libraries would write."""
    import transformers

    before = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
        transformers.logging.set_verbosity(before)
