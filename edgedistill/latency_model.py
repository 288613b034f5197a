"""A latency model: what an answer takes on a device, from what its graph does. For devices that are not at hand.

An answer's time is taken for a sum: so much for each answer, token, node of the graph, multiply-add (float, int8, int4) and number written. The
prices, none below zero, come from a device that was measured once (stages/calibrate.py), by least squares on relative errors, since graphs of
20 µs and of 20 ms count alike. On-device predictors where kernels are known come down to such models (nn-Meter, MobiSys 2021, fits one a kernel).

The interval is conformal (the jackknife, by groups; arXiv:1905.02928, §1): every architecture is left out once, with all its lengths and schemes, and
predicted by prices of the others; the quantile of |log(measured / predicted)| becomes a factor on both sides. Nothing is assumed of how errors are
spread, which a t-interval would (they are not normal: a family that the prices fit badly is off as a whole), and a family that was never measured is
not taken for one that was.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydantic import Field

from edgedistill.settings import Section

FEATURES = ("answers", "tokens", "nodes", "float_macs", "int8_macs", "int4_macs", "elements")
NOMINAL = 0.9  # share of graphs that an interval is made to hold; 0.8 is what it must


class Calibration(Section):
    """`[calibration]` of a target: prices that a device of this kind had once, as `edgedistill calibrate` prints them."""

    machine: str = Field(description="what was measured, and when")
    points: int = Field(ge=4, description="graphs × lengths that were measured")
    factor: float = Field(ge=1, description="an answer takes from 1/factor of the estimate to factor times it, nine graphs of ten")
    ns: dict[str, float] = Field(description="nanoseconds of each answer, token, node, multiply-add and number written")


@dataclass(frozen=True)
class Point:
    """One graph at one length. group: its architecture. does: how much of each feature; ns: what that took."""

    name: str
    group: str
    does: Mapping[str, float]
    ns: float


@dataclass(frozen=True)
class Estimate:
    """Milliseconds of the median answer: the estimate, and what it lies between."""

    ms: float
    low_ms: float
    high_ms: float

    def sentence(self) -> str:
        return f"estimated p50 {self.ms:.3g} ms [{self.low_ms:.3g} to {self.high_ms:.3g}]"


@dataclass(frozen=True)
class Error:
    """Of graphs that were left out. typical: the median factor between estimate and measurement; worst: the largest; covered: share within the interval
    that the other graphs gave; factor: the width of an interval from all."""

    typical: float
    worst: float
    covered: float
    factor: float


def predict(ns: Mapping[str, float], does: Mapping[str, float]) -> float:
    """Nanoseconds."""
    return sum(price * does.get(name, 0.0) for name, price in ns.items())


def estimate(calibration: Calibration, does: Mapping[str, float]) -> Estimate:
    """What a device of this kind would take."""
    ms = predict(calibration.ns, does) / 1e6
    return Estimate(ms, ms / calibration.factor, ms * calibration.factor)


def fit(points: Sequence[Point], features: Sequence[str] = FEATURES) -> dict[str, float]:
    """Prices, nanoseconds. Each row is divided by what it took, so that the squares are of relative errors."""
    from scipy.optimize import nnls

    rows = np.array([[point.does.get(name, 0.0) / point.ns for name in features] for point in points])
    scale = np.maximum(rows.max(axis=0), 1e-30)  # multiply-adds by the million beside a single answer
    prices = nnls(rows / scale, np.ones(len(rows)))[0] / scale
    return {name: float(f"{price:.4g}") for name, price in zip(features, prices, strict=True) if price > 0}


def left_out(points: Sequence[Point], features: Sequence[str] = FEATURES) -> npt.NDArray[np.float64]:
    """log(measured / predicted) of each point, by prices of the other groups."""
    found = np.zeros(len(points))
    for group in {point.group for point in points}:
        prices = fit([point for point in points if point.group != group], features)
        for place, point in enumerate(points):
            if point.group == group:
                found[place] = math.log(point.ns / predict(prices, point.does))
    return found


def factor_of(residuals: npt.NDArray[np.float64], nominal: float = NOMINAL) -> float:
    """The conformal quantile of |residuals| as a factor: the ⌈(n + 1) · nominal⌉-th smallest, the largest where there are too few."""
    ordered = np.sort(np.abs(residuals))
    return float(math.exp(ordered[min(len(ordered), math.ceil((len(ordered) + 1) * nominal)) - 1]))


def error(points: Sequence[Point], features: Sequence[str] = FEATURES) -> Error:
    """How far estimates of graphs that were left out are off, and whether an honest interval holds them: a group's comes from the others alone."""
    residuals = left_out(points, features)
    held = []
    for group in {point.group for point in points}:
        others = [point for point in points if point.group != group]
        width = math.log(factor_of(left_out(others, features)))
        held += [abs(one) <= width for one, point in zip(residuals, points, strict=True) if point.group == group]
    off = np.exp(np.abs(residuals))
    return Error(float(np.median(off)), float(off.max()), float(np.mean(held)), factor_of(residuals))
