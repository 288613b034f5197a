"""page: the report as one self-contained HTML page, and `details.json` with all it is drawn from.

Every statistic comes from `report.py` or from the facts of the stages; here it is only shown: `page_rows` makes the rows of the tables and the
figures as text, `plots` the plots, `page.html.j2` the page. The page fetches nothing: plotly.js stands in it once, figures are plotly JSON
and the browser's own policy forbids the network.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgedistill.errors import InputError, missing_extra
from edgedistill.report import FEW_ROWS, Drafting, Report, accuracy_difference, read_report, summary, verdicts
from edgedistill.stages.page_rows import (
    chance,
    class_rows,
    confusions,
    count,
    factor,
    flat,
    gains,
    limit_card,
    metric_name,
    number,
    percent,
    points,
    search_rows,
    signed,
    single_label,
    slice_rows,
    timed,
    type_rows,
)
from edgedistill.stages.plots import DATA_FIGURES, FIGURES, colors
from edgedistill.stages.select import Choice, read_choice
from edgedistill.store import Stage

FILES = ("report.json", "choice.json", "details.json")
HOW = {
    "measured": "Latency, memory and cold start were measured on this machine, with the runtime that ships, each binary in a process of its own.",
    "emulated": "Emulated, so latency and memory were not measured: the instructions are the device's, the clock is not. "
    "Answers and accuracy are those of the device.",
    "estimated": "Latency is estimated, not measured: it follows from a calibration, and only a run on the device can meet a limit.",
    "not measured": "Latency, memory and cold start were not measured: these binaries were built here and have not run on the device. "
    "Accuracy is that of the very files, on this machine.",
}
SHORT_LIMITS = {"p90_ms": "p90", "size_mb": "size", "peak_mb": "memory", "memory_mb": "room", "accuracy_drop": "accuracy"}


@dataclass(frozen=True)
class Params:
    """search: what the search of the student looked at, as `search.search` records it; None when the recipe names the student."""

    lineage: dict[str, Any]
    schemes: tuple[str, ...]
    search: dict[str, Any] | None = None


def run(
    out: Path,
    params: Params,
    *,
    prepared: Path,
    transfer: Path,
    teacher: Path,
    coverage: Path,
    foretold: Path,
    selected: Path,
    **parts: Path,
) -> None:
    """Writes `report.html` and `details.json`.

    parts: `run_{run}` of each student, `quantized_{scheme}` of each binary.

    combined: the soft labels of several teachers, when there are several. drafted: of speculate, when it was asked for.
    """
    details = {
        "lineage": params.lineage,
        "search": params.search,
        "card": _json(prepared / "card.json"),
        "transfer": _json(transfer / "facts.json"),
        "teacher": _json(teacher / "facts.json"),
        "combined": _json(parts["combined"] / "facts.json") if "combined" in parts else {},
        "coverage": _json(coverage / "facts.json"),
        "drafted": _json(parts["drafted"] / "drafting.json") if "drafted" in parts else {},
        "foretold": _json(foretold / "facts.json"),
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


def render_run(folder: Path) -> str:
    """The page of a finished run. folder: where `compile` left `report.json`, `choice.json` and `details.json` of one target."""
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise InputError(
            f"there is no {' and no '.join(missing)} here, so this is not a finished run.",
            where=str(folder),
            write="Give the folder of one target that `edgedistill compile` wrote, such as out/NAME/TARGET.",
        )
    details = _json(folder / "details.json") | {"bench": _json(folder / "bench.json")}  # of `bench … -o`, where it was made
    return render(read_report(folder / "report.json"), read_choice(folder / "choice.json"), details)


def render(report: Report, choice: Choice, details: dict[str, Any]) -> str:
    """The page as one string. details: as `details.json`; a part that is missing is left out of the page."""
    try:
        from jinja2 import ChainableUndefined, Environment, FileSystemLoader
        from plotly.offline import get_plotlyjs
    except ModuleNotFoundError as error:
        raise missing_extra(error, "report") from error
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=ChainableUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "number": number, "percent": percent, "points": points, "count": count, "factor": factor, "chance": chance, "signed": signed,
        "scheme_name": lambda name: str(name).removeprefix("onnx_").removeprefix("gguf_"),
    }  # fmt: skip
    return environment.get_template("page.html.j2").render(
        report=report, choice=choice, details=details, plotly=get_plotlyjs(), **context(report, choice, details)
    )


def context(report: Report, choice: Choice, details: dict[str, Any]) -> dict[str, Any]:
    """What the template shows, computed afresh from the raw samples."""
    chosen, teacher = report.variant(choice.chosen), report.teacher
    rows = summary(report)
    card_slices = {entry["name"]: entry for entry in details.get("card", {}).get("slices", [])}
    return {
        "chosen": chosen,
        "teacher": teacher,
        "rows": rows,
        "row": {row["name"]: row for row in rows},
        "written_figures": list(dict.fromkeys(name for row in rows for name in row.get("further", {}))),
        "timed": bool(timed(report)),
        "how": HOW[report.how],
        "metric": report.metric,
        "metric_name": metric_name(report),
        "limits": [limit_card(report, chosen.name, limit) for limit in verdicts(report, chosen)],
        "limit_names": SHORT_LIMITS,
        "difference": accuracy_difference(report, chosen, teacher),
        "gains": gains(report, chosen),
        "slices": slice_rows(report, chosen, card_slices),
        "few": FEW_ROWS,
        "search": search_rows(details.get("search") or {}, report.target.get("name", "")),
        "classes": class_rows(report, chosen) if single_label(report) else [],
        "types": type_rows(report, chosen),
        "confusions": confusions(report, chosen) if single_label(report) else [],
        "drafting": Drafting(**details["drafted"]) if details.get("drafted") else None,
        "recipe": flat(details.get("lineage", {}).get("recipe", {})),
        "colors": colors(report, choice.chosen),
        "figures": {
            name: figure
            for name, draw in FIGURES.items()
            if (figure := draw(report, chosen)) is not None
        }
        | {name: figure for name, draw_data in DATA_FIGURES.items() if (figure := draw_data(details)) is not None},
    }  # fmt: skip


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


PAGE = Stage("page", 8, run, ("plotly", "jinja2"))
