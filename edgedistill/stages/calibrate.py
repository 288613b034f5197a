"""calibrate: measure a small set of graphs on a device, through its link, and on this machine, and fit what each of their operations costs there.

What comes out is a `[calibration]` table for the target's file. With it, a target whose device is not at hand gets an estimate with an interval, and the
word `estimated` beside it; only a measurement can pass a budget. The graphs are untrained students of all families (latency does not depend on
weights), float and quantized, at three lengths.
"""

from __future__ import annotations

import datetime
import json
import math
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgedistill import plugins
from edgedistill.digests import file_digest
from edgedistill.errors import InputError, TargetError, missing_extra
from edgedistill.graph_cost import does
from edgedistill.latency_model import Calibration, Error, Point, error, fit
from edgedistill.links import how, local
from edgedistill.machine import this_machine
from edgedistill.progress import tick
from edgedistill.sources import home
from edgedistill.target import Link, Target, find_target

LENGTHS = (8, 24, 64)  # tokens
WARM, RUNS = 10, 60  # answers of each graph and length
MAX_TOKENS = 64
VOCABULARY = 512
LABELS = list("abcdef")
# (layers, width) of transformers; (channels, convolutions); pairs or none of a bag.
TRANSFORMERS = ((1, 64), (2, 128), (3, 192), (4, 256), (2, 384))
CONVOLUTIONS = ((128, 1), (256, 1), (192, 2), (384, 2))
BAGS = (0, 1024)
SCHEMES = ("float", "onnx_int8_dynamic", "onnx_int4_block")


@dataclass(frozen=True)
class Calibrated:
    """What a device showed. ratio: the device's time over this machine's, of each point."""

    target: str
    how: str
    points: tuple[Point, ...]
    ratio: tuple[float, ...]
    calibration: Calibration
    error: Error

    def lines(self) -> list[str]:
        """For people."""
        quick, slow = np.quantile(self.ratio, (0.1, 0.9))
        return [
            f"{self.target}, {self.how}: {len(self.points)} points, {math.exp(float(np.mean(np.log(self.ratio)))):.2f}× this machine's time "
            f"(a tenth below {quick:.2f}, a tenth above {slow:.2f})",
            f"an architecture that was left out is off by {self.error.typical:.2f}× in the middle, {self.error.worst:.2f}× at worst; "
            f"the interval of the others (÷× {self.error.factor:.2f}) holds {self.error.covered:.0%} of them",
        ]

    def as_json(self) -> dict[str, Any]:
        """Plain values, every point included."""
        points = [{**vars(point), "ratio": ratio} for point, ratio in zip(self.points, self.ratio, strict=True)]
        return {
            "target": self.target,
            "how": self.how,
            "calibration": self.calibration.model_dump(),
            "error": vars(self.error),
            "points": points,
        }

    def toml(self) -> str:
        """The table for the target's file."""
        prices = "\n".join(f"{name:<10} = {price}" for name, price in self.calibration.ns.items())
        head = f"machine = {json.dumps(self.calibration.machine)}\npoints  = {self.calibration.points}\nfactor  = {self.calibration.factor}"
        return f"[calibration]\n{head}\n[calibration.ns]\n{prices}\n"


def calibrate(name: str) -> Calibrated:
    """Measure and fit. Raises TargetError when the device cannot be reached or is emulated, whose clock is not its own."""
    target = find_target(name)
    if target.format != "onnx":
        raise InputError(f"{target.name} runs {target.format}, and a calibration is of ONNX graphs.", where=target.name)
    link = plugins.find("links", target.link.kind)
    if lacking := link.ready(target.link):
        raise TargetError(lacking, where=target.name)
    if how(target.link) != "measured":
        raise TargetError(
            f"{how(target.link)}: there is no clock of the device's to calibrate by.", where=target.name, write="Reach one by ssh or adb."
        )
    points, ratio = measured(target)
    found = error(points)
    machine = link.machine(target.link) if hasattr(link, "machine") else this_machine()
    about = f"{machine['cpu']}, {machine['system']}, {target.threads} thread{'s' * (target.threads > 1)}, {datetime.date.today()}"
    calibration = Calibration(machine=about, points=len(points), factor=math.ceil(found.factor * 100) / 100, ns=fit(points))
    return Calibrated(target.name, how(target.link), tuple(points), tuple(ratio), calibration, found)


