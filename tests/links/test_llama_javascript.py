"""GGUF bundles in Node and in a page: llama.cpp as node-llama-cpp's library and as wllama, the prompt and the grammar in JavaScript."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgedistill import javascript, plugins
from edgedistill.bundle_format import read_bundle, read_golden
from edgedistill.errors import StageError, TargetError
from edgedistill.links import browser, node
from edgedistill.llama_causal import log_softmax, open_decoder
from edgedistill.prompts import open_prompts
from edgedistill.stages.verify import on_runner
from edgedistill.target import Link
from tests import tiny_decoders
from tests.links.test_browser import request
from tests.tiny_gguf import make_gguf_bundle

NODE, PAGE = Link(kind="node"), Link(kind="browser")
WHERE = [NODE, pytest.param(PAGE, marks=pytest.mark.long)]  # the page writes in a test of the web app, too


@pytest.fixture
def runs(native_home: Path) -> None:
    lacking = node.ready(NODE) or browser.ready(PAGE)
    if lacking:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(lacking)
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        pytest.skip("node-llama-cpp's library is taken for 64-bit x86 Linux alone")


NEAR_TIE = 0.1  # of a logit


@pytest.mark.parametrize("link", WHERE)
@pytest.mark.parametrize("name", ["llama", "qwen2"])
def test_golden_vectors(runs: None, gguf_bundles: dict[str, Path], link: Link, name: str) -> None:
    """A prompt that is cut otherwise, a grammar that stands still, or WebAssembly that writes otherwise than the bundle; times that are none."""
    bundle = gguf_bundles[name]
    runner = plugins.find("links", link.kind).open_runner(link, "llama_cpp", request(bundle))
    try:
        result = on_runner(name, read_bundle(bundle).logit_bound, list(read_golden(bundle / "golden.jsonl")), runner)
        said = runner.ask({"texts": ["who", "x"], "tokens": 24, "wants": ["ids", "answers"]})
        free = runner.ask({"texts": ["who"], "constrained": False, "wants": ["answers"]})
    finally:
        runner.close()
    assert result.good and result.vectors == 64, result.wrong
    assert result.same > 0.97 * result.tokens > 1000  # of weights that learned nothing, some tokens lead by next to nothing
    assert [len(ids) for ids in said["ids"]] == [24, 24] and said["prompt_tokens"] == [24, 24]
    assert all(0 < first < whole for first, whole in zip(said["first_ns"], said["model_ns"], strict=True))
    assert free["answers"][0]["answer"] is None, "random weights write no JSON by themselves: the grammar was not left out"


def test_digits_that_are_not_decimal(runs: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A prompt cut otherwise in JavaScript where it holds a number that is no decimal digit: ½ joined with the space before it."""
    monkeypatch.setattr(tiny_decoders, "TELLING", (("Ġ", "Â"), *tiny_decoders.TELLING))
    bundle, texts = make_gguf_bundle(tmp_path, "generate"), ["who ½ and ① of", "Ⅷ ² 42"]
    manifest = read_bundle(bundle)
    prompts = open_prompts(bundle / "tokenizer.json", manifest.task_settings(), manifest.max_tokens)
    runner = node.open_runner(NODE, "llama_cpp", request(bundle))
    try:
        said = runner.ask({"texts": texts, "wants": ["ids"]})
    finally:
        runner.close()
    assert said["ids"] == [prompts.encode(text)[0] for text in texts]


