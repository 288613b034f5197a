"""The plots of the page, each a function that gives plotly JSON, or None when there is nothing to draw.

Colours are names of CSS variables (`--chosen`), which the page's script replaces, so one figure serves light, dark and print. Texts are escaped
by `_label`, since plotly reads a subset of HTML in them.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from edgedistill.report import FEW_ROWS, Figure, Report, Variant, accuracy, calibration_error, mean_figure, percentile_ms
from edgedistill.stages.page_rows import (
    beside,
    confusion_table,
    gains,
    metric_name,
    number,
    points,
    single_label,
    slice_rows,
    timed,
)

Plot = dict[str, Any]  # {"data": […], "layout": {…}}, plotly JSON

BINS = 15  # of the reliability diagram: those of the calibration error
MOST_CLASSES = 24  # above this a heat map has no room for counts
MOST_BARS = 40


def colors(report: Report, chosen: str) -> dict[str, str]:
    """A CSS variable for each variant: the chosen one has the page's accent, the teacher is grey."""
    found, others = {}, 0
    for variant in report.variants:
        if variant.role == "student" and variant.name != chosen:
            others += 1
        found[variant.name] = (
            "--chosen" if variant.name == chosen
            else "--teacher" if variant.role == "teacher"
            else "--control" if variant.role == "control"
            else f"--v{(others - 1) % 6 + 1}"
        )  # fmt: skip
    return found


def _label(text: str, most: int = 40) -> str:
    """A text as plotly may show it: its tags escaped, cut where it is long."""
    return html.escape(text if len(text) <= most else text[: most - 1] + "…", quote=False)


def _layout(height: int, **more: Any) -> dict[str, Any]:
    """What all plots share."""
    axis = {"gridcolor": "--line", "linecolor": "--line", "zeroline": False, "tickcolor": "--line", "automargin": True, "fixedrange": True}
    layout: dict[str, Any] = {
        "height": height,
        "margin": {"l": 8, "r": 12, "t": 28, "b": 8},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"color": "--soft", "size": 12},
        "hoverlabel": {"bgcolor": "--surface", "bordercolor": "--line", "font": {"color": "--ink"}},
        "showlegend": False,
        "legend": {"orientation": "h", "traceorder": "normal", "x": 0, "y": 1.02, "yanchor": "bottom", "font": {"color": "--ink"}},
        "dragmode": False,
        **more,
    }
    for name in ("xaxis", "yaxis"):
        layout[name] = {**axis, **layout.get(name, {})}
    return layout


def _title(text: str) -> dict[str, Any]:
    return {"text": text, "standoff": 8}


def _line(**more: Any) -> dict[str, Any]:
    return {"type": "line", "layer": "above", "line": {"color": "--limit", "width": 1.5, "dash": "dash"}, **more}


def _note(text: str, **more: Any) -> dict[str, Any]:
    return {"text": text, "showarrow": False, "font": {"color": "--limit", "size": 12}, **more}


def _bars(figures: Sequence[Figure], scale: float, color: str, width: float = 1.5) -> dict[str, Any]:
    """Error bars of figures with unequal sides."""
    return {
        "type": "data",
        "symmetric": False,
        "array": [scale * (figure.high - figure.value) for figure in figures],
        "arrayminus": [scale * (figure.value - figure.low) for figure in figures],
        "color": color,
        "thickness": width,
        "width": 3,
    }


def _log_axis(values: Sequence[float], title: str) -> dict[str, Any]:
    """A log axis with a little air around the values, and round ticks (1, 2, 5) that are written out."""
    low, high = min(values) / 1.5, max(values) * 1.5
    ticks = [
        step * 10**power
        for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        for step in (1, 2, 5)
        if low <= step * 10**power <= high
    ]
    return {
        "type": "log",
        "range": [math.log10(low), math.log10(high)],
        "tickvals": ticks,
        "ticktext": [f"{tick:g}" for tick in ticks],
        "title": _title(title),
    }


