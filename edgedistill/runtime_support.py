"""Is every operator of a graph in the ONNX Runtime that a device has? An app that ships an older one finds out when it starts.

A target's `runtime_version` says which release its app carries. What our graphs are made of: opset 17 of ai.onnx, which came with 1.12, and contrib
operators, of which two are younger. Sources: https://onnxruntime.ai/docs/reference/compatibility.html (opsets), the release notes of 1.17
(MatMulNBits) and of 1.20 (GatherBlockQuantized), https://github.com/microsoft/onnxruntime/releases.
"""

from __future__ import annotations

from pathlib import Path

from edgedistill.errors import TargetError, missing_extra
from edgedistill.target import Target

Version = tuple[int, ...]
OPSETS: dict[int, Version] = {15: (1, 10), 16: (1, 11), 17: (1, 12), 18: (1, 14), 19: (1, 15), 20: (1, 17), 21: (1, 18)}
CONTRIB: dict[str, Version] = {"MatMulNBits": (1, 17), "GatherBlockQuantized": (1, 20)}
OLDEST = min(OPSETS.values())


def needs(model: Path) -> dict[str, Version]:
    """What of a graph asks for a release of ONNX Runtime, and for which."""
    try:
        import onnx
    except ModuleNotFoundError as error:
        raise missing_extra(error, "runtime_version") from error
    loaded = onnx.load(str(model), load_external_data=False)
    opset = next((entry.version for entry in loaded.opset_import if entry.domain in ("", "ai.onnx")), min(OPSETS))
    found = {f"opset {opset}": OPSETS.get(opset, OLDEST if opset < min(OPSETS) else max(OPSETS.values()))}
    return found | {op: CONTRIB[op] for op in sorted({node.op_type for node in loaded.graph.node} & set(CONTRIB))}


def require_supported(target: Target, model: Path, name: str) -> None:
    """Raises TargetError when the target states a release that lacks something of the graph. name: of the scheme or the bundle."""
    if target.runtime_version is None or target.format != "onnx":
        return
    has = tuple(int(part) for part in target.runtime_version.split("."))
    lacks = [(what, since) for what, since in needs(model).items() if has[: len(since)] < since]
    if lacks:
        parts = " and ".join(f"{what} (since {'.'.join(map(str, since))})" for what, since in lacks)
        raise TargetError(
            f"{name} needs {parts}, and the target's ONNX Runtime is {target.runtime_version}.",
            where=target.name,
            write="Leave that scheme out of `schemes`, or ship a newer ONNX Runtime and say so in `runtime_version`.",
        )
