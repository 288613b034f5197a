"""Estimates of latency: what they are fitted from, how honest their intervals are, and that they never pass for a measurement."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from edgedistill.errors import TargetError
from edgedistill.graph_cost import does
from edgedistill.latency_model import Calibration, Point, error, estimate, factor_of, fit, left_out, predict
from edgedistill.links import told
from edgedistill.stages.bench import bench
from edgedistill.stages.calibrate import calibrate
from edgedistill.target import find_target
from tests.test_pipeline import edgedistill

PRICES = {"answers": 5000.0, "nodes": 900.0, "float_macs": 0.05, "int8_macs": 0.01}
TABLE = """
[calibration]
machine = "a board, 2026"
points  = 12
factor  = 1.5
[calibration.ns]
answers    = 10000.0
nodes      = 1000.0
int8_macs  = 0.05
"""


def points(noise: float, groups: int = 12, seed: int = 0) -> list[Point]:
    """Graphs of a device with known prices, each architecture off by a factor of its own."""
    draw = np.random.default_rng(seed)
    found = []
    for group in range(groups):
        off = math.exp(noise * draw.standard_normal())
        for length in (8, 32, 64):
            macs = float(draw.integers(10_000, 3_000_000)) * length
            work = {
                "answers": 1.0,
                "nodes": float(draw.integers(10, 90)),
                "float_macs": macs * (group % 2),
                "int8_macs": macs * (1 - group % 2),
            }
            found.append(Point(f"{group}, {length}", str(group), work, predict(PRICES, work) * off))
    return found


def test_known_prices_are_found() -> None:
    """A fit that follows the largest graph alone, or gives a negative price to one operator."""
    found = fit(points(0.0))
    assert found == pytest.approx(PRICES, rel=1e-3)
    assert np.abs(left_out(points(0.0))).max() < 1e-2


def test_intervals_hold_what_they_say() -> None:
    """An interval that holds the graphs it was made of and no others: over many devices it must hold 80 % of those left out."""
    covered = [error(points(0.3, seed=seed)).covered for seed in range(20)]
    assert np.mean(covered) >= 0.8
    assert error(points(0.3)).factor > error(points(0.05)).factor > 1


def test_a_quantile_of_few_is_the_largest() -> None:
    """Four residuals that promise nine of ten."""
    assert factor_of(np.log([1.1, 1.2, 1.3, 1 / 1.9])) == pytest.approx(1.9)
    assert factor_of(np.log(np.arange(1.0, 11.0))) == pytest.approx(10.0)
    assert factor_of(np.log(np.arange(1.0, 20.0))) == pytest.approx(18.0)


def test_what_a_graph_does(tiny_bundle: Path) -> None:
    """Products that are not counted, or int8 ones taken for float: more tokens are more work, and most of it is int8 here."""
    short, long = does(tiny_bundle / "model.onnx", 8), does(tiny_bundle / "model.onnx", 32)
    assert short["nodes"] == long["nodes"] > 10 and long["int8_macs"] >= 4 * short["int8_macs"] > short["float_macs"]
    # A whole layer of width 64 and feed-forward 128 is six products a token; of the last layer only what the first token needs is left.
    assert short["int8_macs"] >= 8 * (4 * 64 * 64 + 2 * 64 * 128)
    assert estimate(Calibration(machine="a", points=4, factor=2.0, ns={"nodes": 1e6}), short).low_ms == short["nodes"] / 2


def target_file(folder: Path, link: str, table: str = TABLE) -> Path:
    text = (Path(__file__).parent.parent / "targets" / "raspberry-pi-4.toml").read_text()
    head, rest = text.split("[link]")
    file = folder / "board.toml"
    file.write_text(f"{head}[link]\n{link}\n[budget]{rest.split('[budget]')[1]}{table}")
    return file


def test_estimated_and_never_passed(tiny_bundle: Path, tmp_path: Path, own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that is not at hand: an error where an estimate could stand, or an estimate that passes for a measurement."""
    file = target_file(tmp_path, 'kind = "adb"')
    monkeypatch.setenv("PATH", "/nowhere")
    target = find_target(str(file))
    assert told(target).endswith("; latency estimated by a calibration of a board, 2026")
    result = bench(tiny_bundle, str(file))
    assert (result.how, result.state) == ("estimated", "UNDECIDED") and result.golden and result.golden.good
    assert not result.timings.model_ns and result.estimate and result.estimate.low_ms < result.estimate.ms < result.estimate.high_ms
    assert result.reason.startswith("estimated p50 ") and "; only a run on raspberry-pi-4 can tell" in result.reason
    assert f"UNDECIDED ({result.estimate.sentence()})" in result.one_line()
    assert json.loads(json.dumps(result.as_json()))["estimate"]["ms"] == result.estimate.ms
    without = target_file(tmp_path, 'kind = "adb"', table="")
    with pytest.raises(TargetError) as problem:
        bench(tiny_bundle, str(without))
    assert "adb is missing" in str(problem.value)


def test_no_clock_no_calibration(tmp_path: Path, own_home: Path) -> None:
    """Prices of an emulator's clock, published as a device's."""
    with pytest.raises(TargetError) as problem:
        calibrate(str(target_file(tmp_path, 'kind = "build_only"')))
    assert str(problem.value) == "raspberry-pi-4: not measured: there is no clock of the device's to calibrate by. Reach one by ssh or adb."


@pytest.mark.long
def test_calibrated_by_the_users_own_command(tmp_path: Path, own_home: Path) -> None:
    """A table that the target's file does not take, or that no estimate is made from."""
    done = edgedistill("calibrate", "-t", "laptop-x86", "-o", tmp_path / "table.toml", home=own_home, check=0)
    assert "laptop-x86, measured: 99 points, 1.00× this machine's time" in done.stdout
    target = find_target(str(target_file(tmp_path, 'kind = "adb"', table=(tmp_path / "table.toml").read_text())))
    assert target.calibration and target.calibration.points == 99 and target.calibration.factor >= 1
