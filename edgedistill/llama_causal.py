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
from edgedistill.errors import StageError


@dataclass(frozen=True)
class Decoder:
    """A decoder that llama.cpp has loaded, with room for `max_tokens`. `tokens`: the size of its vocabulary."""

    model: Any
    context: Any
    max_tokens: int
    tokens: int

    def logits(self, ids: Sequence[int]) -> npt.NDArray[np.float32]:
        """What follows each position of one text: float32 [len(ids), tokens]. Nothing of an earlier text is remembered. Raises StageError."""
        return self.go_on(ids, 0, len(ids))

    def go_on(self, ids: Sequence[int], start: int, last: int) -> npt.NDArray[np.float32]:
        """What follows the `last` of these tokens, float32 [last, tokens], behind the first `start` tokens that were read before; what was read
        behind those is forgotten. Raises StageError."""
        lib = llama.library()
        if not 0 < len(ids) <= self.max_tokens - start:
            raise StageError(f"{start + len(ids)} tokens do not fit a context of {self.max_tokens}.")
        memory = lib.llama_get_memory(self.context)
        lib.llama_memory_seq_rm(memory, 0, start, -1)
        batch = lib.llama_batch_init(len(ids), 0, 1)
        try:
            batch.n_tokens = len(ids)
            for place, token in enumerate(ids):
                batch.token[place], batch.pos[place], batch.n_seq_id[place] = token, start + place, 1
                batch.logits[place] = place >= len(ids) - last
                batch.seq_id[place][0] = 0
            failed = lib.llama_decode(self.context, batch)
        finally:
            lib.llama_batch_free(batch)
        found = None if failed else lib.llama_get_logits(self.context)
        if not found:
            raise StageError(f"llama.cpp could not run the model (code {failed}).")
        return np.ctypeslib.as_array(ctypes.cast(found, ctypes.POINTER(ctypes.c_float)), (last, self.tokens)).astype(np.float32)


def open_decoder(path: Path, max_tokens: int, threads: int = 1, *, watch: Any = None, kv_cache: str = "f16") -> Decoder:
    """Load a decoder. watch: as in llama.open_file. kv_cache: as in llama.load.

    Raises InputError for a file that is not whole or whose context is shorter, StageError when there is no room.
    """
    lib = llama.library()
    _, model, context = llama.load(path, max_tokens, threads, embeddings=False, watch=watch, kv_cache=kv_cache)
    decoder = Decoder(model, context, max_tokens, int(lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(model))))
    weakref.finalize(decoder, llama.close, model, context)
    return decoder


def kl(right: npt.NDArray[np.float32], found: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """KL(softmax(right) ‖ softmax(found)) of each row, in nats. Both [rows, tokens]."""
    one, two = log_softmax(right), log_softmax(found)
    return np.asarray((np.exp(one) * (one - two)).sum(-1))


def log_softmax(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """In float64, so that the differences of close distributions are not rounding."""
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)))
