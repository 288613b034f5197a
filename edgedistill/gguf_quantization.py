"""What all GGUF quantizers share: llama.cpp's own quantization, with what must stay in float left out, and a true account of what came out.

llama.cpp's k-quants (Q4_K, Q6_K, …) need rows of a multiple of 256 weights. A narrow student has none of these (MiniLM's are 384 wide), and llama.cpp
then takes another type, larger or smaller, and says so in its log alone. Here the file is read back, and each such tensor stands in `facts.json`.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from edgedistill.gguf_file import Tensor, read_gguf
from edgedistill.llama import quantize

NARROW = 32  # outputs up to which a head stays in float: a few kilobytes, and every answer passes through it
BLOCK = 256  # weights of a row that a k-quant takes at a time


def write(graphs: Path, out: Path, file_type: str, keep_float: frozenset[str]) -> None:
    """Write `out/model.gguf` as `file_type` (llama.cpp's name) and `out/facts.json` from `graphs/model.gguf`."""
    out.mkdir(parents=True, exist_ok=True)
    before = read_gguf(graphs / "model.gguf").tensors
    own = {name: "F32" for name, tensor in before.items() if name in keep_float or _is_small_head(tensor)}
    quantize(graphs / "model.gguf", out / "model.gguf", file_type, tensors=own)
    after = read_gguf(out / "model.gguf").tensors
    facts = {
        "scheme": file_type,
        "bytes": (out / "model.gguf").stat().st_size,
        "float_bytes": (graphs / "model.gguf").stat().st_size,
        "kept_float": sorted(keep_float),
        "types": dict(sorted(Counter(tensor.type for tensor in after.values()).items())),
        "replaced": replaced(after, file_type),
    }
    (out / "facts.json").write_text(json.dumps(facts, indent=1))


def replaced(tensors: dict[str, Tensor], file_type: str) -> dict[str, str]:
    """Tensors that a k-quant could not divide: name → the type that llama.cpp took, and why."""
    if "_K" not in file_type:
        return {}
    return {
        name: f"{tensor.type}, since its rows are {tensor.shape[0]} wide and a k-quant needs a multiple of {BLOCK}"
        for name, tensor in sorted(tensors.items())
        if len(tensor.shape) > 1 and tensor.shape[0] % BLOCK and tensor.type not in ("F32", "F16", "BF16")
    }


def layers(graphs: Path) -> list[str]:
    """The tensors that would be quantized: tables and products, but the narrow head."""
    tensors = read_gguf(graphs / "model.gguf").tensors
    # llama.cpp itself leaves vectors and these two tables in float.
    tables = ("position_embd.weight", "token_types.weight")
    return [name for name, tensor in tensors.items() if len(tensor.shape) > 1 and name not in tables and not _is_small_head(tensor)]


def _is_small_head(tensor: Tensor) -> bool:
    return tensor.name.startswith("cls.output") and tensor.shape[-1] <= NARROW
