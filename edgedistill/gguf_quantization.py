"""What all GGUF quantizers share: llama.cpp's own quantization, with what must stay in float left out, and a true account of what came out.

Types other than float take 32, 64, 128 or 256 weights of a row at a time. A narrow student has rows of none of the 256 ones (MiniLM's are 384 wide,
SmolLM2's 576), and llama.cpp then takes another type, larger or smaller, and says so in its log alone. Here the file is read back, and each such
tensor stands in `facts.json`.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgedistill.gguf_file import TYPES, Tensor, read_gguf
from edgedistill.gguf_importance import importance
from edgedistill.gguf_mixture import mix
from edgedistill.llama import quantize

NARROW = 32  # outputs up to which a head stays in float: a few kilobytes, and every answer passes through it
BLOCKS = {name: weights for name, weights, _ in TYPES.values()}
FLOATS = ("F32", "F16", "BF16")


def write(graphs: Path, out: Path, file_type: str, keep_float: frozenset[str], how: str = "", calibration: Sequence[Any] = ()) -> None:
    """Write `out/model.gguf` as `file_type` (llama.cpp's name) and `out/facts.json` from `graphs/model.gguf`.

    how: "" for llama.cpp's mix as it is, "imatrix" for the same weighed by importance, "mixed" for a type of each tensor by its measured sensitivity,
    in no more bytes than llama.cpp's mix. calibration: batches {"input_ids", "attention_mask"}, or rows of token ids, which the last two run over.
    """
    out.mkdir(parents=True, exist_ok=True)
    before = read_gguf(graphs / "model.gguf").tensors
    own = {name: tensor.type for name, tensor in before.items() if name in keep_float or _is_small_head(tensor)}
    rows = [row for batch in calibration for row in _rows(batch)]
    weights = importance(graphs / "model.gguf", rows) if how else None
    more: dict[str, Any] = {}
    if how == "mixed":
        assert weights is not None  # `how` is set
        names = [name for name in layers(graphs) if name not in own]
        with tempfile.TemporaryDirectory(dir=out, prefix=".mix-") as scratch:
            found = mix(graphs / "model.gguf", file_type, rows, names, weights, Path(scratch))
            (Path(scratch) / "model.gguf").replace(out / "model.gguf")
        more = {"divergence": found.measured, "won": found.won, "chosen": found.kinds}
    else:
        quantize(graphs / "model.gguf", out / "model.gguf", file_type, tensors=own, importance=weights)
    after = read_gguf(out / "model.gguf").tensors
    facts = {
        "scheme": file_type,
        "how": how or "stock",
        "bytes": (out / "model.gguf").stat().st_size,
        "float_bytes": (graphs / "model.gguf").stat().st_size,
        "kept_float": sorted(keep_float),
        "types": dict(sorted(Counter(tensor.type for tensor in after.values()).items())),
        "replaced": {} if how == "mixed" else replaced(after, file_type, own),
        "importance_texts": len(rows) if how else 0,
        **more,
    }
    (out / "facts.json").write_text(json.dumps(facts, indent=1))


def _rows(batch: Any) -> list[list[int]]:
    """The token ids of a batch {"input_ids", "attention_mask"}, or of one text as it is."""
    if not isinstance(batch, Mapping):
        return [[int(token) for token in batch]]
    return [ids[mask == 1].tolist() for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)]


def replaced(tensors: Mapping[str, Tensor], file_type: str, own: Mapping[str, str]) -> dict[str, str]:
    """Tensors whose rows the type could not divide: name → the type that llama.cpp took, and why."""
    block = block_of(file_type)
    return {
        name: f"{tensor.type}, since its rows are {tensor.shape[0]} wide and {_called(file_type)} needs a multiple of {block}"
        for name, tensor in sorted(tensors.items())
        if len(tensor.shape) > 1 and tensor.shape[0] % block and name not in own and name not in FLOAT_TABLES
    }


FLOAT_TABLES = ("position_embd.weight", "token_types.weight")  # llama.cpp itself leaves vectors and these two tables in float


def block_of(file_type: str) -> int:
    """How many weights of a row the types of a file take at a time."""
    if file_type in BLOCKS:
        return BLOCKS[file_type]
    return 256  # the mixes: Q4_K_M is made of Q4_K and Q6_K, IQ3_M of IQ3_S and Q4_K


def _called(file_type: str) -> str:
    return "a k-quant" if "_K" in file_type else file_type


def layers(graphs: Path) -> list[str]:
    """The tensors that would be quantized: tables and products, but the narrow head."""
    tensors = read_gguf(graphs / "model.gguf").tensors
    return [name for name, tensor in tensors.items() if len(tensor.shape) > 1 and name not in FLOAT_TABLES and not _is_small_head(tensor)]


def _is_small_head(tensor: Tensor) -> bool:
    return tensor.name.startswith("cls.output") and tensor.shape[-1] <= NARROW
