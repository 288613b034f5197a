"""Ask the shipped model which kind of answer a question wants. Needs a bundle, onnxruntime, tokenizers and numpy; nothing else.

python sample_apps/question_router/ask.py "Who wrote Hamlet ?"
echo "How far is the moon ?" | python sample_apps/question_router/ask.py --bundle out/question-router/laptop-x86/bundle
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

MEANINGS = {
    "ABBR": "an abbreviation or what it stands for",
    "DESC": "a description or an explanation",
    "ENTY": "a thing",
    "HUM": "a person or a group",
    "LOC": "a place",
    "NUM": "a number or a date",
}


class Router:
    """The bundle, loaded once."""

    def __init__(self, bundle: Path) -> None:
        self.manifest: dict[str, Any] = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
        self.tokenizer = Tokenizer.from_file(str(bundle / self.manifest["tokenizer"]))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.manifest["threads"]
        self.session = onnxruntime.InferenceSession(str(bundle / self.manifest["model"]), options, providers=["CPUExecutionProvider"])

    def ask(self, text: str) -> tuple[str, float]:
        """The class of the answer that `text` asks for, and how sure the model is (0 to 1)."""
        ids = np.array([self.tokenizer.encode(text).ids], dtype=np.int64)
        (logits,) = self.session.run(None, {"input_ids": ids, "attention_mask": np.ones_like(ids)})[0]
        spread = np.exp(logits - logits.max())
        return self.manifest["labels"][int(logits.argmax())], float(spread.max() / spread.sum())


def questions(given: list[str]) -> Iterator[str]:
    """Those of the command line; without any, one a line from standard input."""
    if given:
        yield from given
    else:
        yield from (line.rstrip("\n") for line in sys.stdin)


def main() -> None:
    parser = argparse.ArgumentParser(description="Which kind of answer does a question want?")
    parser.add_argument("question", nargs="*", help="a question; without any, one a line is read from standard input")
    parser.add_argument("--bundle", type=Path, default=Path("out/question-router/laptop-x86/bundle"))
    options = parser.parse_args()
    if not (options.bundle / "manifest.json").is_file():
        parser.error(f"there is no bundle at {options.bundle}: make one with `make demo`, or give its folder with --bundle")
    router = Router(options.bundle)
    for question in questions(options.question):
        start = time.perf_counter()
        answer, confidence = router.ask(question)
        spent = 1000 * (time.perf_counter() - start)
        print(f"{question}\n  wants {MEANINGS.get(answer, answer)} ({answer}, {confidence:.0%} sure, {spent:.2f} ms)")


if __name__ == "__main__":
    main()
