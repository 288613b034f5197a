"""Tagging: spans of a text and what each is, such as names and addresses. Answered word by word.

Words are found by one rule in the text itself (`words`), not by a tokenizer, so that teacher and student, whose tokenizers may cut
"Wolfsburg" differently, answer for the same thing. The token that holds a word's first character answers for the word (first-sub-word
labelling, BERT, arXiv:1810.04805, §5.3); the word's other tokens answer nothing.

Labels are `O`, and with a prefix what a word is of a span: `B-` and `I-` begin and continue it (BIO), `E-` ends it and `S-` is all of it
(BIOES); a label without a prefix is a span of neighbouring words that carry it. Reading is lenient, as users of taggers expect: an `I-` that
continues nothing begins a span. Judged by entity F1 (CoNLL-2000, CoNLL-2003): a span counts when its start, end and type are all right.

A target is a list of [start, end, type], characters, in order.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgedistill.tasks.classify import divergence as divergence
from edgedistill.tasks.classify import probabilities as probabilities

HUB_TASK = "token-classification"
EXACT = True
LISTS = True

OUTSIDE = "O"
# A run of letters, digits and their combining marks; or one character of a script that writes no spaces; or one other sign.
_ALONE = "\u0e00-\u0eff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
WORD = re.compile(rf"[{_ALONE}]|[^\W_{_ALONE}][^\W_{_ALONE}\u0300-\u036f]*[\u0300-\u036f]*|[^\w\s]|_")
Span = tuple[int, int]


def about(settings: dict[str, Any]) -> str:
    """For the model card."""
    types = classes(settings)
    return (
        f"Finds spans of {len(types)} types in a text ({', '.join(types[:20])}{', …' if len(types) > 20 else ''}). "
        "Nothing is read behind the token at which a text is cut off."
    )


def metric(settings: dict[str, Any]) -> str:
    return "entity F1"


def soft(options: Any) -> str:
    return "soft_target"


def hard_kind(settings: dict[str, Any]) -> str:
    return "classes"


# --- words and tokens -------------------------------------------------------------------------------------------------------------------


def words(text: str) -> list[Span]:
    """(start, end) of each word, characters."""
    return [match.span() for match in WORD.finditer(text)]


def positions(text: str, offsets: Sequence[Span]) -> npt.NDArray[np.int64]:
    """For each word the place of the token that holds its first character; words behind the last token are left out. int64 [words].

    offsets: (start, end) of each token, (0, 0) of those that stand for no text. A token may hold several words, and is then each one's; a
    word whose beginning no token holds (the tokenizer drops such characters) goes with the next token.
    """
    places = [place for place, (start, end) in enumerate(offsets) if end > start]
    ends = [offsets[place][1] for place in places]
    found = []
    for start, _ in words(text):
        at = bisect_left(ends, start + 1)
        if at == len(places):
            break
        found.append(places[at])
    return np.array(found, dtype=np.int64)


# --- targets ----------------------------------------------------------------------------------------------------------------------------


def joined(cell: str) -> str:
    """A JSON list of words as a text, a space between each."""
    return " ".join(str(word) for word in json.loads(cell))


def read(label: str, text: str, options: Any) -> list[list[Any]]:
    """The spans of a cell: a list of spans ({"start", "end", "label"} or [start, end, label]), or one tag for each word of the text.

    Raises ValueError for a span outside the text, one that overlaps another, one that cuts a word, and tags that are not as many as words.
    """
    try:
        found = json.loads(label)
    except ValueError:
        found = label.split()
    if not isinstance(found, list):
        raise ValueError("label is no list of spans or tags")
    if found and all(isinstance(tag, str) for tag in found):
        return _from_tags(found, text)
    spans = sorted(_span(entry) for entry in found)
    starts, ends = zip(*words(text), strict=True) if words(text) else ((), ())
    last = 0
    for start, end, name in spans:
        if not 0 <= start < end <= len(text):
            raise ValueError(f"span {start}–{end} lies outside the text of {len(text)} characters")
        if start < last:
            raise ValueError(f"span {start}–{end} overlaps the one before it")
        # Spaces at its ends are forgiven; a word in two is not, since words are what is tagged.
        if (_trim(text, start, end)[0] not in starts) or (_trim(text, start, end)[1] not in ends):
            raise ValueError(f"span {start}–{end} ({name}) begins or ends inside a word")
        last = end
    return [[*_trim(text, start, end), name] for start, end, name in spans]


def _span(entry: Any) -> tuple[int, int, str]:
    values = [entry.get(key) for key in ("start", "end", "label")] if isinstance(entry, dict) else entry
    if not isinstance(values, list) or len(values) != 3 or not all(isinstance(value, int) for value in values[:2]) or not values[2]:
        raise ValueError("a span is not {start, end, label} or [start, end, label]")
    return values[0], values[1], str(values[2])


def _trim(text: str, start: int, end: int) -> tuple[int, int]:
    inside = text[start:end]
    return start + len(inside) - len(inside.lstrip()), end - len(inside) + len(inside.rstrip())


def _from_tags(tags: list[str], text: str) -> list[list[Any]]:
    """Spans from one tag a word, words being what spaces part, as in CoNLL files. An I- behind another type or behind O begins a span."""
    places = [match.span() for match in re.finditer(r"\S+", text)]
    if len(tags) != len(places):
        raise ValueError(f"{len(tags)} tags for {len(places)} words")
    return [[start, end, name] for start, end, name, _ in merged(places, tags)]


def merged(places: Sequence[Span], tags: Iterable[str]) -> list[tuple[int, int, str, list[int]]]:
    """Neighbouring words of one type as spans: (start, end, type, which words). places: (start, end) of each word."""
    spans: list[tuple[int, int, str, list[int]]] = []
    open_ = False  # whether the last span may go on
    for word, ((start, end), tag) in enumerate(zip(places, tags, strict=False)):
        prefix, name = split(tag)
        if name == OUTSIDE:
            open_ = False
            continue
        if open_ and spans[-1][2] == name and prefix in ("I", "E", ""):
            spans[-1] = (spans[-1][0], end, name, [*spans[-1][3], word])
        else:
            spans.append((start, end, name, [word]))
        open_ = prefix not in ("E", "S")
    return spans


def split(tag: str) -> tuple[str, str]:
    """`B-CITY` → ("B", "CITY"); a tag without a prefix → ("", tag)."""
    return (tag[0], tag[2:]) if tag[1:2] == "-" and tag[0] in "BIESLU" else ("", tag)


def settings(targets: Sequence[Any], options: Any, labels: Sequence[str] | None = None) -> dict[str, Any]:
    """The labels of words: the teacher's own, else O and B- and I- of each type."""
    types = sorted({name for target in targets for _, _, name in target})
    return {"labels": list(labels) if labels else [OUTSIDE, *(f"{prefix}-{name}" for name in types for prefix in "BI")]}


