"""GGUF: one float file for llama.cpp, weights, vocabulary and head in one.

llama.cpp's own converter is a script of its source tree, and for encoders it is wrong in silence: it drops BERT's pooler, so a classifier's answers
come out of a head that was trained on something else. So this is a plain writer on top of the `gguf` package: the tensors under llama.cpp's names,
nothing left out, and the graph that llama.cpp knows for them.

- A classifier is `pooling_type = RANK`: the first token's vector, through the pooler (`cls`, tanh) and the classifier (`cls.output`).
- A sentence encoder is the same graph without `cls`: pooled by mean or by the first token, then its linear map (`cls.output`); the fact
  `edgedistill.unit_length` tells our runtime to scale the vector to length 1, which llama.cpp leaves to the app.

Nothing is built on a file that was not checked: logits on real rows equal torch's, and llama.cpp's own tokenizer gives the ids of tokenizer.json on
thousands of strings. Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, llama.cpp's src/models/bert.cpp.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from edgedistill import gguf_decoder, gguf_tokenizer, llama
from edgedistill.errors import ParityError, StageError
from edgedistill.exporters.onnx import AWKWARD, load_eager, torch_logits, write_tokenizer
from edgedistill.gguf_tokenizer import unknown_tokenizer
from edgedistill.models import check_folder
from edgedistill.onnx_graph import quiet

FORMAT = "gguf"
# Of the largest logit. Both compute in float32 and differ in the order of additions and in llama.cpp's GELU, which is read from a table of float16
# values; a dropped pooler was seen at 0.3 and more.
TOLERANCE = 5e-3
LONGEST_WORD = 100  # BERT's max_input_chars_per_word
HEADS = ("text-classification", "sentence-similarity")


def export(model_dir: Path, out: Path, texts: Sequence[str], max_tokens: int, task: str = "text-classification") -> dict[str, float]:
    """Write `out/model.gguf` (float32) and `out/tokenizer.json`, and give the facts of the check.

    model_dir: a BERT of transformers with a head for `task`; or a decoder of those that gguf_decoder.py writes, whose file is float16. Facts:
    `rows`, `error_model`, `tolerance` (unit of logits), `token_texts`, how many strings both tokenizers cut alike, and `token_gaps`, how many were
    left out as known to differ (see `known_gap`). Raises ParityError when logits or ids differ, StageError for a model that llama.cpp has no graph
    for.
    """
    llama.library()
    if check_folder(model_dir).get("model_type") in gguf_decoder.ARCHITECTURES:
        return gguf_decoder.write_decoder(model_dir, out, texts, max_tokens=max_tokens)
    out.mkdir(parents=True, exist_ok=True)
    with quiet():
        tokenizer = write_tokenizer(model_dir, out / "tokenizer.json", texts, max_tokens)
        model = load_eager(model_dir, task)
        write(model, json.loads((out / "tokenizer.json").read_text(encoding="utf-8")), out / "model.gguf", task)
    facts = check_ids(out, texts)
    return facts | check_logits(out, model, tokenizer, (*texts, *AWKWARD), max_tokens)


def check_logits(out: Path, model: Any, tokenizer: Any, texts: Sequence[str], max_tokens: int) -> dict[str, float]:
    """llama.cpp's answers against torch's, text by text. Raises ParityError with the first text that differs."""
    opened = llama.open_file(out / "model.gguf", max_tokens)
    rows = [tokenizer.encode(text).ids for text in texts]
    truth = torch_logits(model, rows)
    tolerance = TOLERANCE * max(1.0, *(float(np.abs(row).max()) for row in truth))
    worst = 0.0
    for text, ids, right in zip(texts, rows, truth, strict=True):
        found = opened.outputs(ids)
        error = float(np.abs(found - right).max()) if found.shape == right.shape else float("inf")
        if not error <= tolerance:
            raise ParityError(
                f"llama.cpp answers {text[:60]!r} otherwise than torch: {np.round(found[:4], 3).tolist()} and {np.round(right[:4], 3).tolist()}, "
                f"the largest difference {error:.3g}, allowed {tolerance:.3g}.",
                where=str(out / "model.gguf"),
                write="Please report this model: its GGUF would answer wrongly.",
            )
        worst = max(worst, error)
    return {"rows": float(len(rows)), "error_model": worst, "tolerance": tolerance}


def check_ids(out: Path, texts: Sequence[str]) -> dict[str, float]:
    """llama.cpp's own tokenizer against tokenizer.json. Raises ParityError with the shortest text that differs."""
    return gguf_tokenizer.check_ids(out, texts, known_gap)


