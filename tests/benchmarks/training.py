"""Cost of training through the Trainer against a bare torch loop of the same steps: `python -m tests.benchmarks.training`.

The same student, batches of like length, precision, fused AdamW and gradient clipping. Wanted: at most 1.10 times the loop's time. Then the same student
without dropout, by plain attention and by torch's blocked one.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch

from edgedistill.losses import soft_target
from edgedistill.models import load_model, load_tokenizer
from edgedistill.stages.distill import no_dropout
from edgedistill.students import transformer
from edgedistill.training import Schedule, best_precision, pad, train
from tests.benchmarks.common import demo, in_turns, say

CLASSES = ["ABBR", "DESC", "ENTY", "HUM", "LOC", "NUM"]
STEPS, BATCH = 60, 64


def main() -> None:
    recipe, folder, texts = demo()
    precision = best_precision()
    with tempfile.TemporaryDirectory() as scratch:
        start = Path(scratch) / "student"
        start.mkdir()
        transformer.start(folder, start, recipe.student, texts, CLASSES, "text-classification", 0)
        tokens = [encoding.ids for encoding in load_tokenizer(start, 128).encode_batch(texts)]
        teacher = np.random.default_rng(0).normal(size=(len(texts), len(CLASSES))).astype(np.float32)
        options = soft_target.Options()
        number = iter(range(1000))

        def ours(plain: bool = False, dropout: bool = True) -> None:
            model = load_model(start, "text-classification", CLASSES)
            if not dropout:
                no_dropout(model)
            checkpoints = Path(scratch) / f"checkpoints{next(number)}"
            model.train()
            schedule = Schedule(STEPS, 5e-4, BATCH, precision, 0, plain_attention=plain)
            loss = lambda outputs, batch: soft_target.loss(outputs, batch, options)  # noqa: E731
            train(model, tokens, {"teacher_logits": teacher}, loss, schedule, pad_id=0, checkpoints=checkpoints, label="x")
            shutil.rmtree(checkpoints)

        def bare() -> None:
            model = load_model(start, "text-classification", CLASSES)
            model.train()
            optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4, weight_decay=0.01, fused=True)
            draw = np.random.default_rng(0)
            done = 0
            while done < STEPS:
                order = draw.permutation(len(tokens))
                for begin in range(0, len(order), 50 * BATCH):  # the Trainer groups lengths in pools of 50 batches too
                    pool = sorted(order[begin : begin + 50 * BATCH], key=lambda place: -len(tokens[place]))
                    for place in range(0, len(pool) - BATCH + 1, BATCH):
                        if done == STEPS:
                            return
                        rows = pool[place : place + BATCH]
                        batch = {name: torch.from_numpy(values) for name, values in pad([tokens[row] for row in rows], 0).items()}
                        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
                            outputs = model(**batch)
                            value = soft_target.loss(outputs, {"teacher_logits": torch.from_numpy(teacher[rows])}, options)
                        value.backward()
                        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                        optimizer.step()
                        optimizer.zero_grad(set_to_none=True)
                        done += 1

        our_seconds, bare_seconds, ratios = in_turns(ours, bare, rounds=5)
        print(f"{STEPS} steps of {BATCH}, {precision}: Trainer {our_seconds:.1f} s, bare loop {bare_seconds:.1f} s")
        say("time of Trainer / bare loop", ratios, "≤ 1.10")
        plain, blocked, ratios = in_turns(lambda: ours(True, False), lambda: ours(False, False), rounds=5)
        print(f"the same without dropout: plain attention {plain:.1f} s, torch's blocked one {blocked:.1f} s")
        say("time of plain / blocked attention", ratios, "< 1")


if __name__ == "__main__":
    main()
