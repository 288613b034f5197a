"""agree: one bundle on every kind of processor that can be had from this machine, and on which of them it gives its golden answers.

int8 products are not one thing: x86 with VNNI adds them up exactly, x86 with AVX2 alone in steps that can saturate, ARM with and without a dot product in
other orders, and WebAssembly in its own. A scheme that depends on the processor shows here, before a user of that processor sees it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgedistill import plugins
from edgedistill.bundle_format import read_bundle
from edgedistill.errors import InputError, StageError, TargetError
from edgedistill.links import how
from edgedistill.machine import this_machine
from edgedistill.progress import tick
from edgedistill.stages.verify import Result, golden_of, hello, on_runner
from edgedistill.target import Link, find_target

# What int8 takes on a processor → where that can be had.
PLACES = {
    "this machine, Python": Link(kind="local"),
    "this machine, C++": Link(kind="local_cpp"),
    "x86 with AVX2, no VNNI (Haswell)": Link(kind="qemu", cpu="x86-64-v3"),
    "arm64, no dot product (Cortex-A53)": Link(kind="qemu", cpu="cortex-a53"),
    "arm64, no dot product (Cortex-A72)": Link(kind="qemu", cpu="cortex-a72"),
    "arm64, dot product (Cortex-A76)": Link(kind="qemu", cpu="cortex-a76"),
    "WebAssembly SIMD (Chromium)": Link(kind="browser"),
    "Node": Link(kind="node"),
    "Cortex-M3 without a system, C": Link(kind="qemu_system"),
}
# Where llama.cpp runs, this place is asked a part of the vectors: its code is the very one of "this machine, C++", made for AVX2 and
# nothing newer, and qemu computes AVX2 number by number, half a minute an answer.
FEW, SAME_CODE = 8, "x86 with AVX2, no VNNI (Haswell)"
LLAMA_PLACES = {"armv7, 32 bits (Cortex-A7)": Link(kind="qemu", cpu="cortex-a7")}  # where there is llama.cpp and no ONNX Runtime


@dataclass(frozen=True)
class Place:
    """One kind of processor. result: the golden vectors there; None where it was not run, and `missing` says why."""

    name: str
    result: Result | None
    missing: str = ""


def on_target(folder: Path, name: str) -> tuple[Result, str]:
    """The golden vectors of a bundle as a target's link gives them, and what that is worth. Raises BundleError, TargetError."""
    manifest, target = read_bundle(folder), find_target(name)
    if target.format != manifest.format:
        raise InputError(
            f"the bundle is {manifest.format}, {target.name} runs {target.format}.", where=str(folder), write="Compile for that target."
        )
    link, vectors = plugins.find("links", target.link.kind), golden_of(folder, manifest.task)
    if lacking := link.ready(target.link):
        raise TargetError(lacking, where=target.name)
    runner = link.open_runner(target.link, target.runtime, hello(folder, manifest, vectors[0].text, target.threads), target.limits)
    try:
        return on_runner(manifest.name, manifest.logit_bound, vectors, runner), how(target.link)
    finally:
        runner.close()


def agree(folder: Path) -> list[Place]:
    """The golden vectors of a bundle at every place, as many places at a time as there are cores: an emulated one takes minutes, and none is timed.

    Raises BundleError for one that is not whole.
    """
    manifest = read_bundle(folder)
    vectors = golden_of(folder, manifest.task)
    request = hello(folder, manifest, vectors[0].text, 1, manifest.target.get("kv_cache", "f16"))

    def at(name: str, link: Link) -> Place:
        module = plugins.find("links", link.kind)
        refuses = getattr(module, "refuses", lambda task, tokenizer, runtime: None)
        try:
            if missing := refuses(manifest.task, folder / manifest.tokenizer, manifest.runtime) or module.ready(link):
                return Place(name, None, missing)
            runner = module.open_runner(link, manifest.runtime, request)
        except (TargetError, StageError) as error:
            return Place(name, None, error.paragraph())
        try:
            part = manifest.runtime == "llama_cpp" and name == SAME_CODE
            asked = vectors[:: max(1, len(vectors) // FEW)][:FEW] if part else vectors
            return Place(name, on_runner(manifest.name, manifest.logit_bound, asked, runner))
        except StageError as error:
            return Place(name, None, error.paragraph())
        finally:
            runner.close()

    known = PLACES | (LLAMA_PLACES if manifest.runtime == "llama_cpp" else {})
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        asked = [pool.submit(at, name, link) for name, link in known.items()]
        for number, _ in enumerate(as_completed(asked), 1):
            tick("places", number, len(known))
        return [one.result() for one in asked]
    finally:
        pool.shutdown(cancel_futures=True)  # whoever interrupts waits for no place that was not begun


def verdict(places: list[Place]) -> str:
    """On which of them the answers agree, in a sentence."""
    ran = [place for place in places if place.result]
    other = [place.name for place in ran if place.result and not place.result.good]
    vectors = max((place.result.vectors for place in ran if place.result), default=0)
    left = f"; {len(places) - len(ran)} could not be run" if len(ran) < len(places) else ""
    if other:
        return f"The bundle answers otherwise on {len(other)} of {len(ran)}: {', '.join(other)}{left}."
    few = "".join(f", {place.result.vectors} of them on {place.name}" for place in ran if place.result and place.result.vectors < vectors)
    vnni = "with" if any("vnni" in flag for flag in this_machine()["isa"]) else "without"
    return f"All {vectors} golden vectors agree on {len(ran)} of {len(ran)}{few} (this machine is one {vnni} VNNI){left}."


def rows(places: list[Place]) -> Iterator[tuple[str, str, str, str]]:
    """For a table: the place, how many vectors are equal and, of answers that are written, how many of their tokens come first there too, told what
    stands before them; the largest difference of a logit, what is wrong or missing."""
    for place in places:
        if place.result is None:
            yield place.name, "", "", f"not run: {place.missing}"
        else:
            result = place.result
            yield (
                place.name,
                f"{result.vectors - len(result.wrong)} of {result.vectors}" + _tokens(result),
                f"{result.worst_logit:.2g}",
                "; ".join(result.wrong[:1]),
            )


def _tokens(result: Result) -> str:
    return f", tokens {result.same / result.tokens:.2%} of {result.tokens}" if result.tokens else ""


def as_json(places: list[Place]) -> list[dict[str, Any]]:
    """Plain values."""
    found = []
    for place in places:
        facts = {**vars(place.result), "good": place.result.good} if place.result else {"missing": place.missing}
        found.append(facts | {"name": place.name})
    return found
