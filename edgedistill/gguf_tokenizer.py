"""Byte-level BPE between tokenizer.json and GGUF, in both directions, and the proof that llama.cpp cuts texts as tokenizer.json does.

A byte-level BPE is three things: how a text is split into words before any merge (the pre-tokenizer, a regular expression), the merges in their
order, and the tokens that are looked for as they stand (added tokens). GGUF holds the last two and only a *name* for the first; llama.cpp keeps
the expressions of the names it knows, and a wrong name gives other ids with no error. llama.cpp's own converter finds the name by a digest of the
ids of one long text, so a vocabulary cut to a task, whose ids are all others, has no name there. Here the name follows from what tokenizer.json
says it does (`PRE_TOKENIZERS`), and the ids are then held against llama.cpp's on thousands of strings, at every conversion.

Source: llama.cpp's src/llama-vocab.cpp (llm_tokenizer_bpe); GPT-2's byte alphabet; https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from edgedistill import llama
from edgedistill.errors import InputError, ParityError, StageError
from edgedistill.token_parity import corpus, first_difference, told

CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def _bytes(use_regex: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


def _split(digits: str) -> dict[str, Any]:
    pattern = {"Regex": f"{CONTRACTIONS}|{WORDS % digits}"}
    return {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}


# llama.cpp's name → the pre_tokenizer of tokenizer.json that it stands for.
PRE_TOKENIZERS: dict[str, dict[str, Any]] = {
    "gpt-2": _bytes(use_regex=True),
    "smollm": {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, _bytes(use_regex=True)]},
    "qwen2": {"type": "Sequence", "pretokenizers": [_split(r"\p{N}"), _bytes(use_regex=False)]},
    "llama-bpe": {"type": "Sequence", "pretokenizers": [_split(r"\p{N}{1,3}"), _bytes(use_regex=False)]},
}
IGNORE_MERGES = ("llama-bpe",)  # llama.cpp takes a whole word that is a token before it looks at merges, for these names and no others
SPECIAL = ("bos", "eos", "unk", "pad")


def unknown_tokenizer(what: str) -> StageError:
    """The error for a tokenizer that llama.cpp cannot do."""
    return StageError(f"llama.cpp does not know {what}.", where="tokenizer.json", write="Take a target of format onnx.")


# --- tokenizer.json → GGUF --------------------------------------------------------------------------------------------------------------


def tokens_of(spec: dict[str, Any]) -> tuple[list[str], list[int]]:
    """Every token by id, and its kind in llama.cpp's numbers. Ids that the tokenizer leaves out are filled with unused tokens."""
    import gguf

    added = {token["id"]: token for token in spec["added_tokens"]}
    names = {place: token for token, place in spec["model"]["vocab"].items()} | {place: token["content"] for place, token in added.items()}
    kinds = []
    for place in range(max(names) + 1):
        if place not in names:
            names[place] = f"[PAD{place}]"
            kinds.append(gguf.TokenType.UNUSED)
        elif place in added:
            kinds.append(gguf.TokenType.CONTROL if added[place]["special"] else gguf.TokenType.USER_DEFINED)
        else:
            kinds.append(gguf.TokenType.NORMAL)
    return [names[place] for place in range(len(kinds))], kinds


def pre_tokenizer(spec: dict[str, Any]) -> str:
    """llama.cpp's name of how `spec` (tokenizer.json) splits a text into words. Raises StageError when it has none."""
    model, before = spec["model"], spec.get("pre_tokenizer") or {}
    if model["type"] != "BPE":
        raise unknown_tokenizer(f"a {model['type']} tokenizer in a decoder")
    if model.get("byte_fallback") or model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        raise unknown_tokenizer("BPE that is not byte by byte")
    steps = before.get("pretokenizers", [before])
    name = next((name for name, known in PRE_TOKENIZERS.items() if _same_split(steps, known.get("pretokenizers", [known]))), None)
    if name is None:
        raise unknown_tokenizer(f"BPE behind {' and '.join(str(step.get('type')) for step in steps)} as tokenizer.json sets them")
    if bool(model.get("ignore_merges")) != (name in IGNORE_MERGES):
        raise unknown_tokenizer(f'the pre-tokenizer "{name}" with ignore_merges = {str(bool(model.get("ignore_merges"))).lower()}')
    if (spec.get("normalizer") or {}).get("type") not in (None, "NFC"):
        raise unknown_tokenizer(f"byte-level BPE behind the normalizer {spec['normalizer']['type']}")
    return name


