"""A small real bundle without a compile: a tiny BERT with seeded weights, exported, quantized, with golden vectors that this machine answered."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgedistill import plugins
from edgedistill.bundle_format import Manifest, digests, write_golden, write_manifest
from edgedistill.exporters.onnx import batches, export
from edgedistill.stages.bundle import QUANTIZED_APART, Params, golden_vectors
from edgedistill.target import Link, Target, find_target
from tests.tiny_models import SENTENCES, tiny_bert

LABELS = ["a", "b", "c", "d", "e"]
MAX_TOKENS = 48


def target(kind: str = "local", **changes: Any) -> Target:
    """The laptop, reached by another link."""
    options = {name: changes.pop(name) for name in list(changes) if name not in Target.model_fields}
    return find_target("laptop-x86").model_copy(update={"link": Link(kind=kind, **options), **changes})


def make_bundle(folder: Path, scheme: str = "onnx_int8_dynamic", model: Callable[[Path], Path] = tiny_bert) -> Path:
    """`folder`/bundle, as compile would have written it for the laptop. model: writes the student into a folder and gives it."""
    from tokenizers import Tokenizer

    export(model(folder / "model"), folder / "graphs", SENTENCES, MAX_TOKENS)
    tokenizer = Tokenizer.from_file(str(folder / "graphs" / "tokenizer.json"))
    rows = batches([tokenizer.encode(text).ids for text in SENTENCES], 0)
    (folder / "bundle").mkdir()
    plugins.find("quantizers", scheme).quantize(folder / "graphs", folder / "quantized", rows, frozenset())
    shutil.copyfile(folder / "quantized" / "model.onnx", folder / "bundle" / "model.onnx")
    shutil.copyfile(folder / "graphs" / "tokenizer.json", folder / "bundle" / "tokenizer.json")
    return seal(folder / "bundle", scheme)


def seal(
    bundle: Path,
    scheme: str = "onnx_int8_dynamic",
    *,
    name: str = "tiny",
    task: str = "classify",
    settings: dict[str, Any] | None = None,
    texts: list[str] = SENTENCES,
    max_tokens: int = MAX_TOKENS,
    apart: float = QUANTIZED_APART,
    target: str = "laptop-x86",
) -> Path:
    """Golden vectors and the manifest, for what is in the folder now."""
    device, settings = find_target(target), settings or {"labels": LABELS}
    facts = device.model_dump(mode="json")
    vectors, bound = golden_vectors(bundle, Params(name, task, facts, max_tokens, (), {}), device, settings, texts, apart)
    write_golden(bundle / "golden.jsonl", vectors)
    manifest = Manifest(
        name=name,
        task=task,
        labels=settings["labels"],
        format=device.format,
        model=device.model_file,
        tokenizer="tokenizer.json",
        max_tokens=max_tokens,
        scheme=scheme,
        runtime=device.runtime,
        threads=1,
        target=facts,
        files=digests(bundle),
        logit_bound=bound,
        measured={},
        versions={},
        lineage={},
        settings={key: value for key, value in settings.items() if key != "labels"},
    )
    write_manifest(bundle, manifest)
    return bundle
