"""Decoders of the Llama, Qwen2 and Qwen3 types between a transformers folder and GGUF, in both directions, and the check against torch.

What differs between the two sides, and goes wrong in silence:

- **Rotary positions.** transformers turns the halves of a head (i, i + d/2), llama.cpp's `llama` graph turns neighbours (2i, 2i + 1): the rows of q and k
  of a Llama are reordered head by head. Qwen's graphs turn halves on both sides, and nothing is reordered.
- **Tied embeddings.** A file without `output.weight` uses the token table as its head; torch's folder holds the table once as well.
- **rope_theta**, key/value heads fewer than query heads, and a head that is not width / heads wide are facts of the file; each default is another model.
- **Biases** (Qwen2's q, k, v) and **q/k norms** (Qwen3) are tensors like the others; one without a place here is an error, never left out.

Sources: llama.cpp's src/models/llama.cpp, qwen2.cpp, qwen3.cpp and conversion/llama.py (the reordering); RoFormer, arXiv:2104.09864.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgedistill.errors import InputError, ParityError, StageError
from edgedistill.gguf_file import read_gguf
from edgedistill.gguf_tokenizer import SPECIAL, bpe_gap, check_ids, read_bpe, write_bpe
from edgedistill.llama_causal import kl, open_decoder
from edgedistill.models import check_folder, load_decoder

ARCHITECTURES = ("llama", "qwen2", "qwen3")  # called the same by transformers and by llama.cpp
CLASSES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}
FLOAT_TYPES = ("F16", "F32")

# transformers' name → llama.cpp's. What a layer holds stands below, with its number put in.
OUTSIDE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
LAYER = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
TURNED = ("llama",)  # whose q and k llama.cpp turns in neighbours

# The check: positions of which torch's best token must be llama.cpp's too, and how far the two distributions may lie apart (nats, mean).
LEAST_TOP1, MOST_KL = 0.995, 1e-3
NEAR_TIE = 1e-2  # of the spread of the logits: below it, which of two tokens comes first is rounding
CHECKED_TOKENS = 4096
FEWEST_TOKENS = 8


def write_decoder(
    folder: Path, out: Path, texts: Sequence[str] = (), *, max_tokens: int = 256, file_type: str = "F16", model: Any = None
) -> dict[str, float]:
    """Write `out/model.gguf` and `out/tokenizer.json` of a transformers folder, and give the facts of the check. The same folder gives the same
    bytes.

    folder: config.json, model.safetensors, tokenizer.json and, where it has them, tokenizer_config.json and chat_template.jinja. texts: the task's
    own, on which ids and logits are compared beside what is drawn. file_type: "F16", or "F32" where a weight does not fit float16. model: the torch
    model, when it is loaded already. Facts: `rows`, `positions`, `top1` (share of positions with torch's best token), `top1_clear` (the same
    without near ties), `kl` (nats, mean), `error_model` (largest difference of a logit), `token_texts`, `token_gaps`, `tokens`. Raises ParityError
    when ids or logits differ, StageError for a model that llama.cpp has no graph for.
    """
    config = check_folder(folder)
    out.mkdir(parents=True, exist_ok=True)
    spec = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8")) | {"padding": None, "truncation": None}
    (out / "tokenizer.json").write_text(json.dumps(spec, ensure_ascii=False, separators=(",", ":")), encoding="utf-8")
    tokens = write(folder, config, spec, out / "model.gguf", file_type)
    gap = bpe_gap(spec)
    facts = check_ids(out, texts, gap)
    return facts | check_logits(folder, out, texts, max_tokens, model) | {"tokens": float(tokens)}


# --- the file ---------------------------------------------------------------------------------------------------------------------------


def write(folder: Path, config: dict[str, Any], spec: dict[str, Any], path: Path, file_type: str = "F16", *, turned: bool = True) -> int:
    """Write the weights of `folder` and the tokenizer of `spec` to `path`; gives the number of tokens.

    turned: False leaves q and k of a Llama in transformers' order; for the test that shows what comes of it.
    """
    import gguf

    kind = _architecture(config)
    weights = dict(_weights(folder))
    rows = len(weights["model.embed_tokens.weight"])
    writer = gguf.GGUFWriter(path, kind)
    writer.add_name("student")
    heads, width = config["num_attention_heads"], config["hidden_size"]
    kv_heads = config.get("num_key_value_heads") or heads
    head = config.get("head_dim") or width // heads
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(head)
    factors = _rope(writer, folder, config)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32 if file_type == "F32" else gguf.LlamaFileType.MOSTLY_F16)
    tokens = write_bpe(writer, spec, special_tokens(folder), chat_template(folder), rows)
    writer.add_vocab_size(tokens)
    if factors is not None:
        writer.add_tensor("rope_freqs.weight", factors)
    for name, ours in _names(weights, config["num_hidden_layers"], bool(config.get("tie_word_embeddings"))):
        value = weights[name]
        if ours in ("token_embd.weight", "output.weight"):
            value = value[:tokens]  # some tables are longer than their vocabulary
        if turned and kind in TURNED and (".attn_q." in ours or ".attn_k." in ours):
            value = turn(value, heads if ".attn_q." in ours else kv_heads)
        narrow = file_type == "F16" and value.ndim > 1
        with np.errstate(over="ignore"):  # said below
            value = np.ascontiguousarray(value, np.float16 if narrow else np.float32)
        if not np.isfinite(value).all():
            raise StageError(
                f"the weights {name} hold numbers that float16 does not.",
                where=str(folder),
                write='Take file type "F32", or train it again.',
            )
        writer.add_tensor(ours, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tokens


def turn(value: npt.NDArray[Any], heads: int) -> npt.NDArray[Any]:
    """Rows of q or k (or their biases), from halves (i, i + d/2) to neighbours (2i, 2i + 1), head by head."""
    whole = value.reshape(heads, 2, value.shape[0] // heads // 2, *value.shape[1:])
    return whole.swapaxes(1, 2).reshape(value.shape)


def turn_back(value: npt.NDArray[Any], heads: int) -> npt.NDArray[Any]:
    """The inverse of `turn`."""
    whole = value.reshape(heads, value.shape[0] // heads // 2, 2, *value.shape[1:])
    return whole.swapaxes(1, 2).reshape(value.shape)


def _architecture(config: dict[str, Any]) -> str:
    """Raises StageError for what llama.cpp's graphs of these names do not compute."""
    kind = config.get("model_type")
    if kind not in ARCHITECTURES:
        raise StageError(
            f"edgedistill writes no GGUF of a {kind} decoder.", where="compile.targets", write=f"Take a {', '.join(ARCHITECTURES)} model."
        )
    if config.get("hidden_act", "silu") != "silu" or config.get("use_sliding_window"):
        what = "sliding window" if config.get("use_sliding_window") else f"activation {config['hidden_act']}"
        raise StageError(f"llama.cpp's graph of a {kind} has no {what}.", where="config.json", write="Take another model.")
    return str(kind)


