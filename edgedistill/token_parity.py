"""Token ids: do two tokenizers of one vocabulary cut every text alike? Asked on thousands of strings before anything is built on the answer.

One wrong id is a wrong word for the model, and no error says so. Equal ids on a few sentences prove nothing: tokenizers differ where nobody looks, in
rare Unicode classes, in runs of spaces, in digits. So beside the task's own texts stand strings drawn from all of these, and mixtures.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence

STRINGS = 4000  # drawn ones; a second or two of both tokenizers
ALPHABETS = (
    "abcdefghijklmnopqrstuvwxyz",
    "ABCDEFGHIJKLMNOPQRSTUVWXYZ",
    "0123456789",
    "     \t\n\r",
    ".,;:!?'\"()[]{}<>|/\\@#$%^&*-_=+~`",
    "àáâãäåæçèéêëìíîïñòóôõöøùúûüýÿßœšžđłğşıőűćńśźż",
    "абвгдеёжзийклмнопрстуфхцчшщъыьэюяАБВГД",
    "αβγδεζηθικλμνξοπρστυφχψωάέήίόύώ",
    "مرحبابالعالمكيفحالك",
    "שלוםעולםמהנשמע",
    "中文字符的一是在不了有和人这",
    "ひらがなカタカナーっゃゅょ",
    "한국어안녕하세요",
    "กขคงจฉชซญดตถทธนบปผพ",
    "नमस्तेदुनिया",
    "👍👩👧🏽🇳🇱❤️🎉🚀",
    "\u0301\u0308\u0327\u200d\u200b\u00ad\ufeff\u00a0\u2009\u3000",
    "½①²³™©®€£¥§¶†‡•…–—“”‘’«»",
)
CODE = (
    "def f(x):\n    return x**2",
    "if (a != b) { c[i] += 0x1F; }",
    "SELECT * FROM t WHERE id = 42;",
    "https://a.b/c?d=e&f=%20",
    "C:\\dir\\x.txt",
)


def corpus(texts: Sequence[str], special: Sequence[str], seed: int = 0) -> list[str]:
    """The task's own texts, whole and in pieces, and STRINGS drawn ones. special: tokens that a text may spell."""
    draw = random.Random(seed)  # noqa: S311  # strings to try, not a secret
    own = list(dict.fromkeys(texts))[:2000]
    return list(dict.fromkeys([*own, *CODE, "", " ", *_drawn(draw, own or ["a text"], list(special) or ["<s>"])]))


def _drawn(draw: random.Random, own: list[str], special: list[str]) -> Iterator[str]:
    for number in range(STRINGS):
        kind = number % 5
        if kind == 0:  # one script
            yield "".join(draw.choices(draw.choice(ALPHABETS) + " ", k=draw.randint(1, 40)))
        elif kind == 1:  # all of them
            yield "".join(draw.choice(draw.choice(ALPHABETS)) for _ in range(draw.randint(1, 40)))
        elif kind == 2:  # a text of the task with something strange inside
            text = draw.choice(own)
            at = draw.randint(0, len(text))
            yield text[:at] + "".join(draw.choices(draw.choice(ALPHABETS), k=draw.randint(1, 4))) + text[at:]
        elif kind == 3:  # a special token, spelt out
            text = draw.choice(own)
            yield draw.choice(
                [text + draw.choice(special), draw.choice(special) + " " + text, text[: len(text) // 2] + draw.choice(special)]
            )
        else:  # any assigned character of the first plane
            yield "".join(chr(draw.choice(ASSIGNED)) for _ in range(draw.randint(1, 12)))


def _assigned() -> list[int]:
    import unicodedata

    return [point for point in range(0x20, 0x2FFF) if unicodedata.category(chr(point)) not in ("Cn", "Cs", "Co", "Cc")]


ASSIGNED = _assigned()


def first_difference(
    texts: Sequence[str], right: Callable[[str], list[int]], other: Callable[[str], list[int]]
) -> tuple[str, list[int], list[int]] | None:
    """The shortest text that the two cut otherwise, with the ids of both; None when there is none."""
    for text in sorted(texts, key=len):
        wanted, got = right(text), other(text)
        if wanted != got:
            return text, wanted, got
    return None


def told(text: str, wanted: list[int], got: list[int]) -> str:
    """The difference in words."""
    at = next((place for place, (a, b) in enumerate(zip(wanted, got, strict=False)) if a != b), min(len(wanted), len(got)))
    return f"{text[:60]!r}: {len(wanted)} and {len(got)} tokens, first difference at {at} ({wanted[at : at + 5]} and {got[at : at + 5]})"
