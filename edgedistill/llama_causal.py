"""A decoder's logits by llama.cpp, teacher-forced: all positions of a text in one pass, to be held against torch's or another file's."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgedistill import llama
from edgedistill.errors import InputError, StageError


@dataclass(frozen=True)
class Decoder:
    """A decoder that llama.cpp has loaded, with room for `max_tokens`. `tokens`: the size of its vocabulary."""

    model: Any
    context: Any
    max_tokens: int
    tokens: int

    def logits(self, ids: Sequence[int]) -> npt.NDArray[np.float32]:
        """What follows each position of one text: float32 [len(ids), tokens]. Nothing of an earlier text is remembered. Raises StageError."""
        lib = llama.library()
        if not 0 < len(ids) <= self.max_tokens:
            raise StageError(f"{len(ids)} tokens do not fit a context of {self.max_tokens}.")
        lib.llama_memory_clear(lib.llama_get_memory(self.context), True)
        batch = lib.llama_batch_init(len(ids), 0, 1)
        try:
            batch.n_tokens = len(ids)
            for place, token in enumerate(ids):
                batch.token[place], batch.pos[place], batch.n_seq_id[place], batch.logits[place] = token, place, 1, True
                batch.seq_id[place][0] = 0
            failed = lib.llama_decode(self.context, batch)
        finally:
            lib.llama_batch_free(batch)
        found = None if failed else lib.llama_get_logits(self.context)
        if not found:
            raise StageError(f"llama.cpp could not run the model (code {failed}).")
        return np.ctypeslib.as_array(ctypes.cast(found, ctypes.POINTER(ctypes.c_float)), (len(ids), self.tokens)).astype(np.float32)


def open_decoder(path: Path, max_tokens: int, threads: int = 1, *, watch: Any = None) -> Decoder:
    """Load a decoder, memory of keys and values in float16. watch: as in llama.open_file.

    Raises InputError for a file that is not whole or whose context is shorter, StageError when there is no room.
    """
    whole = llama.open_file(path, vocabulary_only=True).header
    longest = whole.fact("context_length")
    if not isinstance(longest, int) or longest < max_tokens:
        raise InputError(
            f"the model reads {longest} tokens at most, and {max_tokens} are asked for.", where=str(path), write="Lower student.max_tokens."
        )
    lib = llama.library()
    wish = lib.llama_model_default_params()
    wish.n_gpu_layers = 0
    model = lib.llama_model_load_from_file(str(path).encode(), wish)
    if not model:
        raise InputError("llama.cpp cannot load this file.", where=str(path), write=f"Its last words: {llama.last_words()}")
    asked = lib.llama_context_default_params()
    asked.n_ctx = asked.n_batch = asked.n_ubatch = max_tokens
    asked.n_seq_max = 1
    asked.n_threads = asked.n_threads_batch = threads
    if watch is not None:
        asked.cb_eval = watch
    context = lib.llama_init_from_model(model, asked)
    if not context:
        lib.llama_model_free(model)
        raise StageError(f"llama.cpp could not make room for {max_tokens} tokens: {llama.last_words()}", where=str(path))
    decoder = Decoder(model, context, max_tokens, int(lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(model))))
    weakref.finalize(decoder, _close, lib, model, context)
    return decoder


def _close(lib: Any, model: Any, context: Any) -> None:
    lib.llama_free(context)
    lib.llama_model_free(model)


def kl(right: npt.NDArray[np.float32], found: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """KL(softmax(right) ‖ softmax(found)) of each row, in nats. Both [rows, tokens]."""
    one, two = log_softmax(right), log_softmax(found)
    return np.asarray((np.exp(one) * (one - two)).sum(-1))


def log_softmax(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """In float64, so that the differences of close distributions are not rounding."""
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)))