def _rope(writer: Any, folder: Path, config: dict[str, Any]) -> npt.NDArray[np.float32] | None:
    """Write how positions turn. Gives the factors of each frequency that Llama 3 has, where the model has them."""
    import gguf

    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    writer.add_rope_freq_base(float(rope.get("rope_theta", config.get("rope_theta", 10000.0))))
    if kind == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(float(rope["factor"]))
    elif kind == "llama3":
        from transformers import AutoConfig
        from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

        whole = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        stretched, _ = ROPE_INIT_FUNCTIONS["llama3"](whole, "cpu")
        head = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
        plain = 1.0 / float(rope.get("rope_theta", config.get("rope_theta", 10000.0))) ** (np.arange(0, head, 2) / head)
        return np.asarray(plain / stretched.double().numpy(), np.float32)
    elif kind != "default":
        raise StageError(
            f"edgedistill writes no GGUF with rope scaling of type {kind}.", where="config.json", write="Known: default, linear, llama3."
        )
    return None


def _weights(folder: Path) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
    """(transformers' name, float32 values) of every tensor of a folder."""
    from safetensors import safe_open

    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118  # not a dict
                yield name, tensors.get_tensor(name).float().numpy()


def _stems(layers: int) -> dict[str, str]:
    return OUTSIDE | {f"model.layers.{n}.{theirs}": f"blk.{n}.{ours}" for n in range(layers) for theirs, ours in LAYER.items()}


def _names(weights: dict[str, Any], layers: int, tied: bool) -> Iterator[tuple[str, str]]:
    """(transformers' name, llama.cpp's) in a fixed order. Raises StageError for weights without a place: nothing is dropped in silence."""
    stems = _stems(layers)
    order = {stem: place for place, stem in enumerate(stems)}
    placed = []
    for name in weights:
        stem, _, part = name.rpartition(".")
        if stem not in stems:
            raise StageError(f"llama.cpp has no place for the weights {name}.", where="compile.targets", write="Take another architecture.")
        if not (tied and stem == "lm_head"):  # some folders hold the shared table twice
            placed.append((order[stem], part, name, f"{stems[stem]}.{part}"))
    for _, _, name, ours in sorted(placed):
        yield name, ours


def special_tokens(folder: Path) -> dict[str, str]:
    """The bos, eos, unk and pad token of a folder, those that it has: by tokenizer_config.json, whose names outlive a renumbering."""
    file = folder / "tokenizer_config.json"
    said = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    found = {}
    for kind in SPECIAL:
        token = said.get(f"{kind}_token")
        token = token.get("content") if isinstance(token, dict) else token
        if isinstance(token, str):
            found[kind] = token
    return found


