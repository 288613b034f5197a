"""Loading and saving torch models of any architecture, safely: safetensors only, and no code from a model folder.

optimum's TasksManager knows which class serves a task, its NormalizedConfigManager what each architecture calls its layers and widths.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgedistill.errors import SourceError, StageError
from edgedistill.training import quiet

# Where bitsandbytes is installed, loading any model imports it, and it then warns that it may not fetch kernels from a hub. It should not.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

SENTENCES = "sentence-similarity"  # the hub's name of the task whose answer is a vector


def load_decoder(folder: Path) -> Any:
    """A decoder of transformers in torch, float32, safetensors only and no code of its own."""
    import torch
    from transformers import AutoModelForCausalLM

    check_folder(folder)
    with quiet():
        return AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, trust_remote_code=False, local_files_only=True
        ).eval()


def check_folder(folder: Path) -> dict[str, Any]:
    """The config of a model folder. Raises SourceError when the folder is no model, asks for remote code, or holds only pickles."""
    path = folder / "config.json"
    if not path.is_file():
        raise SourceError(
            "this is no model folder: it has no config.json.", where=str(folder), write="Give the folder of a transformers model."
        )
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as problem:
        raise SourceError(f"config.json cannot be read: {problem}.", where=str(folder)) from None
    if "auto_map" in config:
        raise SourceError(
            f"the model asks to run code of its own (auto_map: {', '.join(map(str, config['auto_map']))}).",
            where=str(path),
            write="edgedistill never runs code from a model folder: use a model whose architecture is part of transformers.",
        )
    if not list(folder.glob("*.safetensors")):
        raise SourceError(
            "the model has no safetensors file.",
            where=str(folder),
            write="Pickled weights (*.bin, *.pt) can run code and are not read: convert them to safetensors.",
        )
    if not (folder / "tokenizer.json").is_file():
        raise SourceError(
            "the model has no tokenizer.json.", where=str(folder), write="Save its fast tokenizer: tokenizer.save_pretrained(folder)."
        )
    return config


def load_model(folder: Path, task: str, classes: list[str], **options: Any) -> Any:
    """A torch model for `task` with one output a class. A head of another size is started anew (and only then)."""
    from transformers import AutoConfig

    import edgedistill.architectures  # noqa: F401  # our own are registered with the Auto classes

    check_folder(folder)
    with quiet():
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        if task == SENTENCES and not hasattr(config, "pooling"):
            config.pooling = pooling(folder)
        config.num_labels = len(classes)
        config.id2label, config.label2id = dict(enumerate(classes)), {name: place for place, name in enumerate(classes)}
        return (
            model_class(task)
            .from_pretrained(
                folder,
                config=config,
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                ignore_mismatched_sizes=True,
                **options,
            )
            .eval()
        )


def model_class(hub_task: str) -> Any:
    """The transformers class that serves a task, by optimum's TasksManager."""
    from optimum.exporters.tasks import TasksManager

    from edgedistill import architectures  # our own are registered with the Auto classes

    if hub_task == SENTENCES:
        return architectures.SentenceEncoder
    return TasksManager.get_model_class_for_task(hub_task)


def pooling(folder: Path) -> str:
    """How a sentence encoder makes one vector of its tokens': what sentence-transformers wrote beside it, else "mean".

    Raises SourceError for what we do not compute: a weighted pooling, or layers behind it.
    """
    modules = folder / "modules.json"
    kinds = [str(one["type"]).rsplit(".", 1)[-1] for one in json.loads(modules.read_text(encoding="utf-8"))] if modules.is_file() else []
    other = [kind for kind in kinds if kind not in ("Transformer", "Pooling", "Normalize")]
    file = folder / "1_Pooling" / "config.json"
    found = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {"pooling_mode_mean_tokens": True}
    asked = [name for name, on in found.items() if name.startswith("pooling_mode_") and on is True]
    modes = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls", "pooling_mode_max_tokens": "max"}
    if isinstance(found.get("pooling_mode"), str):  # as newer releases write it
        asked, modes = [found["pooling_mode"]], {name: name for name in ("mean", "cls", "max")}
    if other or len(asked) != 1 or asked[0] not in modes:
        raise SourceError(
            f"the sentence encoder ends in {', '.join(other or asked) or 'no pooling'}, which edgedistill does not compute.",
            where=str(modules if other else file),
            write="Take an encoder that pools by mean, cls or max, with nothing behind that but Normalize.",
        )
    return modes[asked[0]]


