"""bundle: the folder that ships. It holds the very file that was measured, and the vectors that prove it on any device."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgedistill import plugins
from edgedistill.bundle_format import Golden, Manifest, digests, write_golden, write_manifest
from edgedistill.digests import file_digest
from edgedistill.errors import ParityError
from edgedistill.links import local
from edgedistill.report import (
    Report,
    Variant,
    accuracy,
    accuracy_difference,
    calibration_error,
    flips,
    percentile_ms,
    read_report,
    speed_up,
)
from edgedistill.serving import encode, first_line, open_tokenizer, writes
from edgedistill.stages.benchmark import Entry
from edgedistill.stages.prepare import read_settings
from edgedistill.stages.select import read_choice
from edgedistill.stages.verify import on_runner, summary
from edgedistill.store import Stage
from edgedistill.tables import read_rows
from edgedistill.target import Link, Target

REAL_VECTORS = 48
# How far logits may lie from the golden ones, in standard deviations of all golden logits. Float graphs differ by rounding order alone.
# Quantized activations may round the other way on another processor: up to 0.02 deviations were seen between x86 and arm64 (4-bit weights,
# a core without dot product), so five times that is where something else is wrong.
FLOAT_APART, QUANTIZED_APART = 1e-3, 0.1
# llama.cpp rounds activations in blocks of 32 with a scale each: 0.1 deviations were seen between x86 and 32-bit ARM, on a text of four tokens.
LLAMA_APART = 0.2

AWKWARD = (
    "",
    " ",
    "\t\n\r",
    "?",
    "....",
    "👍",
    "👩‍👩‍👧‍👦 who is this 👩🏽‍🚀 ?",
    "🇳🇱 🏳️‍🌈",
    "café",
    "cafe\u0301",  # the same word with a combining accent
    "Z\u0351\u036b\u0343a\u0308\u0301lgo",
    "ﬁne ligature, ½ and ①",
    "ＦＵＬＬ　ＷＩＤＴＨ",
    "ما هي عاصمة فرنسا؟",
    "מהי בירת צרפת?",
    "abc \u202edef\u202c ghi",  # right-to-left override
    "法国的首都是什么？",
    "フランスの首都は？",
    "프랑스의 수도는?",
    "Какая столица Франции?",
    "ไทย ไม่มี ช่องว่าง",
    "null\x00byte, bell\x07, escape\x1b[31m, delete\x7f",
    "line\u2028separator\u0085next",
    "zero\u200bwidth\u200djoiner\ufeffbom",
    "soft\u00adhyphen",
    "UPPER CASE ONLY ?",
    "MiXeD cAsE",
    "[CLS] [SEP] [UNK] [MASK] [PAD] <s> </s>",
    "##ing ##s",
    "https://example.org/a?b=c&d=%20#e",
    "name@example.org",
    "3.14159 1,000,000 1e-9 -0 ٣ ७",
    "'; DROP TABLE users; --",
    '{"json": [1, 2, null]}',
    "a" * 200,
    "word " * 400,
    "x" * 10_000,
    "long " + "é" * 9_995,
    "\ud7ff\ue000\ufffd",
    "tab\tseparated\tvalues",
)


@dataclass(frozen=True)
class Params:
    """entries: what was measured, so that the chosen one's files are found among the inputs. lineage: data, teacher and terms."""

    name: str
    task: str
    target: dict[str, Any]
    max_tokens: int
    entries: tuple[Entry, ...]
    lineage: dict[str, Any]


def run(out: Path, params: Params, *, prepared: Path, transfer: Path, student: Path, selected: Path, **files: Path) -> None:
    """Writes the bundle of the chosen variant; with no variant that fits, only `none.txt`, which says so.

    files: as benchmark's. Raises ParityError when the file to ship is not the one that was measured.
    """
    target = Target(**params.target)
    report, choice = read_report(selected / "report.json"), read_choice(selected / "choice.json")
    if choice.state == "FAIL":
        (out / "none.txt").write_text("No variant met the budget, so nothing ships.\n")
        return
    variant = report.variant(choice.chosen)
    chosen = next(entry for entry in params.entries if entry.name == choice.chosen)
    model, graphs = files[f"{chosen.id}_model"], files[f"{chosen.id}_graphs"]
    lineage = {
        **params.lineage,
        "transfer": _facts(transfer, "rows", "training_rows", "traffic_rows", "written_rows", "grown_rows", "methods"),
        "student": _facts(student, "architecture", "layers", "layers_before", "width", "vocabulary", "steps", "batch_size", "losses"),
        "versions": package_versions(target),
    }
    shutil.copyfile(model / target.model_file, out / target.model_file)
    shutil.copyfile(graphs / "tokenizer.json", out / "tokenizer.json")
    shutil.copyfile(selected / "report.json", out / "report.json")
    if file_digest(out / target.model_file) != variant.model_sha256:
        raise ParityError(
            "the file to ship is not the file that was measured.", where=str(model / target.model_file), write="Compile again."
        )
    settings = read_settings(prepared)
    task = plugins.find("tasks", params.task)
    about = task.about(settings)
    apart = FLOAT_APART if variant.scheme == "float" else LLAMA_APART if target.format == "gguf" else QUANTIZED_APART
    vectors, bound = golden_vectors(out, params, target, settings, read_rows(prepared / "test.parquet").texts, apart)
    write_golden(out / "golden.jsonl", vectors)
    (out / "MODEL_CARD.md").write_text(model_card(report, variant, choice.reasons, lineage, about), encoding="utf-8")
    write_manifest(
        out,
        Manifest(
            name=params.name,
            task=params.task,
            labels=report.classes,
            format=target.format,
            model=target.model_file,
            tokenizer="tokenizer.json",
            max_tokens=params.max_tokens,
            scheme=variant.scheme,
            runtime=target.runtime,
            threads=target.threads,
            target=params.target,
            files=digests(out),
            logit_bound=bound,
            measured=measured(report, variant),
            versions=report.versions,
            lineage=lineage,
            extra=_writing(out, params) if writes(task) else {},
            settings={name: value for name, value in settings.items() if name != "labels"},
        ),
    )


