"""Take personal data out of texts with the shipped model. Needs a bundle, onnxruntime, tokenizers and numpy; nothing else.

python sample_apps/pii_redaction/redact.py "Hi, Anna Smith here, call 030 1234567"
cat chat.log | python sample_apps/pii_redaction/redact.py --bundle out/pii-redaction/laptop-x86/bundle
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

# Words as edgedistill/tasks/tag.py finds them: the first token of each answers for it.
ALONE = "\u0e00-\u0eff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
WORD = re.compile(rf"[{ALONE}]|[^\W_{ALONE}][^\W_{ALONE}\u0300-\u036f]*[\u0300-\u036f]*|[^\w\s]|_")
STEP = 300  # characters that are read at a time, cut between words: what a training text may hold


class Redactor:
    """The bundle, loaded once."""

    def __init__(self, bundle: Path) -> None:
        manifest: dict[str, Any] = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
        self.labels: list[str] = manifest["labels"]
        self.tokenizer = Tokenizer.from_file(str(bundle / manifest["tokenizer"]))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = manifest["threads"]
        self.session = onnxruntime.InferenceSession(str(bundle / manifest["model"]), options, providers=["CPUExecutionProvider"])

    def spans(self, text: str) -> list[tuple[int, int, str]]:
        """(start, end, type) of each piece of personal data, characters."""
        encoding = self.tokenizer.encode(text)
        ids = np.array([encoding.ids], dtype=np.int64)
        (logits,) = self.session.run(["logits"], {"input_ids": ids, "attention_mask": np.ones_like(ids)})[0]
        tags = [self.labels[place] for place in logits.argmax(axis=-1)]
        found: list[tuple[int, int, str]] = []
        goes_on = False
        token = 0
        for word in WORD.finditer(text):
            while token < len(tags) and encoding.offsets[token][1] <= word.start():
                token += 1
            tag = tags[token] if token < len(tags) else "O"
            prefix, _, name = tag.rpartition("-")
            if goes_on and prefix != "B" and found[-1][2] == name:
                found[-1] = (found[-1][0], word.end(), name)
            elif tag != "O":
                found.append((word.start(), word.end(), name))
            goes_on = tag != "O"
        return found

    def redact(self, text: str) -> str:
        """The text with [TYPE] in place of each piece. Long texts are read part by part."""
        out = []
        for part in re.findall(rf"(?s)\s*.{{1,{STEP}}}(?=\s|$)|.{{1,{STEP}}}", text):
            last = 0
            for start, end, name in self.spans(part):
                out += [part[last:start], f"[{name}]"]
                last = end
            out.append(part[last:])
        return "".join(out)


def main() -> None:
    parser = argparse.ArgumentParser(description="Replace personal data in texts by its type.")
    parser.add_argument("text", nargs="*", help="a text; without any, one a line is read from standard input")
    parser.add_argument("--bundle", type=Path, default=Path("out/pii-redaction/laptop-x86/bundle"))
    options = parser.parse_args()
    if not (options.bundle / "manifest.json").is_file():
        parser.error(
            f"there is no bundle at {options.bundle}: compile sample_apps/pii_redaction/recipe.toml, or give its folder with --bundle"
        )
    redactor = Redactor(options.bundle)
    for text in options.text or (line.rstrip("\n") for line in sys.stdin):
        print(redactor.redact(text))


if __name__ == "__main__":
    main()
