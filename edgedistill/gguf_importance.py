"""Importance matrix: how strongly the inputs of every weight column are driven, measured on real texts.

A quantizer that weighs each rounding error with the mean square of the input it will be multiplied by loses less where it matters: the error of one
product is Σ_j ΔW_ij x_j, and for inputs that are about uncorrelated its mean square is Σ_j ΔW_ij² E[x_j²]. E[x_j²] of every matrix is all that
llama.cpp's quantizers ask for. It is collected here from llama.cpp itself, while the float file that ships runs over the transfer set: llama.cpp
hands each finished product to a callback (`cb_eval`), whose second source is the input. So it works for whatever graph llama.cpp has, encoders too,
without torch.

Source: llama.cpp's tools/imatrix/imatrix.cpp; ggml_tensor of ggml/include/ggml.h; the second-order argument is OBQ's, arXiv:2208.11580, §3.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgedistill import llama
from edgedistill.errors import StageError
from edgedistill.gguf_file import Gguf, read_gguf
from edgedistill.llama_causal import open_decoder

DECODERS = ("llama", "qwen2", "qwen3")
F32, SOURCES = 0, 10

Importance = Mapping[str, npt.NDArray[np.float32]]


class _Tensor(ctypes.Structure):
    """ggml_tensor, of the pinned llama.cpp (llama_build.VERSION); a test holds its places against a known tensor."""


_Tensor._fields_ = [
    ("type", ctypes.c_int),
    ("buffer", ctypes.c_void_p),
    ("ne", ctypes.c_int64 * 4),
    ("nb", ctypes.c_size_t * 4),
    ("op", ctypes.c_int),
    ("op_params", ctypes.c_int32 * 16),
    ("flags", ctypes.c_int32),
    ("src", ctypes.POINTER(_Tensor) * SOURCES),
    ("view_src", ctypes.c_void_p),
    ("view_offs", ctypes.c_size_t),
    ("data", ctypes.c_void_p),
    ("name", ctypes.c_char * 64),
    ("extra", ctypes.c_void_p),
    ("padding", ctypes.c_char * 8),
]


def importance(model: Path, rows: Sequence[Sequence[int]]) -> dict[str, npt.NDArray[np.float32]]:
    """E[x²] of each column's input, of every matrix that `model` multiplies with: name → float32 [row width].

    model: a float GGUF. rows: token ids of real texts, each within the model's context. Raises StageError without a text.
    """
    if not rows:
        raise StageError(
            "an importance matrix needs texts, and there are none.", where="transfer", write="Give data, or take a scheme without one."
        )
    header = read_gguf(model)
    matrices = {name: tensor.shape[0] for name, tensor in header.tensors.items() if len(tensor.shape) == 2}
    sums = {name: np.zeros(width) for name, width in matrices.items()}
    counts = dict.fromkeys(matrices, 0)

    def add(name: str, inputs: npt.NDArray[np.float32]) -> None:
        sums[name] += np.einsum("ij,ij->j", inputs, inputs, dtype=np.float64)
        counts[name] += len(inputs)

    with _watching(matrices.keys(), add) as watch:
        run = runner(model, max(map(len, rows)), watch)
        for row in rows:
            run(row)
    return {name: (sums[name] / counts[name]).astype(np.float32) for name in matrices if counts[name]}


def runner(model: Path, longest: int, watch: Any = None) -> Callable[[Sequence[int]], npt.NDArray[np.float32]]:
    """What `model` answers to token ids: [tokens, vocabulary] of a decoder, [outputs] of an encoder. longest: the longest row."""
    if is_decoder(read_gguf(model)):
        return open_decoder(model, longest, watch=watch).logits
    return llama.open_file(model, longest, watch=watch).outputs


def is_decoder(header: Gguf) -> bool:
    """Whether a file says of every token what follows; an encoder answers once a text."""
    return header.facts["general.architecture"] in DECODERS


@contextmanager
def _watching(names: Any, add: Callable[[str, npt.NDArray[np.float32]], None]) -> Iterator[Any]:
    """A callback for llama.cpp that gives the inputs of every product with a matrix of `names`. An error in it is raised when the block ends."""
    import llama_cpp

    wanted = {name.encode(): name for name in names}
    failed: list[BaseException] = []

    def name_of(node: Any) -> str | None:
        matrix, inputs = node.src[0], node.src[1]
        if not matrix or not inputs or inputs.contents.type != F32:  # looking up a row takes whole numbers
            return None
        found = wanted.get(matrix.contents.name)
        # A product's inputs are as wide as its matrix, and the result as wide as the matrix is high.
        fits = found is not None and inputs.contents.ne[0] == matrix.contents.ne[0] and node.ne[0] == matrix.contents.ne[1]
        return found if fits else None

    def seen(pointer: int, asks: bool, _: Any) -> bool:
        try:
            node = ctypes.cast(pointer, ctypes.POINTER(_Tensor)).contents
            name = name_of(node)
            if not asks and name is not None:
                add(name, _values(node.src[1].contents))
            return name is not None if asks else True
        except BaseException as error:  # an exception may not pass through C
            failed.append(error)
            return False

    callback = llama_cpp.llama_cpp.ggml_backend_sched_eval_callback(seen)
    yield callback
    if failed:
        raise failed[0]


def _values(tensor: Any) -> npt.NDArray[np.float32]:
    """A float tensor in this process's memory as float32 [rows, width]."""
    shape = tuple(tensor.ne[place] for place in (3, 2, 1, 0))
    strides = tuple(tensor.nb[place] for place in (3, 2, 1, 0))
    size = sum((side - 1) * step for side, step in zip(shape, strides, strict=True)) + 4
    raw = (ctypes.c_char * size).from_address(tensor.data)
    return np.ndarray(shape, np.float32, raw, strides=strides).reshape(-1, shape[-1])