def load_tokenizer(folder: Path, max_tokens: int | None = None) -> Any:
    """The `tokenizers.Tokenizer` of a model folder, padding off, longer inputs cut to `max_tokens`.

    Some repositories ship a tokenizer.json that pads to a fixed length; a device would then pay for 128 tokens on every text.
    """
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    if max_tokens is not None:
        tokenizer.enable_truncation(max_tokens)
    return tokenizer


def check_ids(model: Any, tokens: Sequence[Sequence[int]], where: str) -> None:
    """Raises StageError when a token id has no row in the model's table: torch would end in an IndexError that names neither file."""
    table = model.get_input_embeddings()
    rows = getattr(table, "num_embeddings", None)
    largest = max((max(row) for row in tokens if row), default=0)
    if rows is not None and largest >= rows:
        raise StageError(
            f"the tokenizer gives token id {largest}, and the model has embeddings for ids 0 to {rows - 1} only.",
            where=where,
            write="The folder's tokenizer.json belongs to another model: take the one that was saved with it.",
        )


def same_ids(tokenizer: Any, other: Any, texts: Sequence[str]) -> npt.NDArray[np.int64] | None:
    """The other tokenizer's id of each id of `tokenizer`, int64 [vocabulary], when both cut every text into the same tokens; else None.

    So position by position both models read the same token, and what they say of it can be compared. A token that `other` lacks maps to 0;
    it cannot occur in `texts`.
    """
    theirs, ours = other.get_vocab(), tokenizer.get_vocab()
    table = np.zeros(max(ours.values()) + 1, dtype=np.int64)
    for token, place in ours.items():
        table[place] = theirs.get(token, 0)
    pairs = zip(tokenizer.encode_batch(list(texts)), other.encode_batch(list(texts)), strict=True)
    return table if all(one.tokens == two.tokens for one, two in pairs) else None


def token_table(folder: Path) -> tuple[dict[str, int], npt.NDArray[np.float32]]:
    """A model's vocabulary and its token embeddings, float32 [tokens, width], read without building the model."""
    from safetensors import safe_open

    vocabulary = load_tokenizer(folder).get_vocab()
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118  # not a dict
                if name.endswith(("word_embeddings.weight", "embed_tokens.weight", "tok_embeddings.weight", "wte.weight")):
                    return vocabulary, tensors.get_tensor(name).float().numpy()
    return {}, np.zeros((0, 1), np.float32)


def normalized(config: Any) -> Any:
    """The config under one set of names (hidden_size, num_layers, num_attention_heads, vocab_size) for every architecture."""
    from optimum.utils import NormalizedConfigManager

    return NormalizedConfigManager.get_normalized_config_class(config.model_type)(config)


def sizes_of(folder: Path) -> dict[str, int]:
    """`layers`, `width`, `heads` and `ffn` of a model folder, read from its config alone."""
    from transformers import AutoConfig

    check_folder(folder)
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    names = normalized(config)
    ffn = next((getattr(config, name) for name in ("intermediate_size", "hidden_dim", "ffn_dim") if hasattr(config, name)), 0)
    return {
        "layers": int(names.num_layers),
        "width": int(names.hidden_size),
        "heads": int(names.num_attention_heads),
        "ffn": int(ffn or 4 * names.hidden_size),
    }


def save(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write config.json, model.safetensors and tokenizer.json."""
    with quiet():
        model.save_pretrained(folder, safe_serialization=True)
    tokenizer.save(str(folder / "tokenizer.json"))


def parameter_count(model: Any) -> int:
    """Number of parameters, shared ones once."""
    return sum(parameter.numel() for parameter in model.parameters())
