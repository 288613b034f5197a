"""Is the machine the same at the end of a run as at its beginning, and what does a long run do to it?

A processor that heats up lowers its clock: figures of such a run are of no one machine. So each runner times a fixed piece of arithmetic before and after,
a hundred times. The fastest of them tells the clock, since a neighbour on a shared processor cannot slow all; the median beside it tells the neighbours.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from typing import Any, Protocol, TypeVar

import numpy as np

from edgedistill.steadiness import BOUND, Steadiness

ATTEMPTS = 3  # at a steady run, which may take minutes
REPEATS = 100  # of the loop, about a millisecond each
SHARE = 0.2  # of a sustained run, that is its beginning and its end
BARS = "▁▂▃▄▅▆▇█"

Measured = TypeVar("Measured")


class Asked(Protocol):
    """What a runner of links/ does."""

    def ask(self, request: dict[str, Any]) -> dict[str, Any]: ...


def loops(runner: Asked) -> tuple[float, float]:
    """What the fixed loop takes where the runner is, milliseconds: the fastest and the median."""
    taken = np.array(runner.ask({"loop": REPEATS})["loop_ns"]) / 1e6
    return float(taken.min()), float(np.median(taken))


def steadily(runner: Asked, measure: Callable[[], Measured]) -> tuple[Measured, Steadiness]:
    """What is measured between two looks at the machine. A run whose clock drifted is done again, ATTEMPTS in all; the last one says that it did."""
    for _ in range(ATTEMPTS):
        before = loops(runner)
        measured = measure()
        steady = Steadiness.of(before, loops(runner))
        if steady.valid:
            break
    return measured, steady


@dataclass(frozen=True)
class Window:
    """A piece of a sustained run. at_s: when it began, seconds from the start. total_ns: each answer, text in to answer out."""

    at_s: float
    total_ns: tuple[int, ...]

    def percentile_ms(self, share: float) -> float:
        return float(np.quantile(self.total_ns, share)) / 1e6


@dataclass(frozen=True)
class Sustained:
    """A long run without a pause. clock: the fixed loop before it and after."""

    seconds: float
    windows: tuple[Window, ...]
    clock: Steadiness

    def part_ns(self, end: bool) -> list[int]:
        """Answers of its first fifth, or of its last."""
        within = [
            window for window in self.windows if (window.at_s >= self.seconds * (1 - SHARE) if end else window.at_s <= self.seconds * SHARE)
        ]
        return list(chain.from_iterable(window.total_ns for window in (within or self.windows[-1:])))

    def slowdown(self) -> float:
        """The median answer at the end over that at the beginning."""
        return float(np.median(self.part_ns(end=True)) / np.median(self.part_ns(end=False)))

    def curve(self, width: int = 40) -> str:
        """Medians over time as bars, lowest to highest."""
        parts = np.array_split(np.arange(len(self.windows)), min(width, len(self.windows)))
        medians = np.array([np.median(list(chain.from_iterable(self.windows[place].total_ns for place in part))) for part in parts])
        spread = medians.max() - medians.min()
        heights = np.zeros(len(medians)) if spread == 0 else (medians - medians.min()) / spread
        return "".join(BARS[round(height * (len(BARS) - 1))] for height in heights)

    def sentence(self) -> str:
        first, last = np.median(self.part_ns(end=False)) / 1e6, np.median(self.part_ns(end=True)) / 1e6
        answers = sum(len(window.total_ns) for window in self.windows)
        invalid = "" if self.clock.valid else ", invalid: beyond the bound"
        return (
            f"sustained {self.seconds:.0f} s, {answers} answers: p50 {first:.3f} ms in the first fifth, {last:.3f} ms in the last "
            f"({self.slowdown():.2f}×), the clock {self.clock.drift:+.0%}{invalid}  {self.curve()}"
        )

    def as_json(self) -> dict[str, Any]:
        """The curve with its raw samples."""
        windows = [
            {
                "at_s": window.at_s,
                "p50_ms": window.percentile_ms(0.5),
                "p90_ms": window.percentile_ms(0.9),
                "total_ns": list(window.total_ns),
            }
            for window in self.windows
        ]
        return {
            "seconds": self.seconds,
            "slowdown": self.slowdown(),
            "clock": vars(self.clock),
            "clock_valid": self.clock.valid,
            "windows": windows,
        }


def sustain(runner: Asked, texts: list[str], seconds: float) -> Sustained:
    """Answer texts without a pause for so many seconds."""
    before, begin, windows, place, count = loops(runner), time.monotonic(), [], 0, 10
    while (at := time.monotonic() - begin) < seconds:
        chunk = [texts[(place + number) % len(texts)] for number in range(count)]
        answer = runner.ask({"texts": chunk})
        parts = zip(answer["tokenize_ns"], answer["model_ns"], answer["decode_ns"], strict=True)
        windows.append(Window(round(at, 3), tuple(sum(part) for part in parts)))
        place += count
        # About a third of a second each, so that a request costs nothing beside its answers.
        count = max(1, min(2000, round(0.33e9 / max(1.0, float(np.median(windows[-1].total_ns))))))
    return Sustained(round(time.monotonic() - begin, 3), tuple(windows), Steadiness.of(before, loops(runner)))


__all__ = ["BOUND", "Steadiness", "Sustained", "Window", "loops", "sustain"]
