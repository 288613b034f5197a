"""verify and the app where torch is not installed: an environment with onnxruntime, tokenizers and numpy alone beside us."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_pipeline import Run

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh virtual environment; edgedistill comes without its dependencies, so nothing else can have come along with it."""
    venv = tmp_path_factory.mktemp("bare") / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    pip = [str(venv / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "onnxruntime==1.32.0", "tokenizers==0.23.3", "numpy"], check=True)
    subprocess.run([*pip, "--no-deps", str(ROOT)], check=True)
    return venv / "bin" / "python"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, tiny_teacher: Path) -> Path:
    made = Run(tmp_path_factory.mktemp("run"), tiny_teacher)
    assert made.compile.returncode == 0, made.compile.stderr
    return made.bundle


def test_verify_without_torch(bare_python: Path, bundle: Path, tmp_path: Path) -> None:
    """A device that has to install a training framework to check three megabytes; or more than 120 MB of memory for it."""
    code = (
        "import sys, resource; sys.argv = ['verify', sys.argv[1]]\n"
        "from edgedistill.stages.verify import main\n"
        "code = main()\n"
        "heavy = [name for name in ('torch', 'transformers', 'pydantic', 'typer', 'rich', 'onnx') if name in sys.modules]\n"
        "from edgedistill.serving import peak_bytes\n"
        "print(heavy, peak_bytes() / 1e6)\n"
        "sys.exit(code)\n"
    )
    done = subprocess.run([str(bare_python), "-c", code, str(bundle)], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "golden vectors equal" in done.stdout
    heavy, peak = done.stdout.splitlines()[-1].split("] ")
    assert heavy == "[" and float(peak) <= 120
    plain = subprocess.run([str(bare_python), "-m", "edgedistill.stages.verify", str(bundle)], cwd=tmp_path, capture_output=True, text=True)
    assert plain.returncode == 0 and "golden vectors equal" in plain.stdout


def test_targets_template_and_apps_are_in_the_wheel(bare_python: Path) -> None:
    """An installed package that knows no target, cannot draw its page, or has half of an app."""
    code = "import edgedistill, pathlib; p = pathlib.Path(edgedistill.__file__).parent; print(*(f.name for f in p.rglob('*')))"
    names = subprocess.run([str(bare_python), "-c", code], cwd="/", capture_output=True, text=True, check=True).stdout.split()
    assert {"laptop-x86.toml", "page.html.j2", "py.typed", "app.toml", "MainActivity.kt"} <= set(names)


def test_app_without_torch_or_edgedistill(bare_python: Path, bundle: Path, tmp_path: Path) -> None:
    """A sample app that needs more than its bundle."""
    app = ROOT / "sample_apps" / "question_router" / "ask.py"
    done = subprocess.run(
        [str(bare_python), str(app), "--bundle", str(bundle), "please refund my invoice"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "% sure" in done.stdout
    lost = subprocess.run([str(bare_python), str(app), "--bundle", str(tmp_path)], input="x", cwd=tmp_path, capture_output=True, text=True)
    assert lost.returncode == 2 and "there is no bundle at" in lost.stderr
