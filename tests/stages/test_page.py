"""The HTML page: that it is whole, fetches nothing, escapes what data holds, and says plainly what was not measured."""

from __future__ import annotations

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgedistill.budget import Budget
from edgedistill.errors import InputError
from edgedistill.report import Report, accuracy_difference, verdicts, write_report
from edgedistill.stages import benchmark
from edgedistill.stages.page import DATA_FIGURES, FIGURES, count, flat, number, points, render, render_run, signed
from edgedistill.stages.select import Choice, as_json, choose
from edgedistill.steady import Steadiness, Sustained, Window

pytest.importorskip("plotly")
pytest.importorskip("jinja2")

EVIL = "<script>alert('x')</script>"
ROWS = 120


def a_variant(
    name: str, role: str, scheme: str, right: float, milliseconds: float | None, megabytes: float, classes: int = 3
) -> dict[str, Any]:
    draw = np.random.default_rng(len(name))
    expected = np.arange(ROWS) % classes
    predicted = np.where(draw.random(ROWS) < right, expected, (expected + 1) % classes)
    timings = {}
    if milliseconds:
        for kind, scale in (("real", 1.0), ("16", 0.8), ("32", 1.5), ("128", 5.0)):
            spent = (1e6 * milliseconds * scale * draw.lognormal(0, 0.2, ROWS)).astype(int)
            timings[kind] = {
                "tokenize_ns": (spent // 10).tolist(),
                "model_ns": (spent - spent // 5).tolist(),
                "decode_ns": (spent // 10).tolist(),
            }
    return {
        "name": name, "role": role, "scheme": scheme, "model_sha256": "0" * 64, "model_bytes": int(1e6 * megabytes), "tokenizer_bytes": 1000,
        "parameters": 1_000_000, "predicted": predicted.tolist(), "confidence": draw.uniform(0.4, 1, ROWS).round(4).tolist(), "timings": timings,
        "cold_start_ms": [100.0, 110.0, 120.0] if milliseconds else [], "load_ms": [10.0] if milliseconds else [],
        "peak_bytes": int(2e8) if milliseconds else None, "baseline_bytes": int(5e7) if milliseconds else None,
        "notes": [f"a note with {EVIL}"] if scheme == "onnx_int4_block" else [],
    }  # fmt: skip


def a_report(how: str = "measured", classes: tuple[str, ...] = ("billing", EVIL, "other"), **budget: float) -> Report:
    speed = (lambda ms: ms) if how == "measured" else (lambda ms: None)
    size = len(classes)
    return Report.model_validate(
        {
            "name": f"tickets {EVIL}", "task": "classify", "how": how, "where": "a test machine", "prefer": "smallest",
            "target": {"name": "board", "about": "a board", "runtime": "onnxruntime", "threads": 1, "isa": "armv8-a", "link": {"kind": "local"}},
            "machine": {"cpu": "a cpu", "isa": [], "cores": 2, "memory_gb": 4}, "versions": {"edgedistill": "0.1.0", "onnxruntime": "1.32.0"},
            "budget": Budget(**(budget or {"p90_ms": 5, "size_mb": 25, "peak_mb": 256, "accuracy_drop": 0.05})),
            "classes": list(classes), "keys": [f"k{row}" for row in range(ROWS)], "expected": (np.arange(ROWS) % size).tolist(),
            "slices": {"digits": list(range(40)), "typos": [1, 2, 3]},
            "variants": [
                a_variant("teacher float", "teacher", "float", 0.95, speed(8.0), 90, size),
                a_variant("student float", "student", "float", 0.94, speed(2.0), 40, size),
                a_variant("student int8_dynamic", "student", "onnx_int8_dynamic", 0.94, speed(1.0), 10, size),
                a_variant("student int4_block", "student", "onnx_int4_block", 0.7, speed(1.05), 7, size),
                a_variant("control: labels alone", "control", "float", 0.85, None, 40, size),
                a_variant("control: training rows alone", "control", "float", 0.9, None, 40, size),
            ],
        }
    )  # fmt: skip


def some_figure(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.01, "high": value + 0.01}


def some_details() -> dict[str, Any]:
    file = {
        "source": "tickets.csv", "format": "csv", "encoding": "utf-8", "delimiter": ",", "rows_read": 1000, "rows_left": 780,
        "bad_rows": {"total": 10, "unit": "line", "by_reason": [{"reason": "no label", "rows": 10, "first": [3]}]},
        "exact_duplicates_removed": 200,
        "conflicting_labels": {"texts": 1, "resolved_by_majority": 0, "rows_outvoted": 0, "rows_dropped_as_ties": 2,
                               "examples": [{"text": EVIL, "labels": {"billing": 1, EVIL: 1}, "kept": None}]},
        "near_duplicates": {"removed": 8, "threshold": 0.9, "removed_with_another_label": 0,
                            "examples": [{"kept": EVIL, "removed": "b", "similarity": 0.93, "at": [1, 2]}]},
    }  # fmt: skip
    return {
        "lineage": {
            "data": {"train": {"source": "tickets.csv", "sha256": "a" * 64}},
            "teacher": {"license": "apache-2.0", "basis": "model card", "model": "hf:some/model", "sha256": "b" * 64},
            "recipe": {"name": "tickets", "data": {"delimiter": None, "text": "body"}, "budget": {"p90_ms": None}},
        },
        "card": {
            "files": {"train": file}, "leaks_removed": {}, "warnings": [f"a class called {EVIL}"],
            "split": {"method": "stratified hold-out", "test_share": 0.2, "seed": 0, "train_rows": 660, "test_rows": ROWS},
            "classes": [{"name": EVIL, "train_rows": 600, "test_rows": 40, "train_share": 0.5}],
            "lengths": {"train": {"characters": {"min": 1, "p50": 2, "p90": 3, "p99": 4, "max": 5}, "words": {}}, "test": {}},
            "scripts": {"train": {"Latin": 1.0}, "test": {}},
            "slices": [{"name": "digits", "rows": 40, "about": "holds a digit", "built_in": True},
                       {"name": "non_latin", "rows": 0, "about": "another script", "built_in": True}],
        },
        "transfer": {"rows": 5000, "training_rows": 660, "traffic_rows": 0, "grown_rows": 4340, "dropped_like_test": {"exact": 1, "near": 2},
                     "methods": {"delete": 0.5, "typo": 0.5}, "examples": [EVIL], "held_out_rows": 35, "calls": 900, "pool_rows": 9000, "choose": "active",
                     "rounds": [{"calls": 300, "doubt": None}, {"calls": 600, "doubt": 0.9, "doubt_of_pool": 0.4}],
                     "quotas": [{"name": "typos", "asked": 0.1, "rows": 20, "share": 0.004, "reached": False}]},
        "coverage": {
            "space": "a space", "traffic": "traffic file", "traffic_texts": 500, "transfer_texts": 5000,
            "traffic_looked_at": 500, "transfer_looked_at": 5000,
            "coverage": some_figure(0.9), "coverage_of_held_out": some_figure(0.8), "held_out_rows": 30, "coverage_expected": 0.99,
            "distance": {**some_figure(0.02), "chance": 0.01},
            "clusters": [{"name": f"refund, {EVIL}", "rows": 60, "coverage": some_figure(0.5), "traffic_share": some_figure(0.1),
                          "transfer_share": some_figure(0.05), "drift": {"value": -0.05, "low": -0.09, "high": -0.01},
                          "typical": [EVIL], "uncovered": [f"a text {EVIL}"]}],
        },
        "foretold": {
            "binary": "student int8_dynamic", "rows": 100, "wrong": some_figure(0.08), "groups_looked_at": {"cluster": 3, "slice": 4, "word": 50},
            "groups": {"cluster": [], "slice": [], "word": [{"name": EVIL, "rows": 9, "wrong": 5, "expected": some_figure(0.4), "told": True,
                "examples": [{"text": EVIL, "answered": EVIL, "teacher": "billing", "confidence": 0.7}]}]},
            "sure_and_wrong": [{"text": "a sure one", "answered": "other", "teacher": EVIL, "confidence": 0.99}],
            "thresholds": [{"wanted": 0.95, "seen": {"confidence": 0.81, "kept": 0.9, "precision": 0.96}, "promised": None},
                           {"wanted": 0.9, "seen": {"confidence": 0.5, "kept": 1.0, "precision": 0.92},
                            "promised": {"confidence": 0.62, "kept": 0.97, "precision": 0.94}}],
        },
        "search": {
            "rungs": [0.0625, 0.25], "targets": {"board": {"chosen": "conv width=64", "bar": 0.93}},
            "candidates": [
                {"name": "conv width=64", "costs": {"board": [{"scheme": "float", "size_mb": 3.0, "p50_ms": 0.07, "p90_ms": 0.09},
                 {"scheme": "onnx_int8_dynamic", "size_mb": 1.0, "p50_ms": 0.05, "p90_ms": 0.06}]}, "scores": [0.8, 0.9, 0.94], "seconds": 40.0,
                 "finished": True, "out": ""},
                {"name": f"big {EVIL}", "costs": {"board": [{"scheme": "float", "size_mb": 90.0, "p50_ms": None, "p90_ms": None}]}, "scores": [],
                 "seconds": 0.0, "finished": False, "out": "over the budget before training: 90 MB, allowed 25"},
            ],
        },
        "teacher": {"fine_tuned": True, "accuracy": 0.95, "floor": 0.8, "test_rows": ROWS},
        "runs": {},
        "quantized": {"onnx_int8_dynamic": {
            "loss": {"drop": -0.001, "flips": 0.01, "divergence": 0.0004, "kept_in_float": ["a/MatMul"], "judged_rows": 64},
            "facts": {"scheme": "7-bit weights", "bytes": 10_000_000, "float_bytes": 40_000_000, "saturation_free": True}}},
    }  # fmt: skip


class Page(HTMLParser):
    """What a reader sees, and what the browser would fetch."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.figures: dict[str, Any] = {}
        self.inside: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)
        self.text = " ".join(" ".join(self.seen).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "action", "poster")]
        if tag in ("script", "style"):
            self.inside.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag in ("script", "style"):
            self.inside.pop()

    def handle_data(self, data: str) -> None:
        if not self.inside:
            self.seen.append(data)
        elif self.inside[-1][1].get("id") == "figures":
            self.figures = json.loads(data, parse_constant=pytest.fail)


def page_of(report: Report, details: dict[str, Any] | None = None, choice: Choice | None = None) -> Page:
    return Page(render(report, choice or choose(report), some_details() if details is None else details))


def words_in(value: Any) -> list[str]:
    """Every text in a nest of lists and mappings."""
    if isinstance(value, str):
        return [value]
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    return [word for item in items for word in words_in(item)]


CASES = [
    pytest.param(a_report(), id="measured"),
    pytest.param(a_report(how="not measured"), id="build only"),
    pytest.param(a_report(how="emulated"), id="emulated"),
    pytest.param(a_report(size_mb=1), id="nothing fits"),
    pytest.param(a_report(classes=tuple(f"class {number}" for number in range(60))), id="many classes"),
]


@pytest.mark.parametrize("report", CASES)
def test_page_fetches_nothing_and_is_whole(report: Report) -> None:
    """A page that needs a network, shows `None` or `NaN`, or runs a script that came with the data."""
    page = page_of(report)
    assert all(address.startswith("#") for address in page.addresses), page.addresses
    assert not {"link", "img", "iframe"} & set(page.tags)
    assert page.tags.count("script") == 3
    assert not re.search(r"\b(NaN|None|nan|Undefined|inf)\b", page.text)
    assert EVIL in page.text  # as text: the three scripts are ours
    assert not [word for word in words_in(page.figures) if "NaN" in word or "None" in word or "<script" in word]


@pytest.mark.parametrize("report", CASES)
def test_figures_fit_plotlys_schema(report: Report) -> None:
    """A misspelt property that plotly.js would silently ignore."""
    graph_objects = pytest.importorskip("plotly.graph_objects")
    chosen = report.variant(choose(report).chosen)
    figures = [draw(report, chosen) for draw in FIGURES.values()] + [draw_data(some_details()) for draw_data in DATA_FIGURES.values()]
    for figure in figures:
        if figure is not None:
            text = json.dumps(figure, allow_nan=False)
            graph_objects.Figure(json.loads(re.sub(r'"--[a-z0-9]+"', '"#123456"', text)))


def test_no_colour_is_unknown_to_the_style_sheet() -> None:
    """A mark that is drawn in no colour because its CSS variable has another name."""
    text = render(a_report(), choose(a_report()), {})
    used = {word for word in words_in(Page(text).figures) if word.startswith("--")}
    assert used <= set(re.findall(r"(--[a-z0-9]+):", text))


def test_what_was_not_measured_is_said() -> None:
    """An empty latency section that a reader takes for a fault, or for a pass."""
    for how, sentence in (("not measured", "have not run on the device"), ("emulated", "the clock is not")):
        page = page_of(a_report(how=how))
        assert sentence in page.text
        assert "Latency not measured" in page.text
        assert "faster than the teacher" not in page.text
        assert "distribution" not in page.figures and "by_length" not in page.figures
        assert "Size, MB" in page.figures["pareto"]["layout"]["xaxis"]["title"]["text"]


def test_verdict_heads_the_page() -> None:
    """A reader who cannot see at once what ships and what it costs."""
    report = a_report()
    page = page_of(report)
    assert "✓ PASS student int8_dynamic" in page.text
    assert "smaller 10.0 instead of 90.0 MB" in page.text
    assert "student int4_block : accuracy_drop is" in page.text
    failed = page_of(a_report(size_mb=1))
    assert "✗ FAIL Nothing ships; nearest miss: student int4_block" in failed.text
    assert "What to change" in failed.text


def test_pass_whose_interval_reaches_past_the_limit_is_doubted() -> None:
    """A PASS that the test set is too small to bear, sold as certain."""
    report = a_report(size_mb=25)
    drop = accuracy_difference(report, report.teacher, report.variant("student int8_dynamic"))
    assert drop.value < 0.01 < drop.high
    doubtful = page_of(a_report(size_mb=25, accuracy_drop=0.01), choice=Choice("student int8_dynamic", "PASS", []))
    assert f"120 test rows cannot rule out a drop of {100 * drop.high:.1f} points" in doubtful.text
    assert "cannot rule out" not in page_of(a_report(accuracy_drop=0.9)).text


def test_slice_with_few_rows_has_no_figure() -> None:
    """An accuracy of three rows, read as one."""
    page = page_of(a_report())
    assert "typos 3 too few rows" in page.text
    assert "non_latin another script 0 no rows" in page.text
    assert "too few rows (3)" in words_in(page.figures["slices"])


def test_reading_of_a_gain_follows_its_interval() -> None:
    """A difference within chance, called a gain."""
    report = a_report()
    same = report.model_copy(update={"variants": [v.model_copy(update={"predicted": report.teacher.predicted}) for v in report.variants]})
    page = page_of(same)
    assert "not told apart from zero" in page.text
    assert "a gain" not in page.text.split("Slices The same")[0].split("McNemar Reading")[1]


def test_what_the_transfer_set_lacks_and_what_will_go_wrong_is_said() -> None:
    """A worst-covered kind, a missed quota or a foretold mistake that stands in the facts and not on the page."""
    page = page_of(a_report())
    assert "covered [89.0, 91.0]" in page.text and "chance alone stays under 0.0100" in page.text
    assert f"refund, {EVIL} such as “{EVIL}” 60 50.0 49.0 to 51.0 10.0 5.0 −5.0 −9.0 to −1.0 a text {EVIL}" in page.text
    assert "typos 10.0 0.4 20 not met : the texts gave no more" in page.text
    assert "The teacher labelled 900 of 9,000 texts, where a committee of quick students was in doubt" in page.text
    assert "It differs from the teacher on 8.0 % of them [7.0, 9.0]" in page.text
    assert "95 100 rows cannot promise it 0.810 90.0" in page.text and "90 0.620 97.0 0.500 100.0" in page.text
    assert "kinds" in page.figures
    told = some_details()["foretold"] | {"thresholds": []}
    assert "Below which confidence" not in page_of(a_report(), some_details() | {"foretold": told}).text, (
        "a task without confidence has no such"
    )
    nothing = page_of(a_report(), some_details() | {"foretold": {"rows": 0, "binary": "b"}, "coverage": {}})
    assert "Nothing was held out" in nothing.text and "kinds" not in nothing.figures


def test_traffic_of_several_files_is_counted() -> None:
    """The page breaks at the second file, or shows what was removed from all of them as that file's."""
    told = some_details()
    file = told["card"]["files"]["train"]
    told["card"]["files"] |= {"traffic": file, "traffic_2": file}
    told["card"]["leaks_removed"] = {"traffic_in_test": {"exact": 3, "near": 4}, "traffic_in_traffic": {"exact": 20, "near": 2}}
    page = page_of(a_report(), told)
    assert "alike 7 and 22 in another traffic file 780 traffic_2" in page.text and "alike counted with the first 780" in page.text


def test_how_the_student_was_found_is_said() -> None:
    """A candidate that was dropped for a reason nobody is told."""
    page = page_of(a_report())
    assert "conv width=64 1.00 0.0500 0.0600 80.0 → 90.0 → 94.0 40.0 chosen" in page.text
    assert f"big {EVIL} 90.0 – – over the budget before training: 90 MB, allowed 25" in page.text
    assert "on 35 held-out texts" in page.text and "the budget asks for 93.0 %" in page.text
    assert "How the student was found" not in page_of(a_report(), some_details() | {"search": None}).text


def test_types_of_spans_are_told_apart() -> None:
    """A tagger whose one type fails behind a good mean; and a type seen twice whose figure means nothing."""
    report = a_report()
    expected = [[[0, 4, "NAME"], [5, 9, EVIL]] if row % 2 else [[0, 4, "NAME"]] for row in range(ROWS)]
    expected[0] = [[0, 4, "RARE"]]
    answered = [[span for span in spans if span[2] != EVIL] for spans in expected]
    variants = [
        one.model_copy(update={"predicted": expected if one.role == "teacher" else answered, "confidence": []}) for one in report.variants
    ]
    report = report.model_copy(
        update={
            "task": "tag",
            "metric": "entity F1",
            "expected": expected,
            "variants": variants,
            "against": "teacher",
            "classes": ["NAME", EVIL],
        }
    )
    text = page_of(report).text
    assert "Entity F1 taken apart" in text and "those that the teacher gives" in text
    rows = re.search(r"NAME 119 119 119 100\.0 100\.0 100\.0.*?60 0 0 – 0\.0 0\.0.*?RARE 1 1 1 too few rows", text)
    assert rows, text
    assert "Entity F1 taken apart" not in page_of(a_report()).text


def test_details_may_be_missing() -> None:
    """A report of an older or partial run that cannot be shown at all."""
    page = page_of(a_report(), details={})
    assert "Every binary, side by side" in page.text
    assert not re.search(r"\b(NaN|None)\b", page.text)


def test_render_run_reads_what_compile_wrote(tmp_path: Path) -> None:
    """The verb and the stage giving different pages."""
    report = a_report()
    choice = choose(report)
    write_report(report, tmp_path / "report.json")
    (tmp_path / "choice.json").write_text(json.dumps(vars(choice)))
    (tmp_path / "details.json").write_text(json.dumps(some_details()))
    assert render_run(tmp_path) == render(report, choice, some_details())


def test_render_run_names_what_is_missing(tmp_path: Path) -> None:
    """A traceback for a wrong folder."""
    with pytest.raises(InputError) as caught:
        render_run(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}: there is no report.json and no choice.json and no details.json here, so this is not a finished run. "
        "Give the folder of one target that `edgedistill compile` wrote, such as out/NAME/TARGET."
    )


def test_page_is_the_same_each_time() -> None:
    """A second compile whose page differs by a random id or a date."""
    report = a_report()
    assert render(report, choose(report), some_details()) == render(report, choose(report), some_details())


def test_figures_as_text() -> None:
    """Figures with digits that mean nothing, or with a hyphen for a minus."""
    assert [number(value) for value in (0, 0.12345, 1.0449, 10.44, 1044.4, None, math.nan)] == [
        "0",
        "0.123",
        "1.04",
        "10.4",
        "1,044",
        "–",
        "–",
    ]
    assert [points(value) for value in (-0.0167, 0.01, 0.0, -0.0001, None)] == ["−1.7", "+1.0", "0.0", "0.0", "–"]
    assert count(15452) == "15,452"
    assert signed("from -2.9 to -0.4, int8-2 and 1-2") == "from −2.9 to −0.4, int8-2 and 1-2"
    assert flat({"a": {"b": None, "c": [1]}, "d": "x"}) == [("a.c", "[1]"), ("d", '"x"')]


def test_a_machine_that_drifted_is_no_verdict() -> None:
    """A page that shows the figures of a clock that sank during the run as if they were of one machine."""
    steady = a_report().model_copy(update={"steady": Steadiness(1.0, 1.02, 1.1)})
    page = render(steady, choose(steady), {})
    assert "The machine was steady: a fixed loop took 1.00 ms before and 1.02 ms after" in page and 'id="plot-over_time"' in page
    drifted = steady.model_copy(update={"steady": Steadiness(1.0, 1.4, 1.1)})
    states = {limit.limit: limit for limit in verdicts(drifted, drifted.variant("student int8_dynamic"))}
    assert states["p90_ms"].state == "UNDECIDED" and states["size_mb"].state == "PASS"
    assert states["p90_ms"].reason.startswith("invalid: the machine's clock drifted by +40% during the run")
    assert "Invalid: the machine&#39;s clock drifted by +40%" in render(drifted, choose(drifted), {})
    # What is stored is what was seen, and it comes back from the file.
    assert Report.model_validate_json(drifted.model_dump_json()).steady == Steadiness(1.0, 1.4, 1.1)


def test_a_long_run_is_shown(tmp_path: Path) -> None:
    """A long run that was made and is not on the page, or one on a drifting clock that the page calls good."""
    report = a_report()
    windows = tuple(Window(at / 3, (1_000_000 + 5_000 * at, 1_100_000 + 5_000 * at)) for at in range(90))
    for clock, words in ((Steadiness(1.0, 1.0), None), (Steadiness(1.0, 1.5), "this run is invalid")):
        bench = {"how": "measured", "target": "board", "p90_limit_ms": 5.0, "sustained": Sustained(30.0, windows, clock).as_json()}
        write_report(report, tmp_path / "report.json")
        (tmp_path / "choice.json").write_text(json.dumps(as_json(choose(report))))
        (tmp_path / "details.json").write_text("{}")
        (tmp_path / "bench.json").write_text(json.dumps(bench))
        page = render_run(tmp_path)
        assert 'id="plot-sustained"' in page and "latency over 30 seconds" in page
        assert ("this run is invalid" in page) == (words is not None)
    figure = DATA_FIGURES["sustained"]({"bench": bench})
    assert figure and [len(curve["y"]) for curve in figure["data"]] == [90, 90] and figure["data"][0]["y"][-1] > figure["data"][0]["y"][0]
    (tmp_path / "bench.json").unlink()
    assert "No long run was made." in render_run(tmp_path) and 'id="plot-sustained"' not in render_run(tmp_path)


class Drifting:
    """A runner whose machine loses half its clock in its first run, and then stays as it is."""

    def __init__(self) -> None:
        self.looked = 0

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        if "loop" in request:
            self.looked += 1
            return {"loop_ns": [1_000_000 if self.looked == 1 else 2_000_000] * request["loop"]}
        times = {name: [1000] * len(request["texts"]) for name in ("tokenize_ns", "model_ns", "decode_ns")}
        return {**times, "peak_bytes": 1, "answers": [{"target": 0}] * len(request["texts"])}


def test_a_run_on_a_drifting_machine_is_done_again() -> None:
    """Figures of two machines in one report, since the clock sank in between."""
    params = benchmark.Params("name", "classify", {}, 16, (), {}, 0)
    runner = Drifting()
    seen, steady = benchmark._steadily({"student": runner}, params, ["a", "b"], ["student"])
    assert steady and steady.valid and runner.looked == 4 and len(seen["student"].answers) == 2
    assert benchmark._steadily({"student": Drifting()}, params, ["a", "b"], [])[1] is None
