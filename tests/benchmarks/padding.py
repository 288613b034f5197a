"""What packing could save: the share of padding in a step's tokens, rows in any order and of like length: `python -m tests.benchmarks.padding`.

Rows are voice commands with their answers, in SmolLM2's own tokens, as teacher and student learn them. Training takes rows of like length together
(`training.py`); packing several rows into one would save what padding is left then, and no more. Needs `make demo-generate`'s data.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from edgedistill.gguf_file import read_gguf
from edgedistill.gguf_tokenizer import read_bpe
from edgedistill.recipe import CHAT_ML
from edgedistill.sources import home, resolve
from tests.real_server import MODEL

DATA = Path(__file__).parents[2] / "sample_apps" / "voice_commands" / "data" / "train.jsonl"
MEGABATCH = 50  # batches that the Trainer sorts at a time


def main() -> None:
    model = resolve(MODEL, folder=Path(), cache=home() / "sources").path
    tokenizer = Tokenizer.from_str(json.dumps(read_bpe(read_gguf(model).facts, str(model))))
    rows = [json.loads(line) for line in DATA.read_text().splitlines()]
    lengths = np.array(
        [len(tokenizer.encode(CHAT_ML.format(text=row["text"]) + row["answer"], add_special_tokens=False).ids) for row in rows]
    )
    order = np.random.default_rng(0).permutation(lengths)
    print(f"{len(rows)} rows of {lengths.mean():.1f} tokens, {lengths.max()} at most")
    for batch in (16, 32):
        sorted_parts = [np.sort(order[begin : begin + MEGABATCH * batch])[::-1] for begin in range(0, len(order), MEGABATCH * batch)]
        for name, parts in (("in any order", [order]), ("of like length", sorted_parts)):
            computed = sum(
                part[begin : begin + batch].max() * len(part[begin : begin + batch])
                for part in parts
                for begin in range(0, len(part), batch)
            )
            print(f"batches of {batch:>2} rows {name}: {100 * (1 - lengths.sum() / computed):.1f} % padding")


if __name__ == "__main__":
    main()
