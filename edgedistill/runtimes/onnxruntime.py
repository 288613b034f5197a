"""ONNX Runtime on a CPU: runs model.onnx with its tokenizer, and as a program of its own measures what it runs.

`python -m edgedistill.runtimes.onnxruntime` is the runner; see `runtimes/__init__.py` for its lines. Needs onnxruntime, tokenizers and numpy.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgedistill.serving import encode, open_tokenizer, serve

FORMAT = "onnx"
ABOUT = "ONNX Runtime, CPU"


@dataclass(frozen=True)
class Model:
    """A loaded model with its tokenizer."""

    session: Any
    tokenizer: Any
    wants: tuple[str, ...]  # names of the graph's inputs

    def encode(self, text: str, tokens: int | None = None) -> tuple[list[int], list[tuple[int, int]]]:
        """Token ids of a text and where each stands in it (start, end, characters); with `tokens`, repeated and cut to exactly that many."""
        return encode(self.tokenizer, text, tokens)

    def logits(self, ids: list[int]) -> npt.NDArray[np.float32]:
        """Logits of one text, float32 [outputs], or [tokens, outputs] where the model answers token by token."""
        row = np.array([ids], dtype=np.int64)
        feeds = {"input_ids": row, "attention_mask": np.ones_like(row), "token_type_ids": np.zeros_like(row)}
        return np.asarray(self.session.run(["logits"], {name: feeds[name] for name in self.wants})[0][0])


def open_model(model: Path, tokenizer: Path, max_tokens: int, threads: int) -> Model:
    """Load a model for one text at a time. threads: of ONNX Runtime's pool."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    return Model(session, open_tokenizer(tokenizer, max_tokens), tuple(node.name for node in session.get_inputs()))


def _needs() -> None:
    import onnxruntime  # noqa: F401
    import tokenizers  # noqa: F401


if __name__ == "__main__":
    serve(open_model, _needs)
