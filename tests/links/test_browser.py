"""The bundle in a page of a real Chromium, and in Node: the same JavaScript as the apps run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pytest

from edgedistill import javascript, plugins
from edgedistill.bundle_format import read_bundle, read_golden
from edgedistill.errors import StageError, TargetError
from edgedistill.links import browser, how, node
from edgedistill.runner import RunnerProcess
from edgedistill.stages.bench import bench
from edgedistill.stages.verify import on_runner
from edgedistill.target import Link, find_target
from tests.tiny_models import SENTENCES

PAGE = Link(kind="browser")


@pytest.fixture
def chromium(native_home: Path) -> None:
    if lacking := browser.ready(PAGE):
        if os.environ.get("CI"):
            pytest.fail(lacking)
        pytest.skip(lacking)


def request(bundle: Path, **changes: object) -> dict:
    manifest = read_bundle(bundle)
    facts = {"model": str(bundle / manifest.model), "tokenizer": str(bundle / manifest.tokenizer), "max_tokens": manifest.max_tokens}
    facts |= {"threads": 1, "task": manifest.task, "settings": manifest.task_settings(), "first_text": SENTENCES[0]}
    return facts | changes


def changed(folder: Path, file: str, old: str, new: str) -> Path:
    """The runner's JavaScript with one thing broken."""
    copy = Path(shutil.copytree(javascript.FOLDER, folder / "javascript"))
    text = (copy / file).read_text()
    assert old in text
    (copy / file).write_text(text.replace(old, new))
    return copy


@pytest.mark.parametrize(("link", "threads"), [(PAGE, 1), pytest.param(PAGE, 2, marks=pytest.mark.long), (Link(kind="node"), 1)])
def test_golden_vectors(chromium: None, tiny_bundle: Path, link: Link, threads: int) -> None:
    """A page or a service that cuts texts otherwise, or whose WebAssembly answers otherwise than the bundle; times that are none."""
    opened = plugins.find("links", link.kind).open_runner
    runner: RunnerProcess = opened(link, "onnxruntime", request(tiny_bundle, threads=threads))
    try:
        result = on_runner("tiny", 0.2, list(read_golden(tiny_bundle / "golden.jsonl")), runner)
        assert result.good and result.vectors >= 64 and result.worst_logit <= 0.05, result.wrong
        said = runner.ask({"texts": SENTENCES[:3], "tokens": 16, "wants": ["ids", "answers"]})
        assert [len(ids) for ids in said["ids"]] == [16] * 3
        assert all(0 < one["confidence"] <= 1 and isinstance(one["target"], int) for one in said["answers"])
        assert all(0 < spent < 10**10 for spent in said["model_ns"])
        hello = runner.hello
        assert 10_000_000 < hello["baseline_bytes"] < hello["peak_bytes"] <= said["peak_bytes"] < 2 * 10**9
        assert 0 < hello["load_ms"] <= hello["cold_start_ms"] < 120_000
    finally:
        runner.close()


def test_what_figures_of_a_page_are_worth() -> None:
    """A slowed page whose milliseconds pass for a phone's, or one on this machine that is taken for emulated."""
    assert (how(find_target("browser-desktop").link), how(find_target("browser-phone").link)) == ("measured", "not measured")


@pytest.mark.long
def test_bench_in_a_slowed_page(chromium: None, tiny_bundle: Path) -> None:
    """A verdict on a phone that nobody held."""
    result = bench(tiny_bundle, "browser-phone")
    assert (result.how, result.state, len(result.timings.model_ns)) == ("not measured", "UNDECIDED", 1000)
    assert result.reason == "not measured: these figures are of this machine, only a run on browser-phone can tell"
    who = browser.identity(find_target("browser-phone").link)
    assert who.startswith(("Chromium ", "Google ")) and ", slowed 4 times, runner " in who


