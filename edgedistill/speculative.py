"""Speculative writing: a small decoder guesses some tokens ahead, and a large one checks all of them in one pass (arXiv:2211.17192).

Greedy, so what is written is what the large one writes alone, near ties aside (a pass over several tokens rounds otherwise than one token at a time).
A distilled student is a natural draft of its own teacher. Their vocabularies may differ: tokens are the same when they are spelled alike, and what the
student has no token for it reads in pieces. Torch-free.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter_ns
from typing import Any

import numpy as np
import numpy.typing as npt

from edgedistill.llama_causal import Decoder
from edgedistill.writer import Writer


@dataclass(frozen=True)
class Drafted:
    """What was written, the stop token last where it came to one. proposed: tokens guessed; accepted: those that the large one would have written;
    passes: how often the large one was run."""

    ids: tuple[int, ...]
    proposed: int
    accepted: int
    passes: int
    nanoseconds: int


class Spelling:
    """Tokens of two vocabularies that are spelled alike."""

    def __init__(self, large: Any, small: Any) -> None:
        self._large, self._small = large, small

    def to_large(self, token: int) -> int | None:
        """The large decoder's id of a token; None where it has no token of that spelling."""
        found: int | None = self._large.token_to_id(self._small.id_to_token(token))
        return found

    def to_small(self, token: int) -> list[int]:
        """The small decoder's ids of a token: one, or those of its pieces."""
        spelled = self._large.id_to_token(token)
        same = self._small.token_to_id(spelled)
        return [same] if same is not None else [piece.id for piece in self._small.model.tokenize(spelled)]


class Reader:
    """A decoder that remembers what it read, and goes back to where a text parts from it."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder, self._read = decoder, []  # type: tuple[Decoder, list[int]]

    def after(self, ids: Sequence[int], last: int = 1) -> npt.NDArray[np.float32]:
        """What follows each of the `last` positions of a text, float32 [last, vocabulary]. Only what it has not read before is computed."""
        same = next(
            (place for place, (one, other) in enumerate(zip(self._read, ids, strict=False)) if one != other), min(len(self._read), len(ids))
        )
        same = min(same, len(ids) - last)
        found = self._decoder.go_on(ids[same:], same, last)
        self._read = list(ids)
        return found


def write(large: Writer, small: Writer, text: str, ahead: int) -> Drafted:
    """The large decoder's free answer to a text (no grammar), the small one guessing `ahead` tokens at a time."""
    spelling = Spelling(large.prompts.tokenizer, small.prompts.tokenizer)
    begin = perf_counter_ns()
    prompt, short = large.encode(text)[0], small.encode(text)[0]
    checker, guesser = Reader(large.decoder), Reader(small.decoder)
    ids: list[int] = []
    proposed = accepted = passes = 0
    room = large.prompts.max_tokens - len(prompt)
    while len(ids) < room:
        guesses: list[int] = []
        seen = [*short, *(piece for token in ids for piece in spelling.to_small(token))]
        most = min(ahead, room - len(ids) - 1, small.prompts.max_tokens - len(seen))
        while len(guesses) < most:
            token = int(guesser.after(seen)[-1].argmax())
            theirs = spelling.to_large(token)
            if theirs is None:
                break
            guesses.append(theirs)
            seen.append(token)
            if large.stops(theirs):
                break
        said = checker.after([*prompt, *ids, *guesses], len(guesses) + 1).argmax(-1).tolist()
        right = next((place for place, guess in enumerate(guesses) if guess != said[place]), len(guesses))
        proposed, accepted, passes = proposed + len(guesses), accepted + right, passes + 1
        new = said[: right + 1]
        stop = next((place for place, token in enumerate(new) if large.stops(token)), None)
        ids += new if stop is None else new[: stop + 1]
        if stop is not None:
            break
    return Drafted(tuple(ids), proposed, accepted, passes, perf_counter_ns() - begin)
