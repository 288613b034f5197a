"""Q8_0: every 32 weights are int8 steps of one float16 scale; activations are rounded the same way on the run.

The same answers as float, a quarter of the size.

Source: llama.cpp, ggml/src/ggml-quants.c and src/llama-quant.cpp.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgedistill import gguf_quantization
from edgedistill.gguf_quantization import layers

FORMAT = "gguf"
ABOUT = "int8 weights in blocks of 32; a quarter of the size"

__all__ = ["ABOUT", "FORMAT", "layers", "quantize"]


def quantize(graphs: Path, out: Path, calibration: Sequence[Any], keep_float: frozenset[str]) -> None:
    """Write `out/model.gguf` and `out/facts.json` from `graphs/model.gguf`. `calibration` is not used: the weights alone decide."""
    gguf_quantization.write(graphs, out, "Q8_0", keep_float)
