"""Every quantized file answers the same on an x86 CPU without VNNI: really run on one, which qemu emulates (`-cpu max` has AVX2 and no VNNI)."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgedistill import plugins
from edgedistill.exporters.onnx import batches, export
from edgedistill.onnx_graph import Batch, quiet, run
from tests.tiny_models import SENTENCES, tiny_bert

QEMU = shutil.which("qemu-x86_64")
SCHEMES = [name for name in plugins.names("quantizers") if plugins.find("quantizers", name).FORMAT == "onnx"]
SCRIPT = """
import sys
import numpy as np, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
options.log_severity_level = 3
rows = np.load(sys.argv[1])
for model in sys.argv[2:]:
    opened = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    np.save(model + ".npy", opened.run(None, {name: rows[name] for name in rows.files})[0])
"""


@pytest.fixture(scope="module")
def logits(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[np.ndarray, np.ndarray, float]]:
    """For each graph: its logits here, its logits without VNNI, and the standard deviation of the float logits. One emulated process for all."""
    if QEMU is None:
        if os.environ.get("CI"):
            pytest.fail("qemu-x86_64 is missing: CI must show that int8 is safe without VNNI. Run: apt-get install qemu-user")
        pytest.skip("qemu-x86_64 is missing; apt-get install qemu-user")
    from tokenizers import Tokenizer

    folder = tmp_path_factory.mktemp("vnni")
    export(tiny_bert(folder / "model", hidden=128), folder / "graphs", SENTENCES, 48)
    tokenizer = Tokenizer.from_file(str(folder / "graphs" / "tokenizer.json"))
    rows: list[Batch] = batches([tokenizer.encode(text).ids for text in SENTENCES], 0)
    graphs = {"float": folder / "graphs" / "model.onnx", "unprotected": folder / "unprotected.onnx"}
    for scheme in SCHEMES:
        plugins.find("quantizers", scheme).quantize(folder / "graphs", folder / scheme, rows, frozenset())
        graphs[scheme] = folder / scheme / "model.onnx"
    _unprotected(graphs["float"], graphs["unprotected"])
    np.savez(folder / "rows.npz", input_ids=rows[0]["input_ids"], attention_mask=rows[0]["attention_mask"])
    (folder / "script.py").write_text(SCRIPT)
    subprocess.run(
        [QEMU, "-cpu", "max", sys.executable, str(folder / "script.py"), str(folder / "rows.npz"), *map(str, graphs.values())],
        check=True,
        capture_output=True,
        timeout=240,
    )
    spread = float(run(graphs["float"], rows).std())
    return {name: (run(path, rows), np.load(f"{path}.npy"), spread) for name, path in graphs.items()}


def _unprotected(source: Path, target: Path) -> None:
    """ONNX Runtime's dynamic quantization with signed weights of the full range."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with quiet():
        quantize_dynamic(
            onnx.load(str(source)),
            target,
            weight_type=QuantType.QInt8,
            per_channel=True,
            extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
        )


@pytest.mark.parametrize("scheme", ["float", *SCHEMES])
def test_same_answers_without_vnni(logits: dict[str, tuple[np.ndarray, np.ndarray, float]], scheme: str) -> None:
    """A quantized student that is right on the machine it was measured on and wrong on an older laptop."""
    here, there, spread = logits[scheme]
    moved = np.abs(here - there).max(axis=1) / spread
    quantized = np.abs(here - logits["float"][0]).max() / spread  # what quantization itself changed
    # Saturation moves every row, and the worst by more than quantization did (six seeds: 0.3 to 1.4 of the spread). Without it only the order of float
    # additions differs, 1e-6; where that pushes an activation over a rounding step, a row or two of ten move by up to 0.11, an eighth of what
    # quantization did or less. One CPU does the same when a bias is changed by 2e-7.
    assert np.median(moved) < 1e-4
    assert moved.max() < max(0.5 * quantized, 1e-4)


def test_the_emulated_cpu_does_saturate(logits: dict[str, tuple[np.ndarray, np.ndarray, float]]) -> None:
    """If full-range signed weights came out right as well, the test above could not fail."""
    here, there, spread = logits["unprotected"]
    if "vnni" not in Path("/proc/cpuinfo").read_text():
        pytest.skip("this machine has no VNNI either: there is nothing to compare the emulated CPU with")
    moved = np.abs(here - there).max(axis=1) / spread
    quantized = np.abs(here - logits["float"][0]).max() / spread
    assert np.median(moved) > 1e-2
    assert moved.max() > quantized