def chat_template(folder: Path) -> str | None:
    """The chat template of a folder, from chat_template.jinja or tokenizer_config.json; None when it has none. Raises InputError when it does not
    render: an app would find that out on the device."""
    file, config = folder / "chat_template.jinja", folder / "tokenizer_config.json"
    if file.is_file():
        said: Any = file.read_text(encoding="utf-8")
    else:
        said = json.loads(config.read_text(encoding="utf-8")).get("chat_template") if config.is_file() else None
    if isinstance(said, list):  # several, by name
        said = next((one.get("template") for one in said if one.get("name") == "default"), None)
    if not isinstance(said, str):
        return None
    _check_renders(said, folder, file if file.is_file() else config)
    return said


def _check_renders(template: str, folder: Path, where: Path) -> None:
    from jinja2 import TemplateError, TemplateSyntaxError
    from transformers import PreTrainedTokenizerFast

    tokens = {f"{kind}_token": token for kind, token in special_tokens(folder).items()}
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), **tokens)
    message = [{"role": "user", "content": "Hello"}]
    try:  # in transformers' sandbox: a template comes from outside
        tokenizer.apply_chat_template(message, chat_template=template, tokenize=False, add_generation_prompt=True)
    except (TemplateError, TypeError, ValueError, LookupError, ArithmeticError) as problem:
        line = f", line {problem.lineno}" if isinstance(problem, TemplateSyntaxError) else ""
        raise InputError(
            f"the chat template does not render a user's message: {problem}{line}.",
            where=str(where),
            write="Mend the template, or take it out: an app that writes the prompt itself needs none.",
        ) from problem


# --- the check --------------------------------------------------------------------------------------------------------------------------


def check_logits(folder: Path, out: Path, texts: Sequence[str], max_tokens: int, model: Any = None) -> dict[str, float]:
    """llama.cpp's logits at every position against torch's, both reading the same text. Raises ParityError when they are another model's."""
    import torch

    model = model or load_decoder(folder)
    rows = list(_rows(out / "tokenizer.json", texts, max_tokens))
    decoder = open_decoder(out / "model.gguf", max(map(len, rows)))
    same, clear, sure, divergence, worst, positions = 0, 0, 0, 0.0, 0.0, 0
    for ids in rows:
        with torch.inference_mode():
            right = model(input_ids=torch.tensor([ids])).logits[0, :, : decoder.tokens].float().numpy()
        found = decoder.logits(ids)
        best, other = right.argmax(-1), found.argmax(-1)
        agree = best == other
        # How much torch prefers its own best to llama.cpp's: at a near tie, rounding decides.
        preferred = np.take_along_axis(right, best[:, None], -1)[:, 0] - np.take_along_axis(right, other[:, None], -1)[:, 0]
        tie = ~agree & (preferred <= NEAR_TIE * right.std(-1))
        same, clear, sure = same + int(agree.sum()), clear + int((agree & ~tie).sum()), sure + int((~tie).sum())
        divergence += float(kl(right, found).sum())
        worst, positions = max(worst, float(np.abs(right - found).max())), positions + len(ids)
    facts = {
        "rows": float(len(rows)),
        "positions": float(positions),
        "top1": same / positions,
        "top1_clear": clear / max(1, sure),
        "kl": divergence / positions,
        "error_model": worst,
    }
    if not (facts["top1_clear"] >= LEAST_TOP1 and facts["kl"] <= MOST_KL):
        raise ParityError(
            f"llama.cpp answers otherwise than torch: the same next token at {100 * facts['top1_clear']:.2f} % of {positions} positions "
            f"(at least {100 * LEAST_TOP1} %), and {facts['kl']:.3g} nats apart (at most {MOST_KL}).",
            where=str(out / "model.gguf"),
            write="Please report this model: its GGUF would answer wrongly.",
        )
    return facts


