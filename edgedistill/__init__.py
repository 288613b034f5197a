"""edgedistill: from a model that is right but too big to the cheapest binary that keeps the answers, and the proof.

The public names load on first use, so `import edgedistill` imports no torch and no onnxruntime.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "Recipe": "edgedistill.recipe",
    "Target": "edgedistill.target",
    "Report": "edgedistill.report",
    "Store": "edgedistill.store",
    "compile": "edgedistill.pipeline",
    "plan": "edgedistill.pipeline",
    "read_bundle": "edgedistill.bundle_format",
    "verify": "edgedistill.stages.verify",
    "EdgedistillError": "edgedistill.errors",
}
__all__ = [*_PUBLIC, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'edgedistill' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)
