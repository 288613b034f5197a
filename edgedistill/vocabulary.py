"""Task vocabulary: keep only the tokens that the task's texts can produce.

A general tokenizer carries 30,000 and more tokens; a narrow task uses a few thousand, and the embedding table is most of a small student.
The cut keeps every token seen on the given texts, every special token and the single characters, and renumbers them.

Why kept texts come out the same: each tokenizer picks the best among the allowed segmentations of a word (WordPiece the longest next piece,
Unigram the likeliest path, BPE the lowest-ranked applicable merge). The cut only takes candidates away, never those that were picked, so
what was best before is still there and still best. For BPE all merges that lead to a kept token stay, so every step on the way stays too.
`cut` proves it again on every text: ids must map one to one.

A smaller vocabulary yet, of the `most` frequent tokens, leaves rare words to the fallback below: they are spelt with shorter pieces. The
student is trained on what the smaller tokenizer makes of its texts, so it learns those spellings. Half of a task's tokens stand in a text or two.
A larger one takes the commonest words of the language beside: words that the texts lack and users will say.

Why other texts do no worse than a bounded fallback: the single characters of the old vocabulary stay, so a word that used a dropped token
falls into shorter kept pieces, at worst one token a character (a byte for byte-level BPE), and no word becomes unknown that was known by
its characters.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgedistill.errors import ParityError, StageError

BYTE_LEVEL = "Ġ"  # a space, as byte-level BPE writes it
MARKS = (BYTE_LEVEL, "▁")  # what begins a word, where a vocabulary says so


@dataclass(frozen=True)
class Cut:
    """A smaller tokenizer and where its tokens stood before. kept: old id of each new id, ascending."""

    tokenizer: Any
    kept: list[int]


def cut(tokenizer: Any, texts: Sequence[str], most: int | None = None) -> Cut:
    """Cut a `tokenizers.Tokenizer` to the tokens that `texts` produce; special tokens and characters stay beside.

    most: only so many, the most frequent first; where the texts have fewer, the commonest words of the language follow.

    Raises ParityError when a text's ids do not map one to one, StageError for a tokenizer model that has no cut yet.
    """
    from tokenizers import Tokenizer

    spec = json.loads(tokenizer.to_str())
    spec["padding"] = None
    reference = Tokenizer.from_str(json.dumps(spec))
    before = _ids(reference, texts)
    tokens = reference.get_vocab()
    counts = Counter(token_id for row in before for token_id in row)
    frequent = sorted(counts, key=lambda token_id: (-counts[token_id], token_id))
    if most is not None:
        frequent = [*dict.fromkeys([*frequent, *whole_words(tokens).values()])][:most]
    used = {*frequent} | _special_ids(spec)
    keep = _CUTS.get(spec["model"]["type"])
    if keep is None:
        raise StageError(
            f"a {spec['model']['type']} tokenizer cannot be cut to a task vocabulary.", write='Write vocabulary = "full" under [student].'
        )
    kept = sorted(keep(spec["model"], tokens, used))
    new_id = {old: new for new, old in enumerate(kept)}
    _renumber(spec, new_id)
    smaller = Tokenizer.from_str(json.dumps(spec))
    whole = [place for place, row in enumerate(before) if new_id.keys() >= {*row}]
    _prove([texts[place] for place in whole], [before[place] for place in whole], _ids(smaller, [texts[place] for place in whole]), new_id)
    return Cut(smaller, kept)


def whole_words(vocabulary: Mapping[str, int]) -> dict[str, int]:
    """Lower-case word of three letters or more → its row, in the order of the rows: merges and word pieces are listed by how common they are.

    A byte-level or SentencePiece vocabulary marks what begins a word; what it does not mark is a piece. A beginning that BPE merges on, such as
    "con", cannot be told from a word.
    """
    from tokenizers.decoders import ByteLevel

    mark = next((mark for mark in MARKS if sum(token.startswith(mark) for token in vocabulary) > len(vocabulary) / 10), "")
    spelt = ByteLevel().decode if mark == BYTE_LEVEL else "".join
    words = ((spelt([token.removeprefix(mark)]), row) for token, row in vocabulary.items() if token.startswith(mark))
    lower = {word: row for word, row in words if len(word) >= 3 and word.isalpha() and word == word.lower()}
    return dict(sorted(lower.items(), key=lambda pair: pair[1]))


def _ids(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    return [encoding.ids for encoding in tokenizer.encode_batch(list(texts))]


def _prove(texts: Sequence[str], before: list[list[int]], after: list[list[int]], new_id: dict[int, int]) -> None:
    for text, old, new in zip(texts, before, after, strict=True):
        if [new_id[token] for token in old] != new:
            raise ParityError(
                f"the cut vocabulary gives other tokens for {text[:80]!r}: {old[:12]} → {new[:12]}.",
                write='Write vocabulary = "full" under [student], and please report this tokenizer.',
            )


def _special_ids(spec: dict[str, Any]) -> set[int]:
    special = {token["id"] for token in spec["added_tokens"]}
    for name in ("unk_token",):
        token = spec["model"].get(name)
        if token is not None and isinstance(spec["model"]["vocab"], dict):
            special.add(spec["model"]["vocab"][token])
    if spec["model"].get("unk_id") is not None:
        special.add(spec["model"]["unk_id"])
    return special


def _keep_wordpiece(model: dict[str, Any], tokens: dict[str, int], used: set[int]) -> set[int]:
    prefix = model.get("continuing_subword_prefix", "##")
    return used | {old for token, old in tokens.items() if len(token.removeprefix(prefix)) == 1}


def _keep_unigram(model: dict[str, Any], tokens: dict[str, int], used: set[int]) -> set[int]:
    return used | {old for token, old in tokens.items() if len(token) == 1 or _is_byte(token)}


def _keep_bpe(model: dict[str, Any], tokens: dict[str, int], used: set[int]) -> set[int]:
    """Every kept token's ancestors stay: the parts of each merge that makes it, and their parts."""
    parts: dict[str, list[tuple[str, str]]] = {}
    for merge in model["merges"]:
        left, right = merge if isinstance(merge, list) else merge.split(" ", 1)
        parts.setdefault(left + right, []).append((left, right))
    names = {old: token for token, old in tokens.items()}
    kept, waiting = set(), [names[old] for old in used]
    while waiting:
        token = waiting.pop()
        if token not in kept:
            kept.add(token)
            waiting += [part for pair in parts.get(token, []) for part in pair if part in tokens]
    suffix = model.get("end_of_word_suffix") or ""
    kept |= {token for token in tokens if len(token.removesuffix(suffix) if suffix else token) == 1 or _is_byte(token)}
    return {tokens[token] for token in kept}


