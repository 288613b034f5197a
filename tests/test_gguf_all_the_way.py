"""From recipe to a verified bundle that llama.cpp runs, beside the same student under ONNX Runtime."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edgedistill.errors import RecipeError, TargetError
from edgedistill.pipeline import compile
from edgedistill.recipe import read_recipe
from edgedistill.stages.bench import bench
from edgedistill.stages.verify import verify
from edgedistill.store import Store
from edgedistill.target import find_target

TARGET = """
name = "{name}"
about = "t"
isa = "x86-64-v3"
runtime = "{runtime}"
format = "{format}"
schemes = {schemes}
threads = 1
[link]
kind = "local"
"""
GGUF = {"name": "small-llama", "runtime": "llama_cpp", "format": "gguf", "schemes": '["gguf_f16", "gguf_q8_0"]'}
ONNX = {"name": "small-onnx", "runtime": "onnxruntime", "format": "onnx", "schemes": '["onnx_int8_dynamic"]'}


def test_one_student_in_two_formats(recipe_file: Callable[..., Path], tmp_path: Path) -> None:
    """A GGUF that is measured, bundled and verified as something else than what torch trained; a student trained twice for two formats."""
    for facts in (GGUF, ONNX):
        (tmp_path / f"{facts['name']}.toml").write_text(TARGET.format(**facts))
    file = recipe_file(
        ('targets = ["laptop-x86"]', 'targets = ["small-onnx.toml", "small-llama.toml"]'),
        ("steps         = 60", "steps = 60\ncontrol = false"),
    )
    store = Store(tmp_path / "store")
    onnx, gguf = compile(read_recipe(file), out=tmp_path / "out", store=store)
    assert len(list(store.root.glob("distill-*"))) == 1
    names = {variant.name: variant for variant in gguf.report.variants}
    assert set(names) == {"teacher float", "student float", "student f16", "student q8_0"}
    assert names["student q8_0"].model_bytes < names["student f16"].model_bytes < names["student float"].model_bytes
    assert all(len(variant.timings["real"].model_ns) >= 1000 for variant in names.values()) and gguf.report.how == "measured"
    assert "llama-cpp-python" in gguf.report.versions and "onnxruntime" not in gguf.report.versions
    # Float by float, both runtimes give torch's answers.
    for name in ("teacher float", "student float"):
        assert onnx.report.variant(name).predicted == names[name].predicted
    assert gguf.bundle is not None
    manifest = json.loads((gguf.bundle / "manifest.json").read_text())
    assert (manifest["format"], manifest["model"], manifest["runtime"]) == ("gguf", "model.gguf", "llama_cpp")
    assert "llama-cpp-python" in manifest["lineage"]["versions"]
    assert verify(gguf.bundle).good
    # A device that has llama-cpp-python, tokenizers and numpy needs nothing else.
    code = "import sys; sys.argv[0] = 'verify'\nfrom edgedistill.stages.verify import main\ncode = main()\n"
    code += "print([name for name in ('torch', 'transformers', 'pydantic', 'onnxruntime', 'gguf', 'httpx') if name in sys.modules])\nsys.exit(code)"
    done = subprocess.run([sys.executable, "-c", code, str(gguf.bundle)], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.endswith("\n[]\n"), done.stdout + done.stderr
    measured = bench(gguf.bundle)
    assert measured.how == "measured" and len(measured.timings.model_ns) >= 1000
    # A byte of a weight that changed is another model.
    spoilt = bytearray((gguf.bundle / "model.gguf").read_bytes())
    spoilt[-200] ^= 0x40
    (gguf.bundle / "model.gguf").write_bytes(spoilt)
    with pytest.raises(Exception, match=r'"model.gguf" was changed after the bundle was made'):
        verify(gguf.bundle)


def test_formats_do_not_mix(tmp_path: Path) -> None:
    """A target that quantizes one format and runs another."""
    (tmp_path / "t.toml").write_text(TARGET.format(**(GGUF | {"schemes": '["onnx_int8_dynamic"]'})))
    with pytest.raises(TargetError) as error:
        find_target("t.toml", folder=tmp_path)
    assert 'quantizers/onnx_int8_dynamic is for format "onnx", and the target\'s is "gguf"' in str(error.value)


def test_a_search_is_for_onnx(recipe_file: Callable[..., Path], tmp_path: Path) -> None:
    """A search over students that llama.cpp has no graph for, found out after an hour."""
    file = recipe_file(
        ('targets = ["laptop-x86"]', 'targets = ["laptop-x86-llama"]'),
        ('family     = "transformer"\nlayers     = 2', 'family = "auto"'),
        ("epochs        = 6", "epochs = 1"),
    )
    with pytest.raises(RecipeError) as error:
        compile(read_recipe(file), out=tmp_path / "out", store=Store(tmp_path / "store"))
    assert str(error.value) == (
        "student.family: a search looks at students that only ONNX can hold, and laptop-x86-llama wants another format. "
        'Name the student: family = "transformer" and its layers under [student].'
    )


def test_what_a_k_quant_cannot_divide_is_said(tmp_path: Path) -> None:
    """A file called Q4_K_M in which no tensor is."""
    from edgedistill.exporters import gguf as exporter
    from edgedistill.gguf_file import read_gguf
    from edgedistill.plugins import find
    from tests.tiny_models import SENTENCES, tiny_bert

    exporter.export(tiny_bert(tmp_path / "model"), tmp_path / "gguf", SENTENCES, 48)
    find("quantizers", "gguf_q4_k_m").quantize(tmp_path / "gguf", tmp_path / "q", [], frozenset())
    facts = json.loads((tmp_path / "q" / "facts.json").read_text())
    assert facts["replaced"]["blk.0.attn_q.weight"] == "Q5_0, since its rows are 64 wide and a k-quant needs a multiple of 256"
    tensors = read_gguf(tmp_path / "q" / "model.gguf").tensors
    assert set(facts["replaced"]) == {name for name, tensor in tensors.items() if tensor.type.startswith("Q")}
