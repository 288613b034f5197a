"""A small real bundle that tags: a tiny BERT with seeded weights that answers word by word, exported to ONNX, answered by this machine."""

from __future__ import annotations

from pathlib import Path

from edgedistill.exporters.onnx import export
from edgedistill.models import load_model, load_tokenizer, save
from edgedistill.stages.bundle import FLOAT_APART
from tests.tiny_bundle import seal
from tests.tiny_models import SENTENCES, tiny_bert

LABELS = ["O", "B-PLACE", "I-PLACE", "B-TIME", "I-TIME"]
MAX_TOKENS = 48
TEXTS = [
    *SENTENCES,
    "Who wrote it in the LONDON of 1850 ?",
    "Ünïcode cäfé, naïve",
    "the moon\u0301 of 東京 and ไทย",
    "word" * 40 + " the moon",
    "the , moon _ of-earth's [MASK] river",
    "👍 the moon 👩‍👩‍👧‍👦 rests",
]


def make_tag_bundle(folder: Path) -> Path:
    """`folder`/bundle, as compile would have written it for the laptop."""
    import shutil

    task, plain = "token-classification", tiny_bert(folder / "plain")
    save(load_model(plain, task, LABELS), load_tokenizer(plain), folder / "model")
    export(folder / "model", folder / "graphs", SENTENCES, MAX_TOKENS, task)
    bundle = folder / "bundle"
    bundle.mkdir()
    for name in ("model.onnx", "tokenizer.json"):
        shutil.copyfile(folder / "graphs" / name, bundle / name)
    settings = {"labels": LABELS}
    return seal(bundle, "float", name="tiny-tags", task="tag", settings=settings, texts=TEXTS, max_tokens=MAX_TOKENS, apart=FLOAT_APART)
