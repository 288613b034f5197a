"""probe: what a student costs on the target, measured before it is trained.

Latency, size and memory follow from the graph alone, so an untrained student is quantized by each scheme of the target and run there: a few
hundred answers, its variants taking turns. A student of which no variant can meet the budget is never trained. How good a student will be is not
asked here; that is `search`.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgedistill import plugins
from edgedistill.budget import Budget
from edgedistill.links import how
from edgedistill.report import early_stopping
from edgedistill.serving import first_line
from edgedistill.stages.prepare import read_settings
from edgedistill.stages.quantize import calibration_batches
from edgedistill.store import Stage
from edgedistill.tables import read_rows
from edgedistill.target import Target

CALIBRATION_ROWS = 64  # ranges of untrained weights mean nothing; the graph only has to be of the right shape
CHUNK, ANSWERS = 16, 320  # 320 answers: enough for the early-stopping verdict when a limit is missed clearly, which is all that is asked


@dataclass(frozen=True)
class Params:
    """machine: as in benchmark, since figures of another machine are not this one's."""

    task: str
    target: dict[str, Any]
    max_tokens: int
    machine: dict[str, Any]
    seed: int


@dataclass(frozen=True)
class Cost:
    """One scheme of an untrained student. ms: each answer, text in to answer out; none when the target is not at hand. peak_mb likewise."""

    scheme: str
    size_mb: float
    ms: list[float]
    peak_mb: float | None

    @property
    def p50_ms(self) -> float | None:
        return float(np.median(self.ms)) if self.ms else None

    @property
    def p90_ms(self) -> float | None:
        return float(np.quantile(self.ms, 0.9)) if self.ms else None


def run(out: Path, params: Params, *, prepared: Path, transfer: Path, graphs: Path) -> None:
    """Writes `costs.json`: a list of Cost, float first. The quantized files are not kept: their weights are worth nothing."""
    target = Target(**params.target)
    link = plugins.find("links", target.link.kind)
    calibration = calibration_batches(read_rows(transfer / "transfer.parquet"), graphs, params.max_tokens, CALIBRATION_ROWS, params.seed)
    models = {"float": graphs / target.model_file}
    for scheme in target.schemes:
        folder = out / "checkpoints" / scheme
        folder.mkdir(parents=True, exist_ok=True)
        quantizer = plugins.find("quantizers", scheme)
        stand_in = getattr(quantizer, "STAND_IN", scheme)  # what weights of no worth need not be measured for
        plugins.find("quantizers", stand_in).quantize(graphs, folder, calibration, frozenset())
        models[scheme] = folder / target.model_file
    tokenizer = (graphs / "tokenizer.json").stat().st_size
    rows = read_rows(prepared / "train.parquet")
    seen = _answers(models, graphs, params, target, link, rows.texts, prepared) if how(target.link) == "measured" else {}
    costs = [
        vars(Cost(scheme, (model.stat().st_size + tokenizer) / 1e6, *seen.get(scheme, ([], None)))) for scheme, model in models.items()
    ]
    (out / "costs.json").write_text(json.dumps(costs))


def _answers(
    models: dict[str, Path], graphs: Path, params: Params, target: Target, link: Any, texts: list[str], prepared: Path
) -> dict[str, tuple[list[float], float]]:
    """(milliseconds of each answer, peak megabytes) of every model, on the same training texts, in turns."""
    draw = random.Random(params.seed)  # noqa: S311  # an order of turns, not a secret
    sample = draw.sample(texts, min(len(texts), ANSWERS))
    settings, tokenizer = read_settings(prepared), graphs / "tokenizer.json"
    runners: dict[str, Any] = {}
    try:
        for scheme, model in models.items():
            hello = first_line(model, tokenizer, params.max_tokens, params.task, settings, sample[0], threads=target.threads)
            runners[scheme] = link.open_runner(target.link, target.runtime, hello)
            runners[scheme].ask({"texts": sample[:CHUNK]})
        times: dict[str, list[float]] = {scheme: [] for scheme in models}
        peaks: dict[str, float] = {}
        for begin in range(0, ANSWERS, CHUNK):
            chunk = [sample[place % len(sample)] for place in range(begin, begin + CHUNK)]
            turn = list(runners)
            draw.shuffle(turn)
            for scheme in turn:
                answer = runners[scheme].ask({"texts": chunk})
                parts = zip(answer["tokenize_ns"], answer["model_ns"], answer["decode_ns"], strict=True)
                times[scheme] += [round(sum(part) / 1e6, 5) for part in parts]
                peaks[scheme] = answer["peak_bytes"] / 1e6
    finally:
        for runner in runners.values():
            runner.close()
    return {scheme: (times[scheme], peaks[scheme]) for scheme in models}


def read_costs(folder: Path) -> list[Cost]:
    """What `run` wrote."""
    return [Cost(**entry) for entry in json.loads((folder / "costs.json").read_text())]


def over_budget(cost: Cost, budget: Budget) -> list[str]:
    """The limits that this variant certainly misses, in words; latency only when the early-stopping rule says FAIL."""
    missed = []
    if budget.size_mb is not None and cost.size_mb > budget.size_mb:
        missed.append(f"{cost.size_mb:.2f} MB, allowed {budget.size_mb:g}")
    if budget.peak_mb is not None and cost.peak_mb is not None and cost.peak_mb > budget.peak_mb:
        missed.append(f"{cost.peak_mb:.0f} MB of memory, allowed {budget.peak_mb:g}")
    if budget.p90_ms is not None and cost.ms:
        over = sum(ms > budget.p90_ms for ms in cost.ms)
        if early_stopping(over, len(cost.ms))[0] == "FAIL":
            missed.append(f"p90 {cost.p90_ms:.3f} ms, allowed {budget.p90_ms:g}")
    return missed


def excess(cost: Cost, budget: Budget) -> float:
    """By how much the worst limit is exceeded, as a share of it; 0 when none is."""
    figures = [(cost.size_mb, budget.size_mb), (cost.peak_mb, budget.peak_mb), (cost.p90_ms, budget.p90_ms)]
    return max([0.0, *(value / limit - 1 for value, limit in figures if value is not None and limit is not None)])


PROBE = Stage("probe", 2, run, ("onnx", "onnxruntime", "tokenizers", "numpy"))
