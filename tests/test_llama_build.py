"""Our build of llama-cpp-python: the one in use is named, and the one that crashes is found."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgedistill import llama_build
from edgedistill.errors import MissingExtraError, StageError
from edgedistill.stages.doctor import examine

# What the default build says of itself on a machine with AMX, and on one with AVX512 alone.
AMX = "CPU : SSE3 = 1 | AVX = 1 | AVX2 = 1 | AVX512 = 1 | AVX512_VNNI = 1 | AMX_INT8 = 1 | OPENMP = 1 | "
AVX512 = "CPU : SSE3 = 1 | AVX = 1 | AVX2 = 1 | AVX512 = 1 | OPENMP = 1 | "
PLAIN = "CPU : SSE3 = 1 | AVX = 1 | AVX2 = 1 | OPENMP = 1 | "


def test_ours_is_in_use_and_doctor_says_so() -> None:
    """Tests and figures of another build than ours; flags that did not reach the compiler."""
    assert llama_build.kind() == "ours"
    info = llama_build.system_info()
    assert all(f"{name} = 1" in info for name in ("AVX2", "FMA", "F16C", "BMI2")) or os.uname().machine != "x86_64"
    assert not any(word in info for word in llama_build.BEYOND)
    said = examine()["llama.cpp"]["llama-cpp-python"]
    assert said.startswith(f"{llama_build.VERSION} (our build")


def test_installing_again_does_nothing(own_home: Path) -> None:
    """Ten minutes of compiling for what is there."""
    assert llama_build.install() == f"llama-cpp-python {llama_build.VERSION} of our build is installed."
    assert not (own_home / "llama-cpp-python").exists()


@pytest.mark.parametrize(
    ("info", "ours", "kind", "said"),
    [
        (AMX, False, "crashing", "built with AMX: it crashes on every quantized model; python -m edgedistill.llama_build installs ours"),
        (AMX, True, "crashing", "built with AMX"),
        (AVX512, False, "native", "built for the processor of one machine: it stops on others"),
        (PLAIN, False, "another", "not our build"),
    ],
)
def test_other_builds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, info: str, ours: bool, kind: str, said: str) -> None:
    """A build that ends every quantized model in a segmentation fault, and nobody says why."""
    monkeypatch.setattr(llama_build, "system_info", lambda: info)
    monkeypatch.setattr(llama_build, "_mark", lambda: tmp_path if ours else None)
    assert llama_build.kind() == kind and said in llama_build.described()


def test_the_door(monkeypatch: pytest.MonkeyPatch) -> None:
    """A crash where a sentence could stand."""
    monkeypatch.setattr(llama_build, "system_info", lambda: AMX)
    with pytest.raises(MissingExtraError) as crashing:
        llama_build.require()
    assert str(crashing.value) == (
        "the installed llama-cpp-python was built with AMX instructions, and such a build crashes on every quantized model. "
        "Run: python -m edgedistill.llama_build"
    )
    monkeypatch.setattr(llama_build, "_place", lambda: None)
    with pytest.raises(MissingExtraError) as missing:
        llama_build.require()
    assert str(missing.value) == (
        "the runtime llama_cpp needs the package llama-cpp-python, which is not installed. Run: python -m edgedistill.llama_build"
    )


def test_another_source_is_refused(monkeypatch: pytest.MonkeyPatch, own_home: Path) -> None:
    """Code from an index that is not the code that was looked at, compiled and run."""
    monkeypatch.setattr(llama_build, "SHA256", "0" * 64)
    with pytest.raises(StageError) as error:
        llama_build.wheel()
    assert f"llama-cpp-python {llama_build.VERSION} could not be built: THESE PACKAGES DO NOT MATCH THE HASHES" in str(error.value)
    assert list((own_home / "llama-cpp-python").iterdir()) == []


def test_quantized_models_run_in_a_process_of_their_own(tmp_path: Path) -> None:
    """A build that passes every test of Python and dies on the first quantized product."""
    from edgedistill.exporters import gguf
    from edgedistill.plugins import find
    from tests.tiny_models import SENTENCES, tiny_bert

    gguf.export(tiny_bert(tmp_path / "model"), tmp_path / "gguf", SENTENCES, 48)
    find("quantizers", "gguf_q8_0").quantize(tmp_path / "gguf", tmp_path / "q", [], frozenset())
    code = "import sys; from pathlib import Path; from edgedistill.llama import open_file\n"
    code += "print(open_file(Path(sys.argv[1]), 48).outputs([2, 7, 3]).shape)"
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "q" / "model.gguf")], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "(5,)\n"), done.stderr
