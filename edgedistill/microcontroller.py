"""A static student as C for a board without a system: what stands in `generated/` of sample_apps/microcontroller, and the program made of both.

What is whose. emx-onnx-cgen turns the head, all that follows the pooling, into C out of the very graph that ships (its dynamic form of int8 it cannot
read, so each quantized product is first written as MatMulInteger with one zero point, which is the same arithmetic in the order of QOperator). The
whole graph it can turn into C as well, of a fixed number of tokens: then every answer takes as long as the longest text and every node has a buffer of
its own (figures in DECISIONS.md), so the pooling over tokens is our C, which holds one token at a time. The tokenizer, a WordPiece without a heap, is
ours, and so are the tables here: vocabulary, word vectors as they are quantized, Unicode.

`regions.ld` says what memory the board has. A program that has no room there is a DeviceMemoryError with the figures.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgedistill.bundle_format import Golden
from edgedistill.digests import file_digest, tree_digest
from edgedistill.errors import DeviceMemoryError, StageError, missing_extra
from edgedistill.limits import NONE, Limits
from edgedistill.native import app_folder
from edgedistill.sources import home

COMPILER, PACKAGES = "arm-none-eabi-gcc", ("gcc-arm-none-eabi", "libnewlib-arm-none-eabi")
GENERATOR = "emx-onnx-cgen==1.4.0"
TASKS = frozenset({"classify", "multi_label", "score", "embed"})
# mps2-an385 (Arm Application Note AN385, "Memory map"): ZBT SSRAM1 at 0, SSRAM2 and 3 at 0x20000000, 4 MB each; 16 MB of PSRAM at 0x21000000.
FLASH_AT, RAM_AT, PSRAM_AT = 0x0, 0x2000_0000, 0x2100_0000
FLASH_BYTES, RAM_BYTES, PSRAM_BYTES = 4 << 20, 4 << 20, 16 << 20
STACK_BYTES = 16 << 10
# Of the graph before the pooling: what a bag of sub-words is made of.
BAG = frozenset({"Unsqueeze", "Cast", "Gather", "GatherBlockQuantized", "DequantizeLinear", "Mul", "Add", "Relu", "ReduceMax", "ReduceSum"})
BAG |= {"Div", "Concat", "Pad", "Slice", "Mod", "Constant"}

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Table:
    """Word vectors as they are stored: student.h's `struct table`. zeros: one a scale."""

    bits: int
    rows: int
    width: int
    block: int
    per_row: bool
    steps: Array
    scales: Array
    zeros: Array


@dataclass(frozen=True)
class Bag:
    """A static student taken apart. head: an ONNX model from the pooled vector, float [1, 2 · width], to the logits, [1, outputs]."""

    tokens: Table
    pairs: Table | None
    pair_hash: int
    bias: Array
    head: Any
    outputs: int


@dataclass(frozen=True)
class Size:
    """What a program takes of the board, bytes. ram: data, buffers and stack; flash: code, tables, and what data begins as."""

    flash: int
    ram: int


# --- the graph taken apart ------------------------------------------------------------------------------------------------------------------


def take_apart(model: Path) -> Bag:
    """The tables and the head of a static student. Raises StageError for a model of another kind."""
    try:
        import onnx
        from onnx import numpy_helper
    except ModuleNotFoundError as error:
        raise missing_extra(error, "a microcontroller's program") from error

    loaded = onnx.load(str(model))
    graph = loaded.graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    made_by = {name: node for node in graph.node for name in node.output}
    readers: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)

    def is_pooled(node: Any) -> bool:
        kinds = [made_by[name].op_type for name in node.input if name in made_by]
        return bool(node.op_type == "Concat" and kinds == ["ReduceMax", "Div"])

    pooled = [node for node in graph.node if is_pooled(node)]
    before = _ancestors(pooled[0], made_by) if len(pooled) == 1 else []
    strange = sorted({node.op_type for node in before} - BAG) or ([] if before else ["no pooling over tokens"])
    if strange:
        raise StageError(
            f"a board without a system runs static students (bags of sub-words), and this model is another: it has {', '.join(strange)}.",
            where=str(model),
            write='Write [student] family = "static".',
        )
    found = [
        (node, _table(node, constants, readers))
        for node in before
        if node.op_type in ("Gather", "GatherBlockQuantized")
        and constants.get(node.input[0], np.zeros(0)).ndim == 2
        and constants[node.input[0]].shape[1] > 1
    ]
    tokens = next(table for node, table in found if node.input[1] == "input_ids")
    pairs = next((table for node, table in found if node.input[1] != "input_ids"), None)
    whole = [constants[name] for node in before for name in node.input if node.op_type == "Mul" and _whole(constants.get(name))]
    bias = next(constants[name] for node in before if node.op_type == "Add" for name in node.input if _is_row(constants.get(name), tokens))
    head = _head(loaded, pooled[0].output[0], {node.name for node in (*before, pooled[0])}, constants, 2 * tokens.width)
    outputs = head.graph.output[0].type.tensor_type.shape.dim[1].dim_value
    return Bag(tokens, pairs, int(whole[0]) if whole else 0, bias, head, outputs)


