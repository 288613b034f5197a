"""What holding on to freed memory buys a stage (`edgedistill/memory.py`): `OMP_NUM_THREADS=1 python -m tests.benchmarks.memory`.

Models of the usual sizes with weights drawn at random, no download: a step of a decoder with four layers and 12,000 tokens, what a teacher of 30
layers writes, a step of a MiniLM, answers of a BERT of 110M parameters. Each is run in turns with memory held and given back; below 1 is faster.

Then, each in a process of its own, a decoder that learns answers of changing lengths, its logits computed for a round number of tokens
(`causal.TOKENS_AT_ONCE`) and for just as many as there are: seconds, and memory after 20 steps and at the end.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import BertConfig, BertForSequenceClassification, LlamaConfig, LlamaForCausalLM

from edgedistill import causal, memory
from edgedistill.training import best_precision
from tests.benchmarks.common import in_turns, say

ROUNDS = 3


def decoder(layers: int, vocabulary: int) -> Any:
    sizes = {"hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9, "num_key_value_heads": 3}
    return LlamaForCausalLM(
        LlamaConfig(
            **sizes, num_hidden_layers=layers, vocab_size=vocabulary, tie_word_embeddings=True, eos_token_id=0, attn_implementation="eager"
        )
    )


def encoder(layers: int, width: int, heads: int) -> Any:
    sizes = {"hidden_size": width, "intermediate_size": 4 * width, "num_attention_heads": heads, "num_hidden_layers": layers}
    return BertForSequenceClassification(BertConfig(**sizes, num_labels=6, attn_implementation="eager"))


def steps(model: Any, rows: int, tokens: int, count: int) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)

    def work() -> None:
        for _ in range(count):
            ids = torch.randint(1, model.config.vocab_size, (rows, tokens))
            with causal.arithmetic(best_precision()):
                logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.float()
            torch.log_softmax(logits, -1)[..., 0].mean().backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return work


def written(model: Any) -> Callable[[], None]:
    prompts = torch.randint(1, model.config.vocab_size, (128, 24)).tolist()

    def work() -> None:
        with causal.arithmetic(best_precision()):
            causal.write(model, prompts, 20, rows=128)

    return work


def answers(model: Any, rows: int, tokens: int, count: int) -> Callable[[], None]:
    def work() -> None:
        with torch.inference_mode(), causal.arithmetic(best_precision()):
            for _ in range(count):
                model(input_ids=torch.randint(1, 1000, (rows, tokens)))

    return work


def growth(tokens_at_once: int, count: int = 200) -> None:
    """Print what `count` steps on answers of changing lengths take and leave behind."""
    causal.TOKENS_AT_ONCE = tokens_at_once
    draw, trunk, resident, start = np.random.default_rng(0), causal.Trunk(decoder(2, 12_000)), [], time.process_time()
    optimizer = torch.optim.AdamW(trunk.parameters(), lr=1e-5, fused=True)
    with memory.held():
        for _ in range(count):
            ids = torch.randint(1, 12_000, (16, int(draw.integers(30, 50))))
            chosen = torch.zeros(ids.shape, dtype=torch.bool)
            for row, length in enumerate(draw.integers(6, 25, size=len(ids))):
                chosen[row, -length:] = True
            with causal.arithmetic(best_precision()):
                logits = trunk(ids, torch.ones_like(ids), chosen).float()
            torch.log_softmax(logits, -1)[:, 0].mean().backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            resident.append(int(Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0]) / 1e3)
    print(
        f"{count} steps, logits of {tokens_at_once} tokens at once: {time.process_time() - start:.1f} CPU s, "
        f"{resident[19]:.0f} MB after 20 steps, {resident[-1]:.0f} MB at the end",
        flush=True,
    )


def main() -> None:
    torch.manual_seed(0)
    large = causal.settled(decoder(30, 49_152), best_precision())
    work = {
        "a step of a decoder, 4 layers, 32 × 60 tokens": steps(decoder(4, 12_000), 32, 60, 8),
        "30 layers write 128 × 20 tokens": written(large),
        "a step of six layers of 384, 64 × 24 tokens": steps(encoder(6, 384, 12), 64, 24, 12),
        "answers of twelve layers of 768, 128 × 24 tokens": answers(encoder(12, 768, 12), 128, 24, 8),
    }
    for what, run in work.items():

        def holding(run: Callable[[], None] = run) -> None:
            with memory.held():
                run()

        kept, given_back, ratios = in_turns(holding, run, ROUNDS)
        print(f"{what}, {best_precision()}, {torch.get_num_threads()} threads: held {kept:.2f} s, given back {given_back:.2f} s")
        say("time of held / given back", ratios, "< 1")
    for tokens in (1, causal.TOKENS_AT_ONCE):
        subprocess.run([sys.executable, "-m", "tests.benchmarks.memory", str(tokens)], check=True)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        growth(int(sys.argv[1]))
    else:
        main()
