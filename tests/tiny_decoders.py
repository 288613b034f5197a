"""Tiny real decoders of each architecture that becomes GGUF: seeded random weights, grouped key/value heads, a byte-level BPE with a chat template."""

from __future__ import annotations

import json
from collections import Counter
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from edgedistill.gguf_tokenizer import IGNORE_MERGES, PRE_TOKENIZERS, byte_alphabet
from tests.tiny_models import SENTENCES

# Joins that only some ways of splitting words allow: two digits, two spaces, a bracket and a letter.
TELLING = (("1", "2"), ("Ġ", "Ġ"), ("(", "a"), ("!", "Ċ"))
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PRE = {"llama": "smollm", "qwen2": "qwen2", "qwen3": "qwen2"}


def tiny_decoder(
    folder: Path, kind: str = "llama", *, pre: str | None = None, tied: bool = True, rows: int | None = None, **changes: Any
) -> Path:
    """A decoder of transformers' architecture `kind` in `folder`, saved as a hub's is. rows: of a token table longer than the vocabulary."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    folder.mkdir(parents=True, exist_ok=True)
    spec = tokenizer_json(pre or PRE[kind])
    size = len(spec["model"]["vocab"])
    (folder / "tokenizer.json").write_text(json.dumps(spec), encoding="utf-8")
    said = {"bos_token": SPECIAL[1], "eos_token": SPECIAL[2], "unk_token": SPECIAL[0], "pad_token": SPECIAL[2], "chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(said | {"tokenizer_class": "PreTrainedTokenizerFast"}), encoding="utf-8")
    config = AutoConfig.for_model(
        kind,
        vocab_size=rows or size,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
        tie_word_embeddings=tied,
        max_position_embeddings=128,
        **(
            {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
            | changes
        ),
    )
    model = AutoModelForCausalLM.from_config(config)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            if weight.ndim == 1:
                weight.copy_((0 if name.endswith("bias") else 1) + 0.2 * noise)
            else:  # wide enough that positions and heads matter to the answer
                weight.copy_(noise * (1.0 if "embed" in name else 1.5) / weight.shape[1] ** 0.5)
    model.save_pretrained(folder)
    return folder


@cache
def _merges(words: tuple[str, ...], count: int) -> list[tuple[str, str]]:
    """The `count` most frequent joins, found one by one as BPE is trained; ties by their letters, so that every run has the same."""
    split = [[*word] for word in words]
    merges = []
    for _ in range(count):
        pairs = Counter(pair for word in split for pair in pairwise(word))
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        for word in split:
            place = 0
            while place < len(word) - 1:
                if (word[place], word[place + 1]) == best:
                    word[place : place + 2] = ["".join(best)]
                place += 1
    return merges


def tokenizer_json(pre: str, merges: int = 160) -> dict[str, Any]:
    """tokenizer.json of a byte-level BPE over SENTENCES, its words split as `pre` does."""
    words = tuple(("Ġ" if place else "") + word for sentence in SENTENCES for place, word in enumerate(sentence.split(" ")))
    joined = [*_merges(words, merges), *TELLING]
    names = [*SPECIAL, *byte_alphabet().values(), *dict.fromkeys("".join(pair) for pair in joined)]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": place, "content": token, **flags} for place, token in enumerate(SPECIAL)],
        "normalizer": {"type": "NFC"} if pre == "qwen2" else None,
        "pre_tokenizer": PRE_TOKENIZERS[pre],
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": pre in IGNORE_MERGES,
            "vocab": {token: place for place, token in enumerate(names)},
            "merges": [list(pair) for pair in joined],
        },
    }