def _ancestors(node: Any, made_by: dict[str, Any]) -> list[Any]:
    found: dict[str, Any] = {}
    left = list(node.input)
    while left:
        one = made_by.get(left.pop())
        if one is not None and one.output[0] not in found:
            found[one.output[0]] = one
            left += one.input
    return list(found.values())


def _whole(value: Array | None) -> bool:
    return value is not None and value.dtype == np.int64 and value.size == 1


def _is_row(value: Array | None, table: Table) -> bool:
    return value is not None and value.dtype == np.float32 and value.shape == (table.width,)


def _table(node: Any, constants: dict[str, Array], readers: dict[str, list[Any]]) -> Table:
    """The four ways in which quantizers/ store a table, as one."""
    data, none = constants[node.input[0]], np.zeros(0, np.uint8)
    rows = len(data)
    if node.op_type == "GatherBlockQuantized":
        options = {attribute.name: attribute.i for attribute in node.attribute}
        width, block = data.shape[1] * 2, options.get("block_size", 128)
        blocks = -(-width // block)
        packed = constants[node.input[3]]  # two zeros a byte, the first in its low half
        zeros = np.stack([packed & 15, packed >> 4], axis=-1).reshape(rows, -1)[:, :blocks]
        return Table(4, rows, width, block, True, data, constants[node.input[2]].reshape(rows, blocks), zeros)
    width, reader = data.shape[1], readers[node.output[0]][0]
    if data.dtype == np.float32:
        return Table(32, rows, width, width, False, data, none, none)
    if reader.op_type == "DequantizeLinear":
        scale, zero = constants[reader.input[1]], constants[reader.input[2]]
        return _bytes(data, scale.reshape(-1), zero.reshape(-1), per_row=False)
    product = readers[reader.output[0]][0]
    scale_of = next(name for name in product.input if name != reader.output[0])
    scales = next(one.input[0] for many in readers.values() for one in many if one.output[0] == scale_of)
    return _bytes(data, constants[scales].reshape(-1), np.zeros(rows, data.dtype), per_row=True)


def _bytes(steps: Array, scales: Array, zeros: Array, per_row: bool) -> Table:
    if steps.dtype == np.int8:  # the same distance from zero, without a sign
        steps, zeros = (steps.astype(np.int16) + 128).astype(np.uint8), (zeros.astype(np.int16) + 128).astype(np.uint8)
    return Table(8, len(steps), steps.shape[1], steps.shape[1], per_row, steps, scales, zeros)


def _head(model: Any, pooled: str, left_out: set[str], constants: dict[str, Array], width: int) -> Any:
    """All that follows the pooling as a model of its own, one row, its quantized products written so that the generator reads them."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper, shape_inference

    graph = model.graph
    nodes = [node for node in graph.node if node.name not in left_out]
    made_by = {name: node for node in nodes for name in node.output}
    new: list[Any] = []
    more: dict[str, Array] = {}

    def product(name: str, out: str, steps: Any, weight: str, scale: Array, bias: Array) -> None:
        """out = (steps - zero) · weight · scale + bias, in whole numbers but for the last two."""
        more[f"{name}_scale"], more[f"{name}_bias"] = scale.astype(np.float32), bias.astype(np.float32)
        new.extend(
            [
                helper.make_node("MatMulInteger", [steps.input[0], weight, steps.input[2]], [f"{name}_whole"]),
                helper.make_node("Cast", [f"{name}_whole"], [f"{name}_float"], to=TensorProto.FLOAT),
                helper.make_node("Mul", [f"{name}_float", f"{name}_scale"], [f"{name}_scaled"]),
                helper.make_node("Add", [f"{name}_scaled", f"{name}_bias"], [out]),
            ]
        )

    for number, node in enumerate(nodes):
        sides = [made_by.get(name) for name in node.input]
        if node.op_type == "MatMulInteger" and len(node.input) == 4 and not constants[node.input[3]].any():
            del node.input[3]  # zeros of the weights, one a column, all 0
        if node.op_type == "Gemm" and len(sides) == 3 and all(side is not None and side.op_type == "DequantizeLinear" for side in sides):
            left, right, bias = sides
            assert left and right and bias
            scale = constants[left.input[1]] * constants[right.input[1]]
            whole = constants[bias.input[0]].astype(np.float64) * constants[bias.input[1]]
            product(f"product_{number}", node.output[0], left, right.input[0], scale, whole)
        else:
            new.append(node)
    wanted = {name for node in new for name in node.input} | {"logits"}
    new = [node for node in new if node.op_type != "DequantizeLinear" or node.output[0] in wanted]
    kept = [numpy_helper.from_array(value, name) for name, value in (constants | more).items() if any(name in node.input for node in new)]
    inputs = [helper.make_tensor_value_info(pooled, TensorProto.FLOAT, [1, width])]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, None])]
    made = helper.make_model(helper.make_graph(new, "head", inputs, outputs, kept), opset_imports=model.opset_import)
    made.ir_version = model.ir_version
    made = shape_inference.infer_shapes(made, strict_mode=False)
    if not made.graph.output[0].type.tensor_type.shape.dim[1].dim_value:
        import onnxruntime

        session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
        count = session.run(["logits"], {pooled: np.zeros((1, width), np.float32)})[0].shape[1]
        made.graph.output[0].type.tensor_type.shape.dim[1].dim_value = int(count)
    onnx.checker.check_model(made)
    return made


# --- the C ----------------------------------------------------------------------------------------------------------------------------------


def write_c(out: Path, model: Path, tokenizer: Path, max_tokens: int, task: str, settings: dict[str, Any], limits: Limits = NONE) -> None:
    """`generated/` of the app: model.h, model.c, head.c, unicode_tables.h, regions.ld. Raises StageError for a student or a tokenizer of another kind."""
    bag, pieces = take_apart(model), json.loads(tokenizer.read_text(encoding="utf-8"))
    if (lacking := refused(pieces)) is not None:
        raise StageError(lacking, where=str(tokenizer))
    out.mkdir(parents=True, exist_ok=True)
    header, source = _tokenizer(pieces, max_tokens)
    labels = list(settings["labels"])
    answer_bytes = 64 + sum(len(_c_text(json.dumps(label))) + 24 for label in labels) + 24 * bag.outputs
    header += [
        f"#define WIDTH {bag.tokens.width}",
        f"#define OUTPUTS {bag.outputs}",
        f"#define PAIR_ROWS {bag.pairs.rows if bag.pairs else 0}",
        f"#define PAIR_HASH {bag.pair_hash}u",
        f"#define ANSWER_BYTES {answer_bytes}",
        f"#define TASK_{task.upper()} 1",
        "extern const struct table TOKENS, PAIRS;",
        "extern const float BIAS[];",
        "extern const char *const LABELS[];",
    ]
    source += [*_table_c("TOKENS", bag.tokens), *(_table_c("PAIRS", bag.pairs) if bag.pairs else [])]
    source += [
        _array("const float BIAS[]", bag.bias),
        f"const char *const LABELS[] = {{{', '.join(_c_text(json.dumps(label)) for label in labels)}}};",
    ]
    if task == "multi_label":
        order = sorted(range(len(labels)), key=lambda place: str(labels[place]))
        header += [f"#define THRESHOLD {_float(settings['threshold'])}", "extern const short BY_NAME[];"]
        source.append(_array("const short BY_NAME[]", order))
    if task == "score":
        header.append("extern const double SPREAD[], MEAN[];")
        source += [_array(f"const double {name.upper()}[]", settings[name]) for name in ("spread", "mean")]
    opening = [
        "// Made by edgedistill of a bundle's model and tokenizer: do not edit.",
        "#pragma once",
        "#include <stdint.h>",
        '#include "student.h"',
    ]
    (out / "model.h").write_text("\n".join([*opening, *header, ""]))
    (out / "model.c").write_text("\n".join(['#include "model.h"', '#define IN_TABLES __attribute__((section(".tables")))', *source, ""]))
    (out / "unicode_tables.h").write_text(_unicode())
    (out / "regions.ld").write_text(_regions(limits))
    _generate_head(bag.head, out)


def refused(pieces: dict[str, Any]) -> str | None:
    """Why the C reads this tokenizer.json not, or None."""
    wanted = {"model": "WordPiece", "normalizer": "BertNormalizer", "pre_tokenizer": "BertPreTokenizer"}
    for part, kind in wanted.items():
        found = (pieces.get(part) or {}).get("type", "none")
        if found != kind:
            return f"the C on the board reads BERT's WordPiece, and the tokenizer's {part} is {found}, not {kind}."
    if (ends := pieces.get("post_processor")) and ends["type"] not in ("BertProcessing", "TemplateProcessing"):
        return f"the C on the board reads BERT's WordPiece, and the tokenizer's post_processor is {ends['type']}."
    if odd := [token["content"] for token in pieces["added_tokens"] if token["normalized"] or token["single_word"]]:
        return f"the C on the board looks for added tokens in bare text alone, and {odd[0]!r} is looked for otherwise."
    return None


def write_golden_c(out: Path, vectors: Sequence[Golden], logit_bound: float) -> None:
    """golden.h and golden.c: the bundle's golden vectors, for a board that checks itself."""
    out.mkdir(parents=True, exist_ok=True)
    lines = [
        '#include "golden.h"',
        *(_array(f"static const int32_t ids_{number}[]", one.ids) for number, one in enumerate(vectors)),
        *(_array(f"static const float logits_{number}[]", one.logits) for number, one in enumerate(vectors)),
        "const struct golden GOLDEN_VECTOR[VECTORS] = {",
    ]
    for number, one in enumerate(vectors):
        said = "0" if one.answer is None else _c_text(json.dumps(one.answer, separators=(",", ":")))
        text = one.text.encode()
        lines.append(f"  {{{_c_bytes(text)}, {len(text)}, {len(one.ids)}, ids_{number}, logits_{number}, {said}}},")
    (out / "golden.c").write_text("\n".join([*lines, "};", ""]))
    (out / "golden.h").write_text(
        "// Made by edgedistill of a bundle's golden vectors: do not edit.\n#pragma once\n#include <stdint.h>\n"
        "struct golden { const char *text; int size, count; const int32_t *ids; const float *logits; const char *answer; };\n"
        f"#define VECTORS {len(vectors)}\n#define LOGIT_BOUND {_float(logit_bound)}\nextern const struct golden GOLDEN_VECTOR[VECTORS];\n"
    )


def _tokenizer(pieces: dict[str, Any], max_tokens: int) -> tuple[list[str], list[str]]:
    """Lines of model.h and model.c that wordpiece.c reads."""
    model, normalizer = pieces["model"], pieces["normalizer"]
    lowercase = normalizer.get("lowercase", True)
    strip = normalizer.get("strip_accents")
    vocabulary = sorted((piece.encode(), number) for piece, number in model["vocab"].items())
    blob = b"".join(piece for piece, _ in vocabulary)
    starts = np.cumsum([0, *(len(piece) for piece, _ in vocabulary)])
    before, after = _ends(pieces.get("post_processor"))
    added = [(token["content"].encode(), token["id"]) for token in pieces["added_tokens"] if token["content"]]
    continuing = model["continuing_subword_prefix"].encode()
    header = [
        f"#define MAX_TOKENS {max_tokens}",
        f"#define LONGEST_WORD {model['max_input_chars_per_word']}",
        f"#define LONGEST_PIECE {max(len(piece) for piece, _ in vocabulary)}",
        f"#define PIECES {len(vocabulary)}",
        f"#define UNKNOWN {model['vocab'][model['unk_token']]}",
        f"#define CONTINUING {_c_bytes(continuing)}",
        f"#define CONTINUING_BYTES {len(continuing)}",
        f"#define BEFORE_IDS {len(before)}",
        f"#define AFTER_IDS {len(after)}",
        f"#define ADDED {len(added)}",
        f"#define LONGEST_ADDED {max((len(content) for content, _ in added), default=1)}",
        f"#define CLEAN_TEXT {int(normalizer.get('clean_text', True))}",
        f"#define IDEOGRAPHS {int(normalizer.get('handle_chinese_chars', True))}",
        f"#define LOWERCASE {int(lowercase)}",
        f"#define STRIP_ACCENTS {int(lowercase if strip is None else strip)}",
        "struct added { const char *content; int size; int32_t id; };",
        "extern const char PIECE_BYTES[];",
        "extern const uint32_t PIECE_AT[], PIECE_ID[];",
        "extern const int32_t BEFORE[], AFTER[];",
        "extern const struct added ADDED_TOKEN[];",
    ]
    tokens = ", ".join(f"{{{_c_bytes(content)}, {len(content)}, {number}}}" for content, number in added)
    source = [
        _array("const char PIECE_BYTES[] IN_TABLES", np.frombuffer(blob, np.int8)),
        _array("const uint32_t PIECE_AT[] IN_TABLES", starts),
        _array("const uint32_t PIECE_ID[] IN_TABLES", [number for _, number in vocabulary]),
        _array("const int32_t BEFORE[]", before or [0]),
        _array("const int32_t AFTER[]", after or [0]),
        f"const struct added ADDED_TOKEN[] = {{{tokens or '{0, 0, 0}'}}};",
    ]
    return header, source


def _ends(ends: dict[str, Any] | None) -> tuple[list[int], list[int]]:
    if ends is None:
        return [], []
    if ends["type"] == "BertProcessing":
        return [ends["cls"][1]], [ends["sep"][1]]
    before: list[int] = []
    after: list[int] = []
    side = before
    for part in ends["single"]:
        if "Sequence" in part:
            side = after
        else:
            side += ends["special_tokens"][part["SpecialToken"]["id"]]["ids"]
    return before, after


def _table_c(name: str, table: Table) -> list[str]:
    kind = "float" if table.bits == 32 else "uint8_t"
    quantized = table.bits != 32
    parts = [_array(f"static const {kind} {name}_STEPS[] IN_TABLES", table.steps.reshape(-1))]
    if quantized:
        parts.append(_array(f"static const float {name}_SCALES[] IN_TABLES", table.scales.reshape(-1)))
        parts.append(_array(f"static const uint8_t {name}_ZEROS[] IN_TABLES", table.zeros.reshape(-1)))
    rest = f"{name}_STEPS, {f'{name}_SCALES, {name}_ZEROS' if quantized else '0, 0'}"
    return [*parts, f"const struct table {name} = {{{table.bits}, {table.rows}, {table.block}, {int(table.per_row)}, {rest}}};"]


def _array(declared: str, values: Iterable[Any]) -> str:
    cells = [_float(value) if isinstance(value, (float, np.floating)) else str(int(value)) for value in values]
    lines = [",".join(cells[at : at + 32]) for at in range(0, len(cells), 32)]
    return f"{declared} = {{\n" + ",\n".join(lines) + "};"


def _float(value: Any) -> str:
    text = f"{float(value):.9g}" if isinstance(value, np.float32) else repr(float(value))
    return text if any(sign in text for sign in ".en") else f"{text}.0"


def _c_text(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'  # JSON of ASCII alone: nothing else needs an escape


def _c_bytes(content: bytes) -> str:
    return '"' + "".join(f"\\{byte:03o}" for byte in content) + '"'


def _unicode() -> str:
    """The tables of scripts/unicode_tables.py as C, out of the text that the Android app carries."""
    text = (app_folder("android") / "app/src/main/resources/unicode.txt").read_text(encoding="ascii")
    tables: dict[str, list[str]] = {}
    rows: list[str] = []
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        if named := re.match(r"([A-Z_]+)", line):
            rows = tables.setdefault(named[1], [])
        else:
            rows += line.split()
    parts = ["// What the tokenizers library does to each character: scripts/unicode_tables.py. Do not edit.", "#include <stdint.h>"]
    for name, found in tables.items():
        width = max(row.count(",") for row in found) + 1  # C fills a shorter row up with 0
        body = ",\n".join(",".join(f"{{{_unsigned(row)}}}" for row in found[at : at + 12]) for at in range(0, len(found), 12))
        parts.append(f"static const uint32_t {name}[{len(found)}][{width}] = {{\n{body}}};")
    return "\n".join([*parts, ""])


def _unsigned(row: str) -> str:
    return ",".join(str(int(cell) % (1 << 32)) for cell in row.split(","))


def _regions(limits: Limits) -> str:
    flash = FLASH_BYTES if limits.flash_mb is None else int(limits.flash_mb * 1e6)
    ram = RAM_BYTES if limits.memory_mb is None else int(limits.memory_mb * 1e6)
    # Without a limit the tables lie where there is most room, so that a float student answers too.
    tables = "FLASH" if limits.flash_mb is not None else "PSRAM"
    return (
        f"STACK_BYTES = {STACK_BYTES};\nMEMORY\n{{\n  FLASH (rx) : ORIGIN = {FLASH_AT:#x}, LENGTH = {flash}\n"
        f"  RAM (rwx) : ORIGIN = {RAM_AT:#x}, LENGTH = {ram}\n  PSRAM (rwx) : ORIGIN = {PSRAM_AT:#x}, LENGTH = {PSRAM_BYTES}\n}}\n"
        f'REGION_ALIAS("TABLES", {tables})\n'
    )


def _generate_head(head: Any, out: Path) -> None:
    """head.c by emx-onnx-cgen: void head(pooled, logits). Raises StageError with what it says of a graph that it cannot read."""
    import onnx

    with tempfile.TemporaryDirectory() as scratch:
        onnx.save(head, f"{scratch}/head.onnx")
        options = ["--model-name", "head", "--large-weight-threshold", "0", "--large-temp-threshold", "0", "--color", "never"]
        command = [sys.executable, "-m", "emx_onnx_cgen", "compile", *options, f"{scratch}/head.onnx", f"{scratch}/head.c"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if "No module named emx_onnx_cgen" in done.stderr:
            raise missing_extra(ModuleNotFoundError(name="emx_onnx_cgen"), "a microcontroller's program", "microcontroller")
        if done.returncode or not Path(scratch, "head.c").is_file():
            said = next((line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Result:")), "no message")
            raise StageError(f"emx-onnx-cgen cannot write the head as C: {said.removeprefix('Result: ').split(' (while')[0]}.")
        shutil.copyfile(f"{scratch}/head.c", out / "head.c")


# --- the program ----------------------------------------------------------------------------------------------------------------------------


def lacking() -> str | None:
    """None when a program for the board can be made here, else what to install."""
    if shutil.which(COMPILER) is None:
        return f"the compiler for boards without a system is missing. Run: sudo apt-get install {' '.join(PACKAGES)}"
    return None


def program(model: Path, tokenizer: Path, max_tokens: int, task: str, settings: dict[str, Any], limits: Limits = NONE) -> Path:
    """The ELF file for the board, kept under the home.

    Raises DeviceMemoryError when it has no room in the memory that `limits` give, StageError for a student of another kind.
    """
    if missing := lacking():
        raise StageError(missing)
    own = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    facts = [
        file_digest(model),
        file_digest(tokenizer),
        max_tokens,
        task,
        settings,
        limits.model_dump(),
        tree_digest(app_folder("microcontroller")),
        own,
    ]
    place = home() / "native" / f"board-{hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]}"
    if not place.is_dir():
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent, prefix=".board-") as scratch:
            draft = Path(scratch) / "app"
            shutil.copytree(app_folder("microcontroller"), draft, ignore=shutil.ignore_patterns("generated", "*.elf", "__pycache__"))
            write_c(draft / "generated", model, tokenizer, max_tokens, task, settings, limits)
            command = ["make", "-s", "edge.elf"]
            done = subprocess.run(command, cwd=draft, capture_output=True, text=True, check=False)
            if over := re.findall(r"region `(\w+)' overflowed by (\d+) bytes", done.stderr):
                raise _no_room(dict(over), limits)
            if done.returncode:
                said = [line for line in done.stderr.splitlines() if "rror" in line] or ["no message"]
                raise StageError(f"the board's program cannot be built: {said[0].strip()[:300]}")
            (draft / "generated" / "head.o").unlink()
            draft.replace(place)  # last: its existence means that it is whole
    return place / "edge.elf"


def _no_room(over: dict[str, str], limits: Limits) -> DeviceMemoryError:
    given = {"FLASH": ("flash", limits.flash_mb, "flash_mb"), "RAM": ("RAM", limits.memory_mb, "memory_mb")}
    parts = []
    for region, many in over.items():
        name, allowed, key = given.get(region, (region, None, ""))
        allowed = (FLASH_BYTES / 1e6) if allowed is None else allowed
        parts.append(f"{allowed + int(many) / 1e6:.2f} MB of {name}, and the board has {allowed:.2f} (limits.{key})")
    return DeviceMemoryError(f"the program has no room on the board: it takes {'; '.join(parts)}.")


def size_of(elf: Path) -> Size:
    """What the linked program takes, by `size`. The tables count as flash wherever they lie."""
    command = ["arm-none-eabi-size", "-A", str(elf)]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    sections = {row[0]: int(row[1]) for row in (line.split() for line in listed.splitlines()) if len(row) == 3 and row[1].isdigit()}
    flash = sum(sections.get(name, 0) for name in (".text", ".ARM.exidx", ".tables", ".data"))
    return Size(flash, sum(sections.get(name, 0) for name in (".data", ".bss", ".stack")))