def _keep_wordlevel(model: dict[str, Any], tokens: dict[str, int], used: set[int]) -> set[int]:
    return used


def _is_byte(token: str) -> bool:
    """A byte-fallback token such as <0x0A>."""
    return len(token) == 6 and token.startswith("<0x") and token.endswith(">")


_CUTS = {"WordPiece": _keep_wordpiece, "Unigram": _keep_unigram, "BPE": _keep_bpe, "WordLevel": _keep_wordlevel}


def _renumber(spec: dict[str, Any], new_id: dict[int, int]) -> None:
    """Write the new ids into every place of tokenizer.json that holds one: vocabulary, merges, added tokens, post-processor."""
    model = spec["model"]
    if isinstance(model["vocab"], dict):
        model["vocab"] = {token: new_id[old] for token, old in model["vocab"].items() if old in new_id}
    else:
        model["vocab"] = [entry for old, entry in enumerate(model["vocab"]) if old in new_id]
        if model.get("unk_id") is not None:
            model["unk_id"] = new_id[model["unk_id"]]
    if "merges" in model:
        pairs = [merge if isinstance(merge, list) else merge.split(" ", 1) for merge in model["merges"]]
        model["merges"] = [[left, right] for left, right in pairs if {left, right, left + right} <= model["vocab"].keys()]
    spec["added_tokens"] = [token | {"id": new_id[token["id"]]} for token in spec["added_tokens"]]
    for processor in _processors(spec.get("post_processor")):
        for name in ("cls", "sep"):
            if name in processor:
                processor[name] = [processor[name][0], new_id[processor[name][1]]]
        for token in processor.get("special_tokens", {}).values():
            token["ids"] = [new_id[old] for old in token["ids"]]


def _processors(processor: dict[str, Any] | None) -> Iterable[dict[str, Any]]:
    if processor is None:
        return
    yield processor
    for inner in processor.get("processors", []):
        yield from _processors(inner)
