"""Ask a bundle from the command line. Needs onnxruntime and tokenizers (numpy comes with them); nothing else.

    python ask.py "please refund my invoice"       texts as arguments, or one a line on standard input; one JSON line an answer
    python ask.py --golden                         check the bundle's golden vectors on this machine; exit code 1 when one differs

Answers the tasks classify, multi_label, score and embed. The bundle is the folder "bundle" beside this file unless --bundle says otherwise.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from tokenizers import Tokenizer


class Bundle:
    """A bundle, loaded once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        self.tokenizer = Tokenizer.from_file(str(folder / self.manifest["tokenizer"]))
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(self.manifest["max_tokens"])
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.manifest["threads"]
        self.session = onnxruntime.InferenceSession(str(folder / self.manifest["model"]), options, providers=["CPUExecutionProvider"])
        self.inputs = [node.name for node in self.session.get_inputs()]

    def logits(self, ids: list[int]) -> Any:
        """What the model says of one text, float32 [outputs]."""
        row = np.array([ids], dtype=np.int64)
        feeds = {"input_ids": row, "attention_mask": np.ones_like(row), "token_type_ids": np.zeros_like(row)}
        return self.session.run(["logits"], {name: feeds[name] for name in self.inputs})[0][0]

    def answer(self, logits: Any) -> dict[str, Any]:
        """What the logits mean, by the bundle's task."""
        labels, settings = self.manifest["labels"], self.manifest["settings"]
        match self.manifest["task"]:
            case "classify":
                best = int(logits.argmax())
                return {"answer": labels[best], "confidence": float(1 / np.exp(logits - logits[best]).sum())}
            case "multi_label":
                shares = dict(zip(labels, (0.5 * (1 + np.tanh(0.5 * logits))).tolist(), strict=True))
                return {"answer": sorted(name for name, share in shares.items() if share >= settings["threshold"]), "probabilities": shares}
            case "score":
                return {"answer": dict(zip(labels, (logits * settings["spread"] + settings["mean"]).tolist(), strict=True))}
            case "embed":
                return {"answer": logits.tolist()}
            case other:
                sys.exit(f"ask.py: the bundle's task is {other}; this program answers classify, multi_label, score and embed.")

    def ask(self, text: str) -> dict[str, Any]:
        """The answer to one text, and how long it took."""
        start = time.perf_counter()
        said = self.answer(self.logits(self.tokenizer.encode(text).ids))
        return {"text": text, **said, "ms": 1000 * (time.perf_counter() - start)}

    def check(self) -> dict[str, Any]:
        """Every golden vector: ids equal, logits within the manifest's bound, answer equal. Names the first that differs."""
        worst, allowed, count = 0.0, self.manifest["logit_bound"], 0
        for count, line in enumerate((self.folder / "golden.jsonl").read_text(encoding="ascii").splitlines(), 1):
            golden = json.loads(line)
            differs = {"golden": "differs", "vector": count, "text": golden["text"]}
            ids = self.tokenizer.encode(golden["text"]).ids
            if ids != golden["ids"]:
                return {**differs, "ids": ids, "wanted": golden["ids"]}
            logits = self.logits(ids)
            apart = float(np.abs(logits - np.float32(golden["logits"])).max())
            if not apart <= allowed:  # written so that a NaN differs too
                return {**differs, "logits": logits.tolist(), "wanted": golden["logits"]}
            worst = max(worst, apart)
            said = self.answer(logits)["answer"]
            if golden["answer"] is not None and said != golden["answer"]:
                return {**differs, "answer": said, "wanted": golden["answer"]}
        return {"golden": "equal", "vectors": count, "worst_logit": worst, "allowed": allowed}


def main() -> None:
    parser = argparse.ArgumentParser(description="Ask a bundle.")
    parser.add_argument("text", nargs="*", help="a text; without any, one a line is read from standard input")
    parser.add_argument("--bundle", type=Path, default=Path(__file__).parent / "bundle")
    parser.add_argument("--golden", action="store_true", help="check the bundle's golden vectors on this machine")
    options = parser.parse_args()
    if not (options.bundle / "manifest.json").is_file():
        parser.error(f"there is no bundle at {options.bundle}: give its folder with --bundle")
    bundle = Bundle(options.bundle)
    if options.golden:
        result = bundle.check()
        print(json.dumps(result))
        sys.exit(0 if result["golden"] == "equal" else 1)
    for text in options.text or (line.rstrip("\n") for line in sys.stdin):
        print(json.dumps(bundle.ask(text), ensure_ascii=False))


if __name__ == "__main__":
    main()
