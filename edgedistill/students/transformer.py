"""A transformer encoder with fewer layers and a task vocabulary, cut out of the teacher or of another encoder.

The student starts from the teacher's own weights: kept layers, kept embedding rows, pooler and head. A student that starts there learns in
a few epochs what a fresh one does not learn at all. Source: DistilBERT (arXiv:1910.01108, §3) starts from every second layer;
"Poor Man's BERT" (arXiv:2004.03844) compares which layers to drop.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgedistill import vocabulary
from edgedistill.errors import RecipeError
from edgedistill.models import load_model, load_tokenizer, normalized, parameter_count, save
from edgedistill.recipe import Student

ABOUT = "transformer encoder: layers cut from the teacher or another encoder, task vocabulary"
DEFAULT_LAYERS = 2


def start(source: Path, out: Path, options: Student, texts: Sequence[str], classes: list[str], task: str, seed: int) -> dict[str, Any]:
    """Write the untrained student under `out`. Raises RecipeError for layers that the source does not have."""
    import torch

    torch.manual_seed(seed)  # a source without a head for these classes gets a fresh one
    model = load_model(source, task, classes)
    tokenizer = load_tokenizer(source)
    before = parameter_count(model)
    names = normalized(model.config)
    layers = which_layers(options.layers, names.num_layers)
    model = keep_layers(model, layers)
    facts: dict[str, Any] = {"vocabulary_before": len(model.get_input_embeddings().weight)}
    if options.vocabulary == "task":
        cut = vocabulary.cut(tokenizer, texts)
        tokenizer = cut.tokenizer
        keep_embeddings(model, cut.kept)
    save(model, tokenizer, out)
    return facts | {
        "architecture": model.config.model_type,
        "layers": layers,
        "layers_before": names.num_layers,
        "width": names.hidden_size,
        "vocabulary": len(model.get_input_embeddings().weight),
        "parameters": parameter_count(model),
        "parameters_before": before,
        "texts_with_equal_ids": len(texts) if options.vocabulary == "task" else None,
    }


def which_layers(wanted: int | list[int] | None, available: int) -> list[int]:
    """Indices of the layers to keep. A number takes the first and the last and spreads the rest evenly between them."""
    if isinstance(wanted, list):
        wrong = [layer for layer in wanted if not 0 <= layer < available]
        if wrong or not wanted or sorted(set(wanted)) != wanted:
            raise RecipeError(
                f"student.layers = {wanted} does not fit a model of {available} layers.",
                write=f"Write ascending, different numbers from 0 to {available - 1}, such as [0, {available - 1}].",
            )
        return wanted
    count = DEFAULT_LAYERS if wanted is None else wanted
    if not 1 <= count <= available:
        raise RecipeError(f"student.layers = {count}, but the model it starts from has {available}.", write=f"Write 1 to {available}.")
    if count == 1:
        return [0]
    return [round(place * (available - 1) / (count - 1)) for place in range(count)]


def keep_layers(model: Any, layers: list[int]) -> Any:
    """A new model of the same class that holds only `layers`, with their weights."""
    stack = _layer_stack(model, normalized(model.config).num_layers)
    pattern = re.compile(rf"^{re.escape(stack)}\.(\d+)\.")
    place = {str(old): str(new) for new, old in enumerate(layers)}
    weights = {}
    for name, tensor in model.state_dict().items():
        match = pattern.match(name)
        if match is None:
            weights[name] = tensor
        elif match[1] in place:
            weights[f"{stack}.{place[match[1]]}.{name[match.end() :]}"] = tensor
    setattr(model.config, normalized(model.config).NUM_LAYERS, len(layers))
    smaller = type(model)(model.config)
    smaller.load_state_dict(weights)
    return smaller.eval()


def _layer_stack(model: Any, count: int) -> str:
    """Dotted name of the ModuleList that holds the encoder's layers."""
    from torch.nn import ModuleList

    stacks = [name for name, module in model.named_modules() if isinstance(module, ModuleList) and len(module) == count]
    if not stacks:
        raise RecipeError(
            f"no stack of {count} layers was found in a {model.config.model_type} model.",
            write="Take an encoder with one stack of layers, such as BERT, MPNet, DistilBERT, RoBERTa or ELECTRA.",
        )
    return min(stacks, key=len)


def keep_embeddings(model: Any, kept: list[int]) -> None:
    """Cut the token table to the rows `kept`, in that order; ids in the config follow."""
    import torch

    table = model.get_input_embeddings()
    pad = table.padding_idx
    new_id = {old: new for new, old in enumerate(kept)}
    smaller = torch.nn.Embedding(len(kept), table.embedding_dim, padding_idx=new_id.get(pad) if pad is not None else None)
    with torch.no_grad():
        smaller.weight.copy_(table.weight[torch.tensor(kept)])
    model.set_input_embeddings(smaller)
    model.config.vocab_size = len(kept)
    for name in ("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id", "mask_token_id"):
        old = getattr(model.config, name, None)
        if isinstance(old, int):
            setattr(model.config, name, new_id.get(old))
