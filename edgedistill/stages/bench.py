"""bench: run a bundle again where its target's link leads, with its own golden texts as the traffic. Needs no torch.

First its golden vectors: a bundle that answers otherwise there is not timed. Then, where the clock is the device's, cold starts and answers until the
early-stopping rule decides, and as long as is asked for without a pause; a fixed loop before and after says whether the machine stayed the same
(`steady.py`). Where the device is emulated there is nothing to time.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any
from xml.etree import ElementTree  # written here, never read

from edgedistill import plugins
from edgedistill.bundle_format import Golden, Manifest, read_bundle
from edgedistill.errors import DeviceMemoryError, InputError, StageError, TargetError
from edgedistill.graph_cost import estimated
from edgedistill.latency_model import Estimate
from edgedistill.links import Runner, how, stood_in
from edgedistill.progress import tick
from edgedistill.report import PERCENTILE, Figure, State, Timings, early_stopping, percentile_ms
from edgedistill.runtime_support import require_supported
from edgedistill.stages.verify import Result, golden_of, hello, on_runner, summary
from edgedistill.steady import Steadiness, Sustained, steadily, sustain
from edgedistill.target import Target, find_target

CHUNK, MOST_RUNS, WARM_UP = 100, 5000, 20
COLD_STARTS = 3
COUNTED = 8  # texts whose instructions are counted where the device is emulated


@dataclass(frozen=True)
class Check:
    """One thing that the bundle was held against."""

    name: str
    state: State
    said: str


@dataclass(frozen=True)
class Bench:
    """A bundle measured again. timings: raw, nanoseconds; state: the verdict over all checks, UNDECIDED without a limit or a measurement.

    golden: the golden vectors as the target answered them; None when the device has no memory for the binary. Emulated, timings are empty and
    cold start and peak None: its clock is not the device's. instructions: of the model, for each of a few texts; emulated devices alone. uncounted: why
    there are none. condition: the device's heat and clocks before the run and after, where its link can tell. footprint: bytes of flash and RAM that
    the program takes, on a board without a system. estimate: by the target's calibration, where its clock is not at hand.
    """

    name: str
    target: str
    how: str
    golden: Result | None
    timings: Timings
    cold_start_ms: float | None
    peak_mb: float | None
    p90_limit_ms: float | None
    peak_limit_mb: float | None
    size_mb: float
    state: State
    reason: str
    checks: tuple[Check, ...]
    instructions: tuple[int, ...] = ()
    uncounted: str = ""
    steady: Steadiness | None = None
    sustained: Sustained | None = None
    condition: tuple[dict[str, list[float]], ...] = ()
    footprint: dict[str, int] | None = None
    estimate: Estimate | None = None

    def percentiles(self) -> dict[str, Figure]:
        shares = (0.5, 0.9, 0.99) if self.timings.model_ns else ()
        return {f"p{share * 100:.0f}_ms": percentile_ms(self.timings, share) for share in shares}

    def lines(self) -> list[str]:
        """For people."""
        rows = [f"{name[:3]} {figure.value:.3f} ms [{figure.low:.3f} to {figure.high:.3f}]" for name, figure in self.percentiles().items()]
        counted = f", {len(self.timings.model_ns)} answers, text in to answer out" if rows else ""
        memory = f"cold start {self.cold_start_ms:.0f} ms, peak memory {self.peak_mb:.0f} MB (runtime included), " if self.peak_mb else ""
        return [
            f"{self.name} for {self.target}, {self.how}{counted}",
            *([summary(self.golden)] if self.golden else []),
            *rows,
            *([f"{self.estimate.sentence()}, nine of ten such: no measurement"] if self.estimate else []),
            *self._counted(),
            *([self.steady.sentence()] if self.steady and self.steady.valid else []),
            *([self.sustained.sentence()] if self.sustained else []),
            *self._conditions(),
            *(
                [f"the program takes {self.footprint['flash']:,} bytes of flash and {self.footprint['ram']:,} of RAM"]
                if self.footprint
                else []
            ),
            f"{memory}{self.size_mb:.2f} MB on disk",
            f"{self.state}: {self.reason}",
        ]

    def _counted(self) -> list[str]:
        if self.uncounted:
            return [f"instructions not counted: {self.uncounted}"]
        if not self.instructions:
            return []
        middle, fewest, most = median(self.instructions) / 1e6, min(self.instructions) / 1e6, max(self.instructions) / 1e6
        return [
            f"{middle:.2f} million instructions an answer ({fewest:.2f} to {most:.2f}, {len(self.instructions)} texts, {self.how}): no latency"
        ]

    def _conditions(self) -> list[str]:
        told = {"temperatures": "the hottest sensor {} °C", "mhz": "the fastest core {} MHz"}
        parts = [
            words.format(" → ".join(f"{max(one[name]):.0f}" for one in self.condition))
            for name, words in told.items()
            if self.condition and all(one[name] for one in self.condition)
        ]
        return [f"the device before and after: {', '.join(parts)}"] if parts else []

    def one_line(self) -> str:
        """For a log that many bundles share."""
        return f"{self.state} {self.name} for {self.target}, {self.how}: " + "; ".join(check.said for check in self.checks)

    def junit(self) -> str:
        """JUnit XML, which CI systems show: a test case a check. An undecided one is skipped, since it neither held nor failed."""
        suite = ElementTree.Element("testsuite", name=f"{self.name} for {self.target}", tests=str(len(self.checks)))
        for attribute, state in (("failures", "FAIL"), ("skipped", "UNDECIDED")):
            suite.set(attribute, str(sum(check.state == state for check in self.checks)))
        for check in self.checks:
            case = ElementTree.SubElement(suite, "testcase", classname=f"{self.name}.{self.target}", name=check.name)
            if check.state != "PASS":
                ElementTree.SubElement(case, {"FAIL": "failure", "UNDECIDED": "skipped"}[check.state], message=check.said)
        ElementTree.indent(suite)
        return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"

    def as_json(self) -> dict[str, Any]:
        """Plain values, raw samples included."""
        plain = {
            name: value
            for name, value in vars(self).items()
            if name not in ("timings", "golden", "checks", "steady", "sustained", "estimate")
        }
        return {
            **plain,
            "golden": self.golden and vars(self.golden),
            "checks": [vars(check) for check in self.checks],
            **{name: vars(figure) for name, figure in self.percentiles().items()},
            "steady": self.steady and {**vars(self.steady), "drift": self.steady.drift, "valid": self.steady.valid},
            "sustained": self.sustained and self.sustained.as_json(),
            "estimate": self.estimate and vars(self.estimate),
            "samples": self.timings.model_dump(),
        }


@dataclass
class _Seen:
    """What a run showed. raw: nanoseconds of each answer; colds: milliseconds of each cold start."""

    golden: Result | None = None
    no_room: str = ""
    raw: dict[str, list[int]] = field(default_factory=lambda: {"tokenize_ns": [], "model_ns": [], "decode_ns": []})
    peak: int = 0
    colds: list[float] = field(default_factory=list)
    steady: Steadiness | None = None
    sustained: Sustained | None = None
    state: State = "UNDECIDED"
    reason: str = "the target states no p90_ms"

    @property
    def good(self) -> bool:
        return self.golden is not None and self.golden.good


def bench(folder: Path, target_name: str | None = None, sustained: float | None = None) -> Bench:
    """Run a bundle until the early-stopping rule decides its latency limit, at most MOST_RUNS answers, and then for `sustained` seconds.

    Raises BundleError, TargetError.
    """
    manifest = read_bundle(folder)
    target = find_target(target_name) if target_name else Target(**manifest.target)
    if target.format != manifest.format:
        raise InputError(
            f"the bundle is {manifest.format}, {target.name} runs {target.format}.", where=str(folder), write="Compile for that target."
        )
    require_supported(target, folder / manifest.model, manifest.name)
    target = stood_in(target)
    link, worth = plugins.find("links", target.link.kind), how(target.link)
    if lacking := link.ready(target.link):
        raise TargetError(lacking, where=target.name)
    vectors = golden_of(folder, manifest.task)
    guess = estimated(target, folder / manifest.model, [len(golden.ids) for golden in vectors]) if worth != "measured" else None
    worth = "estimated" if guess and worth == "not measured" else worth
    if sustained and worth in ("emulated", "estimated"):
        raise InputError(f"{target.name} is {worth}, and has no clock to run long on.", where="--sustained", write="Leave it out.")
    texts = [golden.text for golden in vectors if 0 < len(golden.text) <= 1000]
    request = hello(folder, manifest, texts[0], target.threads, target.kv_cache)

    def start() -> Runner:
        runner: Runner = link.open_runner(target.link, target.runtime, request, target.limits)
        return runner

    ask = getattr(link, "condition", None)
    before = [ask(target.link)] if ask else []
    seen = _run(start, manifest, vectors, texts, target.budget.p90_ms, timed=worth not in ("emulated", "estimated"), sustained=sustained)
    size_mb = sum((folder / name).stat().st_size for name in (manifest.model, manifest.tokenizer)) / 1e6
    footprint = vars(link.footprint(target.link, request, target.limits)) if hasattr(link, "footprint") and not seen.no_room else None
    state, reason, checks = _judged(seen, target, worth, size_mb, footprint, guess)
    timed = bool(seen.raw["model_ns"])
    return Bench(
        manifest.name,
        target.name,
        worth,
        seen.golden,
        Timings(**seen.raw),
        median(seen.colds) if timed else None,
        seen.peak / 1e6 if timed else None,
        target.budget.p90_ms,
        target.budget.peak_mb,
        size_mb,
        state,
        reason,
        checks,
        *_counted(link, target, request, texts, seen.good),
        seen.steady,
        seen.sustained,
        (*before, ask(target.link)) if ask else (),
        footprint,
        guess,
    )


def _run(
    start: Callable[[], Runner],
    manifest: Manifest,
    vectors: list[Golden],
    texts: list[str],
    limit: float | None,
    timed: bool,
    sustained: float | None,
) -> _Seen:
    """Golden vectors, cold starts, the warm run until it decides, the sustained one."""
    seen = _Seen()
    runner: Runner | None = None
    try:
        for _ in range(COLD_STARTS - 1 if timed else 0):
            runner = start()
            seen.colds.append(runner.hello["cold_start_ms"])
            runner.close()
        runner = start()
        seen.colds.append(runner.hello["cold_start_ms"])
        seen.golden = on_runner(manifest.name, manifest.logit_bound, vectors, runner)
        if timed and seen.good:
            _, seen.steady = steadily(runner, partial(_warm, runner, texts, limit, seen))
        if sustained and timed and seen.good:
            seen.sustained = sustain(runner, texts, sustained)
    except DeviceMemoryError as error:
        return _Seen(no_room=error.what)
    finally:
        if runner is not None:
            runner.close()
    return seen


def _warm(runner: Runner, texts: list[str], limit: float | None, seen: _Seen) -> None:
    """Answers until the early-stopping rule decides."""
    seen.raw = {name: [] for name in seen.raw}
    runner.ask({"texts": (texts * WARM_UP)[:WARM_UP]})
    while (count := len(seen.raw["model_ns"])) < MOST_RUNS:
        begin = count % len(texts)
        answer = runner.ask({"texts": ((texts[begin:] + texts) * CHUNK)[:CHUNK]})
        for name, kept in seen.raw.items():
            kept += answer[name]
        seen.peak, total, count = answer["peak_bytes"], Timings(**seen.raw).total_ms(), len(seen.raw["model_ns"])
        tick("benchmark", count, MOST_RUNS)
        if limit is not None:
            late = int((total > limit).sum())
            seen.state, needed = early_stopping(late, count)
            seen.reason = f"{late} of {count} answers took longer than {limit:g} ms, p{100 * PERCENTILE:.0f} with confidence 0.99"
            seen.reason += f"; about {needed} more runs would tell" if seen.state == "UNDECIDED" else ""
        if count >= 1000 and (limit is None or seen.state != "UNDECIDED"):  # p99 needs a thousand whatever the verdict
            return


def _judged(
    seen: _Seen,
    target: Target,
    worth: str,
    size_mb: float,
    footprint: dict[str, int] | None = None,
    guess: Estimate | None = None,
) -> tuple[State, str, tuple[Check, ...]]:
    """The verdict, its reason, and what each limit says."""
    state, reason, golden, limit = seen.state, seen.reason, seen.golden, target.budget.p90_ms
    if worth == "emulated":
        state, reason = (
            "UNDECIDED",
            f"emulated: the answers are those of {target.name}, the clock is not; only a run on the device can tell",
        )
    elif worth == "estimated" and guess and target.calibration:
        by = f"by a calibration of {target.calibration.machine}"
        state, reason = "UNDECIDED", f"{guess.sentence()}, {by}; only a run on {target.name} can tell"
    elif worth != "measured":
        state, reason = "UNDECIDED", f"{worth}: these figures are of this machine, only a run on {target.name} can tell"
    elif seen.steady and not seen.steady.valid:
        state, reason = "UNDECIDED", seen.steady.sentence()
    checks = [Check("golden vectors", "PASS" if golden.good else "FAIL", summary(golden).rstrip("."))] if golden else []
    if target.limits.memory_mb is not None and (seen.good or seen.no_room):
        said = seen.no_room.rstrip(".") or f"answers in {target.limits.memory_mb:g} MB"
        if footprint:
            said += f" ({footprint['ram'] / 1e6:.3f} of RAM, {footprint['flash'] / 1e6:.3f} of flash)"
        checks.append(Check("memory_mb", "FAIL" if seen.no_room else "PASS", said))
    if limit is not None and seen.good:
        taken = f", {percentile_ms(Timings(**seen.raw), PERCENTILE).value:.3f} ms" if seen.raw["model_ns"] and worth == "measured" else ""
        invalid = f" ({reason})" if seen.steady and not seen.steady.valid else ""
        about = f" ({guess.sentence()})" if guess else ""
        checks.append(Check("p90_ms", state, f"p90 of at most {limit:g} ms {state}{taken}{invalid}{about}"))
    if limit is not None and seen.sustained and worth == "measured":
        last = seen.sustained.part_ns(end=True)
        held, _ = early_stopping(sum(taken > limit * 1e6 for taken in last), len(last))
        # A clock that sinks with heat is what a long run is made for, so a miss counts; a pass on a machine that became another does not.
        held = "UNDECIDED" if held == "PASS" and not seen.sustained.clock.valid else held
        checks.append(Check("sustained", held, f"p90 of at most {limit:g} ms in the last fifth of {seen.sustained.seconds:.0f} s {held}"))
        if held == "FAIL":
            state, reason = "FAIL", f"{reason}; after {seen.sustained.seconds:.0f} s without a pause it is missed"
    peak_mb = seen.peak / 1e6
    for name, value, allowed in (("size_mb", size_mb, target.budget.size_mb), ("peak_mb", peak_mb, target.budget.peak_mb)):
        known = name == "size_mb" or (worth == "measured" and seen.good)
        if allowed is not None:
            over: State = "UNDECIDED" if not known else "FAIL" if value > allowed else "PASS"
            checks.append(Check(name, over, f"{name} of at most {allowed:g} {over}" + (f", {value:.1f}" if known else "")))
            if over == "FAIL":
                state, reason = "FAIL", f"{reason}; {name} is {value:.1f}, allowed {allowed:g}"
    if seen.no_room:
        state, reason = "FAIL", seen.no_room
    elif golden and not golden.good:
        state, reason = "FAIL", f"{len(golden.wrong)} golden vectors differ on {target.name}, so nothing else was looked at"
    return state, reason, tuple(checks)


def _counted(link: Any, target: Target, request: dict[str, Any], texts: list[str], good: bool) -> tuple[tuple[int, ...], str]:
    """Instructions of the model for a few texts, or why they could not be counted."""
    if not good or not hasattr(link, "instructions"):
        return (), ""
    try:
        return tuple(link.instructions(target.link, request, texts[:COUNTED], target.runtime)), ""
    except StageError as error:
        return (), error.paragraph()


def samples_csv(result: Bench) -> str:
    """Raw samples, one answer a line, nanoseconds."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["tokenize_ns", "model_ns", "decode_ns"])
    writer.writerows(zip(result.timings.tokenize_ns, result.timings.model_ns, result.timings.decode_ns, strict=True))
    return out.getvalue()
