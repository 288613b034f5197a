"""Slices: named kinds of texts that a small model may get wrong, such as very short ones, typing errors or another script.

One accuracy over all rows hides them, so each row of the test set is marked with the built-in slices that it belongs to (`BUILT_IN`), and
every figure is also given slice by slice. What is very long or a typing error depends on what is usual, which `baseline` measures on the
training texts. The term is from Chen et al., "Slice-based Learning" (arXiv:1909.06349).
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

FREQUENT = 5  # times a word must stand in training before a word one edit away counts as its typo

_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_PIECE = re.compile(rf"[{_CJK}]|[^\s{_CJK}]+")
SIGNS = ".,;:!?\"'`()[]"
_WORD = re.compile(r"[^\W\d_]{5,}")


def words(text: str) -> list[str]:
    """The words of a text: what whitespace separates and holds a letter or digit. Each Chinese or Japanese character counts as one."""
    return [piece for piece in _PIECE.findall(text) if any(char.isalnum() for char in piece)]


@dataclass(frozen=True)
class Baseline:
    """What the training texts say is usual. The built-in slices are defined against it.

    long_words: from how many words a text is very long. known: all words of five letters or more. frequent: those seen FREQUENT times, by
    first and last letter.
    """

    long_words: int
    known: frozenset[str]
    frequent: dict[str, list[str]]


def baseline(texts: Sequence[str]) -> Baseline:
    """Measure the training texts. Very long is at least the 95th percentile and twice the median, words."""
    counts = [len(words(text)) for text in texts]
    long_words = int(np.ceil(max(np.percentile(counts, 95), 2 * np.median(counts), 4)))
    seen = Counter(word for text in texts for word in _WORD.findall(text.casefold()))
    frequent: dict[str, list[str]] = defaultdict(list)
    for word, times in seen.items():
        if times >= FREQUENT:
            frequent[word[0] + word[-1]].append(word)
    return Baseline(long_words, frozenset(seen), dict(frequent))


def slices_of(text: str, base: Baseline) -> list[str]:
    """The built-in slices that a text belongs to."""
    return [name for name, (_, belongs) in BUILT_IN.items() if belongs(text, base)]


def _is_upper_case(text: str) -> bool:
    cased = [char for char in text if char.isupper() or char.islower()]
    return len(cased) >= 4 and sum(char.isupper() for char in cased) >= 0.7 * len(cased)


def _has_typo(text: str, base: Baseline) -> bool:
    """First and last letter must be right: typing errors seldom touch them, and inflection (walk, walks) does."""
    return any(
        word not in base.known and any(_one_edit(word, known) for known in base.frequent.get(word[0] + word[-1], ()))
        for word in _WORD.findall(text.casefold())
    )


def _one_edit(a: str, b: str) -> bool:
    """Whether one letter too many, too few or wrong, or two swapped neighbours, tell `a` from `b` (Damerau, 1964).

    A wrong letter counts from eight letters up: of shorter words, most of those pairs are two right words (grass and glass, marlin and
    martin).
    """
    if abs(len(a) - len(b)) > 1 or a == b:
        return False
    start = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    rest_a, rest_b = a[start:], b[start:]
    if len(a) != len(b):
        return rest_a[1:] == rest_b or rest_a == rest_b[1:]
    swapped = rest_a[:2] == rest_b[1::-1] and rest_a[2:] == rest_b[2:]
    return swapped or (len(a) >= 8 and rest_a[1:] == rest_b[1:])


def _has_other_script(text: str) -> bool:
    return not text.isascii() and bool({*letters(text)} - {"Latin", "Other"})


def letters(text: str) -> Counter[str]:
    """The number of letters of each script in a text."""
    return Counter(name for char in text if (name := _script(char)))


_SCRIPTS = {"Cjk": "CJK", "Hiragana": "CJK", "Katakana": "CJK", "Katakana-hiragana": "CJK"}


@cache
def _script(char: str) -> str:
    """The script of a letter by its Unicode name, "" for what is no letter. NFKC first: ª and full-width letters have plain forms."""
    plain = unicodedata.normalize("NFKC", char)[:1]
    if not plain.isalpha():
        return ""
    name = unicodedata.name(plain, "Other").split()[0].capitalize()
    return _SCRIPTS.get(name, "Other" if name == "Modifier" else name)


BUILT_IN: dict[str, tuple[str, Callable[[str, Baseline], bool]]] = {
    "very_short": ("at most 3 words", lambda text, base: len(words(text)) <= 3),
    "very_long": (
        "at least {long_words} words, which is the 95th percentile and twice the median of training",
        lambda text, base: len(words(text)) >= base.long_words,
    ),
    "typos": (
        f"holds a word of five letters or more that training never has, one edit away from one that it has at least {FREQUENT} times",
        _has_typo,
    ),
    "upper_case": ("at least 70 % of four or more letters are capitals", lambda text, base: _is_upper_case(text)),
    "digits": ("holds a digit", lambda text, base: any(char.isdigit() for char in text)),
    "non_latin": ("holds a letter of another script than Latin", lambda text, base: _has_other_script(text)),
}


def member_of(names: Sequence[str], rules: Mapping[str, object], base: Baseline) -> Callable[[str], list[str]]:
    """A function text → those of `names` that it belongs to.

    rules: the user's slices; only regular expressions can be asked of a text, and they win over built-in slices of the same name.
    """
    patterns = {name: re.compile(rule) for name, rule in rules.items() if isinstance(rule, str)}

    def belongs(text: str, name: str) -> bool:
        if name in patterns:
            return bool(patterns[name].search(text))
        return name in BUILT_IN and BUILT_IN[name][1](text, base)

    return lambda text: [name for name in names if belongs(text, name)]


def bare_words(text: str) -> list[str]:
    """The words of a text without signs around them, case folded."""
    return [bare for word in words(text) if (bare := word.strip(SIGNS).casefold())]