def _same_split(steps: Sequence[dict[str, Any]], known: Sequence[dict[str, Any]]) -> bool:
    """Whether two chains split alike. trim_offsets moves offsets alone; an absent field has the default of the tokenizers library."""

    def plain(step: dict[str, Any]) -> dict[str, Any]:
        whole = {"use_regex": True} | step if step.get("type") == "ByteLevel" else step
        return {name: value for name, value in whole.items() if name != "trim_offsets"}

    return [plain(step) for step in steps] == [plain(step) for step in known]


def write_bpe(writer: Any, spec: dict[str, Any], special: dict[str, str], template: str | None, rows: int) -> int:
    """Put the tokenizer of `spec` (tokenizer.json) into a gguf.GGUFWriter; gives the number of its tokens.

    special: the token of each of SPECIAL that the model has. template: its chat template. rows: how many embeddings there are.
    Raises StageError for a tokenizer that llama.cpp does not know, or one with more tokens than the model.
    """
    name, (names, kinds) = pre_tokenizer(spec), tokens_of(spec)
    if len(names) > rows:
        raise StageError(f"the tokenizer has {len(names)} tokens, and the model {rows} embeddings.", where="tokenizer.json")
    ids = {token: place for place, token in enumerate(names)}
    begins, ends = _around(spec)
    for kind, around in (("bos", begins), ("eos", ends)):
        if around:
            special = special | {kind: names[around[0]]}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(name)
    writer.add_token_list(names)
    writer.add_token_types(kinds)
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in spec["model"]["merges"]]
    writer.add_token_merges(merges or [f"{names[0]} {names[0]}"])  # an empty array has no type; this one joins nothing that is a token
    for kind, call in (("bos", "bos"), ("eos", "eos"), ("unk", "unk"), ("pad", "pad")):
        token = special.get(kind)
        if token is not None and token not in ids:
            raise StageError(f"the {kind} token {token!r} is not in the vocabulary.", where="tokenizer_config.json")
        if token is not None:
            getattr(writer, f"add_{call}_token_id")(ids[token])
    writer.add_add_bos_token(bool(begins))
    writer.add_add_eos_token(bool(ends))
    writer.add_add_space_prefix(False)
    if template:
        writer.add_chat_template(template)
    return len(names)


def _around(spec: dict[str, Any]) -> tuple[list[int], list[int]]:
    """Ids that stand before and behind every text. Raises StageError for more than one on a side: llama.cpp has one."""
    from tokenizers import Tokenizer

    bare = Tokenizer.from_str(_dumps(spec | {"padding": None, "truncation": None}))
    row, inner = bare.encode("a").ids, bare.encode("a", add_special_tokens=False).ids
    at = next((place for place in range(len(row) - len(inner) + 1) if row[place : place + len(inner)] == inner), 0)
    before, behind = row[:at], row[at + len(inner) :]
    if len(before) > 1 or len(behind) > 1:
        raise unknown_tokenizer("a tokenizer that puts more than one token before or behind a text")
    return before, behind


# --- GGUF → tokenizer.json --------------------------------------------------------------------------------------------------------------


