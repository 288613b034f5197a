"""llama.cpp through llama-cpp-python's plain C functions: a file opened, a text tokenized, a text's outputs, a file quantized.

What llama-cpp-python puts on top of these (chat, sampling, its own server) is not used: it takes the tokens it likes and hides the outputs of a
classifier. Free of torch, since it runs on devices too. Needs llama-cpp-python (our build, see `llama_build`) and numpy.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgedistill import llama_build
from edgedistill.errors import InputError, StageError
from edgedistill.gguf_file import Gguf, read_gguf

KV_TYPES = ("f16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0")  # those that llama.cpp's CPU attention reads
FLASH_ATTENTION = 1  # LLAMA_FLASH_ATTN_TYPE_ENABLED
RANK = 4  # LLAMA_POOLING_TYPE_RANK: the classifier head is part of the graph
UNIT_LENGTH = "edgedistill.unit_length"  # a fact that our exporter writes: the outputs are to be scaled to length 1

# llama_ftype of llama.h: what a whole file is called, by the name that llama.cpp's own tool takes.
FILE_TYPES = {
    "F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "Q5_0": 8, "Q5_1": 9, "Q2_K": 10, "Q3_K_S": 11, "Q3_K_M": 12, "Q3_K_L": 13,
    "Q4_K_S": 14, "Q4_K_M": 15, "Q5_K_S": 16, "Q5_K_M": 17, "Q6_K": 18, "IQ2_XXS": 19, "IQ2_XS": 20, "Q2_K_S": 21, "IQ3_XS": 22,
    "IQ3_XXS": 23, "IQ1_S": 24, "IQ4_NL": 25, "IQ3_S": 26, "IQ3_M": 27, "IQ2_S": 28, "IQ2_M": 29, "IQ4_XS": 30, "IQ1_M": 31, "BF16": 32,
    "TQ1_0": 36, "TQ2_0": 37, "Q1_0": 40, "Q2_0": 41,
}  # fmt: skip


@dataclass(frozen=True)
class Opened:
    """A GGUF that llama.cpp has loaded. `context` is None of one opened for its vocabulary alone; `wide`, how many numbers an encoder gives."""

    header: Gguf
    model: Any
    vocabulary: Any
    context: Any
    max_tokens: int
    wide: int

    def tokenize(self, text: str) -> list[int]:
        """Token ids by llama.cpp's own tokenizer, special tokens added, and read where the text spells them."""
        lib, raw = library(), text.encode("utf-8", "replace")
        room = len(raw) + 8
        ids = (ctypes.c_int32 * room)()
        count = lib.llama_tokenize(self.vocabulary, raw, len(raw), ids, room, True, True)
        if count < 0:
            raise StageError(f"llama.cpp could not tokenize {text[:60]!r}.")
        return list(ids[:count])

    def outputs(self, ids: Sequence[int]) -> npt.NDArray[np.float32]:
        """What an encoder gives for one text, float32 [outputs]. ids: at most max_tokens. Raises StageError when llama.cpp cannot."""
        lib = library()
        if not 0 < len(ids) <= self.max_tokens:
            raise StageError(f"{len(ids)} tokens do not fit a context of {self.max_tokens}.")
        row = (ctypes.c_int32 * len(ids))(*ids)
        failed = lib.llama_encode(self.context, lib.llama_batch_get_one(row, len(ids)))
        found = None if failed else lib.llama_get_embeddings_seq(self.context, 0)
        if not found:
            raise StageError(f"llama.cpp could not run the model (code {failed}).")
        values = np.ctypeslib.as_array(found, (self.wide,)).astype(np.float32)
        if self.header.facts.get(UNIT_LENGTH):
            values /= max(float(np.linalg.norm(values)), 1e-12)
        return values


def open_file(path: Path, max_tokens: int = 0, threads: int = 1, *, vocabulary_only: bool = False, watch: Any = None) -> Opened:
    """Load a GGUF of an encoder, or the vocabulary of any. max_tokens: the longest text. threads: of llama.cpp's pool; it is ended when the last
    reference goes. watch: a callback of llama.cpp's scheduler that sees each operation; the caller keeps it alive.

    Raises InputError for a file that is not whole or whose context is shorter, MissingExtraError without llama-cpp-python.
    """
    lib = library()
    if vocabulary_only:
        header, context = read_gguf(path), None
        model = _model(path, vocabulary_only=True)
    else:
        header, model, context = load(path, max_tokens, threads, embeddings=True, watch=watch)
    pooled = context is not None and lib.llama_pooling_type(context) == RANK
    wide = lib.llama_model_n_cls_out(model) if pooled else lib.llama_model_n_embd(model)
    opened = Opened(header, model, lib.llama_model_get_vocab(model), context, max_tokens, int(wide))
    weakref.finalize(opened, close, model, context)
    return opened