def _writing(out: Path, params: Params) -> dict[str, Any]:
    """What an app that drives llama.cpp itself must know beside prompt and grammar, which stand in the settings: when to stop."""
    from edgedistill.gguf_file import read_gguf

    facts = read_gguf(out / Target(**params.target).model_file).facts
    stop = facts["tokenizer.ggml.tokens"][facts["tokenizer.ggml.eos_token_id"]]
    return {"stop": {"token": stop, "most_tokens": params.max_tokens // 2}, "sampling": "greedy, under the grammar"}


def golden_vectors(
    folder: Path, params: Params, target: Target, settings: dict[str, Any], texts: list[str], apart: float
) -> tuple[list[Golden], float]:
    """Real and awkward texts, answered by the shipped file here, in a process of its own, and again where the target's link leads.

    Also returns the logit bound, `apart` standard deviations of all the logits; what is written token by token has a bound of its task's own. A text
    whose answer hangs on less than that is a near tie: rounding decides it, on every processor its own way, so its vector has ids and logits and no
    golden answer.

    Raises ParityError when a second run of the same file answers otherwise, since such a binary has no golden answer, and when the target does.
    """
    step = max(1, len(texts) // REAL_VECTORS)
    inputs = [*texts[::step][:REAL_VECTORS], *AWKWARD]
    inputs += [f"{text} {number}" for number, text in enumerate(texts * 64)][: max(0, 64 - len(inputs))]
    model, tokenizer, task = folder / target.model_file, folder / "tokenizer.json", plugins.find("tasks", params.task)
    hello = first_line(
        model, tokenizer, params.max_tokens, params.task, settings, inputs[0], threads=target.threads, kv_cache=target.kv_cache
    )
    runner = local.open_runner(Link(kind="local"), target.runtime, hello)
    try:
        wants = {"texts": inputs, "wants": ["answers", "logits", "ids", *(["written"] if writes(task) else [])]}
        first, second = runner.ask(wants), runner.ask(wants)
        for text, one, other in zip(inputs, first["logits"], second["logits"], strict=True):
            if not np.shape(one) == np.shape(other) or np.abs(np.subtract(one, other)).max(initial=0) > 1e-5:
                raise ParityError(f"the model gives two answers to {text[:40]!r} in one process.", where=str(folder / target.model_file))
        if writes(task):
            vectors, logit_bound = _written_vectors(runner, first, inputs, task.LOGIT_BOUND), task.LOGIT_BOUND
        else:
            spread = np.concatenate([np.ravel(logits) for logits in first["logits"]]).std()
            logit_bound = float(f"{apart * spread:.2g}")
            vectors = _answered_vectors(open_tokenizer(tokenizer, params.max_tokens), first, inputs, task, settings, logit_bound)
    finally:
        runner.close()
    if target.link.kind not in ("local", "build_only"):
        runner = plugins.find("links", target.link.kind).open_runner(target.link, target.runtime, hello)
        try:
            result = on_runner(params.name, logit_bound, vectors, runner)
        finally:
            runner.close()
        if not result.good:
            raise ParityError(
                f"the model answers otherwise on {target.name} than here: {summary(result)}", where=str(folder / target.model_file)
            )
    return vectors, logit_bound


def _answered_vectors(
    tokenizer: Any, given: dict[str, Any], texts: list[str], task: Any, settings: dict[str, Any], logit_bound: float
) -> list[Golden]:
    """Of a task whose answer follows from logits. given: a runner's answer that holds ids, logits and answers."""

    def golden_answer(text: str, logits: list[Any], said: Any) -> Any:
        _, offsets = encode(tokenizer, text, None)
        sure = task.EXACT and decided(lambda moved: task.answer(moved, settings, text, offsets)["answer"], np.asarray(logits), logit_bound)
        return said["answer"] if sure else None

    return [
        Golden(text, ids, np.round(logits, 5).tolist(), golden_answer(text, logits, said))
        for text, ids, logits, said in zip(texts, given["ids"], given["logits"], given["answers"], strict=True)
    ]


def _written_vectors(runner: Any, given: dict[str, Any], texts: list[str], logit_bound: float) -> list[Golden]:
    """Of a task whose answer is written. given: the runner's answer that holds ids, answers and the tokens written."""
    pairs = [{"ids": ids, "answer": tokens} for ids, tokens in zip(given["ids"], given["written"], strict=True)]
    held = runner.ask({"forced": pairs})["forced"]
    answers = [said["answer"] if one["lead"] > logit_bound else None for said, one in zip(given["answers"], held, strict=True)]
    return [
        Golden(text, pair["ids"], np.round(one["scores"], 5).tolist(), answer, pair["answer"], one["likeliest"])
        for text, pair, one, answer in zip(texts, pairs, held, answers, strict=True)
    ]


def decided(answer: Callable[[Any], Any], logits: npt.NDArray[Any], bound: float) -> bool:
    """Whether the answer stays when any one output is raised or lowered by `bound`: the best of several leads by more than that.

    logits: [outputs] or [tokens, outputs].
    """
    said = answer(logits)
    moves = bound * np.eye(logits.shape[-1])
    return all(answer(logits + move) == said for move in (*moves, *-moves))


def measured(report: Report, variant: Variant) -> dict[str, Any]:
    """The figures that an app may show, with where they were had."""
    right, drop = accuracy(report, variant), accuracy_difference(report, report.teacher, variant)
    facts: dict[str, Any] = {
        "how": report.how,
        "where": report.where,
        "metric": report.metric,
        "accuracy": round(right.value, 4),
        "accuracy_interval": [round(right.low, 4), round(right.high, 4)],
        "accuracy_drop": round(drop.value, 4),
        "size_bytes": variant.size_bytes,
        "test_rows": len(report.expected),
    }
    timings = variant.timings.get("real")
    if timings:
        facts |= {f"p{share * 100:.0f}_ms": round(percentile_ms(timings, share).value, 3) for share in (0.5, 0.9, 0.99)}
        facts |= {"peak_bytes": variant.peak_bytes, "faster_than_teacher": round(speed_up(variant, report.teacher) or 0, 2)}
    return facts


def model_card(report: Report, variant: Variant, reasons: list[str], lineage: dict[str, Any], about: str) -> str:
    """MODEL_CARD.md: what the model is for, what it was made from, how good it is and where it is weak."""
    right, teacher = accuracy(report, variant), accuracy(report, report.teacher)
    changed = flips(report, variant, report.teacher)
    metric, against = report.metric, " (the teacher's answers count as right)" if report.against == "teacher" else ""
    weak = sorted((accuracy(report, variant, rows).value, name, len(rows)) for name, rows in report.slices.items() if len(rows) >= 30)
    weak = [entry for entry in weak if math.isfinite(entry[0])]
    lines = [
        f"# {report.name}",
        "",
        about,
        f"Made by edgedistill {report.versions.get('edgedistill', '')} for {report.target['name']}: {variant.scheme}, "
        f"{variant.size_bytes / 1e6:.2f} MB with its tokenizer, {variant.parameters:,} parameters.",
        "",
        "## How good",
        "",
        f"- {metric[0].upper() + metric[1:]} on {len(report.expected)} held-out rows{against}: {right.value:.1%} "
        f"(95 % interval {right.low:.1%} to {right.high:.1%}); teacher {teacher.value:.1%}.",
        f"- Answers that differ from the teacher's: {changed.total} ({changed.lost} lost, {changed.won} won, McNemar p = {changed.p_value:.2g}).",
        *([f"- Expected calibration error: {calibration_error(report, variant):.3f}."] if variant.confidence else []),
        *([f"- Weakest slice: {weak[0][1]}, {weak[0][0]:.1%} of {weak[0][2]} rows."] if weak else []),
        *[f"- {reason}" for reason in reasons],
        f"- Latency: {report.how} ({report.where}).",
        "",
        "## Where it comes from",
        "",
        "```json",
        json.dumps(lineage, indent=1, ensure_ascii=False),
        "```",
        "",
        "Meant for inputs that look like its test rows. Inputs of another kind get an answer too: look at the confidence.",
        "",
    ]
    return "\n".join(lines)


def _facts(folder: Path, *names: str) -> dict[str, Any]:
    facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
    return {name: facts[name] for name in names if name in facts}


def package_versions(target: Target) -> dict[str, str]:
    """Versions of what made the bundle, for its lineage."""
    return {name: version(name) for name in ("edgedistill", "torch", "transformers", target.format, target.engine, "tokenizers")}


BUNDLE = Stage("bundle", 5, run, ("onnxruntime", "tokenizers"))
