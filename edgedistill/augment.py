"""Label-free augmentation: grow a transfer set out of texts alone.

No label is ever read: the teacher labels what comes out, so a change of meaning does no harm, it is one more question answered. That frees
the operations to be rough, as in TinyBERT (arXiv:1909.10351, §4.2), which replaces words in context, and EDA (arXiv:1901.11196), which deletes
and swaps. Pure Python; the same texts and seed give the same result.

- replace: words exchanged for others seen between the same neighbours, P(w') ∝ count(left, w') · count(w', right) over the texts themselves
- similar: words exchanged for near ones in a token table, such as the teacher's own; brings in words that the texts lack
- reword: the same for the words that the texts are about: all but the commonest of the language (commands say "set" and "temperature" all the time)
- delete: each word dropped with a small probability
- recombine: the head of one text and the tail of another, joined where both have the same word
- typo: letters swapped, dropped, doubled or mistaken
- case: the whole text in lower or upper case
"""

from __future__ import annotations

import random
from bisect import bisect
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt

BEGIN, END = "\x02", "\x03"  # stand for the edges of a text in the bigram counts
DELETED = 0.15  # probability that `delete` drops a word
MOST_REPLACED = 3
NEAREST = 8  # neighbours that `similar` chooses from
COMMON_HERE = 60  # words of the texts, the commonest, that `similar` leaves alone: they carry what the task asks
COMMONEST = 100  # words of a vocabulary too common to have a meaning of their own: `reword` leaves them
SECOND = 0.5  # probability that a second operation follows on the first
TRIES = 8  # a text may not be fit for an operation, or give a text that is there already

Operation = Callable[[list[str], random.Random], list[str] | None]


