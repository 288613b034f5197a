"""benchmark: every variant on the target's runtime, text in to answer out, each in a process of its own, in turns.

Where the device is emulated or not at hand, only answers are taken: the students' from the link, those of the teacher and the controls, which no
device has to run, from this machine. The students also answer here, and the report says how many answers are the same.

All variants answer the same chunk of test rows before any goes on to the next, in an order that is drawn anew for each chunk: a machine that
slows down slows all of them, and ratios hold. The answers of that same run are the quality figures, so what is timed is what is judged.
"""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from edgedistill import plugins
from edgedistill.budget import Budget
from edgedistill.digests import file_digest, tree_digest
from edgedistill.errors import DeviceMemoryError
from edgedistill.graph_cost import estimated
from edgedistill.limits import NONE, Limits
from edgedistill.links import Runner, how, local
from edgedistill.progress import tick
from edgedistill.report import Gains, Report, Timings, Variant, Writing, read_report, write_report
from edgedistill.runtime_support import require_supported
from edgedistill.serving import first_line, open_tokenizer, writes
from edgedistill.stages.prepare import read_settings
from edgedistill.stages.teach import ANSWERS
from edgedistill.steady import Steadiness, steadily
from edgedistill.store import Stage
from edgedistill.tables import read_rows
from edgedistill.target import Link, Target
from edgedistill.tasks import together

CHUNK = 16  # test rows that each variant answers before the next has its turn
WARM_UP = 20  # answers that are not kept
FEWEST_SAMPLES = 1000  # small test sets are answered again until there are as many: p99 needs them
LENGTHS = (16, 32, 128)  # tokens
RUNS_A_LENGTH = 96
COLD_STARTS = 3
TIMES, WRITING = ("tokenize_ns", "model_ns", "decode_ns"), ("prompt_tokens", "answer_tokens", "first_ns")


@dataclass(frozen=True)
class Entry:
    """One variant to run. Where its files are comes as the stage's inputs `{id}_model` and `{id}_graphs`."""

    id: str
    name: str
    role: Literal["teacher", "student", "control"]
    scheme: str


@dataclass(frozen=True)
class Params:
    """machine: what this machine is, since figures of another one are not this one's."""

    name: str
    task: str
    target: dict[str, Any]
    max_tokens: int
    entries: tuple[Entry, ...]
    machine: dict[str, Any]
    seed: int


