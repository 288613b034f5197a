"""embed: a vector for each text of the traffic and of the transfer set, so that later stages can say which texts are alike.

The vector is the mean of the base model's last layer over the text's tokens (mean pooling, Sentence-BERT, arXiv:1908.10084). The base model
and not the fine-tuned one: fine-tuning pulls the texts of one class together, and two kinds of traffic that get the same answer would look
alike. A teacher whose base is no torch model (an API, a bare ONNX file) gives no vectors; words then stand in for it (TF-IDF, cut to its
main directions: latent semantic analysis, Deerwester et al. 1990).

Large sets are sampled: shares and coverage are estimates with intervals, and ten thousand texts make them narrow enough.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgedistill.progress import tick
from edgedistill.store import Stage
from edgedistill.tables import make_rows, read_rows, write_rows

MOST_TRAFFIC, MOST_TRANSFER = 4000, 8000  # texts
DIRECTIONS = 64  # of the vectors that words give
Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Params:
    """max_tokens: longer texts are cut off. precision: as training's."""

    max_tokens: int
    precision: str
    seed: int


def run(out: Path, params: Params, *, prepared: Path, transfer: Path, model: Path) -> None:
    """Writes `traffic.parquet`, `transfer.parquet` (the texts looked at), a `.npy` beside each (float16 [texts, width]) and `facts.json`.

    Traffic is the recipe's traffic file, else the training rows; texts held out of the transfer set are always among it.
    """
    given = (prepared / "traffic.parquet").is_file()
    held = read_rows(transfer / "held_out.parquet").texts
    known = set(held)
    rest = [text for text in read_rows(prepared / ("traffic.parquet" if given else "train.parquet")).texts if text not in known]
    traffic = [*held, *_sample(rest, MOST_TRAFFIC - len(held), params.seed)]
    pool = read_rows(transfer / "transfer.parquet").texts
    parts = {"traffic": traffic, "transfer": _sample(pool, MOST_TRANSFER, params.seed)}
    texts = list(dict.fromkeys(text for part in parts.values() for text in part))
    vectors, space = vectors_of(model, texts, params.max_tokens, params.precision)
    place = {text: number for number, text in enumerate(texts)}
    for name, part in parts.items():
        write_rows(out / f"{name}.parquet", make_rows(part))
        np.save(out / f"{name}.npy", vectors[[place[text] for text in part]].astype(np.float16))
    facts = {
        "space": space,
        "traffic": "traffic file" if given else "training rows",
        "traffic_texts": len(rest) + len(held),
        "transfer_texts": len(pool),
    }
    (out / "facts.json").write_text(json.dumps(facts, indent=1))


def _sample(texts: Sequence[str], most: int, seed: int) -> list[str]:
    if len(texts) <= most:
        return list(texts)
    return random.Random(seed).sample(texts, most)  # noqa: S311  # a sample, not a secret


def vectors_of(model: Path, texts: Sequence[str], max_tokens: int, precision: str) -> tuple[Vectors, str]:
    """(float32 [len(texts), width], what they are)."""
    config = json.loads((model / "config.json").read_text(encoding="utf-8")) if (model / "config.json").is_file() else {}
    # The states of a decoder say what comes next, not what a text is about.
    decoder = any(name.endswith("ForCausalLM") for name in config.get("architectures") or [])
    if config and not decoder and list(model.glob("*.safetensors")):
        return _model_vectors(model, texts, max_tokens, precision), "mean of the base model's last layer"
    return _word_vectors(texts), "words (TF-IDF): this teacher gives no vectors"


def _model_vectors(model: Path, texts: Sequence[str], max_tokens: int, precision: str) -> Vectors:
    import torch

    from edgedistill.models import load_model, load_tokenizer
    from edgedistill.teachers.transformers import batches_by_length
    from edgedistill.training import pad

    loaded = load_model(model, "feature-extraction", ["vector"], dtype="float32")
    tokens = [encoding.ids for encoding in load_tokenizer(model, max_tokens).encode_batch(list(texts))]
    tokens = [row or [loaded.config.pad_token_id or 0] for row in tokens]  # a tokenizer without special tokens gives nothing for " "
    out: Vectors | None = None
    done = 0
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
        for places in batches_by_length([len(row) for row in tokens]):
            batch = {
                name: torch.from_numpy(values) for name, values in pad([tokens[p] for p in places], loaded.config.pad_token_id or 0).items()
            }
            states = loaded(**batch).last_hidden_state.float()
            mask = batch["attention_mask"][..., None].float()
            pooled = ((states * mask).sum(dim=1) / mask.sum(dim=1)).numpy()
            if out is None:
                out = np.empty((len(texts), pooled.shape[1]), np.float32)
            out[places] = pooled
            done += len(places)
            tick("embedding traffic and transfer set", done, len(texts))
    assert out is not None  # there is always a text
    return out


def _word_vectors(texts: Sequence[str]) -> Vectors:
    from edgedistill.quick_student import word_directions

    return word_directions(texts, DIRECTIONS)


EMBED = Stage("embed", 1, run, ("torch", "transformers", "tokenizers", "scikit-learn", "pyarrow"))