def read_bpe(facts: dict[str, Any], where: str) -> dict[str, Any]:
    """tokenizer.json of a GGUF's facts, the inverse of `write_bpe`. Raises InputError for a tokenizer that is no byte-level BPE known here.

    An NFC normalizer (Qwen's) is not in a GGUF; it is put back by the pre-tokenizer's name.
    """
    name = facts.get("tokenizer.ggml.pre")
    if facts.get("tokenizer.ggml.model") != "gpt2" or name not in PRE_TOKENIZERS:
        raise InputError(
            f"its tokenizer ({facts.get('tokenizer.ggml.model')}, {name}) cannot be read back.",
            where=where,
            write=f"Known are byte-level BPE of the pre-tokenizers {', '.join(sorted(PRE_TOKENIZERS))}; give the transformers folder instead.",
        )
    tokens: list[str] = facts["tokenizer.ggml.tokens"]
    kinds: list[int] = facts["tokenizer.ggml.token_type"]
    merges = [merge.split(" ", 1) for merge in facts["tokenizer.ggml.merges"]]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    added = [
        {"id": place, "content": token, **flags, "special": kind == 3}
        for place, (token, kind) in enumerate(zip(tokens, kinds, strict=True))
        if kind in (3, 4)
    ]
    spec: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {"type": "NFC"} if name == "qwen2" else None,
        "pre_tokenizer": PRE_TOKENIZERS[name],
        "post_processor": None,
        "decoder": _bytes(use_regex=True),
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": name in IGNORE_MERGES,
            "vocab": {token: place for place, token in enumerate(tokens)},
            "merges": merges,
        },
    }
    around: dict[str, Any] = {kind: facts.get(f"tokenizer.ggml.{kind}_token_id") for kind in ("bos", "eos")}
    used = [kind for kind in ("bos", "eos") if facts.get(f"tokenizer.ggml.add_{kind}_token") and around[kind] is not None]
    if used:
        marks = {kind: {"SpecialToken": {"id": tokens[around[kind]], "type_id": 0}} for kind in used}
        single = [
            *([marks["bos"]] if "bos" in used else []),
            {"Sequence": {"id": "A", "type_id": 0}},
            *([marks["eos"]] if "eos" in used else []),
        ]
        named = {
            tokens[around[kind]]: {"id": tokens[around[kind]], "ids": [around[kind]], "tokens": [tokens[around[kind]]]} for kind in used
        }
        pair = [*single, {"Sequence": {"id": "B", "type_id": 1}}]
        spec["post_processor"] = {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": named}
    return spec


# --- the proof --------------------------------------------------------------------------------------------------------------------------


def check_ids(folder: Path, texts: Sequence[str], known_gap: Callable[[str], bool]) -> dict[str, float]:
    """llama.cpp's own tokenizer (folder/model.gguf) against folder/tokenizer.json.

    known_gap: texts that the two are known to cut otherwise; they are counted, not asked. Facts: `token_texts` and `token_gaps`.
    Raises ParityError with the shortest text that differs.
    """
    from tokenizers import Tokenizer

    reference = Tokenizer.from_file(str(folder / "tokenizer.json"))
    reference.no_truncation()
    opened = llama.open_file(folder / "model.gguf", vocabulary_only=True)
    special = [token.content for token in reference.get_added_tokens_decoder().values()]
    strings = corpus(texts, special)
    asked = [text for text in strings if not known_gap(text)]
    difference = first_difference(asked, lambda text: list(reference.encode(text).ids), opened.tokenize)
    if difference:
        raise ParityError(
            f"llama.cpp's tokenizer and tokenizer.json give different ids for {told(*difference)}.",
            where=str(folder / "model.gguf"),
            write="Please report this tokenizer: the model would read other words than it was trained on.",
        )
    return {"token_texts": float(len(asked)), "token_gaps": float(len(strings) - len(asked))}


def bpe_gap(spec: dict[str, Any]) -> Callable[[str], bool]:
    """Texts that llama.cpp is known to cut otherwise than the byte-level BPE of `spec`.

    It normalizes nothing, so behind an NFC normalizer texts in another form differ. A byte that the vocabulary lacks (SmolLM2's has no bytes of some
    control characters) is dropped before the merges by tokenizers and after them by llama.cpp.
    """
    composed = (spec.get("normalizer") or {}).get("type") == "NFC"
    vocabulary = spec["model"]["vocab"]
    missing = {value for value, sign in byte_alphabet().items() if sign not in vocabulary}

    def gap(text: str) -> bool:
        return (composed and unicodedata.normalize("NFC", text) != text) or bool(missing and missing & {*text.encode("utf-8", "replace")})

    return gap


@cache
def byte_alphabet() -> dict[int, str]:
    """GPT-2's sign of each byte: printable ones stand for themselves, the others for the first free signs from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [value for value in range(256) if value not in printable]
    return {value: chr(value) for value in printable} | {value: chr(0x100 + place) for place, value in enumerate(rest)}


def _dumps(spec: dict[str, Any]) -> str:
    import json

    return json.dumps(spec, ensure_ascii=False)