def run(out: Path, params: Params, *, prepared: Path, **files: Path) -> None:
    """Writes `report.json`, without a budget: that is laid over it by select. files: `{id}_model`, `{id}_graphs` of each entry.

    A teacher that does not run here has `answers.json` in the place of a model: what it said of the test rows. It has no timings and no size.
    """
    target = Target(**params.target)
    link = plugins.find("links", target.link.kind)
    for entry in params.entries:
        if entry.role == "student":
            require_supported(target, files[f"{entry.id}_model"] / target.model_file, f"the scheme {entry.scheme}")
    rows = read_rows(prepared / "test.parquet")
    task, settings = plugins.find("tasks", params.task), read_settings(prepared)
    worth = how(target.link)
    measured = worth == "measured"

    def start(entry: Entry, on_device: bool) -> Runner:
        model, tokenizer = files[f"{entry.id}_model"] / target.model_file, files[f"{entry.id}_graphs"] / "tokenizer.json"
        first, threads, kv_cache = rows.texts[0], target.threads, target.kv_cache
        hello = first_line(model, tokenizer, params.max_tokens, params.task, settings, first, threads=threads, kv_cache=kv_cache)
        if not on_device:
            return local.open_runner(Link(kind="local"), target.runtime, hello)
        if entry.role == "student" and target.limits.any:  # teacher and controls never run on the device
            return Held(lambda limits: link.open_runner(target.link, target.runtime, hello, limits), target.limits)
        runner: Runner = link.open_runner(target.link, target.runtime, hello)
        return runner

    def same_here(entry: Entry, answers: list[Any]) -> list[str]:
        """How many answers of an emulated device are those of this machine: a scheme that depends on the processor shows here."""
        if worth != "emulated" or entry.role != "student" or not task.EXACT:
            return []
        runner = start(entry, on_device=False)
        try:
            ours = [one["target"] for one in runner.ask({"texts": rows.texts, "wants": ["answers"]})["answers"]]
        finally:
            runner.close()
        same = sum(one == other for one, other in zip(ours, answers, strict=True))
        return [f"{same} of {len(ours)} answers on {target.name} are those of this machine"]

    def foretold(entry: Entry) -> list[str]:
        """What a student may take on a device that is not at hand, where its target has a calibration."""
        if measured or entry.role != "student" or target.calibration is None:
            return []
        tokenizer = open_tokenizer(files[f"{entry.id}_graphs"] / "tokenizer.json", params.max_tokens)
        lengths = [len(ids.ids) for ids in tokenizer.encode_batch(rows.texts)]
        guess = estimated(target, files[f"{entry.id}_model"] / target.model_file, lengths)
        return [f"{guess.sentence()}, by a calibration of {target.calibration.machine}"] if guess else []

    runners: dict[str, Runner] = {}
    here = [entry for entry in params.entries if not (files[f"{entry.id}_model"] / ANSWERS).is_file()]
    try:
        colds: dict[str, list[dict[str, Any]]] = {entry.id: [] for entry in params.entries}
        for _ in range(COLD_STARTS - 1 if measured else 0):
            for entry in here:
                if entry.role != "control":
                    runner = start(entry, on_device=True)
                    colds[entry.id].append(runner.hello)
                    runner.close()
        for entry in here:
            runners[entry.id] = start(entry, on_device=measured or entry.role == "student")
            colds[entry.id].append(runners[entry.id].hello)
        timed = [entry.id for entry in here if entry.role != "control" and measured]
        seen, steady = _steadily(runners, params, rows.texts, timed)
        writers = {entry.id: runners[entry.id] for entry in here if entry.role == "student" and writes(task)}
        free = _freely(writers, rows.texts, (os.cpu_count() or 1) // target.threads)
    finally:
        for runner in runners.values():
            runner.close()
    for entry in params.entries:
        if entry not in here:  # a teacher behind an API: it was asked when it was taken on
            seen[entry.id] = _Seen(json.loads((files[f"{entry.id}_model"] / ANSWERS).read_text()))
    raw = {name: [answer["target"] for answer in one.answers] for name, one in seen.items()}
    said = {name: together(task, targets, settings) for name, targets in raw.items()}
    teacher = next(entry.id for entry in params.entries if entry.role == "teacher")
    labelled = any(target is not None for target in rows.targets)
    # Rows that nobody labelled are held against the teacher's own answers.
    expected = [rows.target(row) for row in range(len(rows))] if labelled else said[teacher]
    variants = []
    for entry in params.entries:
        model, graphs = files[f"{entry.id}_model"], files[f"{entry.id}_graphs"]
        judged = [task.judge(one, right, settings) for one, right in zip(said[entry.id], expected, strict=True)]
        plain = all(
            gained == (one == right) and possible == 1
            for (gained, possible), one, right in zip(judged, said[entry.id], expected, strict=True)
        )
        keep, file = measured and entry.role != "control" and entry in here, model / target.model_file
        variants.append(
            Variant(
                name=entry.name,
                role=entry.role,
                scheme=entry.scheme,
                model_sha256=file_digest(file) if entry in here else tree_digest(model / "model"),
                model_bytes=file.stat().st_size if entry in here else 0,
                tokenizer_bytes=(graphs / "tokenizer.json").stat().st_size if entry in here else 0,
                parameters=json.loads((graphs / "facts.json").read_text()).get("parameters", 0),
                predicted=said[entry.id],
                confidence=[round(answer["confidence"], 5) for answer in seen[entry.id].answers if "confidence" in answer],
                gained=None if plain else [round(gained, 6) for gained, _ in judged],
                possible=None if plain else [round(possible, 6) for _, possible in judged],
                further=_further(task, said[entry.id], free.get(entry.id), expected, settings),
                writing=seen[entry.id].writing() if keep else None,
                timings=seen[entry.id].timings() if keep else {},
                cold_start_ms=[round(hello["cold_start_ms"], 3) for hello in colds[entry.id]] if keep else [],
                load_ms=[round(hello["load_ms"], 3) for hello in colds[entry.id]] if keep else [],
                peak_bytes=seen[entry.id].peak if keep else None,
                baseline_bytes=colds[entry.id][-1]["baseline_bytes"] if keep else None,
                divergence=0.0 if entry.scheme == "float" else _loss(model).get("divergence"),
                no_room=getattr(runners.get(entry.id), "no_room", None),
                notes=_notes(model)
                + same_here(entry, raw[entry.id])
                + foretold(entry)
                + (task.notes(raw[entry.id], raw[teacher], settings) if hasattr(task, "notes") else []),
            )
        )
    slices: dict[str, list[int]] = {}
    for place, names in enumerate(rows.slices):
        for name in names:
            slices.setdefault(name, []).append(place)
    report = Report(
        name=params.name,
        task=params.task,
        target=params.target,
        how=worth,
        where=", ".join(params.machine[name] for name in ("runner", "cpu", "system") if name in params.machine),
        machine=params.machine,
        versions={name: version(name) for name in ("edgedistill", target.engine, "tokenizers", "numpy")},
        budget=Budget(),
        prefer="smallest",
        metric=task.metric(settings),
        against="labels" if labelled else "teacher",
        classes=settings["labels"],
        keys=rows.keys,
        expected=expected,
        slices=dict(sorted(slices.items())),
        variants=variants,
        seed=params.seed,
        steady=steady,
    )
    write_report(report, out / "report.json")


def _notes(model: Path) -> list[str]:
    """What a reader of the report should know of a quantized file: whether the student learned through its arithmetic, which layers stayed in float,
    which tensors are of another type than the file is called by, and how the types were chosen."""
    loss = _loss(model)
    kept = loss.get("kept_in_float", [])
    notes = ["the student learned on through this quantizer's arithmetic"] if loss.get("through_quantizer") else []
    notes += [f"{len(kept)} sensitive layers stay in float: {', '.join(kept)}"] if kept else []
    facts = json.loads((model / "facts.json").read_text()) if (model / "facts.json").is_file() else {}
    said = Counter(facts.get("replaced", {}).values())
    notes += [f"{count} tensors are {what}" for what, count in sorted(said.items())]
    if facts.get("how") == "mixed":  # of a GGUF
        apart = facts["divergence"]
        chosen = f"{apart['mixed'] / apart['stock']:.2f} of stock's" if apart["stock"] else "0"
        notes.append(f"types chosen by measured sensitivity: divergence from float {chosen}; taken was {facts['won']}")
    return notes


def _loss(model: Path) -> dict[str, Any]:
    """What quantize measured of a file, {} where it measured nothing."""
    return dict(json.loads((model / "loss.json").read_text())) if (model / "loss.json").is_file() else {}


class Held:
    """A runner that is held to a target's limits. Where it runs out of memory that is noted, and it goes on without them for its answers."""

    def __init__(self, start: Callable[[Limits], Runner], limits: Limits) -> None:
        self._start = start
        self.no_room: str | None = None
        try:
            self._runner = start(limits)
        except DeviceMemoryError as error:
            self._go_on(error)
        self.hello = self._runner.hello

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        try:
            return self._runner.ask(request)
        except DeviceMemoryError as error:
            self._runner.close()
            self._go_on(error)
            return self._runner.ask(request)

    def close(self) -> None:
        self._runner.close()

    def _go_on(self, error: DeviceMemoryError) -> None:
        self.no_room = error.what
        self._runner = self._start(NONE)


class _Seen:
    """What one variant did, as it comes in."""

    def __init__(self, answers: Sequence[dict[str, Any]] = ()) -> None:
        self.answers = list(answers)
        self.raw: dict[str, dict[str, list[int]]] = {}
        self.peak = 0

    def add(self, kind: str, answer: dict[str, Any]) -> None:
        times = self.raw.setdefault(kind, {name: [] for name in (*TIMES, *WRITING) if name in answer})
        for name, kept in times.items():
            kept += answer[name]
        self.peak = max(self.peak, answer["peak_bytes"])

    def timings(self) -> dict[str, Timings]:
        return {kind: Timings(**{name: times[name] for name in TIMES}) for kind, times in self.raw.items()}

    def writing(self) -> Writing | None:
        times = self.raw.get("real", {})
        return Writing(**{name: times[name] for name in WRITING}) if WRITING[0] in times else None


def _steadily(runners: dict[str, Runner], params: Params, texts: list[str], timed: list[str]) -> tuple[dict[str, _Seen], Steadiness | None]:
    """Everybody's turns between two looks at the machine; None where nothing is timed."""
    turns = partial(_take_turns, runners, params, texts, timed)
    return steadily(runners[timed[0]], turns) if timed else (turns(), None)


def _take_turns(runners: dict[str, Runner], params: Params, texts: list[str], timed: list[str]) -> dict[str, _Seen]:
    seen = {name: _Seen() for name in runners}
    draw = random.Random(params.seed)  # noqa: S311  # an order of turns, not a secret
    task = plugins.find("tasks", params.task)
    passes = max(1, -(-getattr(task, "FEWEST_SAMPLES", FEWEST_SAMPLES) // len(texts))) if timed else 1
    for runner in runners.values():
        runner.ask({"texts": (texts * WARM_UP)[: WARM_UP // 4 if writes(task) else WARM_UP]})
    work: list[tuple[str, dict[str, Any], bool]] = [
        ("real", {"texts": chunk, "wants": ["answers"] if number == 0 else []}, number == 0)
        for number in range(passes)
        for chunk in _chunks(texts, CHUNK)
    ]
    # What an answer that is written takes depends on its own length, not on the prompt's.
    lengths = [length for length in LENGTHS if length <= params.max_tokens and timed and not writes(task)]
    sample = (texts * RUNS_A_LENGTH)[:RUNS_A_LENGTH]
    work += [(str(length), {"texts": chunk, "tokens": length}, False) for length in lengths for chunk in _chunks(sample, CHUNK)]
    for done, (kind, request, keeps_answers) in enumerate(work, 1):
        turn = list(runners if keeps_answers else timed)
        draw.shuffle(turn)
        for name in turn:
            answer = runners[name].ask(request)
            if name in timed:
                seen[name].add(kind, answer)
            if keeps_answers:
                seen[name].answers += answer["answers"]
        tick("benchmark", done, len(work))
    return seen


def _freely(runners: dict[str, Runner], texts: Sequence[str], at_once: int) -> dict[str, list[Any]]:
    """What each answers without the task's grammar. Nothing is timed any more, so as many answer at once as have a core for each of their threads."""

    def answers(runner: Runner) -> list[Any]:
        asked = [{"texts": chunk, "wants": ["answers"], "constrained": False} for chunk in _chunks(texts, CHUNK)]
        return [one["target"] for request in asked for one in runner.ask(request)["answers"]]

    with ThreadPoolExecutor(max(1, at_once)) as pool:
        return dict(zip(runners, pool.map(answers, runners.values()), strict=True))


def _further(
    task: Any, said: Sequence[Any], free: Sequence[Any] | None, expected: Sequence[Any], settings: dict[str, Any]
) -> dict[str, Gains]:
    """The task's figures beside its metric; of answers that were also written without a grammar the same, and the metric too."""
    if not hasattr(task, "further"):
        return {}
    found: dict[str, Gains] = {}
    for answers, behind in ((said, ""), (free, " without grammar")):
        if answers is None:
            continue
        rows = [task.further(one, right, settings) for one, right in zip(answers, expected, strict=True)]
        if behind:
            judged = [task.judge(one, right, settings) for one, right in zip(answers, expected, strict=True)]
            rows = [row | {task.metric(settings): pair} for row, pair in zip(rows, judged, strict=True)]
        for name in rows[0]:
            gained, possible = zip(*(row[name] for row in rows), strict=True)
            found[name + behind] = Gains(gained=list(gained), possible=list(possible))
    return found


def _chunks(items: Sequence[str], size: int) -> Iterable[list[str]]:
    return (list(items[begin : begin + size]) for begin in range(0, len(items), size))


def _steady(out: Path) -> bool:
    """Figures of a clock that drifted are taken again."""
    steady = read_report(out / "report.json").steady
    return steady is None or steady.valid


BENCHMARK = Stage("benchmark", 6, run, ("onnxruntime", "tokenizers", "numpy"), stands=_steady)
