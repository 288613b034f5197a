"""doctor: what this machine can run, and what is missing."""

from __future__ import annotations

import shutil
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from edgedistill import llama_build, plugins
from edgedistill.errors import EdgedistillError
from edgedistill.links import told
from edgedistill.machine import this_machine
from edgedistill.sources import home
from edgedistill.target import Link, find_target, target_names

NEEDED = ("onnxruntime", "tokenizers", "numpy", "pydantic", "typer")
FOR_COMPILE = (
    "torch",
    "transformers",
    "optimum",
    "accelerate",
    "onnx",
    "onnxscript",
    "safetensors",
    "scikit-learn",
    "datasketch",
    "pyarrow",
)
OPTIONAL = {"bitsandbytes": "teacher.load = 8bit or 4bit", "peft": "fine-tuning a teacher in 8 or 4 bits"}


def examine() -> dict[str, dict[str, Any]]:
    """Group → name → what was found. Reads only."""
    machine = this_machine()
    vnni = any("vnni" in flag for flag in machine["isa"])
    folder = home()
    existing = next(place for place in (folder, *folder.parents) if place.exists())
    return {
        "machine": {
            **machine,
            "isa": ", ".join(machine["isa"]) or "none of those that matter",
            "int8": "VNNI: int8 products in one step" if vnni else "no VNNI: int8 is slower here; our binaries answer the same",
            "training": _training(),
        },
        "store": {"folder": str(folder), "free_gb": round(shutil.disk_usage(existing).free / 1e9, 1)},
        "python": {"version": sys.version.split()[0], "edgedistill": version("edgedistill")},
        "verify and bench": {name: _installed(name) for name in NEEDED},
        "compile": {name: _installed(name) for name in FOR_COMPILE},
        "options": {name: f"{_installed(name)} ({what})" for name, what in OPTIONAL.items()},
        "llama.cpp": {"llama-cpp-python": llama_build.described(), "gguf": _installed("gguf", "llama")},
        "links": {name: _state(name) for name in plugins.names("links")},
        "targets": {name: _reach(name) for name in target_names()},
    }


def _installed(package: str, extra: str = "compile") -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        extra = "lowbit" if package in OPTIONAL else extra
        return f"missing: pip install 'edgedistill[{extra}]'"


def _training() -> str:
    try:
        from edgedistill.training import best_precision, bfloat16_gain

        gain = bfloat16_gain()
        measured = f"bfloat16 has {gain:.1f} times its pace here" if gain else "no bfloat16 in hardware"
        return {"bf16": f"bfloat16 ({gain:.1f} times the pace of float32 here)", "float32": f"float32 ({measured})"}[best_precision()]
    except ModuleNotFoundError:
        return "no torch: this machine can verify and bench, not compile"


def _state(name: str) -> str:
    link = plugins.find("links", name)
    lacking = link.ready(Link(kind=name))
    return f"{link.ABOUT}: {lacking or 'ready'}"


def _reach(name: str) -> str:
    try:
        return told(find_target(name))
    except EdgedistillError as error:
        return error.paragraph()