def stratum(target: Any) -> str | None:
    return None


def classes(settings: dict[str, Any]) -> list[str]:
    """The types of spans, in the order of their labels."""
    return [name for name in dict.fromkeys(split(label)[1] for label in settings["labels"]) if name != OUTSIDE]


def names(target: Any, settings: dict[str, Any]) -> list[str]:
    return [name for _, _, name in target]


def number(target: Any, settings: dict[str, Any]) -> list[list[Any]]:
    return list(target)


def hard(target: Any, settings: dict[str, Any], text: str = "", offsets: Sequence[Span] | None = None) -> npt.NDArray[np.int64]:
    """The label of each token that answers for a word, -1 elsewhere; int64 [tokens], or [words] without offsets."""
    places = words(text)
    tokens = np.arange(len(places)) if offsets is None else positions(text, offsets)
    found = np.full(len(places) if offsets is None else len(offsets), -1, np.int64)
    if target is None:
        return found
    number = {name: place for place, name in enumerate(settings["labels"])}
    tags = [OUTSIDE] * len(places)
    for start, end, name in target:
        inside = [word for word, (first, last) in enumerate(places) if start <= first and last <= end]
        for word in inside:
            begins, ends = word == inside[0], word == inside[-1]
            prefixes = ("S", "U", "B") if begins and ends else ("B",) if begins else ("E", "L", "I") if ends else ("I",)
            tags[word] = next((f"{prefix}-{name}" for prefix in prefixes if f"{prefix}-{name}" in number), name)
    found[tokens] = [number[tag] for tag in tags[: len(tokens)]]
    return found


# --- answers ----------------------------------------------------------------------------------------------------------------------------


def answer(logits: npt.NDArray[Any], settings: dict[str, Any], text: str = "", offsets: Sequence[Span] | None = None) -> dict[str, Any]:
    """The spans. logits: float [tokens, labels], or [words, labels] without offsets.

    "answer" and "target": [start, end, type] of each; "spans": the same with its text and confidence, the mean over its words of the
    probability of the type (of all its labels together, so that a doubt between B- and I- is none about the type).
    """
    places = words(text)
    chosen = logits if offsets is None else logits[positions(text, offsets)]
    labels = settings["labels"]
    spans = merged(places, [labels[place] for place in chosen.argmax(axis=-1)]) if len(chosen) else []
    found = []
    if spans:
        spread = probabilities(chosen)
        of_type = {name: [place for place, label in enumerate(labels) if split(label)[1] == name] for name in {span[2] for span in spans}}
        for start, end, name, members in spans:
            share = float(spread[np.ix_(members, of_type[name])].sum(axis=1).mean())
            found.append({"start": start, "end": end, "label": name, "text": text[start:end], "confidence": share})
    plain = [[span["start"], span["end"], span["label"]] for span in found]
    return {"answer": plain, "target": plain, "spans": found}


def judge(predicted: Any, target: Any, settings: dict[str, Any]) -> tuple[float, float]:
    """Twice the spans that both have, of all that either has: the parts of entity F1."""
    ours, theirs = {tuple(span) for span in predicted}, {tuple(span) for span in target}
    return 2.0 * len(ours & theirs), float(len(ours) + len(theirs))