def pareto(report: Report, chosen: Variant) -> Plot:
    """Median latency against accuracy, area ∝ size; without timings, size against accuracy. The page's script places the labels."""
    hue, budget, with_time = colors(report, chosen.name), report.budget, timed(report)
    shown_ones = with_time or [variant for variant in (report.teacher, *report.students) if variant.size_bytes]
    rights = [accuracy(report, variant) for variant in shown_ones]
    sizes = [variant.size_bytes / 1e6 for variant in shown_ones]
    p50 = [percentile_ms(variant.timings["real"], 0.5) for variant in with_time] or [Figure(size, size, size) for size in sizes]
    p90 = [percentile_ms(variant.timings["real"], 0.9).value for variant in with_time]
    allowed = budget.p90_ms if with_time else budget.size_mb
    floor = 100 * (accuracy(report, report.teacher).value - budget.accuracy_drop) if budget.accuracy_drop is not None else None
    xs = [figure.value for figure in p50] + p90 + ([allowed] if allowed else [])
    ys = [100 * side for figure in rights for side in (figure.low, figure.high)] + ([floor] if floor is not None else [])
    x_axis = _log_axis(xs, "Median latency, ms (log)" if with_time else "Size, MB (log)")
    air = 0.12 * (max(ys) - min(ys) or 1)
    y_range = [min(ys) - air, min(100.5, max(ys) + air)]
    shapes: list[dict[str, Any]] = []
    notes = []
    if allowed:
        shapes.append(_line(x0=allowed, x1=allowed, y0=0, y1=1, yref="paper"))
        text = f"p90 limit {allowed:g} ms" if with_time else f"size limit {allowed:g} MB"
        notes.append(_note(text, x=math.log10(allowed), y=1, yref="paper", yanchor="bottom"))
    if floor is not None:
        shapes.append(_line(x0=0, x1=1, xref="paper", y0=floor, y1=floor))
        # Its name stands at the end of the line that is farther from any mark.
        left, right = x_axis["range"][0], math.log10(allowed) if allowed else x_axis["range"][1]
        places = [math.log10(figure.value) for figure in p50]
        to_left = min(place - left for place in places) > min(abs(right - place) for place in places)
        ends = {"x": left, "xanchor": "left"} if to_left else {"x": right, "xanchor": "right", "xshift": -4}
        notes.append(_note(f"lowest {report.metric} allowed", y=floor, yanchor="top", **ends))
    if allowed or floor is not None:
        low, high = (10 ** float(side) for side in x_axis["range"])
        region = {"x0": low, "x1": allowed or high, "y0": y_range[0] if floor is None else floor, "y1": y_range[1]}
        shapes.append({"type": "rect", "layer": "below", "fillcolor": "--region", "line": {"width": 0}, **region})
    data: list[dict[str, Any]] = []
    for variant, speed, slow in zip(with_time, p50, p90, strict=False):
        right = 100 * accuracy(report, variant).value
        data.append(
            {"type": "scatter", "x": [speed.value, slow], "y": [right, right], "mode": "lines+markers", "hoverinfo": "skip",
             "line": {"color": hue[variant.name], "width": 1, "dash": "dot"},
             "marker": {"symbol": "line-ns", "size": [0, 10], "line": {"color": hue[variant.name], "width": 1.5}}}
        )  # fmt: skip
    tints = [hue[variant.name] for variant in shown_ones]
    data += [
        {"type": "scatter", "mode": "markers", "x": [speed.value], "y": [100 * right.value], "hoverinfo": "skip",
         "error_x": _bars([speed], 1, tint), "error_y": _bars([right], 100, tint), "marker": {"size": 1, "color": tint}}
        for speed, right, tint in zip(p50, rights, tints, strict=True)
    ]  # fmt: skip
    unit = "ms" if with_time else "MB"
    data.append(
        {
            "type": "scatter",
            "mode": "markers",
            "x": [figure.value for figure in p50],
            "y": [100 * figure.value for figure in rights],
            "text": [_label(variant.name.removeprefix("student ")) for variant in shown_ones],
            "customdata": [f"{size:.1f} MB" for size in sizes],
            "meta": "labelled",
            "marker": {
                "size": sizes,
                "sizemode": "area",
                "sizeref": 2 * max(sizes) / 44**2,
                "sizemin": 5,
                "color": tints,
                "opacity": 0.88,
                "line": {
                    "color": ["--ink" if variant is chosen else "--surface" for variant in shown_ones],
                    "width": [2.5 if variant is chosen else 1 for variant in shown_ones],
                },
            },
            "hovertemplate": f"<b>%{{text}}</b><br>%{{x:.3g}} {unit}<br>%{{y:.1f}} %<br>%{{customdata}}<extra></extra>",
        }
    )
    y_axis = {"range": y_range, "title": _title(f"{metric_name(report)}, %"), "ticksuffix": " "}
    return {"data": data, "layout": _layout(460, xaxis=x_axis, yaxis=y_axis, shapes=shapes, annotations=notes, hovermode="closest")}


