"""bench: run a bundle again where its target's link leads, with its own golden texts as the traffic. Needs no torch.

First its golden vectors: a bundle that answers otherwise there is not timed. Then, where the clock is the device's, answers until the early-stopping
rule decides; where the device is emulated there is nothing to time.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any
from xml.etree import ElementTree  # written here, never read

from edgedistill import plugins
from edgedistill.bundle_format import read_bundle, read_golden
from edgedistill.errors import DeviceMemoryError, InputError, StageError, TargetError
from edgedistill.links import how
from edgedistill.progress import tick
from edgedistill.report import PERCENTILE, Figure, State, Timings, early_stopping, percentile_ms
from edgedistill.stages.verify import Result, on_runner, summary
from edgedistill.target import Target, find_target

CHUNK, MOST_RUNS, WARM_UP = 100, 5000, 20
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
    there are none.
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
            *self._counted(),
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
        plain = {name: value for name, value in vars(self).items() if name not in ("timings", "golden", "checks")}
        return {
            **plain,
            "golden": self.golden and vars(self.golden),
            "checks": [vars(check) for check in self.checks],
            **{name: vars(figure) for name, figure in self.percentiles().items()},
            "samples": self.timings.model_dump(),
        }


def bench(folder: Path, target_name: str | None = None) -> Bench:
    """Run a bundle until the early-stopping rule decides its latency limit, at most MOST_RUNS answers. Raises BundleError, TargetError."""
    manifest = read_bundle(folder)
    target = find_target(target_name) if target_name else Target(**manifest.target)
    if target.format != manifest.format:
        raise InputError(
            f"the bundle is {manifest.format}, {target.name} runs {target.format}.", where=str(folder), write="Compile for that target."
        )
    link, worth = plugins.find("links", target.link.kind), how(target.link)
    if lacking := link.ready(target.link):
        raise TargetError(lacking, where=target.name)
    vectors = list(read_golden(folder / "golden.jsonl"))
    texts = [golden.text for golden in vectors if 0 < len(golden.text) <= 1000]
    request = {
        "model": str(folder / manifest.model),
        "tokenizer": str(folder / manifest.tokenizer),
        "max_tokens": manifest.max_tokens,
        "threads": target.threads,
        "task": manifest.task,
        "settings": manifest.task_settings(),
        "first_text": texts[0],
    }
    raw: dict[str, list[int]] = {"tokenize_ns": [], "model_ns": [], "decode_ns": []}
    state: State = "UNDECIDED"
    limit, reason, peak = target.budget.p90_ms, "the target states no p90_ms", 0
    golden, no_room, timed, runner = None, "", False, None
    try:
        runner = link.open_runner(target.link, target.runtime, request, target.limits)
        golden = on_runner(manifest.name, manifest.logit_bound, vectors, runner)
        timed = golden.good and worth != "emulated"
        if timed:
            runner.ask({"texts": (texts * WARM_UP)[:WARM_UP]})
        while timed and len(raw["model_ns"]) < MOST_RUNS:
            begin = len(raw["model_ns"]) % len(texts)
            answer = runner.ask({"texts": ((texts[begin:] + texts) * CHUNK)[:CHUNK]})
            for name in raw:
                raw[name] += answer[name]
            peak, total, count = answer["peak_bytes"], Timings(**raw).total_ms(), len(raw["model_ns"])
            tick("benchmark", count, MOST_RUNS)
            if limit is not None:
                late = int((total > limit).sum())
                state, needed = early_stopping(late, count)
                reason = f"{late} of {count} answers took longer than {limit:g} ms, p{100 * PERCENTILE:.0f} with confidence 0.99"
                reason += f"; about {needed} more runs would tell" if state == "UNDECIDED" else ""
            if count >= 1000 and (limit is None or state != "UNDECIDED"):  # p99 needs a thousand whatever the verdict
                break
    except DeviceMemoryError as error:
        golden, no_room, timed, raw = None, error.what, False, {name: [] for name in raw}
    finally:
        if runner is not None:
            runner.close()
    good = golden is not None and golden.good
    if worth == "emulated":
        state, reason = (
            "UNDECIDED",
            f"emulated: the answers are those of {target.name}, the clock is not; only a run on the device can tell",
        )
    elif worth != "measured":
        state, reason = "UNDECIDED", f"{worth}: these figures are of this machine, only a run on {target.name} can tell"
    size_mb, peak_mb = sum((folder / name).stat().st_size for name in (manifest.model, manifest.tokenizer)) / 1e6, peak / 1e6
    checks = [Check("golden vectors", "PASS" if golden.good else "FAIL", summary(golden).rstrip("."))] if golden else []
    if target.limits.memory_mb is not None and (good or no_room):
        said = no_room.rstrip(".") or f"answers in {target.limits.memory_mb:g} MB"
        checks.append(Check("memory_mb", "FAIL" if no_room else "PASS", said))
    if limit is not None and good:
        taken = f", {percentile_ms(Timings(**raw), PERCENTILE).value:.3f} ms" if raw["model_ns"] and worth == "measured" else ""
        checks.append(Check("p90_ms", state, f"p90 of at most {limit:g} ms {state}{taken}"))
    for name, value, allowed in (("size_mb", size_mb, target.budget.size_mb), ("peak_mb", peak_mb, target.budget.peak_mb)):
        known = name == "size_mb" or (worth == "measured" and good)
        if allowed is not None:
            over: State = "UNDECIDED" if not known else "FAIL" if value > allowed else "PASS"
            checks.append(Check(name, over, f"{name} of at most {allowed:g} {over}" + (f", {value:.1f}" if known else "")))
            if over == "FAIL":
                state, reason = "FAIL", f"{reason}; {name} is {value:.1f}, allowed {allowed:g}"
    if no_room:
        state, reason = "FAIL", no_room
    elif golden and not golden.good:
        state, reason = "FAIL", f"{len(golden.wrong)} golden vectors differ on {target.name}, so nothing else was looked at"
    return Bench(
        manifest.name,
        target.name,
        worth,
        golden,
        Timings(**raw),
        runner.hello["cold_start_ms"] if timed and runner else None,
        peak_mb if timed else None,
        limit,
        target.budget.peak_mb,
        size_mb,
        state,
        reason,
        tuple(checks),
        *_counted(link, target, request, texts, good),
    )


def _counted(link: Any, target: Target, request: dict[str, Any], texts: list[str], good: bool) -> tuple[tuple[int, ...], str]:
    """Instructions of the model for a few texts, or why they could not be counted."""
    if not good or not hasattr(link, "instructions"):
        return (), ""
    try:
        return tuple(link.instructions(target.link, request, texts[:COUNTED])), ""
    except StageError as error:
        return (), error.paragraph()


def samples_csv(result: Bench) -> str:
    """Raw samples, one answer a line, nanoseconds."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["tokenize_ns", "model_ns", "decode_ns"])
    writer.writerows(zip(result.timings.tokenize_ns, result.timings.model_ns, result.timings.decode_ns, strict=True))
    return out.getvalue()
