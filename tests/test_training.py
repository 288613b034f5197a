"""Training goes on where a kill left it, in the arithmetic that is quicker here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from edgedistill import training
from edgedistill.training import _newest, best_precision, bfloat16_gain


def test_a_checkpoint_cut_off_by_a_kill_is_passed_over(tmp_path: Path) -> None:
    """A build that ends in a JSON error for ever, since the kill came while the newest checkpoint was written."""
    assert _newest(tmp_path) is None
    for step, content in ((9, "{}"), (10, "{}"), (11, '{"global_st'), (12, None)):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        if content is not None:
            (folder / "trainer_state.json").write_text(content)
    assert _newest(tmp_path) == str(tmp_path / "checkpoint-10")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[Any, float]:
    """A machine with the instructions for bfloat16, and the seconds that its products take."""
    seconds = {torch.float32: 0.004, torch.bfloat16: 0.002}
    monkeypatch.setenv("EDGEDISTILL_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True, raising=False)
    monkeypatch.setattr(training, "_product_seconds", lambda dtype: seconds[dtype])
    monkeypatch.setattr(training, "bfloat16_gain", training.bfloat16_gain.__wrapped__)  # asked anew, as by the next command
    return seconds


@pytest.mark.parametrize(("bfloat16", "best"), [(0.002, "bf16"), (0.0038, "float32"), (0.008, "float32")])
def test_the_instructions_for_bfloat16_are_used_only_where_they_are_quicker(machine: dict[Any, float], bfloat16: float, best: str) -> None:
    """A Xeon without AMX trained and labelled at 0.6 of its pace, since the flag was there."""
    machine[torch.bfloat16] = bfloat16
    assert best_precision() == best


def test_what_was_measured_stands_for_the_next_command(machine: dict[Any, float], tmp_path: Path) -> None:
    """The precision is part of what results are found by: a machine that is busy tomorrow must not lose today's."""
    assert training.bfloat16_gain() == 2.0
    machine[torch.bfloat16] = 0.1
    assert training.bfloat16_gain() == 2.0
    (tmp_path / "home" / "bfloat16.json").write_text('{"torch')
    assert training.bfloat16_gain() == pytest.approx(0.04)


def test_without_the_instructions_nothing_is_measured(machine: dict[Any, float], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: False, raising=False)
    machine.clear()
    assert training.bfloat16_gain() == 0.0
    assert best_precision() == "float32"


def test_a_real_product_is_measured_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ratio of nothing, or a file that holds another figure than the one that decided."""
    monkeypatch.setenv("EDGEDISTILL_HOME", str(tmp_path))
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True, raising=False)
    gain = bfloat16_gain.__wrapped__()
    assert gain > 0 and list(json.loads((tmp_path / "bfloat16.json").read_text()).values()) == [gain]
