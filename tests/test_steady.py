"""Whether the machine stayed the same during a run, and what a long run showed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from edgedistill import steady
from edgedistill.errors import InputError
from edgedistill.stages.bench import bench
from edgedistill.steady import Steadiness, Sustained, Window, loops
from tests.test_limits import cpp, target  # noqa: F401  # a fixture
from tests.test_pipeline import edgedistill


class Clock:
    """A runner of which only the clock is asked."""

    def ask(self, request: dict) -> dict:
        return {"loop_ns": [3_000_000, 1_000_000, 2_000_000]}


def test_a_clock_that_drifts_is_said() -> None:
    """Figures of a throttled processor that pass for those of a cool one; a busy neighbour that passes for a drifting clock."""
    assert loops(Clock()) == (1.0, 2.0)
    busy = Steadiness.of((1.0, 1.1), (1.1, 3.3))
    assert busy.valid and busy.drift == pytest.approx(0.1) and busy.noise == pytest.approx(3.0)
    assert busy.sentence() == "the machine was steady: a fixed loop took 1.00 ms before and 1.10 ms after, its median 3.00× that"
    assert Steadiness(1.0, 1.5).sentence() == (
        "invalid: the machine's clock drifted by +50% during the run (a fixed loop took 1.00 ms before and 1.50 ms after, its median 1.00× that). "
        "Measure again on a quiet, cool machine"
    )
    assert not Steadiness(1.5, 1.0).valid


def test_the_curve_by_hand() -> None:
    """A run that slows to a half and says that it held."""
    windows = tuple(Window(float(second), ((1 + (second >= 5)) * 1_000_000,) * 4) for second in range(10))
    run = Sustained(10.0, windows, Steadiness(1.0, 1.0))
    assert run.slowdown() == 2.0 and run.curve() == "▁▁▁▁▁█████" and run.part_ns(end=True) == [2_000_000] * 8
    assert run.sentence() == (
        "sustained 10 s, 40 answers: p50 1.000 ms in the first fifth, 2.000 ms in the last (2.00×), the clock +0%  ▁▁▁▁▁█████"
    )


def test_a_sustained_run(cpp: None, tiny_bundle: Path, tmp_path: Path) -> None:  # noqa: F811
    """A long run that ends early, that is not in the JSON, or that an emulated clock is asked for."""
    small = target(tmp_path, "[budget]\np90_ms = 2000")
    done = edgedistill("bench", tiny_bundle, "-t", small, "--sustained", "2", "--json", home=Path(os.environ["EDGEDISTILL_HOME"]))
    assert done.returncode in (0, 3), done.stderr  # 3: a machine that drifts three times
    result = json.loads(done.stdout)
    curve = result["sustained"]
    assert curve["seconds"] >= 2 and len(curve["windows"]) >= 2 and curve["windows"][0]["at_s"] < 1
    assert all(window["total_ns"] and 0 < window["p50_ms"] <= window["p90_ms"] for window in curve["windows"])
    assert {
        "name": "sustained",
        "state": "PASS",
        "said": f"p90 of at most 2000 ms in the last fifth of {curve['seconds']:.0f} s PASS",
    } in result["checks"]
    assert result["steady"]["before_ms"] > 0
    with pytest.raises(InputError) as error:
        bench(tiny_bundle, target(tmp_path, "", "qemu", 'cpu = "cortex-a72"'), sustained=1)
    assert str(error.value) == "--sustained: small is emulated, and has no clock to run long on. Leave it out."


def test_a_run_on_a_drifting_machine_has_no_verdict(
    cpp: None,  # noqa: F811
    tiny_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A PASS that another clock earned; a run that is given up at the first drift."""
    ticks = iter(range(1, 100))

    def slowing(runner: object) -> tuple[float, float]:
        now = 1.3 ** next(ticks)
        return now, now

    monkeypatch.setattr(steady, "loops", slowing)
    result = bench(tiny_bundle, target(tmp_path, "[budget]\np90_ms = 2000"))
    assert result.state == "UNDECIDED" and result.reason.startswith("invalid: the machine's clock drifted by +30% during the run")
    assert next(ticks) == 2 * steady.ATTEMPTS + 1
    assert "UNDECIDED" in result.one_line() and "drifted" in result.one_line()
