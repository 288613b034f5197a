"""The target files: each answers a bundle where it can be run from here, and says how it is reached."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from edgedistill import plugins
from edgedistill.bundle_format import read_bundle, read_golden
from edgedistill.links import how, reached
from edgedistill.stages.verify import on_runner
from edgedistill.target import find_target, target_names
from tests.links.test_browser import request
from tests.test_pipeline import edgedistill
from tests.tiny_gguf import shortened

LLAMA = [name for name in target_names() if find_target(name).format == "gguf" and name != "laptop-x86-llama"]
# Boards without a system run static students alone: links/test_qemu_system.py has one.
TARGETS = [
    name
    for name in target_names()
    if find_target(name).format == "onnx" and not hasattr(plugins.find("links", find_target(name).link.kind), "FAMILIES")
]
HERE = ("laptop-x86",)  # the rest takes a minute


@pytest.mark.parametrize("name", [name if name in HERE else pytest.param(name, marks=pytest.mark.long) for name in TARGETS])
def test_every_target_answers(native_home: Path, tiny_bundle: Path, name: str, every: int = 4, fewest: int = 16) -> None:
    """A target file whose link cannot open a runner, or on whose processor the same binary answers otherwise."""
    target = find_target(name)
    link = plugins.find("links", target.link.kind)
    if lacking := link.ready(target.link):
        if os.environ.get("CI"):
            pytest.fail(lacking)
        pytest.skip(lacking)
    runner = link.open_runner(target.link, target.runtime, request(tiny_bundle, threads=target.threads), target.limits)
    try:
        result = on_runner("tiny", read_bundle(tiny_bundle).logit_bound, list(read_golden(tiny_bundle / "golden.jsonl"))[::every], runner)
    finally:
        runner.close()
    assert result.good and result.vectors >= fewest, result.wrong


@pytest.mark.long
@pytest.mark.parametrize("name", LLAMA)
def test_every_target_of_llama_writes(native_home: Path, gguf_bundles: dict[str, Path], tmp_path: Path, name: str) -> None:
    """The same for targets whose answers are written."""
    test_every_target_answers(native_home, shortened(gguf_bundles["llama"], tmp_path / "few", 8), name, every=1, fewest=8)


@pytest.mark.parametrize("name", target_names())
def test_a_target_says_where_its_facts_are_from(name: str) -> None:
    """A device of hearsay: each file opens with what it is, and one that is not this machine names a source."""
    text = (Path(__file__).parent.parent / "targets" / f"{name}.toml").read_text()
    assert text.startswith("# ")
    head = text[: text.index("name ")]
    assert how(find_target(name).link) == "measured" or "Facts: " in head or "https://" in head
    if how(find_target(name).link) != "measured":
        assert "Not measured by us" in head


def test_targets_say_how_they_are_reached(native_home: Path) -> None:
    """A table of devices that does not tell which of them anything can be had from here."""
    rows = {one["name"]: one["reached"] for one in json.loads(edgedistill("targets", "--json", home=native_home, check=0).stdout)}
    assert set(rows) == set(target_names())
    assert rows["laptop-x86"] == "measured: this machine"
    assert rows["raspberry-pi-zero-2w"] == reached(find_target("raspberry-pi-zero-2w").link)
    assert rows["raspberry-pi-zero-2w"].startswith(("emulated: qemu plays cortex-a53", "qemu is missing. Run: "))
    assert reached(find_target("browser-phone").link).endswith((", slowed 4 times", "nodejs", "npm", "chromium"))
