"""A bundle in ONNX Runtime's own format, with the operators that it needs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgedistill import plugins
from edgedistill.bundle_format import read_bundle, read_golden
from edgedistill.errors import InputError, ParityError
from edgedistill.links import browser, qemu
from edgedistill.stages import trim as stage
from edgedistill.stages.trim import trim
from edgedistill.stages.verify import on_runner, verify
from edgedistill.target import Link
from tests.links.test_browser import request
from tests.test_pipeline import edgedistill


def test_a_trimmed_bundle_is_a_bundle(tiny_bundle: Path, tmp_path: Path, own_home: Path) -> None:
    """A model in another format that answers otherwise; a list that lacks an operator, or names folders of this machine."""
    done = edgedistill("trim", tiny_bundle, "-o", tmp_path / "out", "--json", home=own_home, check=0)
    made = json.loads(done.stdout)
    manifest = read_bundle(tmp_path / "out")
    assert (manifest.model, manifest.format, manifest.measured) == ("model.ort", "onnx", {})
    assert manifest.extra["trimmed_from"] == read_bundle(tiny_bundle).files["model.onnx"]
    assert verify(tmp_path / "out").good and not (tmp_path / "out" / "model.onnx").exists()
    config = (tmp_path / "out" / "operators.config").read_text()
    assert "#" not in config and "/" not in config and config.count("\n") == len(made["operators"])
    listed = {name for line in made["operators"] for name in line.split(";")[2].split(",")}
    assert "LayerNormalization" in listed and any("MatMul" in name for name in listed), "what a transformer is made of"
    assert all(name.isidentifier() for name in listed)


@pytest.mark.long
@pytest.mark.parametrize("link", [Link(kind="qemu", cpu="cortex-a53"), Link(kind="browser"), Link(kind="node")])
def test_other_runtimes_read_it(native_home: Path, tiny_bundle: Path, tmp_path: Path, link: Link) -> None:
    """A format that only this machine's release of ONNX Runtime reads."""
    for needed in (qemu.ready(Link(kind="qemu")), browser.ready(Link(kind="browser"))):
        if needed:
            pytest.skip(needed)
    trim(tiny_bundle, tmp_path / "out")
    runner = plugins.find("links", link.kind).open_runner(link, "onnxruntime", request(tmp_path / "out"))
    try:
        assert on_runner("tiny", 0.2, list(read_golden(tmp_path / "out" / "golden.jsonl")), runner).good
    finally:
        runner.close()


def test_what_cannot_be_trimmed(tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bundle that is trimmed twice, a folder that is written over, a model that answers otherwise and is written all the same."""
    trim(tiny_bundle, tmp_path / "out")
    with pytest.raises(InputError) as twice:
        trim(tmp_path / "out", tmp_path / "again")
    assert str(twice.value) == f"{tmp_path / 'out'}: this bundle is trimmed already."
    with pytest.raises(InputError) as full:
        trim(tiny_bundle, tmp_path / "out")
    assert str(full.value) == f"{tmp_path / 'out'}: the folder is not empty. Give a new folder with --out."
    converted = stage._convert

    def other(model: Path, out: Path, family: str | None) -> None:  # another model than the bundle's
        import onnx

        graph = onnx.load(model)
        bias = next(one for one in graph.graph.initializer if one.name.endswith("classifier.bias"))
        bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + 5 * (1 - 2 * (bias.dims[0] % 2)), bias.name))
        onnx.save(graph, tmp_path / "model.onnx")
        converted(tmp_path / "model.onnx", out, family)

    monkeypatch.setattr(stage, "_convert", other)
    with pytest.raises(ParityError) as error:
        trim(tiny_bundle, tmp_path / "other")
    assert str(error.value).startswith(f"{tiny_bundle}: the trimmed model answers otherwise on laptop-x86: tiny: ")
    assert not (tmp_path / "other").exists()