def measured(target: Target) -> tuple[list[Point], list[float]]:
    """Every graph at every length on a target, and its time over this machine's."""
    link, points, ratio = plugins.find("links", target.link.kind), [], []
    made = list(graphs())
    for number, (name, group, model, tokenizer) in enumerate(made, 1):
        request = {
            "model": str(model),
            "tokenizer": str(tokenizer),
            "max_tokens": MAX_TOKENS,
            "threads": target.threads,
            "task": "classify",
            "settings": {"labels": LABELS},
            "first_text": "a",
        }
        there = _times(link.open_runner(target.link, target.runtime, request))
        here = there if target.link.kind == "local" else _times(local.open_runner(Link(kind="local"), target.runtime, request))
        for tokens in LENGTHS:
            points.append(Point(f"{name}, {tokens} tokens", group, does(model, tokens), there[tokens]))
            ratio.append(there[tokens] / here[tokens])
        tick(f"calibrate {target.name}", number, len(made))
    return points, ratio


def _times(runner: Any) -> dict[int, float]:
    """Median nanoseconds of an answer, text in to answer out, of each length."""
    try:
        found = {}
        for tokens in LENGTHS:
            texts = [" ".join(["w7"] * (tokens - 2))]
            runner.ask({"texts": texts * WARM, "tokens": tokens})
            said = runner.ask({"texts": texts * RUNS, "tokens": tokens})
            found[tokens] = float(
                np.median([sum(parts) for parts in zip(said["tokenize_ns"], said["model_ns"], said["decode_ns"], strict=True)])
            )
        return found
    finally:
        runner.close()


def graphs() -> Iterator[tuple[str, str, Path, Path]]:
    """(name, architecture, model, tokenizer) of the calibration's graphs. They are made once, in a minute or two, and kept under the home."""
    place = home() / "native" / f"calibration-{file_digest(Path(__file__))[:16]}"
    if not place.is_dir():
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent, prefix=".calibration-") as scratch:
            try:
                _make(Path(scratch) / "graphs")
            except ModuleNotFoundError as problem:
                raise missing_extra(problem, "calibrate") from problem
            (Path(scratch) / "graphs").replace(place)
    for folder in sorted(path for path in place.iterdir() if path.is_dir()):
        for scheme in SCHEMES:
            if (folder / f"{scheme}.onnx").is_file():
                yield f"{folder.name} {scheme}", folder.name, folder / f"{scheme}.onnx", folder / "tokenizer.json"


def _make(out: Path) -> None:
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    from edgedistill.architectures import (
        ConvConfig,
        ConvForSequenceClassification,
        StaticConfig,
        StaticForSequenceClassification,
    )

    torch.manual_seed(0)
    common = {"vocab_size": VOCABULARY, "num_labels": len(LABELS), "pad_token_id": 0}
    models: dict[str, Any] = {}
    for layers, width in TRANSFORMERS:
        sizes = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": width // 32, "intermediate_size": 4 * width}
        models[f"transformer-{layers}x{width}"] = BertForSequenceClassification(
            BertConfig(max_position_embeddings=MAX_TOKENS, **sizes, **common)
        )
    for channels, layers in CONVOLUTIONS:
        shape = ConvConfig(embedding_size=channels // 2, hidden_size=channels, num_hidden_layers=layers, **common)
        models[f"conv-{layers}x{channels}"] = ConvForSequenceClassification(shape)
    for pairs in BAGS:
        models[f"static-{pairs}"] = StaticForSequenceClassification(StaticConfig(hidden_size=128, ngrams=pairs, **common))
    for number, (name, model) in enumerate(models.items(), 1):
        _export(model, out / name)
        tick("calibration graphs", number, len(models))


def _export(model: Any, out: Path) -> None:
    """A model's graphs in `out`: float, and each scheme."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from tokenizers import normalizers as normal
    from transformers import PreTrainedTokenizerFast

    from edgedistill.exporters.onnx import batches, export

    special = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    pieces = [*special, *(f"w{number}" for number in range(VOCABULARY - len(special)))]
    tokenizer = Tokenizer(models.WordPiece({piece: number for number, piece in enumerate(pieces)}, unk_token="[UNK]"))  # noqa: S106
    tokenizer.normalizer, tokenizer.pre_tokenizer = normal.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), special, strict=True))
    source = out / "source"
    model.eval().save_pretrained(source)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=MAX_TOKENS, **names).save_pretrained(source)
    texts = [" ".join(f"w{(row * 7 + word) % 400}" for word in range(3 + 5 * row)) for row in range(8)]
    export(source, out / "graphs", texts, MAX_TOKENS)
    rows = batches([tokenizer.encode(text).ids for text in texts], 0)
    shutil.copyfile(out / "graphs" / "model.onnx", out / "float.onnx")
    shutil.copyfile(out / "graphs" / "tokenizer.json", out / "tokenizer.json")
    for scheme in SCHEMES[1:]:
        plugins.find("quantizers", scheme).quantize(out / "graphs", out / scheme, rows, frozenset())
        shutil.copyfile(out / scheme / "model.onnx", out / f"{scheme}.onnx")
        shutil.rmtree(out / scheme)
    shutil.rmtree(source)
    shutil.rmtree(out / "graphs")