def load(path: Path, max_tokens: int, threads: int, *, embeddings: bool, watch: Any = None, kv_cache: str = "f16") -> tuple[Gguf, Any, Any]:
    """(header, model, context with room for one text of `max_tokens`); `close` frees the last two. kv_cache: type in which a decoder remembers the keys
    and values of what it read, in KV_TYPES. Raises InputError for a file that is not whole or whose context is shorter, StageError when there is no room.
    """
    lib, header = library(), read_gguf(path)
    longest = header.fact("context_length")
    if not isinstance(longest, int) or longest < max_tokens:
        raise InputError(
            f"the model reads {longest} tokens at most, and {max_tokens} are asked for.", where=str(path), write="Lower student.max_tokens."
        )
    model, asked = _model(path), lib.llama_context_default_params()
    # A text must fit one batch: an encoder looks at all of its tokens at once.
    asked.n_ctx = asked.n_batch = asked.n_ubatch = max_tokens
    asked.n_seq_max = 1
    asked.n_threads = asked.n_threads_batch = threads
    asked.embeddings = embeddings
    if kv_cache != "f16":
        asked.type_k = asked.type_v = _tensor_type(kv_cache.upper())
        asked.flash_attn_type = FLASH_ATTENTION  # llama.cpp reads quantized values by no other way
    if watch is not None:
        asked.cb_eval = watch
    context = lib.llama_init_from_model(model, asked)
    if not context:
        lib.llama_model_free(model)
        raise StageError(f"llama.cpp could not make room for {max_tokens} tokens: {last_words()}", where=str(path))
    return header, model, context


def _model(path: Path, *, vocabulary_only: bool = False) -> Any:
    lib = library()
    wish = lib.llama_model_default_params()
    wish.vocab_only = vocabulary_only
    wish.n_gpu_layers = 0
    model = lib.llama_model_load_from_file(str(path).encode(), wish)
    if not model:
        raise InputError("llama.cpp cannot load this file.", where=str(path), write=f"Its last words: {last_words()}")
    return model


def close(model: Any, context: Any) -> None:
    """Free what was loaded."""
    lib = library()
    if context:
        lib.llama_free(context)
    lib.llama_model_free(model)


def quantize(
    source: Path,
    out: Path,
    file_type: str,
    *,
    tensors: Mapping[str, str] | None = None,
    importance: Mapping[str, npt.NDArray[np.float32]] | None = None,
    threads: int = 1,
) -> None:
    """Write `source`, a float GGUF, as `file_type` ("Q8_0", "Q4_K_M", …). tensors: name → type of its own, over what the file type says.
    importance: name → weight of each column's error (gguf_importance.py).

    Row widths that a type cannot divide get another type from llama.cpp; `types_of` tells which. Raises StageError when llama.cpp refuses.
    """
    lib = library()
    wish = lib.llama_model_quantize_default_params()
    wish.nthread, wish.ftype = threads, FILE_TYPES[file_type]
    names = sorted((tensors or {}).items())
    # Patterns of std::regex, ended by an entry without one.
    own = (lib.llama_model_tensor_override * (len(names) + 1))()
    for place, (name, kind) in enumerate(names):
        own[place].pattern, own[place].type = f"^{name.replace('.', '[.]')}$".encode(), _tensor_type(kind)
    if names:
        wish.tt_overrides = ctypes.cast(own, type(wish.tt_overrides))
    # The matrices, ended by an entry without a name. `weights` keeps their numbers alive until llama.cpp is done.
    weights = {name: np.ascontiguousarray(values, np.float32) for name, values in sorted((importance or {}).items())}
    matrices = (lib.llama_model_imatrix_data * (len(weights) + 1))()
    for place, (name, values) in enumerate(weights.items()):
        matrices[place].name, matrices[place].size = name.encode(), values.size
        matrices[place].data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    if weights:
        wish.imatrix = ctypes.cast(matrices, type(wish.imatrix))
    if lib.llama_model_quantize(str(source).encode(), str(out).encode(), ctypes.byref(wish)):
        raise StageError(f"llama.cpp could not quantize to {file_type}: {last_words()}", where=str(source))


def _tensor_type(name: str) -> int:
    from edgedistill.gguf_file import TYPES

    return next(number for number, (called, _, _) in TYPES.items() if called == name)


@cache
def library() -> Any:
    """llama-cpp-python, its log kept and not printed. Raises MissingExtraError when it is missing or the build that crashes."""
    llama_build.require()
    import llama_cpp

    llama_cpp.llama_log_set(_listen, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    return llama_cpp


_SAID: list[str] = []


def _make_listener() -> Any:
    def listen(level: int, text: bytes, _: Any) -> None:
        line = text.decode(errors="replace").strip() if text else ""
        if line and level in (3, 4):  # warnings and errors
            _SAID.append(line)
            del _SAID[:-20]

    return ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(listen)


_listen = _make_listener()


def last_words() -> str:
    return _SAID[-1] if _SAID else "it said nothing."
