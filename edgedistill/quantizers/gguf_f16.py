"""float16: half the bytes of float, and the same answers. What the other schemes are held against, and the safe choice where size does not matter.

Source: llama.cpp, ggml/src/ggml-quants.c and src/llama-quant.cpp.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgedistill import gguf_quantization

FORMAT = "gguf"
ABOUT = "float16 weights; half the size of float, the same answers"

__all__ = ["ABOUT", "FORMAT", "layers", "quantize"]


def layers(graphs: Path) -> list[str]:
    """None: llama.cpp takes no exceptions here, and nothing is lost that would be worth one."""
    return []


def quantize(graphs: Path, out: Path, calibration: Sequence[Any], keep_float: frozenset[str]) -> None:
    """Write `out/model.gguf` and `out/facts.json` from `graphs/model.gguf`. `calibration` and `keep_float` are not used."""
    gguf_quantization.write(graphs, out, "F16", keep_float)