def _rows(tokenizer: Path, texts: Sequence[str], max_tokens: int) -> Iterator[list[int]]:
    """Token ids to compare on: the task's texts, and ids drawn at random, of which every token of the table may be one."""
    from tokenizers import Tokenizer

    reference = Tokenizer.from_file(str(tokenizer))
    budget = CHECKED_TOKENS // 2
    for encoding in reference.encode_batch(list(dict.fromkeys(texts))[:512]):
        ids = encoding.ids[:max_tokens]
        if len(ids) > 1 and len(ids) <= budget:
            budget -= len(ids)
            yield ids
    draw = np.random.default_rng(0)
    length = max(FEWEST_TOKENS, min(64, max_tokens))
    for _ in range(max(1, CHECKED_TOKENS // 8 // length)):
        yield draw.integers(0, reference.get_vocab_size(), length).tolist()


# --- and back ---------------------------------------------------------------------------------------------------------------------------


def read_decoder(path: Path, out: Path, dtype: str = "float32") -> dict[str, float]:
    """Write the transformers folder of a GGUF decoder: weights dequantized to `dtype`, tokenizer, chat template. transformers does this too, in
    minutes and with a tokenizer that it guesses; here it takes seconds, and the tokenizer is the one that the file names.

    Facts: `tensors`, `tokens`. Raises InputError for a file that is not whole, is no decoder known here, or has tensors without a place.
    """
    import gguf
    import torch
    from safetensors.torch import save_file

    header = read_gguf(path)
    kind = header.facts["general.architecture"]
    if kind not in ARCHITECTURES:
        raise InputError(f"a GGUF of a {kind} cannot be read back.", where=str(path), write=f"Known are {', '.join(ARCHITECTURES)}.")
    spec = read_bpe(header.facts, str(path))
    layers, heads = header.fact("block_count"), header.fact("attention.head_count")
    kv_heads = header.fact("attention.head_count_kv") or heads
    places = {f"{ours}": theirs for theirs, ours in _stems(layers).items()}
    raw = np.memmap(path, mode="r", dtype=np.uint8)
    weights: dict[str, Any] = {}
    for name, tensor in header.tensors.items():
        stem, _, part = name.rpartition(".")
        if stem not in places:
            raise InputError(f"its tensor {name} has no place in a {kind} of transformers.", where=str(path))
        shape = tensor.shape[::-1]
        blocks = raw[tensor.offset : tensor.offset + tensor.bytes]
        value = gguf.dequantize(blocks.reshape(*shape[:-1], -1) if len(shape) > 1 else blocks, gguf.GGMLQuantizationType[tensor.type])
        value = value.reshape(shape)
        if kind in TURNED and places[stem].endswith(("q_proj", "k_proj")):
            value = turn_back(value, heads if places[stem].endswith("q_proj") else kv_heads)
        weights[f"{places[stem]}.{part}"] = torch.tensor(np.ascontiguousarray(value, np.float32)).to(getattr(torch, dtype))
    out.mkdir(parents=True, exist_ok=True)
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    _write_config(out, header, kind, weights)
    tokens = header.facts["tokenizer.ggml.tokens"]
    (out / "tokenizer.json").write_text(json.dumps(spec, ensure_ascii=False), encoding="utf-8")
    names = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    ids = {ours: header.facts.get(f"tokenizer.ggml.{theirs}_token_id") for ours, theirs in names.items()}
    said: dict[str, Any] = {f"{ours}_token": tokens[place] for ours, place in ids.items() if place is not None}
    # Not the model's own tokenizer class: that would put its own pre-tokenizer in the place of the file's.
    said |= {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": header.fact("context_length")}
    (out / "tokenizer_config.json").write_text(json.dumps(said, ensure_ascii=False, indent=1), encoding="utf-8")
    template = header.facts.get("tokenizer.chat_template")
    if template:
        (out / "chat_template.jinja").write_text(template, encoding="utf-8")
    return {"tensors": float(len(weights)), "tokens": float(len(tokens))}


def _write_config(out: Path, header: Any, kind: str, weights: dict[str, Any]) -> None:
    heads, width = header.fact("attention.head_count"), header.fact("embedding_length")
    biased = any(name.endswith("q_proj.bias") for name in weights)
    config = {
        "model_type": kind,
        "architectures": [CLASSES[kind]],
        "hidden_size": width,
        "intermediate_size": header.fact("feed_forward_length"),
        "num_hidden_layers": header.fact("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": header.fact("attention.head_count_kv") or heads,
        "head_dim": header.fact("attention.key_length") or width // heads,
        "max_position_embeddings": header.fact("context_length"),
        "rms_norm_eps": round(header.fact("attention.layer_norm_rms_epsilon"), 12),
        "rope_parameters": {"rope_type": "default", "rope_theta": header.fact("rope.freq_base") or 10000.0},
        "vocab_size": len(header.facts["tokenizer.ggml.tokens"]),
        "tie_word_embeddings": "lm_head.weight" not in weights,
        "hidden_act": "silu",
        "bos_token_id": header.facts.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": header.facts.get("tokenizer.ggml.eos_token_id"),
        "pad_token_id": header.facts.get("tokenizer.ggml.padding_token_id"),
        **({"attention_bias": biased} if kind != "qwen2" else {}),
    }
    if header.fact("rope.scaling.type") == "linear":
        config["rope_parameters"] |= {"rope_type": "linear", "factor": header.fact("rope.scaling.factor")}
    (out / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
