"""A step of training and an answer in float32 and in bfloat16, of a 109M encoder and of a small one: `python -m tests.benchmarks.precision`.

In turns, in CPU seconds: another process on the same core then counts little. What `edgedistill doctor` measures is the product alone.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import BertConfig, BertForSequenceClassification

from edgedistill.machine import this_machine
from edgedistill.training import best_precision, bfloat16_gain

ROWS, TOKENS, CLASSES = 32, 14, 50
SIZES = {
    "12 layers, 768 wide": BertConfig(num_labels=CLASSES),
    "3 layers, 384 wide": BertConfig(
        vocab_size=7500, num_labels=CLASSES, hidden_size=384, num_hidden_layers=3, num_attention_heads=12, intermediate_size=512
    ),
}


def main() -> None:
    machine = this_machine()
    print(
        f"{machine['cpu']}, {torch.get_num_threads()} threads: bfloat16's product {bfloat16_gain():.2f} times as fast, {best_precision()} taken"
    )
    torch.manual_seed(0)
    for name, config in SIZES.items():
        compare(name, config)


def compare(name: str, config: BertConfig) -> None:
    model = BertForSequenceClassification(config)
    batch = {"input_ids": torch.randint(5, 7000, (ROWS, TOKENS)), "attention_mask": torch.ones(ROWS, TOKENS, dtype=torch.long)}
    labels = torch.randint(0, CLASSES, (ROWS,))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)

    def step(half: bool) -> None:
        model.train()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half), sdpa_kernel(SDPBackend.MATH):
            loss = model(**batch, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    def answer(half: bool) -> None:
        model.eval()
        with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            model(**batch)

    for what, work in (("step", step), ("answer", answer)):
        times = [[cpu_seconds(work, half) for half in (False, True)] for _ in range(6)][1:]
        float32, bfloat16 = (statistics.median(column) for column in zip(*times, strict=True))
        print(f"{name}, {what} of {ROWS} rows: float32 {float32:.3f} s, bfloat16 {bfloat16:.3f} s, {float32 / bfloat16:.2f} times as fast")


def cpu_seconds(work: Callable[[bool], None], half: bool) -> float:
    begin = time.process_time()
    work(half)
    return time.process_time() - begin


if __name__ == "__main__":
    main()
