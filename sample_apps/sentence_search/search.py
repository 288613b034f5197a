"""Find the lines of a file that mean the same as a question. Needs a bundle, onnxruntime, tokenizers and numpy; nothing else.

python sample_apps/sentence_search/search.py lines.txt "How far away is the moon ?"
echo "Who wrote Hamlet ?" | python sample_apps/sentence_search/search.py lines.txt --bundle out/sentence-search/laptop-x86/bundle --top 3
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
from tokenizers import Tokenizer


class Encoder:
    """The bundle, loaded once."""

    def __init__(self, bundle: Path) -> None:
        self.manifest: dict[str, Any] = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
        self.tokenizer = Tokenizer.from_file(str(bundle / self.manifest["tokenizer"]))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.manifest["threads"]
        self.session = onnxruntime.InferenceSession(str(bundle / self.manifest["model"]), options, providers=["CPUExecutionProvider"])

    def vector(self, text: str) -> npt.NDArray[np.float32]:
        """float32 [dimensions], of length 1."""
        ids = np.array([self.tokenizer.encode(text).ids], dtype=np.int64)
        return np.asarray(self.session.run(None, {"input_ids": ids, "attention_mask": np.ones_like(ids)})[0][0])


class Index:
    """Lines and their vectors."""

    def __init__(self, encoder: Encoder, lines: Sequence[str]) -> None:
        self.encoder, self.lines = encoder, list(lines)
        self.vectors = np.stack([encoder.vector(line) for line in self.lines])

    def nearest(self, query: str, top: int = 5) -> list[tuple[float, str]]:
        """(cosine, line) of the `top` most alike lines, the nearest first: vectors have length 1, so a dot product is the cosine."""
        alike = self.vectors @ self.encoder.vector(query)
        return [(float(alike[place]), self.lines[place]) for place in np.argsort(-alike, kind="stable")[:top]]


def queries(given: list[str]) -> Iterator[str]:
    """Those of the command line; without any, one a line from standard input."""
    if given:
        yield from given
    else:
        yield from (line.rstrip("\n") for line in sys.stdin)


def main() -> None:
    parser = argparse.ArgumentParser(description="Which lines mean the same as a question?")
    parser.add_argument("lines", type=Path, help="a text file, one entry a line")
    parser.add_argument("query", nargs="*", help="what to look for; without any, one a line is read from standard input")
    parser.add_argument("--bundle", type=Path, default=Path("out/sentence-search/laptop-x86/bundle"))
    parser.add_argument("--top", type=int, default=5, help="how many lines to show")
    options = parser.parse_args()
    if not (options.bundle / "manifest.json").is_file():
        parser.error(
            f"there is no bundle at {options.bundle}: compile sample_apps/sentence_search/recipe.toml, or give its folder with --bundle"
        )
    lines = [line for line in options.lines.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not lines:
        parser.error(f"{options.lines} has no line to look in")
    index = Index(Encoder(options.bundle), lines)
    for query in queries(options.query):
        start = time.perf_counter()
        found = index.nearest(query, options.top)
        print(f"{query}  ({1000 * (time.perf_counter() - start):.2f} ms)")
        for alike, line in found:
            print(f"  {alike:.3f}  {line}")


if __name__ == "__main__":
    main()