class Augmenter:
    """Holds the bigram counts and word positions of a corpus; linear in its size.

    near, reworded: lower-case word → words that may stand in its place, for `similar` and for `reword`.
    """

    def __init__(
        self, texts: Sequence[str], near: Mapping[str, Sequence[str]] | None = None, reworded: Mapping[str, Sequence[str]] | None = None
    ) -> None:
        self._near, self._reworded = near or {}, reworded or {}
        self._texts = [text for text in texts if text.split()]
        self.rows = [text.split() for text in self._texts]
        self._donors: list[int] = []  # rows that lent words to the text being made, beside the one it started from
        self._after: dict[str, Counter[str]] = defaultdict(Counter)
        self._before: dict[str, Counter[str]] = defaultdict(Counter)
        self._places: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for number, row in enumerate(self.rows):
            folded = [BEGIN, *(word.lower() for word in row), END]
            for place, word in enumerate(row):
                self._after[folded[place]][word] += 1
                self._before[folded[place + 2]][word] += 1
                self._places[folded[place + 1]].append((number, place))
        self._slots: dict[tuple[str, str], tuple[list[str], list[int]]] = {}
        self._longest = max((len(row) for row in self.rows), default=0)

    def grow(self, count: int, methods: Mapping[Any, float], seed: int, exclude: Iterable[str], normal: Callable[[str], str]) -> list[str]:
        """The texts of `grow_families` alone."""
        return list(self.grow_families(count, methods, seed, exclude, normal))

    def grow_families(
        self, count: int, methods: Mapping[Any, float], seed: int, exclude: Iterable[str], normal: Callable[[str], str]
    ) -> dict[str, tuple[str, ...]]:
        """Up to `count` new texts, each with the texts it was grown from; fewer when the texts give no more.

        methods: operation → share. exclude: texts that must not come out (the test set, the originals). normal: the form under which two
        texts count as the same; nothing comes out twice under it.
        """
        operations: list[Operation] = [getattr(self, name) for name in methods]
        shares = list(accumulate(methods.values()))
        if not self.rows or not shares or shares[-1] <= 0:
            return {}
        draw = random.Random(seed)  # noqa: S311  # a sample, not a secret
        seen = {normal(text) for text in exclude} | {""}
        grown: dict[str, tuple[str, ...]] = {}
        order = list(range(len(self.rows)))
        for _ in range(-(-count * TRIES // len(order))):
            draw.shuffle(order)
            for number in order:
                self._donors.clear()
                words = _drawn(operations, shares, draw)(self.rows[number], draw)
                if words is None:
                    continue
                if draw.random() < SECOND:
                    words = _drawn(operations, shares, draw)(words, draw) or words
                text = " ".join(words)
                form = normal(text)
                if form in seen:
                    continue
                seen.add(form)
                grown[text] = tuple(dict.fromkeys(self._texts[parent] for parent in (number, *self._donors)))
                if len(grown) == count:
                    return grown
        return grown

    def replace(self, words: list[str], draw: random.Random) -> list[str] | None:
        out, done, wanted = list(words), 0, draw.randint(1, MOST_REPLACED)
        for _ in range(wanted * 3):
            place = draw.randrange(len(out))
            left = out[place - 1].lower() if place else BEGIN
            right = out[place + 1].lower() if place + 1 < len(out) else END
            candidates, weights = self._between(left, right)
            if len(candidates) < 2:
                continue
            word = candidates[bisect(weights, draw.random() * weights[-1], 0, len(weights) - 1)]
            if word != out[place]:
                out[place] = word
                done += 1
                if done == wanted:
                    break
        return out if done else None

    def _between(self, left: str, right: str) -> tuple[list[str], list[int]]:
        """Words seen both after `left` and before `right`, with their cumulated weights."""
        if (left, right) not in self._slots:
            after, before = self._after.get(left, Counter()), self._before.get(right, Counter())
            few, many = (after, before) if len(after) <= len(before) else (before, after)
            words = [word for word in few if word in many]
            self._slots[left, right] = (words, list(accumulate(few[word] * many[word] for word in words)))
        return self._slots[left, right]

    def similar(self, words: list[str], draw: random.Random) -> list[str] | None:
        return _exchanged(words, self._near, draw)

    def reword(self, words: list[str], draw: random.Random) -> list[str] | None:
        return _exchanged(words, self._reworded, draw)

    def delete(self, words: list[str], draw: random.Random) -> list[str] | None:
        if len(words) < 3:
            return None
        kept = [word for word in words if draw.random() >= DELETED]
        if len(kept) == len(words):
            kept.pop(draw.randrange(len(kept)))
        return kept if len(kept) >= 2 else None

    def recombine(self, words: list[str], draw: random.Random) -> list[str] | None:
        if len(words) < 3:
            return None
        for _ in range(4):
            place = draw.randrange(1, len(words))
            meetings = self._places.get(words[place].lower(), [])
            if len(meetings) < 2:
                continue
            number, start = meetings[draw.randrange(len(meetings))]
            tail = self.rows[number][start:]
            # Not longer than any real text: joined halves must not drift away from the traffic's lengths.
            if place + len(tail) <= self._longest and tail != words[place:]:
                self._donors.append(number)
                return words[:place] + tail
        return None

    def typo(self, words: list[str], draw: random.Random) -> list[str] | None:
        out = list(words)
        for _ in range(draw.randint(1, 2)):
            place = draw.randrange(len(out))
            word = out[place]
            if len(word) < 4 or not word.isalpha():
                continue
            at = draw.randrange(1, len(word) - 1)
            swapped = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
            dropped = word[:at] + word[at + 1 :]
            doubled = word[:at] + word[at] + word[at:]
            mistaken = word[:at] + word[draw.randrange(len(word))] + word[at + 1 :]
            out[place] = draw.choices((swapped, dropped, doubled, mistaken), (35, 30, 15, 20))[0]
        return out if out != words else None

    def case(self, words: list[str], draw: random.Random) -> list[str] | None:
        out = [word.lower() for word in words] if draw.random() < 0.7 else [word.upper() for word in words]
        return out if out != words else None


def _exchanged(words: list[str], near: Mapping[str, Sequence[str]], draw: random.Random) -> list[str] | None:
    places = [place for place, word in enumerate(words) if word.lower() in near]
    if not places:
        return None
    out = list(words)
    for place in draw.sample(places, min(len(places), draw.randint(1, MOST_REPLACED))):
        others = near[out[place].lower()]
        word = others[draw.randrange(len(others))]
        out[place] = word.capitalize() if out[place][0].isupper() else word
    return out


def _drawn(operations: Sequence[Operation], shares: Sequence[float], draw: random.Random) -> Operation:
    return operations[bisect(shares, draw.random() * shares[-1], 0, len(shares) - 1)]


def neighbours(
    texts: Iterable[str], whole: Mapping[str, int], table: npt.NDArray[np.float32], *, reword: bool = False
) -> dict[str, list[str]]:
    """Word of `texts` → the NEAREST whole words of a tokenizer's vocabulary by cosine in its embedding table, all in lower case.

    whole: word → row, the commonest first (`vocabulary.whole_words`). table: float [rows, width]; its mean is taken off first, since all rows
    share a large common direction (arXiv:1702.01417). The commonest words of the texts are left alone; with `reword` those of the language instead,
    and no word stands in for another form of itself.
    """
    counts = Counter(word for text in texts for word in set(text.lower().split()))
    words = list(whole)[COMMONEST:] if reword else list(whole)
    left = set() if reword else {word for word, _ in counts.most_common(COMMON_HERE)}
    asked = sorted(counts.keys() & set(words) - left)
    if not asked or len(words) <= NEAREST:
        return {}
    centred = table - table.mean(axis=0)
    centred /= np.linalg.norm(centred, axis=1, keepdims=True) + 1e-9
    candidates = centred[[whole[word] for word in words]]
    looked_at = min(4 * NEAREST, len(words))
    near: dict[str, list[str]] = {}
    for begin in range(0, len(asked), 1024):
        part = asked[begin : begin + 1024]
        likeness = centred[[whole[word] for word in part]] @ candidates.T
        best = np.argpartition(-likeness, looked_at - 1, axis=1)[:, :looked_at]
        for word, row, places in zip(part, likeness, best, strict=True):
            ranked = [words[place] for place in sorted(places, key=lambda place: (-row[place], place)) if words[place] != word]
            others = [other for other in ranked if not (reword and (other.startswith(word) or word.startswith(other)))]
            if others:
                near[word] = others[:NEAREST]
    return near