def known_gap(text: str) -> bool:
    """Texts that llama.cpp's WordPiece (llama-vocab.cpp, llm_tokenizer_wpm_session) is known to cut otherwise than BERT's.

    It drops spacing and enclosing marks as if they were accents, does not take Hangul syllables apart, keeps vertical tabs, form feeds and NEL, reads
    its own word mark in a text, knows no word that is too long (BERT: 100 characters), and has other Unicode tables, so that signs younger than
    Unicode 3.2 differ. Our runtime reads tokenizer.json, so none of this changes an answer there; an app that lets llama.cpp cut its texts meets it.
    """
    decomposed = unicodedata.normalize("NFD", text)
    return any(map(_gap, text)) or any(map(_gap, decomposed)) or any(len(word) > LONGEST_WORD for word in decomposed.split())


@cache
def _gap(sign: str) -> bool:
    kind = unicodedata.category(sign)
    young = unicodedata.ucd_3_2_0.category(sign) == "Cn" and kind[0] not in "LNS"
    return kind in ("Mc", "Me") or "\uac00" <= sign <= "\ud7a3" or sign in "\x0b\x0c\x85\u166d\u1885\u1886\u2581" or young


# --- the file ---------------------------------------------------------------------------------------------------------------------------


def write(model: Any, spec: dict[str, Any], path: Path, task: str, *, pooler: bool = True) -> None:
    """Write `model` with the tokenizer of `spec` (tokenizer.json) to `path`. The same model gives the same bytes.

    pooler: False leaves BERT's pooler out, as llama.cpp's own converter does; for the test that shows what comes of it.
    """
    import gguf

    kind = model.config.model_type
    if kind != "bert" or task not in HEADS:
        raise StageError(
            f"llama.cpp has no graph for a {kind} model of task {task}.",
            where="compile.targets",
            write="Take a target of format onnx, or a BERT with one answer a text.",
        )
    config, weights = model.config, {name: value.detach().float().numpy() for name, value in model.state_dict().items()}
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_name("student")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(config.num_attention_heads)
    writer.add_layer_norm_eps(config.layer_norm_eps)
    writer.add_causal_attention(False)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_token_type_count(config.type_vocab_size)
    writer.add_pooling_type(gguf.PoolingType.RANK)
    writer.add_array("bert.classifier.output_labels", [str(config.id2label[place]) for place in range(config.num_labels)])
    if task == "sentence-similarity":
        pooled = {"mean": gguf.PoolingType.MEAN, "cls": gguf.PoolingType.CLS}.get(config.pooling)
        if pooled is None:
            raise StageError(
                f"llama.cpp has no pooling by {config.pooling}.", where="student.start", write="Take an encoder that pools by mean."
            )
        writer.add_uint32("bert.classifier.pooling_type", int(pooled))
        writer.add_bool(llama.UNIT_LENGTH, True)
    rows = _vocabulary(writer, spec, len(weights[f"{kind}.embeddings.word_embeddings.weight"]))
    for name, value in _tensors(weights, kind, config.num_hidden_layers, pooler):
        value = value[:rows] if name == "token_embd.weight" else value  # some tables are longer than their vocabulary
        writer.add_tensor(name, np.ascontiguousarray(value, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


# transformers' name → llama.cpp's. What a layer holds stands below, with its number put in.
OUTSIDE = {
    "embeddings.word_embeddings": "token_embd",
    "embeddings.position_embeddings": "position_embd",
    "embeddings.token_type_embeddings": "token_types",
    "embeddings.LayerNorm": "token_embd_norm",
    "pooler.dense": "cls",
}
LAYER = {
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}
HEAD = {"classifier": "cls.output", "dense": "cls.output"}


def _tensors(weights: dict[str, Any], kind: str, layers: int, pooler: bool) -> list[tuple[str, Any]]:
    """(llama.cpp's name, values) of every tensor. Raises StageError for one that has no place: nothing is dropped in silence."""
    names = {f"{kind}.{theirs}": ours for theirs, ours in OUTSIDE.items()} | HEAD
    for layer in range(layers):
        names |= {f"{kind}.encoder.layer.{layer}.{theirs}": f"blk.{layer}.{ours}" for theirs, ours in LAYER.items()}
    if not pooler:
        del names[f"{kind}.pooler.dense"]
    placed = []
    for name, value in weights.items():
        stem, _, part = name.rpartition(".")
        if name.endswith(("position_ids", "token_type_ids")):  # counted, not learned
            continue
        if stem not in names and pooler:
            raise StageError(
                f"llama.cpp has no place for the weights {name}.", where="compile.targets", write="Take a target of format onnx."
            )
        if stem in names:
            placed.append((f"{names[stem]}.{part}", value))
    return placed


def _vocabulary(writer: Any, spec: dict[str, Any], rows: int) -> int:
    """Write the vocabulary; gives its size. Raises StageError for a tokenizer that llama.cpp does not know."""
    import gguf

    model = spec["model"]
    tokens = sorted(model["vocab"].items() if isinstance(model["vocab"], dict) else [], key=lambda entry: entry[1])
    added = {token["id"]: token for token in spec["added_tokens"]}
    names = [added[place]["content"] if place in added else token for token, place in tokens]
    names += [added[place]["content"] for place in sorted(added) if place >= len(names)]
    kinds = [gguf.TokenType.CONTROL if place in added and added[place]["special"] else gguf.TokenType.NORMAL for place in range(len(names))]
    if len(names) > rows:
        raise StageError(f"the tokenizer has {len(names)} tokens, and the model {rows} embeddings.", where="tokenizer.json")
    write = {"WordPiece": _wordpiece}.get(model["type"])
    if write is None:
        raise unknown_tokenizer(f"a {model['type']} tokenizer")
    write(writer, spec, names, kinds)
    return len(names)


def _wordpiece(writer: Any, spec: dict[str, Any], names: list[str], kinds: list[Any]) -> None:
    """BERT's WordPiece. llama.cpp marks the beginning of a word (▁) where BERT marks what goes on (##)."""
    import gguf

    normalizer, prefix = spec.get("normalizer") or {}, spec["model"].get("continuing_subword_prefix", "##")
    before = spec.get("pre_tokenizer") or {}
    if normalizer.get("type") != "BertNormalizer" or before.get("type") != "BertPreTokenizer":
        raise unknown_tokenizer(f"WordPiece behind {normalizer.get('type')} and {before.get('type')}")
    if not normalizer.get("clean_text") or not normalizer.get("handle_chinese_chars"):
        raise unknown_tokenizer("a BertNormalizer without clean_text and handle_chinese_chars")
    shown = [
        name if kind == gguf.TokenType.CONTROL else name.removeprefix(prefix) if name.startswith(prefix) else f"\u2581{name}"
        for name, kind in zip(names, kinds, strict=True)
    ]
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(shown)
    writer.add_token_types(kinds)
    lower, strip = bool(normalizer.get("lowercase")), normalizer.get("strip_accents")
    writer.add_bool("tokenizer.ggml.normalizer.lowercase", lower)
    writer.add_bool("tokenizer.ggml.normalizer.strip_accents", lower if strip is None else strip)
    ids = {name: place for place, name in enumerate(names)}
    for name, token in (("bos", "[CLS]"), ("seperator", "[SEP]"), ("unknown", "[UNK]"), ("padding", "[PAD]"), ("mask", "[MASK]")):
        if token in ids:
            writer.add_uint32(f"tokenizer.ggml.{name}_token_id", ids[token])
