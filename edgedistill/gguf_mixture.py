"""A type for every tensor, by what it was measured to cost: the divergence from float per byte saved.

llama.cpp's mixes (Q4_K_M, …) give more bits to some tensors by rules found on large Llamas: every model gets the same. Here each is asked. For one
group of tensors after another (a tensor, or the same one of a few neighbouring layers where there are many) their weights are rounded to 4 bits,
all else stays float, and the answers on real texts are compared with float's: KL of the next token's distribution for a decoder, squared difference
of the outputs for an encoder. For small roundings the divergence grows with the squared error of a weight, so each other type's is that of the
4-bit one times the ratio of their errors, each error weighted by the importance matrix. What is then to be found is one type a tensor with the
least sum of divergences and no more bytes than the stock mix: from the smallest types on, the step that wins most per byte is taken until the bytes
are spent.

The sum is a forecast, and roundings are not quite independent. So what was found is run, beside the stock mix with and without the importance
matrix, on the same texts, and the best of the three is written: never one that measured worse than stock.

Sources: rate-distortion by greedy steps along each convex hull (Shoham & Gersho 1988); measured sensitivity, HAWQ (arXiv:1905.03696), and its
quadratic model.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgedistill.gguf_file import TYPES, Tensor, read_gguf
from edgedistill.gguf_importance import Importance, is_decoder, runner
from edgedistill.llama import quantize
from edgedistill.llama_causal import kl
from edgedistill.progress import tick

CANDIDATES = ("Q2_K", "Q3_K", "IQ4_XS", "IQ4_NL", "Q4_K", "Q4_1", "Q5_0", "Q5_K", "Q5_1", "Q6_K", "Q8_0")
BASE = "IQ4_NL"  # what sensitivity is measured at: 4 bits in blocks of 32, which nearly every row divides
MOST_GROUPS = 72
MOST_COPIES = 4  # of the float file, on the disk and in memory at once
WORK = 2.5e12  # multiply-adds spent on sensitivity: minutes of one core
FEWEST_TOKENS, MOST_TOKENS = 256, 4096
BLOCKS = {name: (weights, size) for name, weights, size in TYPES.values()}

Row = Sequence[int]
Choice = dict[str, str]


@dataclass(frozen=True)
class Mixture:
    """kinds: the type of each tensor. measured: divergence from float of `stock`, `imatrix` (stock with importance) and `mixed`. won: which is the
    best."""

    kinds: Choice
    measured: dict[str, float]
    won: str
    forecast: float


def mix(float_file: Path, file_type: str, rows: Sequence[Row], names: Sequence[str], weights: Importance, scratch: Path) -> Mixture:
    """The best type of each tensor of `names` within the bytes of llama.cpp's own `file_type`. Leaves the best file at scratch/model.gguf.

    float_file: F16 or F32. rows: token ids of real texts. weights: the importance matrix. scratch: an empty folder for trial files.
    """
    texts = _part(rows, float_file, len(names))
    tensors = {name: tensor for name, tensor in read_gguf(float_file).tensors.items() if name in names}
    stock = scratch / "stock.gguf"
    kept = {name: tensor.type for name, tensor in read_gguf(float_file).tensors.items() if len(tensor.shape) > 1 and name not in names}
    quantize(float_file, stock, file_type, tensors=kept)
    budget = sum(tensor.bytes for name, tensor in read_gguf(stock).tensors.items() if name in names)
    judge = _Judge.of(float_file, texts)
    errors = _errors(float_file, tensors, file_type, weights, kept, scratch)
    costs = _sensitivities(float_file, tensors, errors, judge, scratch)
    kinds = choose({name: _options(tensor, errors[name], costs[name]) for name, tensor in tensors.items()}, budget)
    files = {"stock": stock, "imatrix": scratch / "imatrix.gguf", "mixed": scratch / "mixed.gguf"}
    quantize(float_file, files["imatrix"], file_type, tensors=kept, importance=weights)
    quantize(float_file, files["mixed"], file_type, tensors=kept | kinds, importance=weights)
    measured = {name: judge.divergence(file) for name, file in files.items()}
    won = min(("mixed", "imatrix", "stock"), key=lambda name: measured[name])
    files[won].replace(scratch / "model.gguf")
    for name, file in files.items():
        if name != won:
            file.unlink()
    forecast = sum(costs[name] * errors[name][kind] for name, kind in kinds.items())
    return Mixture(kinds if won == "mixed" else {}, measured, won, forecast)


def choose(options: Mapping[str, Sequence[tuple[str, int, float]]], budget: int) -> Choice:
    """One option of each tensor, the least sum of costs within `budget` bytes. options: (type, bytes, cost) of each. The same input gives the same
    choice.

    Steps that lie on the lower convex hull of a tensor's (bytes, cost) are taken in the order of what they win per byte; one that does not fit any
    more ends its tensor. When not even the smallest types fit, they are what is given.
    """
    hulls = {name: _hull(sorted(given, key=lambda one: (one[1], one[2]))) for name, given in options.items()}
    at = dict.fromkeys(hulls, 0)
    spent = sum(hull[0][1] for hull in hulls.values())
    steps = sorted(
        ((before[2] - after[2]) / (after[1] - before[1]), name, place)
        for name, hull in hulls.items()
        for place, (before, after) in enumerate(pairwise(hull), 1)
    )
    for _, name, place in reversed(steps):
        more = hulls[name][place][1] - hulls[name][at[name]][1]
        if place == at[name] + 1 and spent + more <= budget:
            at[name], spent = place, spent + more
    return {name: hulls[name][place][0] for name, place in sorted(at.items())}


def _hull(given: Sequence[tuple[str, int, float]]) -> list[tuple[str, int, float]]:
    """The options that are worth their bytes: each step wins less per byte than the one before."""
    hull: list[tuple[str, int, float]] = []
    for one in given:
        if hull and one[2] >= hull[-1][2]:
            continue
        while hull and hull[-1][1] == one[1]:
            hull.pop()
        while len(hull) > 1 and (hull[-1][2] - one[2]) * (hull[-1][1] - hull[-2][1]) >= (hull[-2][2] - hull[-1][2]) * (
            one[1] - hull[-1][1]
        ):
            hull.pop()
        hull.append(one)
    return hull


def _options(tensor: Tensor, errors: Mapping[str, float], cost: float) -> list[tuple[str, int, float]]:
    count = int(np.prod(tensor.shape))
    return [(kind, count // BLOCKS[kind][0] * BLOCKS[kind][1], cost * error) for kind, error in errors.items()]


# --- what is measured -------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Judge:
    """Float's answers on some texts, and how far another file's lie from them."""

    rows: Sequence[Row]
    right: list[npt.NDArray[np.float32]]
    decoder: bool

    @classmethod
    def of(cls, float_file: Path, rows: Sequence[Row]) -> _Judge:
        run = runner(float_file, max(map(len, rows)))
        return cls(rows, [run(row) for row in rows], is_decoder(read_gguf(float_file)))

    def divergence(self, file: Path) -> float:
        run = runner(file, max(map(len, self.rows)))
        if self.decoder:
            return float(np.concatenate([kl(right, run(row)) for row, right in zip(self.rows, self.right, strict=True)]).mean())
        return float(np.mean([((run(row) - right) ** 2).mean() for row, right in zip(self.rows, self.right, strict=True)]))


def _part(rows: Sequence[Row], float_file: Path, groups: int) -> list[Row]:
    """As many of the texts as the work allows."""
    weights = sum(int(np.prod(tensor.shape)) for tensor in read_gguf(float_file).tensors.values())
    room = int(np.clip(WORK / weights / min(groups, MOST_GROUPS), FEWEST_TOKENS, MOST_TOKENS))
    taken: list[Row] = []
    for row in rows:
        if taken and len(row) > room:
            break
        taken.append(row)
        room -= len(row)
    return taken


def _errors(
    float_file: Path, tensors: Mapping[str, Tensor], file_type: str, weights: Importance, kept: Choice, scratch: Path
) -> dict[str, dict[str, float]]:
    """Of each tensor and each type that divides its rows: the squared error of its weights, each column by its importance. Leaves BASE in scratch."""
    errors: dict[str, dict[str, float]] = {name: {} for name in tensors}
    before = {name: _weights(float_file, tensor) for name, tensor in tensors.items()}
    for done, kind in enumerate(CANDIDATES, 1):
        wanted = {name: kind for name, tensor in tensors.items() if tensor.shape[0] % BLOCKS[kind][0] == 0}
        if wanted:
            trial = scratch / f"{kind}.gguf"
            others = {name: tensor.type for name, tensor in tensors.items() if name not in wanted}
            quantize(float_file, trial, file_type, tensors=kept | others | wanted, importance=weights)
            after = read_gguf(trial).tensors
            for name in wanted:
                column = weights.get(name, np.ones(tensors[name].shape[0], np.float32)).astype(np.float64)
                errors[name][kind] = float((((before[name] - _weights(trial, after[name])) ** 2).sum(0, dtype=np.float64) * column).sum())
            if kind != BASE:
                trial.unlink()
        tick("error of each type", done, len(CANDIDATES))
    for name, tensor in tensors.items():
        if not errors[name]:  # rows that no type divides
            errors[name][tensor.type] = 0.0
    return errors


def _sensitivities(
    float_file: Path, tensors: Mapping[str, Tensor], errors: Mapping[str, Mapping[str, float]], judge: _Judge, scratch: Path
) -> dict[str, float]:
    """Divergence for each unit of weighted error, tensor by tensor. Measured group by group, its weights rounded to BASE in a copy of the float file;
    a group a core, each on one thread of llama.cpp's, so that the sums are the same on every machine."""
    rounded = scratch / f"{BASE}.gguf"
    able = [name for name in tensors if BASE in errors[name]]
    base = read_gguf(rounded).tensors if able else {}

    def divergence(group: Sequence[str]) -> float:
        trial = scratch / f"trial-{group[0]}.gguf"
        shutil.copyfile(float_file, trial)
        for name in group:
            _put(trial, tensors[name], _weights(rounded, base[name]))
        found = judge.divergence(trial)
        trial.unlink()
        return found

    costs: dict[str, float] = {}
    groups = _groups(able)
    with ThreadPoolExecutor(min(MOST_COPIES, os.cpu_count() or 1)) as pool:
        for done, (group, found) in enumerate(zip(groups, pool.map(divergence, groups), strict=True), 1):
            total = sum(errors[name][BASE] for name in group)
            costs |= dict.fromkeys(group, found / total if total > 0 else 0.0)
            tick("sensitivity of each tensor", done, len(groups))
    rounded.unlink(missing_ok=True)
    return costs | {name: 0.0 for name in tensors if name not in costs}


