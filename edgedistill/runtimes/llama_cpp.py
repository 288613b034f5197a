"""llama.cpp on a CPU: runs model.gguf, and as a program of its own measures what it runs.

`python -m edgedistill.runtimes.llama_cpp` is the runner; see `runtimes/__init__.py` for its lines. Needs llama-cpp-python (`python -m
edgedistill.llama_build`), tokenizers and numpy. Texts are cut into tokens by tokenizer.json, as on every other runtime: it tells where in the text each
token stands, which llama.cpp does not, and it is what the student was trained with. That llama.cpp's own tokenizer agrees was checked at the export.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgedistill import writer
from edgedistill.llama import Opened, library, open_file
from edgedistill.serving import encode, open_tokenizer, serve
from edgedistill.writer import Writer

FORMAT = "gguf"
ABOUT = "llama.cpp, CPU"


@dataclass(frozen=True)
class Model:
    """A loaded model with its tokenizer."""

    opened: Opened
    tokenizer: Any

    def encode(self, text: str, tokens: int | None = None) -> tuple[list[int], list[tuple[int, int]]]:
        """Token ids of a text and where each stands in it (start, end, characters); with `tokens`, repeated and cut to exactly that many."""
        return encode(self.tokenizer, text, tokens)

    def logits(self, ids: list[int]) -> npt.NDArray[np.float32]:
        """Logits of one text, float32 [outputs]; of a sentence encoder its vector of length 1."""
        return self.opened.outputs(ids)


def open_model(model: Path, tokenizer: Path, max_tokens: int, threads: int) -> Model:
    """Load a model for one text at a time. threads: of llama.cpp's pool. Raises InputError for a file that is not a whole GGUF."""
    return Model(open_file(model, max_tokens, threads), open_tokenizer(tokenizer, max_tokens))


def open_writer(model: Path, tokenizer: Path, max_tokens: int, threads: int, settings: dict[str, Any], kv_cache: str = "f16") -> Writer:
    """Load a decoder for one prompt at a time. settings, kv_cache: see `writer.open_writer`."""
    return writer.open_writer(model, tokenizer, max_tokens, threads, settings, kv_cache)


def _needs() -> None:
    import tokenizers  # noqa: F401

    library()


if __name__ == "__main__":
    serve(open_model, _needs, open_writer)
