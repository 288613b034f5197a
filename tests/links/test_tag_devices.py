"""Bundles that tag, by the C++ runner and by the JavaScript ones: the words, the places of tokens and the spans are found again in each language."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest

from edgedistill import plugins
from edgedistill.bundle_format import read_bundle, read_golden
from edgedistill.links import browser, local, local_cpp, node, qemu
from edgedistill.stages.verify import on_runner
from edgedistill.target import Link
from tests.all_scripts import strings
from tests.links.test_browser import request
from tests.tiny_models import SENTENCES

CPP, NODE = Link(kind="local_cpp"), Link(kind="node")
ARM, PAGE = Link(kind="qemu", cpu="cortex-a53"), Link(kind="browser")
READY = {"local_cpp": local_cpp, "node": node, "qemu": qemu, "browser": browser}


@pytest.fixture
def runs(native_home: Path) -> None:
    lacking = [why for link in (CPP, NODE, ARM, PAGE) if (why := READY[link.kind].ready(link))]
    if lacking:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(str(lacking))


@pytest.mark.parametrize("link", [CPP, NODE, *(pytest.param(link, marks=pytest.mark.long) for link in (ARM, PAGE))])
def test_golden_vectors(runs: None, tag_bundle: Path, link: Link) -> None:
    """Spans a character off behind an emoji, in a text with accents, or where the tokenizer drops a sign."""
    runner = plugins.find("links", link.kind).open_runner(link, "onnxruntime", request(tag_bundle))
    try:
        result = on_runner("tags", read_bundle(tag_bundle).logit_bound, list(read_golden(tag_bundle / "golden.jsonl")), runner)
        (said,) = runner.ask({"texts": [SENTENCES[1]], "wants": ["answers"]})["answers"]
    finally:
        runner.close()
    assert result.good and result.vectors == 64, result.wrong
    assert said["target"] == said["answer"] == [[span["start"], span["end"], span["label"]] for span in said["spans"]]
    assert all(span["text"] == SENTENCES[1][span["start"] : span["end"]] and 0 < span["confidence"] <= 1 for span in said["spans"])


def _is_mark(character: str) -> bool:
    return unicodedata.combining(character) > 0 or unicodedata.category(character) in ("Cn", "Mc", "Me")


def test_same_spans_on_texts_of_all_scripts(runs: None, tag_bundle: Path) -> None:
    """A device that marks other words in some script: the app would cover the wrong ones."""
    # Without marks: those that Unicode puts into another order take each other's places in the tokenizers library. And of characters that Python knows.
    plain = str.maketrans("", "", "".join(filter(_is_mark, map(chr, range(sys.maxunicode + 1)))))
    texts = [text for text in (text.translate(plain) for text in strings(900, seed=11)) if text]
    asked = {"texts": texts, "wants": ["answers", "ids"]}
    found = {}
    for name, module, link in (("python", local, Link(kind="local")), ("cpp", local_cpp, CPP)):
        runner = module.open_runner(link, "onnxruntime", request(tag_bundle))
        try:
            said = runner.ask(asked)
        finally:
            runner.close()
        found[name] = [(ids, one["answer"]) for ids, one in zip(said["ids"], said["answers"], strict=True)]
    wrong = [text for text, one, other in zip(texts, found["python"], found["cpp"], strict=True) if one != other]
    assert wrong == [], f"{len(wrong)} of {len(texts)}: {wrong[0]!a}"
    assert sum(bool(answer) for _, answer in found["cpp"]) > 200


def test_the_app_in_node_tags(runs: None, tag_bundle: Path, tmp_path: Path) -> None:
    """A file that the service needs and that its folder lacks."""
    from edgedistill.stages.app import assemble

    app = assemble("node", tag_bundle, tmp_path / "app")
    assert subprocess.run(app.next[0].split(), cwd=tmp_path / "app", capture_output=True, timeout=300).returncode == 0
    done = subprocess.run(["node", "server.mjs", "--golden"], cwd=tmp_path / "app", capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and json.loads(done.stdout)["golden"] == "equal", done.stdout + done.stderr
