"""A graph against the ONNX Runtime that a device carries."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgedistill.errors import TargetError
from edgedistill.runtime_support import needs, require_supported
from edgedistill.stages.bench import bench
from edgedistill.target import find_target
from tests.tiny_bundle import make_bundle


@pytest.fixture(scope="module")
def int4_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("int4"), "onnx_int4_block")


def test_what_graphs_need(tiny_bundle: Path, int4_bundle: Path) -> None:
    """An operator that is younger than the opset it stands beside, and not seen."""
    assert needs(tiny_bundle / "model.onnx") == {"opset 17": (1, 12)}
    assert needs(int4_bundle / "model.onnx") == {"opset 17": (1, 12), "GatherBlockQuantized": (1, 20), "MatMulNBits": (1, 17)}


def test_a_device_with_an_older_library(tiny_bundle: Path, int4_bundle: Path, tmp_path: Path) -> None:
    """An app that stops when it starts, since its library has not heard of an operator; versions compared as text (1.9 above 1.20)."""

    def older(version: str) -> str:
        text = (Path(__file__).parent.parent / "targets" / "laptop-x86.toml").read_text()
        (tmp_path / "older.toml").write_text(text.replace("[link]", f'runtime_version = "{version}"\n[link]'))
        return str(tmp_path / "older.toml")

    with pytest.raises(TargetError) as error:
        bench(int4_bundle, older("1.19.2"))
    assert str(error.value) == (
        "laptop-x86: tiny needs GatherBlockQuantized (since 1.20), and the target's ONNX Runtime is 1.19.2. "
        "Leave that scheme out of `schemes`, or ship a newer ONNX Runtime and say so in `runtime_version`."
    )
    for version, bundle in (("1.20", int4_bundle), ("1.12.1", tiny_bundle), ("1.29.0", int4_bundle)):
        require_supported(find_target(older(version)), bundle / "model.onnx", "tiny")
    with pytest.raises(TargetError, match="opset 17"):
        require_supported(find_target(older("1.9")), tiny_bundle / "model.onnx", "tiny")
    with pytest.raises(TargetError, match="runtime_version"):
        find_target(older("newest"))


def test_the_iphones_library_has_all_that_its_schemes_need(int4_bundle: Path) -> None:
    """A target file whose schemes its own app cannot load."""
    target = find_target("iphone")
    assert target.runtime_version and target.link.kind == "build_only"
    require_supported(target, int4_bundle / "model.onnx", "int4")
