"""GGUF, read with care: the facts and the tensors' places of a model file, every length checked against the file before it is believed.

llama.cpp trusts a file more than a device should: a wild length or a doubled token ends the whole process in an assertion. So whatever is handed
to it passes here first, and a file that is cut short, or says what cannot be, is refused with one sentence. Reads the header alone; needs nothing
but Python. Layout: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (version 3, little-endian).
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgedistill.errors import InputError

MAGIC, VERSIONS = b"GGUF", (2, 3)
STRING, ARRAY = 8, 9
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}  # type → struct code
MOST_DIMENSIONS, LONGEST_NAME, DEEPEST = 4, 64, 2
MOST_TOKENS = 4_000_000

# ggml type → (name, weights a block, bytes a block)
TYPES = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    9: ("Q8_1", 32, 36),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1),
    25: ("I16", 1, 2),
    26: ("I32", 1, 4),
    27: ("I64", 1, 8),
    28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
    40: ("NVFP4", 64, 36),
    41: ("Q1_0", 128, 18),
    42: ("Q2_0", 64, 18),
}
# What is known here of llama.cpp's tokenizers (llama-vocab.cpp). It has more (plamo2, rwkv, t5): each dies on a file that lacks what it takes for granted.
TOKENIZERS = ("bert", "gpt2", "llama", "no_vocab")
BYTES = [f"<0x{value:02X}>" for value in range(256)]  # SentencePiece's tokens of single bytes


@dataclass(frozen=True)
class Tensor:
    """One tensor: shape as ggml has it (row width first), its type's name, where its bytes begin in the file, and how many they are."""

    name: str
    shape: tuple[int, ...]
    type: str
    offset: int
    bytes: int


@dataclass(frozen=True)
class Gguf:
    """The header of a GGUF file."""

    facts: dict[str, Any]
    tensors: dict[str, Tensor]

    def fact(self, name: str) -> Any:
        """A fact of the model's own architecture: `fact("block_count")` is `llama.block_count` of a Llama."""
        return self.facts.get(f"{self.facts.get('general.architecture')}.{name}")


def read_gguf(path: Path) -> Gguf:
    """The header of `path`. Raises InputError, one sentence, for whatever is not a whole GGUF that llama.cpp can load."""
    try:
        with path.open("rb") as stream:
            if not path.stat().st_size:
                raise _Wild("it is empty")
            with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
                return _checked(_Reader(content).header())
    except _Wild as problem:
        raise InputError(
            f"this is no whole GGUF model: {problem}.", where=str(path), write="Copy the file again, or convert it anew."
        ) from None
    except OSError as problem:
        raise InputError(f"the file cannot be read: {problem.strerror}.", where=str(path)) from None


class _Wild(Exception):  # noqa: N818  # never leaves this file
    """What the file says cannot be."""


