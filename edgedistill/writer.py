"""A decoder that writes: llama.cpp reads a prompt and gives the likeliest token again and again, under a grammar if one is given.

Torch-free: it runs on devices. Greedy, so that the same file gives the same answer. A grammar is looked at for the likeliest token alone; only when
that one is not allowed, for all tokens: most of the time a grammar costs microseconds. Source: llama.cpp, src/llama-grammar.cpp and common/sampling.cpp.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import numpy as np
import numpy.typing as npt

from edgedistill import llama
from edgedistill.errors import InputError, StageError
from edgedistill.prompts import Prompts, open_prompts


@dataclass(frozen=True)
class Answer:
    """What was written, the stop token left out of text, and what it took.

    ids: tokens, the stop token last where it came to one. scores: log-probability of each, without the grammar. first_ns: from the prompt to the
    first token; rest_ns: all tokens behind it.
    """

    text: str
    ids: tuple[int, ...]
    scores: tuple[float, ...]
    first_ns: int
    rest_ns: int


@dataclass(frozen=True)
class Forced:
    """An answer that is given, held against what the decoder would have written: at each of its places, what stands before it being as given.

    likeliest: the token that comes first without the grammar. scores: log-probability of the given token, without the grammar. lead: the least by
    which a given token lies before any other that the grammar takes, MOST_LEAD at most; below 0 where another would have been written.
    """

    likeliest: tuple[int, ...]
    scores: tuple[float, ...]
    lead: float


MOST_LEAD = 2.0  # of a log-probability: what leads by more than this is no near tie anywhere


@dataclass(frozen=True)
class Writer:
    """A decoder that is loaded. grammar: GBNF, or nothing."""

    decoder: Any
    vocabulary: Any
    prompts: Prompts
    grammar: str

    def encode(self, text: str, tokens: int | None = None) -> tuple[list[int], list[tuple[int, int]]]:
        """Ids of the whole prompt, and where each token stands in the text; see `Prompts.encode`."""
        return self.prompts.encode(text, tokens)

    def stops(self, token: int) -> bool:
        """Whether a token ends an answer."""
        return bool(llama.library().llama_vocab_is_eog(self.vocabulary, token))

    def write(self, prompt: Sequence[int], constrained: bool = True, most: int | None = None) -> Answer:
        """The answer to a prompt, at most `most` tokens. Nothing of an earlier one is remembered. Raises StageError when llama.cpp cannot."""
        lib, context = llama.library(), self.decoder.context
        lib.llama_memory_clear(lib.llama_get_memory(context), True)
        rules = self._rules() if constrained and self.grammar else None
        ids: list[int] = []
        scores: list[float] = []
        start = perf_counter_ns()
        first = 0
        given = list(prompt)
        try:
            while len(ids) < min(most or self.prompts.max_tokens, self.prompts.max_tokens - len(prompt)):
                logits = self._next(given)
                token = int(logits.argmax())
                if rules is not None and not self._allowed(rules, [token], logits).any():
                    kept = np.where(self._allowed(rules, range(len(logits)), logits), logits, -np.inf)
                    token = int(kept.argmax())
                ids.append(token)
                scores.append(_log_probability(logits, token))
                first = first or perf_counter_ns()
                if self.stops(token):
                    break
                if rules is not None:
                    lib.llama_sampler_accept(rules, token)
                given = [token]
        finally:
            if rules is not None:
                lib.llama_sampler_free(rules)
        done = perf_counter_ns()
        stopped = bool(ids) and self.stops(ids[-1])
        text = self.prompts.tokenizer.decode(ids[: len(ids) - stopped], skip_special_tokens=False)
        return Answer(text, tuple(ids), tuple(scores), (first or done) - start, done - (first or done))

    def forced(self, prompt: Sequence[int], answer: Sequence[int]) -> Forced:
        """A given answer, read token by token as it would have been written: one pass over all of it rounds otherwise. Raises StageError."""
        lib, context = llama.library(), self.decoder.context
        lib.llama_memory_clear(lib.llama_get_memory(context), True)
        rules = self._rules() if self.grammar else None
        likeliest, scores, lead = [], [], MOST_LEAD
        before = list(prompt)
        try:
            for token in answer:
                logits = self._next(before)
                rivals = np.flatnonzero(logits > logits[token] - lead)
                rivals = rivals[rivals != token]
                if rules is not None and len(rivals):
                    rivals = rivals[self._allowed(rules, rivals.tolist(), logits)]
                lead = min(lead, float(logits[token] - logits[rivals].max(initial=-np.inf)))
                likeliest.append(int(logits.argmax()))
                scores.append(_log_probability(logits, token))
                if rules is not None and not self.stops(token):
                    lib.llama_sampler_accept(rules, token)
                before = [token]
        finally:
            if rules is not None:
                lib.llama_sampler_free(rules)
        return Forced(tuple(likeliest), tuple(scores), lead)

    def _next(self, ids: list[int]) -> npt.NDArray[np.float32]:
        """The logits behind the last of these tokens, float32 [vocabulary]."""
        lib = llama.library()
        row = (ctypes.c_int32 * len(ids))(*ids)
        failed = lib.llama_decode(self.decoder.context, lib.llama_batch_get_one(row, len(ids)))
        found = None if failed else lib.llama_get_logits_ith(self.decoder.context, -1)
        if not found:
            raise StageError(f"llama.cpp could not run the model (code {failed}).")
        return np.ctypeslib.as_array(ctypes.cast(found, ctypes.POINTER(ctypes.c_float)), (self.decoder.tokens,)).astype(np.float32)

    def _rules(self) -> Any:
        rules = llama.library().llama_sampler_init_grammar(self.vocabulary, self.grammar.encode(), b"root")
        if not rules:
            raise InputError(
                "llama.cpp cannot parse the grammar.", where="grammar", write=f"It is GBNF and has a rule root: {self.grammar[:80]!r}"
            )
        return rules

    def _allowed(self, rules: Any, tokens: Sequence[int] | range, logits: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
        """Which of the tokens the grammar takes next, bool [len(tokens)]."""
        import llama_cpp

        data = (llama_cpp.llama_token_data * len(tokens))()
        view = np.frombuffer(data, dtype=[("id", np.int32), ("logit", np.float32), ("p", np.float32)])
        view["id"], view["logit"] = list(tokens), logits[list(tokens)]
        held = llama_cpp.llama_token_data_array(data, len(tokens), -1, False)
        llama_cpp.llama_sampler_apply(rules, ctypes.byref(held))
        return np.asarray(np.isfinite(view["logit"]))


def _log_probability(logits: npt.NDArray[np.float32], token: int) -> float:
    highest = float(logits.max())
    return float(logits[token] - highest - np.log(np.exp(logits - highest).sum()))


def open_writer(model: Path, tokenizer: Path, max_tokens: int, threads: int, settings: dict[str, Any], kv_cache: str = "f16") -> Writer:
    """Load a decoder for one prompt at a time. settings: of the task: `prompt` (what stands before and behind a text) and `grammar`.

    max_tokens: prompt and answer together; half of them are kept for the answer. kv_cache: as in llama.load. Raises InputError for a file that
    is not whole, a context that is too long, or a prompt that leaves no room.
    """
    from edgedistill.llama_causal import open_decoder

    prompts = open_prompts(tokenizer, settings, max_tokens)
    decoder = open_decoder(model, max_tokens, threads, kv_cache=kv_cache)
    return Writer(decoder, llama.library().llama_model_get_vocab(decoder.model), prompts, settings.get("grammar", ""))
