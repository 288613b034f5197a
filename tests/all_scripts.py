"""Texts of all scripts, and a tokenizer that tells every character apart: what any other tokenizer than the reference is held against."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.tiny_bundle import MAX_TOKENS

SCRIPTS = [
    *[(0x20, 0x7F)] * 6, (0xA0, 0x250), (0x250, 0x300), (0x300, 0x370), (0x370, 0x400), (0x400, 0x530), (0x530, 0x590), (0x590, 0x600),
    (0x600, 0x700), (0x700, 0x780), (0x780, 0x980), (0x980, 0xE00), (0xE00, 0x1100), (0x1100, 0x1200), (0x1200, 0x1400), (0x1400, 0x1800),
    (0x1800, 0x1C00), (0x1C00, 0x1E00), (0x1E00, 0x2000), (0x2000, 0x2070), (0x2070, 0x2190), (0x2190, 0x2C00), (0x2C00, 0x3000),
    (0x3000, 0x3200), (0x3200, 0x3400), (0x4E00, 0x9FFF), (0xA000, 0xAC00), (0xAC00, 0xD7B0), (0xE000, 0xE010), (0xF900, 0xFB00),
    (0xFB00, 0xFE00), (0xFE00, 0xFFF0), (0xFFF0, 0x10000), (0x10000, 0x11000), (0x11000, 0x12000), (0x16F00, 0x17000), (0x1D100, 0x1D200),
    (0x1D400, 0x1D800), (0x1E000, 0x1E100), (0x1E900, 0x1E960), (0x1F000, 0x1FB00), (0x20000, 0x20100), (0x2F800, 0x2FA20), (0xE0000, 0xE0080),
]  # fmt: skip
MARKS = "\u0300\u0301\u0323\u0327\u0345\u0334\u302e\u302f\U0001d165\U0001d16e\u0f71\u0f72\u0591\u05b0\u1ab0\u1ac1\u093a\u20dd\u200d\ufe0f"


def strings(count: int, seed: int) -> list[str]:
    """Texts of all scripts: runs of one script, marks piled on letters, special tokens, spaces of all kinds, words too long to be looked up."""
    draw = random.Random(seed)

    def run() -> str:
        kind = draw.random()
        if kind < 0.06:
            return draw.choice(["[CLS]", "[SEP]", "[MASK]", " [UNK]", "[PAD]x", "[cls]", "##a", "[CLS][SEP]"])
        if kind < 0.12:
            return draw.choice([" ", "  ", "\t", "\n", "\r\n", "\u00a0", "\u2028", "\u0085", "\u3000", "\x0b", "\x00", "\u200b", "\ufeff"])
        if kind < 0.14:
            return draw.choice("aé語") * draw.randint(90, 110)
        first, last = draw.choice(SCRIPTS)
        chars = [chr(draw.randrange(first, last)) for _ in range(draw.randint(1, 8))]
        return "".join(
            char + draw.choice(MARKS) * draw.choice((0, 0, 0, 1, 1, 2)) + draw.choice(["", "", draw.choice(MARKS)]) for char in chars
        )

    return ["".join(run() for _ in range(draw.randint(0, 7))) for _ in range(count)]


def wide_bundle(tiny_bundle: Path, out: Path) -> Path:
    """The tiny bundle with a tokenizer that has a piece for every character, so that other ids show whatever goes wrong with any of them."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    folder = Path(shutil.copytree(tiny_bundle, out / "bundle"))
    chars = sorted({chr(code) for first, last in SCRIPTS for code in range(first, last) if chr(code).strip()})
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *chars, *(f"##{char}" for char in chars), "the", "##ing", "##aa", "ab"]
    tokenizer = Tokenizer(models.WordPiece({piece: place for place, piece in enumerate(dict.fromkeys(pieces))}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def cased_bundle(wide: Path, out: Path) -> Path:
    """The same for texts that keep their capitals and accents."""
    bundle = Path(shutil.copytree(wide, out / "cased"))
    facts = json.loads((bundle / "tokenizer.json").read_text())
    facts["normalizer"]["lowercase"] = False
    (bundle / "tokenizer.json").write_text(json.dumps(facts))
    return bundle


def differences(command: list[str], bundle: Path, texts: Sequence[str]) -> list[str]:
    """What another tokenizer cuts otherwise than the reference. command: takes JSON strings and gives lists of ids, one a line."""
    from tokenizers import Tokenizer

    reference = Tokenizer.from_file(str(bundle / "tokenizer.json"))
    reference.enable_truncation(MAX_TOKENS)
    done = subprocess.run(command, input="\n".join(map(json.dumps, texts)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    wrong = []
    for text, line in zip(texts, done.stdout.splitlines(), strict=True):
        ours, theirs = json.loads(line), reference.encode(text).ids
        if ours != theirs:
            wrong.append(f"{text!a}: {ours} instead of {theirs}")
    return wrong
