"""One bundle on every kind of processor that can be had here."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from edgedistill.bundle_format import digests, read_golden, read_manifest, write_golden, write_manifest
from edgedistill.stages import agree
from edgedistill.stages.agree import PLACES
from edgedistill.target import Link
from tests.test_pipeline import edgedistill

HERE = {
    "this machine, Python": Link(kind="local"),
    "a browser that is not there": Link(kind="browser", browser="/none"),
    "a board": Link(kind="ssh"),
}


@pytest.mark.long
def test_a_bundle_answers_alike_everywhere(native_home: Path, tiny_bundle: Path) -> None:
    """An int8 scheme that depends on the processor, found by a user of the other one."""
    done = edgedistill("verify", tiny_bundle, "--everywhere", "--json", home=native_home, check=0)
    result = json.loads(done.stdout)
    ran = [place for place in result["places"] if "vectors" in place]
    if os.environ.get("CI"):  # all but the board that runs static students only
        left = [place["name"] for place in result["places"] if "vectors" not in place]
        assert left == ["Cortex-M3 without a system, C"] and len(ran) == len(PLACES) - 1, result
    assert all(place["good"] and place["worst_logit"] <= 0.05 for place in ran)
    assert result["verdict"].startswith(
        f"All {ran[0]['vectors']} golden vectors agree on {len(ran)} of {len(ran)} (this machine is one with"
    )


def test_where_it_answers_otherwise(tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A difference that a table of many places swallows; a place that was not run and passes for one that agrees."""
    bundle = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    vectors, manifest = list(read_golden(bundle / "golden.jsonl")), read_manifest(bundle)
    first = vectors[0]
    write_golden(bundle / "golden.jsonl", [first.__class__(**{**vars(first), "ids": [*first.ids, 1]}), *vectors[1:]])
    write_manifest(bundle, manifest.__class__(**{**vars(manifest), "files": digests(bundle)}))
    monkeypatch.setattr(agree, "PLACES", HERE)
    places = agree.agree(bundle)
    assert agree.verdict(places) == "The bundle answers otherwise on 1 of 1: this machine, Python; 2 could not be run."
    table = list(agree.rows(places))
    assert table[0][:2] == ("this machine, Python", f"{len(vectors) - 1} of {len(vectors)}") and table[0][3].startswith("vector 1, ")
    assert table[1][3] == ("not run: target: link.browser: there is no browser at /none. Leave it out to take Chromium or Chrome.")
    assert table[2][3] == 'not run: a target file names the board: [link] host = "user@board"'
    good = agree.agree(tiny_bundle)
    vnni = agree.verdict(good)
    assert vnni.startswith(f"All {len(vectors)} golden vectors agree on 1 of 1 (this machine is one with") and vnni.endswith(
        "; 2 could not be run."
    )
    assert [place.get("good") for place in agree.as_json(good)] == [True, None, None]
