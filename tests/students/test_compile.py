"""Each small family goes all the way: distilled, exported, quantized, measured, bundled and verified, by the user's own command."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.test_pipeline import edgedistill


@pytest.mark.parametrize(
    "student",
    [
        'family = "conv"\nwidth = 32\nchannels = 64',
        'family = "static"\nwidth = 32',
        'family = "transformer"\nlayers = 2\nwidth = 32\nheads = 2',
    ],
)
def test_all_the_way(student: str, recipe_file: Callable[..., Path], tmp_path: Path) -> None:
    """A student that trains and is lost on the way to the device: a stage that knows transformers alone."""
    # The tiny teacher's logits differ by hundredths, which a fresh convolution takes long to see; the labels are learned as well.
    losses = 'control = false\n[[distill.losses]]\nkind = "soft_target"\n[[distill.losses]]\nkind = "hard_label"\n[compile]'
    recipe = recipe_file(
        ('family     = "transformer"\nlayers     = 2', student), ("steps         = 60", "steps = 120"), ("[compile]", losses)
    )
    done = edgedistill("compile", recipe, "-o", tmp_path / "out", "--json", home=tmp_path / "home", check=0)
    (outcome,) = json.loads(done.stdout)
    assert outcome["state"] == "PASS" and len([one for one in outcome["variants"] if one["role"] == "student"]) == 5
    bundle = tmp_path / "out" / "laptop-x86" / "bundle"
    assert "golden vectors equal" in edgedistill("verify", bundle, home=tmp_path / "home", check=0).stdout


def test_an_option_of_another_family_stops_the_build(recipe_file: Callable[..., Path], tmp_path: Path) -> None:
    """An option that nobody reads: found before anything runs, exit code 2."""
    recipe = recipe_file(('family     = "transformer"\nlayers     = 2', 'family = "static"\nkernel = 3'))
    done = edgedistill("compile", recipe, home=tmp_path / "home", check=2)
    assert 'student.kernel is no option of the family "static"' in done.stderr
