"""Cut a decoder: the tokens that its task needs, and the layers that stay. From a transformers folder to a smaller one, weights as they are.

A general vocabulary of 49,152 tokens is 28 of SmolLM2-135M's 135 million weights, and a shallow student is little else. `vocabulary.cut` says which
tokens stay: what the task's texts are made of, every special token, every byte, and all merges on the way to them, so that any text still has
tokens and kept texts have the same ones. Rows of the token table and of the head go together (tied or not), and every place that holds an id
follows: config.json, generation_config.json. Tokenizer settings and chat template travel along by name. Source: vocabulary trimming,
arXiv:2010.05609; layers, arXiv:1910.01108.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgedistill import vocabulary
from edgedistill.errors import StageError
from edgedistill.models import check_folder, load_tokenizer

TABLES = ("model.embed_tokens.weight", "lm_head.weight")
LAYER = re.compile(r"^model\.layers\.(\d+)\.")


def cut_decoder(
    folder: Path,
    out: Path,
    texts: Sequence[str] | None = None,
    *,
    most: int | None = None,
    layers: Sequence[int] | None = None,
) -> dict[str, Any]:
    """Write the smaller folder `out`. The same folder and texts give the same bytes.

    texts: what the vocabulary must hold, the chat template's own words among them (render it first); None keeps all tokens. most: only so many of
    the most frequent tokens. layers: numbers of the layers that stay, in their order; None keeps all. Facts: `kept` (old id of each new id; None
    without texts), `vocabulary`, `vocabulary_before`, `layers`, `layers_before`. Raises ParityError when a text's tokens change, StageError for
    layers that are not there.
    """
    from safetensors import safe_open
    from safetensors.torch import save_file

    config = check_folder(folder)
    before = config["num_hidden_layers"]
    stay = list(range(before)) if layers is None else list(layers)
    if not stay or any(not 0 <= layer < before for layer in stay):
        raise StageError(
            f"layers {stay} are not in a model of {before} layers.", where="student.layers", write=f"Write numbers of 0 to {before - 1}."
        )
    place = {old: new for new, old in enumerate(stay)}
    out.mkdir(parents=True, exist_ok=True)
    kept = None
    if texts is not None:
        cut = vocabulary.cut(load_tokenizer(folder), texts, most)
        kept = cut.kept
        cut.tokenizer.save(str(out / "tokenizer.json"), pretty=False)
    else:
        shutil.copyfile(folder / "tokenizer.json", out / "tokenizer.json")
    weights = {}
    rows = 0
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            for name in sorted(tensors.keys()):
                match = LAYER.match(name)
                if match and int(match[1]) not in place:
                    continue
                value = tensors.get_tensor(name)
                if name in TABLES:
                    rows = len(value)
                    value = value[kept].contiguous() if kept is not None else value
                weights[f"model.layers.{place[int(match[1])]}.{name[match.end() :]}" if match else name] = value
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    size = len(kept) if kept is not None else rows
    new_id = {old: new for new, old in enumerate(kept)} if kept is not None else None
    smaller = _renumbered(config, new_id) | {"num_hidden_layers": len(stay), "vocab_size": size}
    if isinstance(config.get("layer_types"), list):
        smaller["layer_types"] = [config["layer_types"][old] for old in stay]
    _write(out / "config.json", smaller)
    for name in ("tokenizer_config.json", "generation_config.json"):
        if (folder / name).is_file():
            _write(out / name, _renumbered(json.loads((folder / name).read_text(encoding="utf-8")), new_id))
    if (folder / "chat_template.jinja").is_file():
        shutil.copyfile(folder / "chat_template.jinja", out / "chat_template.jinja")
    return {"kept": kept, "vocabulary": size, "vocabulary_before": rows, "layers": stay, "layers_before": before}


def _renumbered(said: Mapping[str, Any], new_id: Mapping[int, int] | None) -> dict[str, Any]:
    """Settings with every token id as it is now. What a tokenizer_config lists by old ids is dropped: tokenizer.json says the same."""
    if new_id is None:
        return dict(said)

    def new(value: Any) -> Any:
        if isinstance(value, list):
            return [new_id[one] for one in value if one in new_id]
        return new_id.get(value) if isinstance(value, int) else value

    return {name: new(value) if name.endswith("_token_id") else value for name, value in said.items() if name != "added_tokens_decoder"}


def _write(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")