class _Reader:
    """Reads forward through the header, and never past the end."""

    def __init__(self, content: mmap.mmap) -> None:
        self.content, self.size, self.at = content, len(content), 0

    def header(self) -> Gguf:
        if self.take(4, "magic") != MAGIC:
            raise _Wild("it does not begin with GGUF")
        version = self.number("I", "version")
        if version not in VERSIONS:
            raise _Wild(f"it has version {version}, known are {' and '.join(map(str, VERSIONS))}")
        # Each tensor takes 24 bytes of header at least and each fact 13: a count beyond that is a lie, found before a loop is entered.
        tensors, facts = self.count("tensors", 24), self.count("facts", 13)
        read: dict[str, Any] = {}
        for _ in range(facts):
            name = self.string("a fact's name")
            if name in read:
                raise _Wild(f"it says {name[:80]!r} twice")
            read[name] = self.value(self.number("I", name), name)
        infos = [self.tensor() for _ in range(tensors)]
        alignment = read.get("general.alignment", 32)
        if not isinstance(alignment, int) or not 8 <= alignment <= 1 << 20 or alignment & (alignment - 1):
            raise _Wild(f"its alignment is {alignment!r}, and must be a power of two")
        start = -(-self.at // alignment) * alignment
        return Gguf(read, self.placed(infos, start, alignment))

    def take(self, length: int, what: str) -> bytes:
        if length > self.size - self.at:
            raise _Wild(f"it ends inside {what[:80]}: {length} bytes are needed at byte {self.at} of {self.size}")
        self.at += length
        return self.content[self.at - length : self.at]

    def number(self, code: str, what: str) -> Any:
        return struct.unpack(f"<{code}", self.take(struct.calcsize(f"<{code}"), what))[0]

    def count(self, what: str, least: int) -> int:
        found: int = self.number("Q", f"the number of {what}")
        if found * least > self.size - self.at:
            raise _Wild(f"it says it has {found} {what}, and {self.size - self.at} bytes are left")
        return found

    def string(self, what: str) -> str:
        raw = self.take(self.number("Q", what), what)
        try:
            return raw.decode()
        except UnicodeDecodeError:
            raise _Wild(f"{what[:80]} is not UTF-8") from None

    def value(self, kind: int, name: str, depth: int = 0) -> Any:
        if kind in SCALARS:
            return self.number(SCALARS[kind], name)
        if kind == STRING:
            return self.string(name)
        if kind != ARRAY or depth >= DEEPEST:
            raise _Wild(f"{name[:80]} has the unknown type {kind}" if kind != ARRAY else f"{name[:80]} is an array too deep")
        inner = self.number("I", name)
        if inner in SCALARS:
            code = SCALARS[inner]
            size = struct.calcsize(f"<{code}")
            length = self.count(f"values of {name[:80]}", size)
            return list(struct.unpack(f"<{length}{code}", self.take(size * length, name)))
        return [self.value(inner, name, depth + 1) for _ in range(self.count(f"values of {name[:80]}", 8))]

    def tensor(self) -> tuple[str, tuple[int, ...], int, int]:
        name = self.string("a tensor's name")
        if len(name.encode()) >= LONGEST_NAME:
            raise _Wild(f"the tensor's name {name[:80]!r} is longer than {LONGEST_NAME - 1} bytes")
        dimensions = self.number("I", name)
        if not 1 <= dimensions <= MOST_DIMENSIONS:
            raise _Wild(f"{name} has {dimensions} dimensions")
        shape = tuple(self.number("Q", name) for _ in range(dimensions))
        return name, shape, self.number("I", name), self.number("Q", name)

    def placed(self, infos: list[tuple[str, tuple[int, ...], int, int]], start: int, alignment: int) -> dict[str, Tensor]:
        placed: dict[str, Tensor] = {}
        end = 0
        for name, shape, kind, offset in infos:
            if kind not in TYPES:
                raise _Wild(f"{name} has the unknown type {kind}")
            called, block, size = TYPES[kind]
            weights = 1
            for side in shape:
                if not 0 < side < 1 << 40:
                    raise _Wild(f"{name} has a side of {side}")
                weights *= side
            if shape[0] % block:
                raise _Wild(f"the rows of {name} are {shape[0]} wide, and {called} needs a multiple of {block}")
            length = weights // block * size
            if offset % alignment or offset < end:
                raise _Wild(f"{name} begins at {offset}, which is inside another tensor or out of line")
            end = offset + length
            if start + end > self.size:
                raise _Wild(f"it ends inside {name}: {start + end} bytes are needed, {self.size} are there")
            if name in placed:
                raise _Wild(f"it holds {name} twice")
            placed[name] = Tensor(name, shape, called, start + offset, length)
        return placed


def _checked(read: Gguf) -> Gguf:
    """What llama.cpp takes for granted and ends in an assertion over."""
    architecture = read.facts.get("general.architecture")
    if not isinstance(architecture, str):
        raise _Wild("it does not say its architecture")
    layers = {name.split(".")[1] for name in read.tensors if name.startswith("blk.")}
    said = read.fact("block_count")
    if layers != {str(layer) for layer in range(len(layers))} or said != len(layers) or isinstance(said, bool) or not layers:
        raise _Wild(f"it says that it has {said!r} layers, and holds {len(layers)}")
    for name in ("attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon"):
        value = read.fact(name)
        if value is not None and not (isinstance(value, float) and 0 < value < 1):
            raise _Wild(f"{architecture}.{name} is {value!r}, and must lie between 0 and 1")
    turned, heads, width = (read.fact(name) for name in ("rope.dimension_count", "attention.head_count", "embedding_length"))
    head = read.fact("attention.key_length") or (width // heads if isinstance(width, int) and isinstance(heads, int) and heads else 0)
    if turned is not None and not (isinstance(turned, int) and isinstance(head, int) and 0 < turned <= head and turned % 2 == 0):
        raise _Wild(f"it turns {turned!r} numbers of a head of {head!r}")
    model = read.facts.get("tokenizer.ggml.model")
    if model not in TOKENIZERS:
        raise _Wild(f"its tokenizer is {model!r}, and known are {', '.join(TOKENIZERS)}")
    if model == "no_vocab":
        return read
    tokens = read.facts.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, list) or not 0 < len(tokens) <= MOST_TOKENS or not all(isinstance(token, str) for token in tokens):
        raise _Wild("it has no list of tokens")
    if len({*tokens}) != len(tokens):
        raise _Wild("a token stands in its vocabulary twice")
    if model == "llama" and not {*BYTES} <= {*tokens}:
        raise _Wild("its vocabulary lacks tokens of single bytes")
    for name in ("token_type", "scores"):
        beside = read.facts.get(f"tokenizer.ggml.{name}")
        if beside is not None and (not isinstance(beside, list) or len(beside) != len(tokens)):
            raise _Wild(f"tokenizer.ggml.{name} does not fit its {len(tokens)} tokens")
    table = read.tensors.get("token_embd.weight")
    if table is None or len(table.shape) != 2 or table.shape[1] != len(tokens):
        rows = "no" if table is None else str(table.shape[-1])
        raise _Wild(f"it has {len(tokens)} tokens and {rows} rows in token_embd.weight")
    for name, value in read.facts.items():
        if name.startswith("tokenizer.ggml.") and name.endswith("_token_id") and not (isinstance(value, int) and 0 <= value < len(tokens)):
            raise _Wild(f"{name} is {value!r}, and there are {len(tokens)} tokens")
    return read