def distribution(report: Report, chosen: Variant) -> Plot | None:
    """The share of answers that were there after so many milliseconds, for each variant."""
    variants, hue = timed(report), colors(report, chosen.name)
    if not variants:
        return None
    grid = np.unique(np.concatenate([np.linspace(0, 1, 201), np.linspace(0.98, 1, 81)]))  # the tail is what limits are about
    curves = [np.quantile(variant.timings["real"].total_ms(), grid) for variant in variants]
    allowed = report.budget.p90_ms
    ends = [float(curve[place]) for curve in curves for place in (0, -1)] + ([allowed] if allowed else [])
    shapes, notes = [_line(layer="below", x0=0, x1=1, xref="paper", y0=90, y1=90, line={"color": "--line", "width": 1.5})], []
    if allowed:
        shapes.append(_line(x0=allowed, x1=allowed, y0=0, y1=1, yref="paper"))
        late = allowed > math.sqrt(min(ends) * max(ends))  # in the right half: its name goes to the left, where there is room
        side = {"xanchor": "right", "xshift": -4} if late else {"xanchor": "left", "xshift": 4}
        notes.append(_note(f"limit {allowed:g} ms", x=math.log10(allowed), y=0.02, yref="paper", yanchor="bottom", **side))
    data = [
        {
            "type": "scatter", "mode": "lines", "name": _label(variant.name),
            "x": [round(float(value), 5) for value in curve], "y": [round(100 * float(share), 3) for share in grid],
            "line": {"color": hue[variant.name], "width": 3 if variant is chosen else 1.75},
            "hovertemplate": "%{y:.1f} % within %{x:.3g} ms",
        }
        for variant, curve in zip(variants, curves, strict=True)
    ]  # fmt: skip
    axes = {
        "xaxis": _log_axis(ends, "Text in to answer out, ms (log)"),
        "yaxis": {"range": [0, 101], "title": _title("Answers given, %"), "tickvals": [0, 25, 50, 75, 90, 100], "ticksuffix": " "},
    }
    return {"data": data, "layout": _layout(380, **axes, shapes=shapes, annotations=notes, showlegend=True)}


WINDOWS = 60  # of a curve over time