@pytest.mark.parametrize("link", WHERE)
def test_the_likeliest_tokens_are_the_same(runs: None, gguf_bundles: dict[str, Path], link: Link) -> None:
    """Another llama.cpp than the one that was measured, whose next tokens are others: at each place of a given answer, under no grammar."""
    bundle = gguf_bundles["llama"]
    golden = list(read_golden(bundle / "golden.jsonl"))[:8]
    answers = [vector.written for vector in golden]
    decoder = open_decoder(bundle / "model.gguf", read_bundle(bundle).max_tokens)
    runner = plugins.find("links", link.kind).open_runner(link, "llama_cpp", request(bundle))
    same = total = 0
    try:
        for vector, answer in zip(golden, answers, strict=True):
            logits = decoder.logits([*vector.ids, *answer])[len(vector.ids) - 1 : -1]
            [held] = runner.ask({"forced": [{"ids": vector.ids, "answer": answer}]})["forced"]
            found, scores = held["likeliest"], log_softmax(logits)[range(len(answer)), answer]
            np.testing.assert_allclose(held["scores"], scores, atol=0.2)
            # Of weights that learned nothing, some of the likeliest tokens lead by next to nothing: two of 194 in the page.
            behind = logits.max(-1) - logits[range(len(found)), found]
            same, total = same + int((behind < NEAR_TIE).sum()), total + len(found)
    finally:
        runner.close()
    assert total > 150 and same / total >= 0.99, f"{same} of {total}"


def test_the_grammar_of_the_page_is_llama_s(runs: None, gguf_bundles: dict[str, Path], tmp_path: Path) -> None:
    """A grammar followed by us that lets through what llama.cpp would not, or forbids what it would write: every token at every place of answers."""
    from tokenizers import Tokenizer

    bundle = gguf_bundles["llama"]
    tokenizer = Tokenizer.from_file(str(bundle / "tokenizer.json"))
    text = (
        'root ::= "[" item ("," " "? item){0,3} "]" | "-"? [0-9]{1,3} ("." [0-9]+)?\n'
        'item ::= "true" | "\\"" ([^"\\\\\\x00-\\x1f] | "\\\\" ["\\\\/bfnrt]){0,6} "\\"" # ends\n'
    )
    cases = [
        (text, ['[true, "né€\\n👍", true]', "-12.5", '["", "ab\\"c"]']),
        (read_bundle(bundle).settings["grammar"], ['{"do": "set", "all": true, "to": 8}']),
    ]
    modules = javascript.node_modules("llama_cpp")
    for grammar, answers in cases:
        ids = [tokenizer.encode(answer, add_special_tokens=False).ids for answer in answers]
        command = [
            "node",
            str(Path(__file__).parent.parent / "grammar_check.mjs"),
            str(modules),
            str(javascript.bundle_code()[1]),
            str(bundle / "model.gguf"),
        ]
        done = subprocess.run(command, input=json.dumps({"grammar": grammar, "answers": ids}), capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        said = json.loads(done.stdout)
        assert said["asked"] > 5000 and said["differs"] == 0, said


def test_what_cannot_be_run_is_said(runs: None, gguf_bundles: dict[str, Path], tmp_path: Path) -> None:
    """A classifier put to a library that only writes, or a broken file behind a stack of JavaScript."""
    assert (
        javascript.refuses("classify", tmp_path, "llama_cpp")
        == 'the JavaScript runners of llama_cpp have no answer to the task "classify" yet.'
    )
    with pytest.raises(TargetError) as unknown:
        node.open_runner(NODE, "tflite", {})
    assert str(unknown.value) == "target: runtime: the link node runs onnxruntime and llama_cpp, not tflite."
    with pytest.raises(StageError) as classifier:
        node.open_runner(NODE, "llama_cpp", request(gguf_bundles["classify"]))
    assert "The bundle is GGUF and its task classify: JavaScript runs GGUF that writes its answer alone." in str(classifier.value)
    bundle = Path(shutil.copytree(gguf_bundles["llama"], tmp_path / "bundle"))
    asked = request(bundle)
    (bundle / "model.gguf").write_bytes((bundle / "model.gguf").read_bytes()[:5000])
    with pytest.raises(StageError) as broken:
        node.open_runner(NODE, "llama_cpp", asked)
    assert str(broken.value) == f"the runner in Node: llama.cpp cannot load {bundle}/model.gguf"
