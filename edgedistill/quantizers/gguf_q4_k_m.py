"""Q4_K_M: 4-bit steps in blocks of 32 with scale and minimum, themselves 6-bit numbers in super-blocks of 256; the tensors that matter most get 6 bits.

Source: llama.cpp, ggml/src/ggml-quants.c and src/llama-quant.cpp.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgedistill import gguf_quantization
from edgedistill.gguf_quantization import layers

FORMAT = "gguf"
ABOUT = "4-bit k-quant mix of llama.cpp; needs rows of a multiple of 256"

__all__ = ["ABOUT", "FORMAT", "layers", "quantize"]


def quantize(graphs: Path, out: Path, calibration: Sequence[Any], keep_float: frozenset[str]) -> None:
    """Write `out/model.gguf` and `out/facts.json` from `graphs/model.gguf`. `calibration` is not used: the weights alone decide."""
    gguf_quantization.write(graphs, out, "Q4_K_M", keep_float)