def _groups(names: Sequence[str]) -> list[list[str]]:
    """Tensors that are measured together: each alone, or the same one of neighbouring layers, so that there are at most MOST_GROUPS."""
    roles: dict[str, list[str]] = {}
    for name in names:
        parts = name.split(".")
        roles.setdefault(".".join(parts[2:]) if parts[0] == "blk" else name, []).append(name)
    size = 1
    while sum(-(-len(same) // size) for same in roles.values()) > MOST_GROUPS and size < max(map(len, roles.values())):
        size += 1
    return [same[begin : begin + size] for same in roles.values() for begin in range(0, len(same), size)]


def _weights(file: Path, tensor: Tensor) -> npt.NDArray[np.float32]:
    """A tensor's numbers, float32 [rows, row width]."""
    import gguf

    raw = np.fromfile(file, np.uint8, tensor.bytes, offset=tensor.offset).reshape(tensor.shape[1], -1)
    values: Any = gguf.dequantize(raw, gguf.GGMLQuantizationType[tensor.type])
    return np.asarray(values, np.float32).reshape(tensor.shape[::-1])


def _put(file: Path, tensor: Tensor, values: npt.NDArray[np.float32]) -> None:
    """Write numbers over a tensor of a float file."""
    raw = values.astype({"F16": np.float16, "F32": np.float32}[tensor.type]).tobytes()
    with file.open("r+b") as stream:
        stream.seek(tensor.offset)
        stream.write(raw)
