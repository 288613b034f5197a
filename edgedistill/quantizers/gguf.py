"""Every type of llama.cpp, each a scheme of its own: gguf_q4_k_m and its like.

One file for all of them, since they differ in a name alone: llama.cpp knows what each is. The name of a scheme is that of llama.cpp's tool in small
letters, and an ending says how it is made:

- `gguf_q4_k_m`: llama.cpp's mix as it is;
- `gguf_q4_k_m_imatrix`: the same bytes, each rounding weighed by how strongly its column is driven on the transfer set (gguf_importance.py);
- `gguf_q4_k_m_mixed`: no more bytes, a type for each tensor by its measured sensitivity (gguf_mixture.py); it takes minutes.

Types of about two bits cannot be made without importance, and so are always made with it. Row widths that a type cannot divide are in `facts.json`.
Source: llama.cpp, ggml/src/ggml-quants.c and src/llama-quant.cpp.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from edgedistill import gguf_quantization
from edgedistill.llama import FILE_TYPES

FORMAT = "gguf"
PLAIN = ("F16", "BF16")  # llama.cpp takes no exceptions here, and nothing is lost that would be worth one
UNWEIGHED = (*PLAIN, "Q8_0", "TQ1_0", "TQ2_0", "Q1_0", "Q2_0")  # rounded the same way whatever drives them
NEEDS_IMPORTANCE = (
    "IQ1_S",
    "IQ1_M",
    "IQ2_XXS",
    "IQ2_XS",
    "IQ2_S",
    "IQ2_M",
    "IQ3_XXS",
    "IQ3_XS",
    "Q2_K_S",
)  # llama.cpp refuses these without it
SAID = {
    "": "as llama.cpp makes it",
    "imatrix": "with an importance matrix",
    "mixed": "a type for each tensor by measured sensitivity, no more bytes",
}


@dataclass(frozen=True)
class Scheme:
    """A quantizer, as quantizers/__init__.py asks for."""

    FORMAT: str
    ABOUT: str
    quantize: Callable[[Path, Path, Sequence[Any], frozenset[str]], None]
    layers: Callable[[Path], list[str]]
    STAND_IN: str


def _schemes() -> dict[str, tuple[str, str]]:
    """name → (llama.cpp's file type, how)."""
    made = {}
    for file_type in FILE_TYPES:
        if file_type != "F32":
            name = f"gguf_{file_type.lower()}"
            made[name] = (file_type, "imatrix" if file_type in NEEDS_IMPORTANCE else "")
            if file_type not in UNWEIGHED:
                made |= {f"{name}_{how}": (file_type, how) for how in ("imatrix", "mixed") if made[name][1] != how}
    return made


SCHEMES = _schemes()
NAMES = tuple(sorted(SCHEMES))


def named(name: str) -> Scheme:
    """The scheme of one of NAMES."""
    file_type, how = SCHEMES[name]
    return Scheme(
        FORMAT=FORMAT,
        ABOUT=f"{file_type} of llama.cpp, {SAID[how]}",
        quantize=partial(_quantize, file_type, how),
        layers=_none if file_type in PLAIN else gguf_quantization.layers,
        STAND_IN=name.removesuffix("_mixed"),
    )


def _none(graphs: Path) -> list[str]:
    return []


def _quantize(file_type: str, how: str, graphs: Path, out: Path, calibration: Sequence[Any], keep_float: frozenset[str]) -> None:
    gguf_quantization.write(graphs, out, file_type, keep_float, how, calibration)