def over_time(report: Report, chosen: Variant) -> Plot | None:
    """The median answer in the order in which answers were given: a machine that slows down, or a neighbour, shows as a step or a slope."""
    variants, hue = timed(report), colors(report, chosen.name)
    if not variants:
        return None
    data = []
    for variant in variants:
        total = variant.timings["real"].total_ms()
        pieces = np.array_split(total, min(WINDOWS, max(1, len(total) // 8)))
        data.append(
            {
                "type": "scatter", "mode": "lines", "name": _label(variant.name),
                "x": np.cumsum([len(piece) for piece in pieces]).tolist(), "y": [round(float(np.median(piece)), 5) for piece in pieces],
                "line": {"color": hue[variant.name], "width": 3 if variant is chosen else 1.75},
                "hovertemplate": "%{y:.3g} ms up to answer %{x}",
            }
        )  # fmt: skip
    ends = [value for curve in data for value in curve["y"]]
    axes = {"xaxis": {"title": _title("Answers given so far")}, "yaxis": _log_axis(ends, "Median answer, ms (log)")}
    return {"data": data, "layout": _layout(300, **axes, showlegend=True)}


def parts(report: Report, chosen: Variant) -> Plot | None:
    """Where the time of a median answer goes."""
    variants = timed(report)[::-1]
    if not variants:
        return None
    names = [_label(variant.name.removeprefix("student "), 24) for variant in variants]
    data: list[dict[str, Any]] = []
    for part, name, color in (("tokenize_ns", "tokenize", "--part1"), ("model_ns", "model", "--part2"), ("decode_ns", "decode", "--part3")):
        medians = [float(np.median(getattr(variant.timings["real"], part))) / 1e6 for variant in variants]
        data.append(
            {
                "type": "bar", "orientation": "h", "name": name, "y": names, "x": medians, "marker": {"color": color},
                "hovertemplate": f"{name} %{{x:.3g}} ms<extra>%{{y}}</extra>",
            }
        )  # fmt: skip
    ends = [sum(trace["x"][place] for trace in data) for place in range(len(variants))]
    notes = [
        _note(f"{number(percentile_ms(variant.timings['real'], 0.5).value)} ms", x=end, y=name, xanchor="left", xshift=4, font={"color": "--ink"})
        for variant, name, end in zip(variants, names, ends, strict=True)
    ]  # fmt: skip
    axes = {"xaxis": {"title": _title("Median, ms"), "range": [0, 1.3 * max(ends)]}, "yaxis": {"ticksuffix": " "}}
    height = max(360, 110 + 40 * len(variants))
    return {"data": data, "layout": _layout(height, **axes, barmode="stack", bargap=0.45, annotations=notes, showlegend=True)}


def by_length(report: Report, chosen: Variant) -> Plot | None:
    """Median latency at fixed lengths."""
    hue, data, seen = colors(report, chosen.name), [], []
    for variant in (report.teacher, *report.students):
        lengths = sorted((int(kind), timings) for kind, timings in variant.timings.items() if kind.isdigit())
        figures = [percentile_ms(timings, 0.5) for _, timings in lengths]
        if figures:
            seen += [figure.value for figure in figures]
            data.append(
                {
                    "type": "scatter", "mode": "lines+markers", "name": _label(variant.name),
                    "x": [str(length) for length, _ in lengths], "y": [figure.value for figure in figures],
                    "error_y": _bars(figures, 1, hue[variant.name]),
                    "line": {"color": hue[variant.name], "width": 3 if variant is chosen else 1.75}, "marker": {"size": 7},
                    "hovertemplate": "%{x} tokens: %{y:.3g} ms",
                }
            )  # fmt: skip
    if not data:
        return None
    axes = {"xaxis": {"type": "category", "title": _title("Tokens")}, "yaxis": _log_axis(seen, "Median, ms (log)")}
    return {"data": data, "layout": _layout(360, **axes, showlegend=True)}


def forest(report: Report, chosen: Variant) -> Plot:
    """What each step bought or cost, with its interval: the name stands above the bar so that a narrow screen has room for both."""
    entries = gains(report, chosen)[::-1]
    spread = [100 * side for entry in entries for side in (entry["figure"].low, entry["figure"].high, 0.0)]
    air = 0.08 * (max(spread) - min(spread) or 1)
    data, notes = [], []
    for place, entry in enumerate(entries):
        figure: Figure = entry["figure"]
        tint = "--soft" if not entry["told"] else "--pass" if figure.value > 0 else "--fail"
        data.append(
            {
                "type": "scatter", "mode": "markers", "x": [100 * figure.value], "y": [place],
                "error_x": _bars([figure], 100, tint, 2.5), "marker": {"color": tint, "size": 11, "symbol": "square"},
                "hovertemplate": f"{points(figure.value)} points<br>{points(figure.low)} to {points(figure.high)}<extra></extra>",
            }
        )  # fmt: skip
        text = f"<b>{_label(entry['name'])}</b>  {points(figure.value)} [{points(figure.low)}, {points(figure.high)}]"
        notes.append(_note(text, x=0, xref="paper", xanchor="left", y=place + 0.36, font={"color": "--ink"}))
    axes = {
        "xaxis": {"range": [min(spread) - air, max(spread) + air], "title": _title(f"Points of {report.metric}, 95 % interval")},
        "yaxis": {"range": [-0.5, len(entries) - 0.3], "showticklabels": False, "showgrid": False, "ticks": ""},
    }
    zero = _line(layer="below", x0=0, x1=0, y0=0, y1=1, yref="paper", line={"color": "--soft", "width": 1})
    return {"data": data, "layout": _layout(70 + 62 * len(entries), **axes, shapes=[zero], annotations=notes, hovermode="closest")}


def slices(report: Report, chosen: Variant) -> Plot | None:
    """Accuracy of the chosen binary and the teacher on each slice."""
    everything = {"name": "all test rows", "rows": len(report.keys), "few": False, **beside(report, chosen, range(len(report.keys)))}
    entries = [everything, *slice_rows(report, chosen, {})][::-1]
    if len(entries) == 1:
        return None
    data = []
    for who, variant, shift, tint in (("teacher", report.teacher, 0.16, "--teacher"), ("chosen", chosen, -0.16, "--chosen")):
        have = [(place, entry) for place, entry in enumerate(entries) if not entry["few"]]
        figures = [entry[who] for _, entry in have]
        data.append(
            {
                "type": "scatter", "mode": "markers", "name": _label(variant.name),
                "x": [100 * figure.value for figure in figures], "y": [place + shift for place, _ in have],
                "error_x": _bars(figures, 100, tint, 2), "marker": {"color": tint, "size": 9, "symbol": "diamond" if who == "teacher" else "circle"},
                "text": [_label(entry["name"]) for _, entry in have],
                "hovertemplate": "%{text}: %{x:.1f} %",
            }
        )  # fmt: skip
    low = min(100 * entry[who].low for entry in entries if not entry["few"] for who in ("chosen", "teacher"))
    notes = [
        _note(f"too few rows ({entry['rows']})", x=0.5, xref="paper", y=place, font={"color": "--soft"})
        for place, entry in enumerate(entries)
        if entry["few"]
    ]
    names = [f"{_label(entry['name'], 22)}<br>{entry['rows']:,} rows" for entry in entries]
    axes = {
        "xaxis": {"range": [max(0, low - 3), 101], "title": _title(f"{metric_name(report)}, %, 95 % interval")},
        "yaxis": {"tickvals": list(range(len(entries))), "ticktext": names, "range": [-0.6, len(entries) - 0.4], "ticksuffix": " "},
    }
    return {"data": data, "layout": _layout(110 + 46 * len(entries), **axes, annotations=notes, showlegend=True, hovermode="closest")}


def confusion(report: Report, chosen: Variant) -> Plot | None:
    """Expected against answered. Mistakes have a scale of their own, or the right answers would outshine them."""
    if not single_label(report):
        return None
    table = confusion_table(report, chosen)
    shares = 100 * table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    size = len(report.classes)
    names = [_label(name, 18) for name in report.classes]
    places = list(range(size))
    data = []
    for right, scale in ((True, "--chosen"), (False, "--fail")):
        shown_cells = np.eye(size, dtype=bool) if right else ~np.eye(size, dtype=bool) & (table > 0)
        z = [[round(float(shares[i, j]), 2) if shown_cells[i, j] else None for j in places] for i in places]
        peak = max((value for line in z for value in line if value is not None), default=1.0)
        data.append(
            {
                "type": "heatmap", "x": places, "y": places, "z": z, "zmin": 0, "zmax": max(peak, 1.0), "showscale": False, "xgap": 2, "ygap": 2,
                "colorscale": [[0, "--surface"], [1, scale]],
                "text": [[str(table[i, j]) if shown_cells[i, j] else "" for j in places] for i in places],
                "customdata": [[f"{names[i]} answered {names[j]}: {table[i, j]} rows" for j in places] for i in places],
                "hovertemplate": "%{customdata}, %{z:.1f} %<extra></extra>", "hoverongaps": False,
                **({"texttemplate": "%{text}"} if size <= MOST_CLASSES else {}),
            }
        )  # fmt: skip
    ticks = {"tickvals": places, "ticktext": names, "showgrid": False, "showticklabels": size <= MOST_BARS}
    axes = {
        "xaxis": {**ticks, "title": _title("Answered"), "range": [-0.5, size - 0.5], "constrain": "domain"},
        "yaxis": {**ticks, "title": _title("Expected"), "range": [size - 0.5, -0.5], "ticksuffix": " "},
    }
    return {"data": data, "layout": _layout(max(380, min(700, 130 + 34 * size)), **axes, hovermode="closest")}


def reliability(report: Report, chosen: Variant) -> Plot | None:
    """Confidence against the share of right answers, in the bins of the calibration error; area ∝ rows."""
    if not chosen.confidence or not report.teacher.confidence:
        return None
    data: list[dict[str, Any]] = [
        {"type": "scatter", "mode": "lines", "x": [0, 100], "y": [0, 100], "line": {"color": "--soft", "width": 1, "dash": "dot"},
         "name": "perfect", "showlegend": False, "hoverinfo": "skip"}
    ]  # fmt: skip
    most, pale = 1, {"--teacher": 0.3, "--chosen": 0.4}
    for variant, tint in ((report.teacher, "--teacher"), (chosen, "--chosen")):
        confidence, right = np.asarray(variant.confidence), report.correct(variant)
        place = np.minimum((confidence * BINS).astype(int), BINS - 1)
        bins = [np.flatnonzero(place == bin) for bin in range(BINS) if (place == bin).any()]
        most = max([most, *map(len, bins)])
        name = f"{_label(variant.name)}, calibration error {number(calibration_error(report, variant))}"
        for few in (True, False):
            these = [rows for rows in bins if (len(rows) < FEW_ROWS) == few]
            figures = [mean_figure(right[rows], report.seed) for rows in these]
            data.append(
                {
                    "type": "scatter", "mode": "markers", "name": name, "legendgroup": name, "showlegend": not few,
                    "x": [100 * float(confidence[rows].mean()) for rows in these], "y": [100 * figure.value for figure in figures],
                    "error_y": {**_bars(figures, 100, tint, 2), "visible": variant is chosen},
                    "opacity": pale[tint] if few else 0.9,
                    "marker": {"color": tint, "size": [len(rows) for rows in these], "sizemode": "area", "sizemin": 4,
                               "symbol": "circle" if variant is chosen else "diamond"},
                    "customdata": [len(rows) for rows in these],
                    "hovertemplate": "sure to %{x:.0f} %, right %{y:.0f} % of %{customdata} rows",
                }
            )  # fmt: skip
    for trace in data[1:]:
        trace["marker"]["sizeref"] = 2 * most / 26**2
    axes = {
        "xaxis": {"range": [0, 103], "title": _title("Confidence of the answer, %")},
        "yaxis": {"range": [0, 103], "title": _title("Right, %"), "ticksuffix": " "},
    }
    return {"data": data, "layout": _layout(400, **axes, showlegend=True, hovermode="closest")}


FIGURES: dict[str, Callable[[Report, Variant], Plot | None]] = {
    "pareto": pareto,
    "distribution": distribution,
    "parts": parts,
    "by_length": by_length,
    "over_time": over_time,
    "forest": forest,
    "slices": slices,
    "confusion": confusion,
    "reliability": reliability,
}


def kinds(details: dict[str, Any]) -> Plot | None:
    """The share of each kind of text in the traffic and in the transfer set, the worst covered kind on top."""
    clusters = details.get("coverage", {}).get("clusters", [])[::-1]
    if not clusters:
        return None
    data = []
    for who, name, shift, tint, symbol in (
        ("traffic_share", "traffic", 0.16, "--teacher", "diamond"),
        ("transfer_share", "transfer set", -0.16, "--chosen", "circle"),
    ):
        figures = [Figure(**entry[who]) for entry in clusters]
        data.append(
            {
                "type": "scatter", "mode": "markers", "name": name,
                "x": [100 * figure.value for figure in figures], "y": [place + shift for place in range(len(clusters))],
                "error_x": _bars(figures, 100, tint, 2), "marker": {"color": tint, "size": 9, "symbol": symbol},
                "text": [_label(entry["name"]) for entry in clusters], "hovertemplate": "%{text}: %{x:.1f} %",
            }
        )  # fmt: skip
    axes = {
        "xaxis": {"rangemode": "tozero", "title": _title("Share of the texts, %, 95 % interval")},
        "yaxis": {
            "tickvals": list(range(len(clusters))),
            "ticktext": [_label(entry["name"], 34) for entry in clusters],
            "range": [-0.6, len(clusters) - 0.4],
            "ticksuffix": " ",
        },
    }
    return {"data": data, "layout": _layout(110 + 30 * len(clusters), **axes, showlegend=True, hovermode="closest")}


def sustained(details: dict[str, Any]) -> Plot | None:
    """The latency of a long run without a pause, over its seconds: p50 and p90 of each third of a second, and the limit."""
    bench = details.get("bench") or {}
    windows = (bench.get("sustained") or {}).get("windows", [])
    if not windows:
        return None
    data = [
        {
            "type": "scatter", "mode": "lines", "name": name,
            "x": [window["at_s"] for window in windows], "y": [round(window[key], 5) for window in windows],
            "line": {"color": color, "width": width}, "hovertemplate": "%{y:.3g} ms at %{x:.1f} s",
        }
        for key, name, color, width in (("p50_ms", "p50", "--chosen", 3), ("p90_ms", "p90", "--teacher", 1.75))
    ]  # fmt: skip
    allowed, ends = float(bench.get("p90_limit_ms") or 0), [value for curve in data for value in curve["y"]]
    near = 0 < allowed <= 20 * max(ends)  # one that is far away would press the curve flat
    shapes = [_line(x0=0, x1=1, xref="paper", y0=allowed, y1=allowed)] if near else []
    notes = [_note(f"limit {allowed:g} ms", x=0, xref="paper", xanchor="left", y=math.log10(allowed), yanchor="bottom")] if near else []
    axes = {
        "xaxis": {"title": _title("Seconds")},
        "yaxis": _log_axis([*ends, *([allowed] if near else [])], "Text in to answer out, ms (log)"),
    }
    return {"data": data, "layout": _layout(300, **axes, shapes=shapes, annotations=notes, showlegend=True)}


DATA_FIGURES: dict[str, Callable[[dict[str, Any]], Plot | None]] = {"kinds": kinds, "sustained": sustained}
