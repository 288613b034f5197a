"""Bundles: whole or refused; nothing outside the folder is ever read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedistill.bundle_format import Golden, Manifest, digests, read_bundle, read_golden, write_golden, write_manifest
from edgedistill.errors import BundleError


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = tmp_path / "bundle"
    folder.mkdir()
    for name in ("model.onnx", "tokenizer.json"):
        (folder / name).write_text(name)
    write_golden(folder / "golden.jsonl", [Golden("a", [1], [0.5], "x")])
    manifest = Manifest(
        name="b",
        task="classify",
        labels=["x"],
        format="onnx",
        model="model.onnx",
        tokenizer="tokenizer.json",
        max_tokens=8,
        scheme="float",
        runtime="onnxruntime",
        threads=1,
        target={},
        files=digests(folder),
        logit_bound=0.1,
        measured={},
        versions={},
        lineage={},
    )
    write_manifest(folder, manifest)
    return folder


def test_whole_bundle_reads(bundle: Path) -> None:
    """A good bundle refused."""
    assert read_bundle(bundle).labels == ["x"]


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json", "golden.jsonl"])
def test_one_changed_byte(bundle: Path, name: str) -> None:
    """A damaged download that answers wrongly instead of being refused."""
    content = bytearray((bundle / name).read_bytes())
    content[0] ^= 1
    (bundle / name).write_bytes(content)
    with pytest.raises(BundleError, match=f'{bundle}: "{name}" was changed after the bundle was made: SHA-256 .* Copy the bundle again'):
        read_bundle(bundle)


def test_missing_file(bundle: Path) -> None:
    """A traceback for a file that was not copied."""
    (bundle / "tokenizer.json").unlink()
    with pytest.raises(BundleError) as error:
        read_bundle(bundle)
    assert str(error.value) == f'{bundle}: the bundle lacks its file "tokenizer.json". Copy the whole folder again.'


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/../../b", "..\\b"])
@pytest.mark.parametrize("key", ["files", "model", "tokenizer"])
def test_manifest_cannot_name_what_lies_outside(bundle: Path, name: str, key: str) -> None:
    """A bundle that makes the device read a file of its owner."""
    facts = json.loads((bundle / "manifest.json").read_text())
    facts[key] = {**facts["files"], name: "0" * 64} if key == "files" else name
    (bundle / "manifest.json").write_text(json.dumps(facts))
    with pytest.raises(BundleError) as error:
        read_bundle(bundle)
    assert str(error.value) == f'{bundle}: the manifest names "{name}", which lies outside the bundle. Do not use this bundle.'


def test_link_cannot_lead_outside(bundle: Path, tmp_path: Path) -> None:
    """The same by a symbolic link."""
    (tmp_path / "secret").write_text("model.onnx")
    (bundle / "model.onnx").unlink()
    (bundle / "model.onnx").symlink_to(tmp_path / "secret")
    with pytest.raises(BundleError, match="lies outside the bundle"):
        read_bundle(bundle)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"format_version": 1}', '{"format_version": 99}', '"x"', "\x00"])
def test_unreadable_manifest(bundle: Path, text: str) -> None:
    """A traceback for a manifest of another version or none at all."""
    (bundle / "manifest.json").write_text(text)
    with pytest.raises(BundleError):
        read_bundle(bundle)


def test_manifest_without_the_models_digest(bundle: Path) -> None:
    """A model that nobody checks, since the manifest simply leaves it out."""
    facts = json.loads((bundle / "manifest.json").read_text())
    del facts["files"]["model.onnx"]
    (bundle / "manifest.json").write_text(json.dumps(facts))
    with pytest.raises(BundleError, match='gives no digest for "model.onnx"'):
        read_bundle(bundle)


@given(st.lists(st.builds(Golden, st.text(), st.lists(st.integers(0, 9)), st.lists(st.floats(-9, 9)), st.text()), max_size=5))
def test_golden_round_trip(tmp_path_factory: pytest.TempPathFactory, vectors: list[Golden]) -> None:
    """A combining accent, a line separator or a control character that comes back as another text."""
    path = tmp_path_factory.mktemp("golden") / "golden.jsonl"
    write_golden(path, vectors)
    assert list(read_golden(path)) == vectors
