"""Small real GGUF bundles without a compile: a tiny BERT that classifies or embeds, a tiny decoder that writes JSON, answered by this machine."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgedistill import plugins
from edgedistill.bundle_format import digests, read_golden, read_manifest, write_golden, write_manifest
from edgedistill.exporters import gguf
from edgedistill.models import load_model, load_tokenizer, save
from edgedistill.stages.bundle import LLAMA_APART
from edgedistill.tasks import generate
from tests.tiny_bundle import seal
from tests.tiny_decoders import tiny_decoder
from tests.tiny_models import SENTENCES, tiny_bert

MAX_TOKENS = {"classify": 48, "embed": 48, "generate": 96}
PROMPT = ["<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"]
# Short answers of few choices: what random weights write must not hang on a near tie.
ANSWERS = [{"do": "set", "all": True, "to": 1}, {"do": "set", "all": False, "to": 2}, {"do": "off", "all": True}]


def settings_of(task: str) -> dict[str, Any]:
    if task == "generate":
        found = generate.settings(ANSWERS, type("Options", (), {"prompt": "{text}".join(PROMPT)}))
        return {**found, "grammar": found["grammar"].replace("[0-9]{1,9}", "[0-9]")}
    return {"labels": ["a", "b", "c", "d", "e"] if task == "classify" else []}


def shortened(bundle: Path, out: Path, vectors: int) -> Path:
    """A copy with a few of its golden vectors, for where each takes seconds."""
    copy = Path(shutil.copytree(bundle, out))
    write_golden(copy / "golden.jsonl", [vector for vector in read_golden(copy / "golden.jsonl") if 0 < len(vector.text) < 100][:vectors])
    write_manifest(copy, replace(read_manifest(copy), files=digests(copy)))
    return copy


def make_gguf_bundle(folder: Path, task: str = "classify", kind: str = "llama", scheme: str = "gguf_q8_0", **changes: int) -> Path:
    """`folder`/bundle, as compile would have written it for the laptop with llama.cpp. kind, changes: of a decoder, in transformers' words."""
    if task == "generate":
        gguf.export(tiny_decoder(folder / "model", kind, **changes), folder / "graphs", SENTENCES, MAX_TOKENS[task])
    elif task == "classify":
        gguf.export(tiny_bert(folder / "model"), folder / "graphs", SENTENCES, MAX_TOKENS[task])
    else:
        kind, plain = "sentence-similarity", tiny_bert(folder / "plain")
        save(load_model(plain, kind, [str(place) for place in range(8)]), load_tokenizer(plain), folder / "model")
        gguf.export(folder / "model", folder / "graphs", SENTENCES, MAX_TOKENS[task], kind)
    bundle = folder / "bundle"
    bundle.mkdir()
    plugins.find("quantizers", scheme).quantize(folder / "graphs", folder / "quantized", [], frozenset())
    shutil.copyfile(folder / "quantized" / "model.gguf", bundle / "model.gguf")
    shutil.copyfile(folder / "graphs" / "tokenizer.json", bundle / "tokenizer.json")
    settings, room = settings_of(task), MAX_TOKENS[task]
    return seal(bundle, scheme, task=task, settings=settings, max_tokens=room, apart=LLAMA_APART, target="laptop-x86-llama")