def test_what_is_missing(native_home: Path, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A traceback of Node where Chromium, Node or the registry is not there."""
    monkeypatch.setattr(shutil, "which", lambda command: None if command != "npm" else "/usr/bin/npm")
    assert browser.ready(PAGE) == "Chromium is missing. Run: sudo apt-get install chromium nodejs"
    assert node.ready(Link(kind="node")) == "Node is missing. Run: sudo apt-get install nodejs"
    with pytest.raises(TargetError) as lacking:
        bench(tiny_bundle, "browser-desktop")
    assert str(lacking.value) == "browser-desktop: Chromium is missing. Run: sudo apt-get install chromium nodejs"
    monkeypatch.undo()
    monkeypatch.setenv("EDGEDISTILL_HOME", str(tmp_path / "fresh"))
    for name, value in {"registry": "http://127.0.0.1:9", "cache": str(tmp_path / "npm"), "fetch_retries": "0"}.items():
        monkeypatch.setenv(f"npm_config_{name}", value)
    if browser.ready(PAGE) is None:
        with pytest.raises(StageError) as unfetched:
            browser.open_runner(PAGE, "onnxruntime", request(tiny_bundle))
        assert str(unfetched.value) == "the npm package playwright-core@1.65.1 cannot be fetched. Is the registry in reach (npm ping)?"


@pytest.mark.parametrize(
    ("options", "threads", "sentence"),
    [
        ({"slowed": "four"}, 1, "target: link.slowed: 'four' is no factor. Write a number from 1 to 100, such as 4."),
        ({"slowed": 0.5}, 1, "target: link.slowed: 0.5 is no factor. Write a number from 1 to 100, such as 4."),
        ({"slowed": 4}, 2, "target: link.slowed: a browser slows the page's own thread alone. Write threads = 1."),
        ({"browser": "/none"}, 1, "target: link.browser: there is no browser at /none. Leave it out to take Chromium or Chrome."),
    ],
)
def test_options_that_cannot_be(options: dict, threads: int, sentence: str) -> None:
    """A throttle of nonsense that Chromium takes without a word."""
    with pytest.raises(TargetError) as error:
        browser.open_runner(Link(kind="browser", **options), "onnxruntime", {"threads": threads})
    assert str(error.value) == sentence


def test_a_page_that_is_not_isolated(chromium: None, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers timed by a clock of 0.1 ms steps, taken for exact."""
    monkeypatch.setattr(javascript, "FOLDER", changed(tmp_path, "drive.mjs", '"require-corp"', '"unsafe-none"'))
    with pytest.raises(StageError) as error:
        browser.open_runner(PAGE, "onnxruntime", request(tiny_bundle))
    assert str(error.value) == (
        "the runner in the browser: the page is not isolated from other origins, so its clock is too coarse to measure with: "
        "this browser is too old, or told not to."
    )


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        pytest.param(
            "opened.measure(request)",
            "{ for (;;); }",
            "the page gave no answer within 10 s and was closed: it hangs.",
            marks=pytest.mark.long,
        ),
        pytest.param("let opened;", "let opened = nothing;", "the page does not start: nothing is not defined", marks=pytest.mark.long),
        ("opened.measure(request)", "{ throw new Error('no'); }", "Error: no"),
    ],
)
def test_a_page_that_misbehaves(
    chromium: None, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str, sentence: str
) -> None:
    """A build that waits all night for a page that hangs, a stack of playwright's, or browsers that are left behind."""
    monkeypatch.setattr(javascript, "FOLDER", changed(tmp_path, "page.mjs", old, new))
    monkeypatch.setattr(browser, "SECONDS", 8 if "for" in new or "nothing" in new else 60)
    # The browser's profile: shows who is ours. It holds a socket, whose path must be short.
    profiles = Path(tempfile.mkdtemp(prefix="edge-"))
    monkeypatch.setenv("TMPDIR", str(profiles))
    with pytest.raises(StageError) as error:
        runner = browser.open_runner(PAGE, "onnxruntime", request(tiny_bundle))
        runner.ask({"texts": ["a"]})
    assert str(error.value) == f"the runner in the browser: {sentence}"
    if "runner" in locals():
        runner.close()
    commands = [file.read_bytes() for file in Path("/proc").glob("[0-9]*/cmdline") if file.exists()]
    assert not [command for command in commands if str(profiles / "playwright").encode() in command]
    shutil.rmtree(profiles, ignore_errors=True)


def test_javascript_answers_as_the_tasks_do(tmp_path: Path) -> None:
    """Post-processing that went another way in JavaScript: the same logits, another answer."""
    if shutil.which("node") is None:
        pytest.skip("no Node")
    draw = np.random.default_rng(0)
    labels, cases = ["b", "a", "c"], []
    extra = {"classify": {}, "multi_label": {"threshold": 0.4}, "score": {"mean": [1.0, -2.0, 0.5], "spread": [0.1, 3.0, 7.0]}, "embed": {}}
    for task, settings in extra.items():
        for logits in draw.normal(size=(20, 3)).astype(np.float32):
            answer = plugins.find("tasks", task).answer(logits, {"labels": labels, **settings})
            wanted = {name: answer[name] for name in ("answer", "confidence") if name in answer}
            cases.append([{"task": task, "labels": labels, "settings": settings}, logits.tolist(), wanted])
    (tmp_path / "cases.json").write_text(json.dumps(cases))
    code = (
        f"import {{ answer }} from {json.dumps(str(javascript.bundle_code()[0]))}; import {{ readFileSync }} from 'node:fs';"
        f"const cases = JSON.parse(readFileSync({json.dumps(str(tmp_path / 'cases.json'))}));"
        "console.log(JSON.stringify(cases.map(([manifest, logits]) => answer(manifest, { logits: Float32Array.from(logits) }))))"
    )
    done = subprocess.run(["node", "--input-type=module", "-e", code], capture_output=True, text=True, check=True)
    for (manifest, _, wanted), said in zip(cases, json.loads(done.stdout), strict=True):
        if manifest["task"] in ("classify", "multi_label"):
            assert said["answer"] == wanted["answer"]
            assert said.get("confidence", 0) == pytest.approx(wanted.get("confidence", 0), rel=1e-5)
        else:
            assert said["answer"] == pytest.approx(wanted["answer"], rel=1e-5)
    assert javascript.refuses("generate", Path()) == 'the JavaScript runners of onnxruntime have no answer to the task "generate" yet.'
