"""How a writing teacher is taught best on this machine: in full, by LoRA, or by LoRA over 4-bit weights.

python -m tests.benchmarks.lora RECIPE [STEPS]      a recipe of task generate; 60 steps a way if nothing is said

Each way takes the same batches at a learning rate of its own (the recipe's; for LoRA ten times the 2e-4 of arXiv:2305.14314, whose models are larger), and
prints the CPU seconds a step and the loss on test answers after the same number of steps.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgedistill import causal, plugins
from edgedistill.making import making
from edgedistill.models import load_decoder
from edgedistill.prompts import open_prompts
from edgedistill.recipe import read_recipe
from edgedistill.sources import home
from edgedistill.stages import prepare, write
from edgedistill.stages.prepare import read_settings
from edgedistill.store import Store
from edgedistill.tables import read_rows
from edgedistill.training import best_precision, pad, quiet

TEST_ROWS, LORA_RATE = 128, 2e-3


def adapted(model: Any) -> Any:
    from peft import LoraConfig, TaskType, get_peft_model

    with quiet():
        return get_peft_model(
            model, LoraConfig(task_type=TaskType.CAUSAL_LM, r=16, lora_alpha=32, target_modules="all-linear")
        ).base_model.model


def in_four_bits(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    wanted = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16)
    with quiet():
        return AutoModelForCausalLM.from_pretrained(folder, quantization_config=wanted, device_map={"": "cpu"})


def main() -> None:
    recipe, steps = read_recipe(Path(sys.argv[1])), int(sys.argv[2]) if len(sys.argv) > 2 else 60
    store = Store(home() / "store")
    on = making(store.build, recipe, home())
    data = {name: on.source(getattr(recipe.data, name), f"data.{name}") for name in ("train", "test") if getattr(recipe.data, name)}
    prepared = store.build(prepare.PREPARE, prepare.Params(recipe.data, recipe.seed, recipe.task, None), **data).path
    source = on.source(recipe.teacher.model, "teacher.model")
    folder = store.build(write.UNPACK, write.UnpackParams("causal_lm", recipe.task, recipe.teacher.layers), model=source).path
    task, settings = plugins.find("tasks", recipe.task), read_settings(prepared)
    prompts, stop = open_prompts(folder / "tokenizer.json", settings, recipe.student.max_tokens), write.stop_id(folder)

    def rows_of(name: str) -> list[Any]:
        rows = read_rows(prepared / f"{name}.parquet")
        answers = [[*prompts.answer(task.hard(rows.target(row), settings)), stop] for row in range(len(rows))]
        return [causal.row_of(prompts.encode(text)[0], answer) for text, answer in zip(rows.texts, answers, strict=True)]

    def batch(rows: list[Any]) -> dict[str, Any]:
        made = {name: torch.from_numpy(values) for name, values in pad([ids for ids, _ in rows], stop).items()}
        labels = torch.full(made["input_ids"].shape, -1)
        for row, (_, labelled) in enumerate(rows):
            labels[row, : len(labelled)] = torch.from_numpy(labelled)
        return made | {"labels": labels}

    learn, test = rows_of("train"), rows_of("test")[:TEST_ROWS]
    order = np.random.default_rng(recipe.seed).permutation(len(learn))[: steps * recipe.teacher.batch_size].reshape(steps, -1)
    ways = {
        "in full": (lambda: load_decoder(folder), recipe.teacher.learning_rate),
        "LoRA": (lambda: adapted(load_decoder(folder)), LORA_RATE),
        "LoRA over 4 bits": (lambda: adapted(in_four_bits(folder)), LORA_RATE),
    }
    for name, (made, rate) in ways.items():
        torch.manual_seed(recipe.seed)
        objective = causal.Answers(made())
        learning = [weight for weight in objective.parameters() if weight.requires_grad]
        optimizer = torch.optim.AdamW(learning, lr=rate, fused=True)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 4) * (1 - step / steps))
        objective.train()
        begin = time.process_time()
        for places in order:
            with causal.arithmetic(best_precision()):
                loss = objective(**batch([learn[place] for place in places]))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(learning, 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        spent = (time.process_time() - begin) / steps
        objective.eval()
        with torch.no_grad(), causal.arithmetic(best_precision()):
            losses = [float(objective(**batch(test[start : start + 32]))) for start in range(0, len(test), 32)]
        count = sum(weight.numel() for weight in learning)
        print(
            f"{name:<17} {count / 1e6:6.1f}M weights learn, {spent:.2f} CPU s a step, loss on test answers {np.mean(losses):.4f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
