"""A transformer encoder with fewer layers and a task vocabulary, cut out of the teacher or of another encoder.

The student starts from the teacher's own weights: kept layers, kept embedding rows, pooler and head. A student that starts there learns in
a few epochs what a fresh one does not learn at all. Source: DistilBERT (arXiv:1910.01108, §3) starts from every second layer;
"Poor Man's BERT" (arXiv:2004.03844) compares which layers to drop. A narrower feed-forward part keeps the neurons that matter most: three
layers with half of it cost what two full ones do and keep more answers, though fewer than three full ones (DECISIONS.md). A narrower stream
with fewer heads is projected from the wide one: narrowing.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgedistill import vocabulary
from edgedistill.errors import RecipeError
from edgedistill.models import load_model, load_tokenizer, normalized, parameter_count, save
from edgedistill.narrowing import narrow, which_heads
from edgedistill.recipe import Student
from edgedistill.training import pad

ABOUT = "transformer encoder: layers cut from the teacher or another encoder, task vocabulary"
TASKS = frozenset({"classify", "multi_label", "score", "tag", "embed"})  # it reads and does not write
OPTIONS = frozenset({"layers", "ffn", "width", "heads", "vocabulary"})
DEFAULT_LAYERS = 2
# (layers, share of the width, share of the feed-forward part). Few are narrow, to keep a search short.
LADDER = ((1, 1 / 2, 1), (2, 1 / 2, 1), (1, 1, 1), (2, 1, 1 / 2), (2, 1, 1), (3, 1, 3 / 4), (4, 1, 1), (6, 1, 1))
PRUNING_TEXTS = 512  # texts on which the importance of neurons is judged


def start(source: Path, out: Path, options: Student, texts: Sequence[str], classes: list[str], task: str, seed: int) -> dict[str, Any]:
    """Write the untrained student under `out`. Raises RecipeError for layers that the source does not have."""
    import torch

    torch.manual_seed(seed)  # a source without a head for these classes gets a fresh one
    model = load_model(source, task, classes)
    tokenizer = load_tokenizer(source)
    before = parameter_count(model)
    names = normalized(model.config)
    available = names.num_layers  # read now: the config follows the cut
    layers = which_layers(options.layers, available)
    model = keep_layers(model, layers)
    # Width before feed-forward: a feed-forward part cut to the old width could not be told from the stream.
    if options.width is not None or options.heads is not None:
        model = _narrower(model, options, tokenizer, texts)
        names = normalized(model.config)
    if options.ffn is not None:
        prune_feed_forward(model, options.ffn, tokenizer, texts)
    facts: dict[str, Any] = {"vocabulary_before": len(model.get_input_embeddings().weight)}
    if options.vocabulary != "full":
        cut = vocabulary.cut(tokenizer, texts, options.vocabulary if isinstance(options.vocabulary, int) else None)
        tokenizer = cut.tokenizer
        keep_embeddings(model, cut.kept)
    save(model, tokenizer, out)
    return facts | {
        "architecture": model.config.model_type,
        "layers": layers,
        "layers_before": available,
        "width": names.hidden_size,
        "ffn": options.ffn,
        "vocabulary": len(model.get_input_embeddings().weight),
        "parameters": parameter_count(model),
        "parameters_before": before,
        "texts_with_equal_ids": len(texts) if options.vocabulary == "task" else None,
    }


def learning_rate(facts: Mapping[str, Any]) -> float:
    """What is cut has to find its way again; a source with all its layers has only to listen: at the higher rate whole MiniLM lost 1.3 points of its
    answers on TREC-6 (DECISIONS.md, 2026-11-28)."""
    return 2e-4 if len(facts["layers"]) == facts["layers_before"] else 5e-4


def sizes(options: Student, teacher: Mapping[str, Any]) -> list[Student]:
    """A ladder of candidates from the cheapest to the dearest; what `options` fixes stays fixed.

    teacher: `layers`, `width`, `heads`, `ffn` of the model they start from. Each candidate is complete, and ordered by multiply-adds a token.
    """
    layers, width, heads, ffn = (teacher[name] for name in ("layers", "width", "heads", "ffn"))
    ladder: dict[float, Student] = {}
    for depth, of_width, of_ffn in LADDER:
        slim = options.width or max(1, round(of_width * heads)) * (width // heads)
        deep = min(depth, layers) if options.layers is None else options.layers
        # In steps of 16, which kernels like; not under 8, which the recipe does not take.
        narrow_ffn = options.ffn or min(ffn, max(16, round(of_ffn * ffn * slim / width / 16) * 16))
        cost = (len(deep) if isinstance(deep, list) else deep) * slim * (4 * slim + 2 * narrow_ffn)
        size = {"layers": deep, "width": slim, "ffn": narrow_ffn, "heads": which_heads(slim, options.heads, width, heads)}
        # What is as in the source stays unsaid: such a student is a plain cut, and has that one's key.
        as_it_is = {"width": width, "ffn": ffn, "heads": heads}
        ladder[cost] = options.model_copy(
            update={"family": "transformer", **{name: None if as_it_is.get(name) == value else value for name, value in size.items()}}
        )
    return [ladder[cost] for cost in sorted(ladder)]


def within(small: Student, large: Student, available: int) -> Student | None:
    """`small` as a cut out of `large`, or None when it is not a part of it. available: layers of the model that both are described by.

    Shrinking step by step, from a student that has already learned, is kinder than one big cut: arXiv:2004.04037 (DynaBERT), §3.
    """
    ours, theirs = which_layers(small.layers, available), which_layers(large.layers, available)
    fits = (
        (small.start, small.vocabulary, small.max_tokens) == (large.start, large.vocabulary, large.max_tokens)
        and set(ours) <= set(theirs)
        and (large.width, large.heads) in ((small.width, small.heads), (None, None))
        and large.ffn in (small.ffn, None)
        and small != large
    )
    if not fits:
        return None
    same = {name: None for name in ("width", "heads", "ffn") if getattr(small, name) == getattr(large, name)}
    return small.model_copy(update={"layers": [theirs.index(layer) for layer in ours], "vocabulary": "full", **same})


def _narrower(model: Any, options: Student, tokenizer: Any, texts: Sequence[str]) -> Any:
    names = normalized(model.config)
    width = options.width or names.hidden_size
    if width > names.hidden_size:
        raise RecipeError(
            f"student.width = {width}, but the model it starts from has {names.hidden_size}.", write=f"Write 16 to {names.hidden_size}."
        )
    heads = which_heads(width, options.heads, names.hidden_size, names.num_attention_heads)
    if (width, heads) == (names.hidden_size, names.num_attention_heads):
        return model
    return narrow(model, _layer_stack(model, names.num_layers), width, heads, tokenizer, texts)


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
    return str(min(stacks, key=len))


def prune_feed_forward(model: Any, width: int, tokenizer: Any, texts: Sequence[str]) -> None:
    """Narrow the feed-forward part of every layer to its `width` most important neurons.

    A neuron matters by how much it adds to the layer's output: the root mean square of its activation on real texts times the norm of its
    outgoing weights. What the dropped ones added is put onto the kept ones by least squares, as in ThiNet
    (arXiv:1707.06342, §3.2). Raises RecipeError when the source is narrower.
    """
    import torch

    sample = list(texts[:: max(1, len(texts) // PRUNING_TEXTS)])[:PRUNING_TEXTS]
    pairs = _feed_forward_pairs(model)
    for up, down in pairs:
        if width > up.out_features:
            raise RecipeError(
                f"student.ffn = {width}, but the model it starts from has {up.out_features}.", write=f"Write 8 to {up.out_features}."
            )
        activations = _inputs_of(model, down, tokenizer, sample).double()
        outgoing = down.weight.detach().double()
        importance = activations.pow(2).mean(0).sqrt() * outgoing.norm(dim=0)
        kept = importance.topk(width).indices.sort().values
        with torch.no_grad():
            few = activations[:, kept]
            gram = few.T @ few
            # The ridge pulls towards the plain cut, so that a few hundred texts cannot overfit the weights.
            gram += 1e-2 * gram.diagonal().mean() * torch.eye(width, dtype=gram.dtype)
            missing = activations @ outgoing.T - few @ outgoing[:, kept].T
            mended = outgoing[:, kept].T + torch.linalg.solve(gram, few.T @ missing)
            up.weight, up.bias = torch.nn.Parameter(up.weight[kept].clone()), torch.nn.Parameter(up.bias[kept].clone())
            down.weight = torch.nn.Parameter(mended.T.to(down.weight.dtype).contiguous())
        up.out_features = down.in_features = width
    name = next(name for name in ("intermediate_size", "hidden_dim", "ffn_dim") if hasattr(model.config, name))
    setattr(model.config, name, width)


def _feed_forward_pairs(model: Any) -> list[tuple[Any, Any]]:
    """(widening, narrowing) linear layers of each encoder layer, in order."""
    from torch.nn import Linear

    names = normalized(model.config)
    stack = model.get_submodule(_layer_stack(model, names.num_layers))
    pairs = []
    for layer in stack:
        linear = [module for module in layer.modules() if isinstance(module, Linear)]
        up = [module for module in linear if module.in_features == names.hidden_size and module.out_features > names.hidden_size]
        down = [module for module in linear if module.in_features > names.hidden_size and module.out_features == names.hidden_size]
        if len(up) != 1 or len(down) != 1:
            raise RecipeError(
                f"student.ffn: the feed-forward part of a {model.config.model_type} layer was not found.", write="Leave ffn out."
            )
        pairs.append((up[0], down[0]))
    return pairs


def _inputs_of(model: Any, module: Any, tokenizer: Any, texts: Sequence[str]) -> Any:
    """What `module` gets for every real token of `texts`: float [tokens, features]."""
    import torch

    seen: list[Any] = []
    masks: list[Any] = []
    hook = module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][masks[-1]]))
    with torch.inference_mode():
        for begin in range(0, len(texts), 64):
            ids = [encoding.ids[:128] for encoding in tokenizer.encode_batch(list(texts[begin : begin + 64]))]
            batch = {name: torch.from_numpy(values) for name, values in pad(ids, model.config.pad_token_id or 0).items()}
            masks.append(batch["attention_mask"].bool())
            model(**batch)
    hook.remove()
    return torch.cat(seen).clone()


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
