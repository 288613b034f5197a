"""How a text is put to a decoder: what stands before and behind it, as token ids. The same in training, labelling and on the device. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgedistill.errors import InputError

FEWEST_TOKENS = 8  # of a text that must find room in the prompt


@dataclass(frozen=True)
class Prompts:
    """before, behind: ids that stand around every text. max_tokens: prompt and answer together, of which half are kept for the answer."""

    tokenizer: Any
    before: tuple[int, ...]
    behind: tuple[int, ...]
    max_tokens: int

    def encode(self, text: str, tokens: int | None = None) -> tuple[list[int], list[tuple[int, int]]]:
        """Ids of the whole prompt, and where each token stands in the text ((0, 0): around it). A longer text is cut off.

        tokens: the text repeated and cut until the prompt is so long.
        """
        encoding = self.tokenizer.encode(text, add_special_tokens=False)
        ids, offsets = list(encoding.ids), list(encoding.offsets)
        around = len(self.before) + len(self.behind)
        most = self.max_tokens - self.max_tokens // 2 - around
        if tokens is not None:
            most = max(1, min(most, tokens - around))
            ids, offsets = (ids or [self.before[0]]) * most, (offsets or [(0, 0)]) * most
        ids, offsets = ids[:most], offsets[:most]
        return [*self.before, *ids, *self.behind], [*[(0, 0)] * len(self.before), *offsets, *[(0, 0)] * len(self.behind)]

    def answer(self, text: str) -> list[int]:
        """Ids of an answer, without a stop token."""
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)


def open_prompts(file: Path, settings: dict[str, Any], max_tokens: int) -> Prompts:
    """From tokenizer.json and the task's settings, whose `prompt` is what stands [before, behind] a text. Raises InputError when no text has room."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    before, behind = (tuple(tokenizer.encode(part, add_special_tokens=False).ids) for part in settings["prompt"])
    if max_tokens - max_tokens // 2 - len(before) - len(behind) < FEWEST_TOKENS:
        raise InputError(
            f"the prompt takes {len(before) + len(behind)} tokens beside the text, and half of max_tokens = {max_tokens} is all there is.",
            where="student.max_tokens",
            write=f"Write max_tokens = {2 * (len(before) + len(behind) + 4 * FEWEST_TOKENS)} or more, or a shorter data.prompt.",
        )
    # To the tokenizer of texts a text that spells a special token is text: what a user types must not end the prompt.
    tokenizer.encode_special_tokens = True
    return Prompts(tokenizer, before, behind, max_tokens)
