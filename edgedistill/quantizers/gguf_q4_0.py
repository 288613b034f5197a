"""Q4_0: every 32 weights are 4-bit steps of one float16 scale, symmetric. The oldest 4-bit scheme, and where rows are not a multiple of 256 the smallest.

Source: llama.cpp, ggml/src/ggml-quants.c and src/llama-quant.cpp.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgedistill import gguf_quantization
from edgedistill.gguf_quantization import layers

FORMAT = "gguf"
ABOUT = "4-bit weights in blocks of 32, symmetric; the smallest file where k-quants do not fit"

__all__ = ["ABOUT", "FORMAT", "layers", "quantize"]


def quantize(graphs: Path, out: Path, calibration: Sequence[Any], keep_float: frozenset[str]) -> None:
    """Write `out/model.gguf` and `out/facts.json` from `graphs/model.gguf`. `calibration` is not used: the weights alone decide."""
    gguf_quantization.write(graphs, out, "Q4_0", keep_float)
