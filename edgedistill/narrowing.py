"""A narrower transformer out of a wide one: the residual stream projected, heads chosen by importance, each product cut to fit.

Everything in an encoder reads from and writes to one stream of width D, so one basis must serve all layers. It is the principal components of what
the layer norms put on the stream on the task's texts. With P [D, d] that basis, a table becomes E·P, a product that writes Pᵀ·W, one that reads W·P,
and what the stream holds on average outside the basis goes into the reader's bias.

What is exact and what is not. Without layer norms a rotation of the stream changes nothing (SliceGPT, arXiv:2401.15024, which therefore makes LayerNorm
into RMSNorm and needs an extra product on every residual). LayerNorm with a weight an element does not commute with a rotation, and an architecture that
every runtime knows has no place for the extra products. So this is an *initialisation*: scale and shift of each norm are fitted on real texts, element by
element, so that the narrow stream is as near to the projected wide one as they allow; distillation does the rest.

Inside attention a head keeps as many dimensions as width / heads gives it: of query and key those that preserve their scores best, of value and output
those that preserve what the head writes, both by a singular value decomposition weighted by real activations (as in arXiv:2403.07378).
Heads that add least go first (arXiv:1905.10650).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgedistill.errors import RecipeError
from edgedistill.models import normalized
from edgedistill.training import pad

TEXTS = 256  # texts on which basis, importance and norms are fitted
NOISE = 0.02  # of weights that have no counterpart in the source


def which_heads(width: int, heads: int | None, source_width: int, source_heads: int) -> int:
    """How many heads a student of `width` has. Without a wish: as wide heads as the source's, or the nearest number that divides the width.

    Raises RecipeError for a number that does not divide the width.
    """
    fitting = [count for count in range(1, width + 1) if width % count == 0]
    if heads is None:
        wanted = width / (source_width / source_heads)
        return min(fitting, key=lambda count: (abs(count - wanted), count))
    if width % heads:
        near = [str(max(c for c in fitting if c < heads)), *[str(c) for c in fitting if heads < c <= source_heads][:1]]
        raise RecipeError(
            f"student.heads = {heads} does not divide the width of {width}.",
            write=f"Write heads = {' or '.join(near)}, or a width that {heads} divides, such as {heads * max(1, round(width / heads))}.",
        )
    if heads > source_heads:
        raise RecipeError(f"student.heads = {heads}, but the model it starts from has {source_heads}.", write=f"Write 1 to {source_heads}.")
    return heads


def narrow(model: Any, stack: str, width: int, heads: int, tokenizer: Any, texts: Sequence[str]) -> Any:
    """A model of the same class whose stream has `width` numbers and whose layers have `heads` heads. `stack`: dotted name of the list of layers.

    Raises RecipeError when a layer's parts are not found.
    """
    import torch
    from torch import nn

    names = normalized(model.config)
    wide, old_heads = names.hidden_size, names.num_attention_heads
    embedding = getattr(
        model.config, "embedding_size", None
    )  # ELECTRA: may differ from the layers' width, and then a product stands between
    if embedding == width != wide:
        raise RecipeError(
            f"student.width = {width} is the width of this {model.config.model_type} model's embeddings, for which it has no layers.",
            write="Write another width.",
        )
    sample = list(texts[:: max(1, len(texts) // TEXTS)])[:TEXTS]
    longest = min(128, getattr(model.config, "max_position_embeddings", 512) - 2)  # RoBERTa's positions begin at 2
    ids = [encoding.ids[:longest] for encoding in tokenizer.encode_batch(sample)]
    batch = {name: torch.from_numpy(values) for name, values in pad(ids, model.config.pad_token_id or 0).items()}
    real = batch["attention_mask"].bool()
    modules = dict(model.named_modules())
    name_of = {module: name for name, module in modules.items()}
    attention = [_attention(layer, wide, model.config.model_type) for layer in modules[stack]]
    inner = {module for four in attention for module in four}
    norms = [name for name, module in modules.items() if isinstance(module, nn.LayerNorm) and tuple(module.normalized_shape) == (wide,)]
    linears = {name: module for name, module in modules.items() if isinstance(module, nn.Linear)}
    outside = [name for name in linears if not name.startswith(f"{stack}.")]
    # What gives a text its vector reads the stream as a classifier does, and gives as many numbers as before.
    vector = "dense" if getattr(model, "embeds", False) else None
    square = (name for name in outside if linears[name].in_features == linears[name].out_features == wide and name != vector)
    dense = next(square, None)
    heads_reading = [name for name in outside if linears[name].in_features == wide and name != dense]
    final = heads_reading[-1] if dense and heads_reading else None  # reads the dense layer in front of it, not the stream

    seen = _watch(model, [*norms, *(name_of[module] for module in inner)], list(linears), batch, real)
    stream = torch.cat([seen[f"{name}.out"] - seen[f"{name}.out"].mean(0) for name in norms]).double()
    basis = torch.linalg.eigh(stream.T @ stream)[1][:, -width:].flip(1).float()
    rest = torch.eye(wide) - basis @ basis.T

    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for name, module in modules.items():
        if isinstance(module, nn.Embedding) and module.embedding_dim == wide:
            state[f"{name}.weight"] = module.weight.detach() @ basis
    chosen = _chosen_heads(model, attention, name_of, seen, old_heads, heads)
    for four, kept in zip(attention, chosen, strict=True):
        _narrow_attention(state, [name_of[module] for module in four], seen, kept, wide // old_heads, width // heads)
    for name, module in linears.items():
        weight, bias = state[f"{name}.weight"], state.get(f"{name}.bias")
        if name in (dense, final):
            continue
        output = module in inner and any(module is four[3] for four in attention)
        reads = module.in_features == wide and not output
        writes = output or (module.out_features == wide and module not in inner and name != vector)
        if reads:
            if bias is not None:
                state[f"{name}.bias"] = bias = bias + _input_part(state, name, seen, rest)
            weight = weight @ basis
        if writes:
            weight = basis.T @ weight
            if bias is not None:
                state[f"{name}.bias"] = basis.T @ bias
        state[f"{name}.weight"] = weight
    if dense is not None:
        state[f"{dense}.bias"] = state[f"{dense}.bias"] + state[f"{dense}.weight"] @ rest @ seen[f"{dense}.in"].mean(0)
        state[f"{dense}.weight"] = state[f"{dense}.weight"] @ basis
        _narrow_dense(state, dense, final, seen, width)
    for name in norms:
        state[f"{name}.weight"], state[f"{name}.bias"] = torch.ones(width), torch.zeros(width)
    _narrow_biases_by_head(model, state, old_heads, chosen[0])

    config = model.config
    if embedding == wide:
        config.embedding_size = width
    setattr(config, names.HIDDEN_SIZE, width)
    setattr(config, names.NUM_ATTENTION_HEADS, heads)
    smaller = type(model)(config)
    smaller.load_state_dict({name: tensor.contiguous() for name, tensor in state.items()})
    smaller.eval()
    _fit_norms(smaller, {name: seen[f"{name}.out"] @ basis for name in norms}, batch, real)
    return smaller


def _attention(layer: Any, wide: int, kind: str) -> list[Any]:
    """Query, key, value and output of a layer, in this order: that in which every architecture we know declares them."""
    from torch.nn import Linear

    square = [module for module in layer.modules() if isinstance(module, Linear) and module.in_features == module.out_features == wide]
    if len(square) not in (4, 6):  # six where the feed-forward part is as wide as the layer
        raise RecipeError(
            f"student.width: query, key, value and output of a {kind} layer were not found.", write="Leave width and heads out."
        )
    return square[:4]


def _watch(model: Any, outputs: Sequence[str], inputs: Sequence[str], batch: Any, real: Any) -> dict[str, Any]:
    """What modules give (`NAME.out`) and get (`NAME.in`) on real tokens, float [tokens, width]; a head that sees one state a text: [rows, width]."""
    import torch

    seen: dict[str, Any] = {}

    def rows(tensor: Any) -> Any:
        return (tensor[real] if tensor.ndim == 3 and tensor.shape[:2] == real.shape else tensor.reshape(-1, tensor.shape[-1])).clone()

    hooks = [
        model.get_submodule(name).register_forward_hook(lambda _, __, out, name=name: seen.update({f"{name}.out": rows(out)}))
        for name in outputs
    ]
    hooks += [
        model.get_submodule(name).register_forward_pre_hook(lambda _, given, name=name: seen.update({f"{name}.in": rows(given[0])}))
        for name in inputs
    ]
    with torch.inference_mode():
        model(**batch)
    for hook in hooks:
        hook.remove()
    return {name: tensor.clone() for name, tensor in seen.items()}


def _chosen_heads(
    model: Any, attention: list[list[Any]], name_of: dict[Any, str], seen: dict[str, Any], old: int, heads: int
) -> list[list[int]]:
    """The heads to keep in each layer, by the size of what they write. A table of biases by head is shared by all layers, and so then is the choice."""
    import torch

    sizes = []
    for *_, output in attention:
        parts = seen[f"{name_of[output]}.in"].unflatten(-1, (old, -1))  # [tokens, heads, dimensions]
        written = torch.einsum("nhd,ohd->nho", parts, output.weight.detach().unflatten(1, (old, -1)))
        sizes.append(written.pow(2).mean(dim=(0, 2)).sqrt())
    if any(True for _ in _biases_by_head(model, old)):
        sizes = [torch.stack(sizes).sum(0)] * len(sizes)
    return [size.topk(heads).indices.sort().values.tolist() for size in sizes]


def _narrow_attention(state: dict[str, Any], four: list[str], seen: dict[str, Any], kept: list[int], before: int, after: int) -> None:
    """Cut query, key, value and output to the heads `kept`, of `after` dimensions each; the stream's side is still wide."""
    import torch

    query, key, value, output = four
    cut: dict[str, list[Any]] = {f"{name}.{part}": [] for name in (query, key, value) for part in ("weight", "bias")}
    writes = []
    for head in kept:
        place = slice(head * before, (head + 1) * before)
        q, k, v = (_root(seen[f"{name}.out"][:, place]) for name in (query, key, value))
        written = state[f"{output}.weight"][:, place].double()
        left, size, right = torch.linalg.svd(q.T @ k)
        few = min(before, after)
        root = size[:few].sqrt()
        # Scores are divided by the square root of the head's dimensions, which were `before` and are now `after`.
        turns = {
            query: torch.linalg.solve(q.T, left[:, :few] * root) * (after / before) ** 0.5,
            key: torch.linalg.solve(k.T, right.T[:, :few] * root),
        }
        most = torch.linalg.svd(v.T @ written.T)[0][:, :few]
        turns[value] = torch.linalg.solve(v.T, most)
        for name, turn in turns.items():
            cut[f"{name}.weight"].append(_filled(turn.float().T @ state[f"{name}.weight"][place], after, NOISE))
            cut[f"{name}.bias"].append(_filled(turn.float().T @ state[f"{name}.bias"][place], after, 0.0))
        writes.append(_filled((written @ v @ most).float().T, after, 0.0).T)
    state.update({name: torch.cat(parts) for name, parts in cut.items()})
    state[f"{output}.weight"] = torch.cat(writes, dim=1)


def _root(values: Any) -> Any:
    """L with L·Lᵀ the second moment of `values` [tokens, dimensions], float64; a small ridge keeps it invertible."""
    import torch

    moment = values.double().T @ values.double() / len(values)
    ridge = 1e-6 * moment.diagonal().mean() + 1e-12
    return torch.linalg.cholesky(moment + ridge * torch.eye(len(moment), dtype=torch.float64))


def _filled(rows: Any, wanted: int, noise: float) -> Any:
    """`rows` with as many more as are missing to `wanted`, drawn around 0."""
    import torch

    missing = wanted - len(rows)
    return torch.cat([rows, torch.randn(missing, *rows.shape[1:]) * noise]) if missing > 0 else rows


def _input_part(state: dict[str, Any], name: str, seen: dict[str, Any], rest: Any) -> Any:
    """What a reader gets on average from the part of the stream that the basis leaves out."""
    return state[f"{name}.weight"] @ (rest @ seen[f"{name}.in"].mean(0))


def _narrow_dense(state: dict[str, Any], dense: str, final: str | None, seen: dict[str, Any], width: int) -> None:
    """Keep the neurons of the head's dense layer that the classifier uses most. Behind its activation no rotation is possible, only a choice."""
    if final is None:
        kept = state[f"{dense}.weight"].norm(dim=1).topk(width).indices.sort().values
    else:
        inputs, weight = seen[f"{final}.in"], state[f"{final}.weight"]
        kept = (inputs.pow(2).mean(0).sqrt() * weight.norm(dim=0)).topk(width).indices.sort().values
        lost = inputs.mean(0).clone()
        lost[kept] = 0
        state[f"{final}.bias"] = state[f"{final}.bias"] + weight @ lost
        state[f"{final}.weight"] = weight[:, kept]
    state[f"{dense}.weight"], state[f"{dense}.bias"] = state[f"{dense}.weight"][kept], state[f"{dense}.bias"][kept]


def _biases_by_head(model: Any, heads: int) -> Any:
    """Names of tables with one number a head, such as MPNet's biases by distance."""
    from torch.nn import Embedding

    return (name for name, module in model.named_modules() if isinstance(module, Embedding) and module.embedding_dim == heads)


def _narrow_biases_by_head(model: Any, state: dict[str, Any], old: int, kept: list[int]) -> None:
    for name in _biases_by_head(model, old):
        state[f"{name}.weight"] = state[f"{name}.weight"][:, kept]


def _fit_norms(model: Any, wanted: dict[str, Any], batch: Any, real: Any) -> None:
    """Set each norm's scale and shift, in the order in which they run, so that it gives what the wide stream holds in the basis: least squares."""
    import torch

    def fit(norm: Any, given: Any, target: Any) -> None:
        x = given[0][real]
        x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, unbiased=False) + norm.eps).sqrt()
        middle = x.mean(0)
        scale = ((x - middle) * (target - target.mean(0))).mean(0) / (x - middle).pow(2).mean(0).clamp(min=1e-6)
        norm.weight.copy_(scale)
        norm.bias.copy_(target.mean(0) - scale * middle)

    hooks = [
        model.get_submodule(name).register_forward_pre_hook(lambda norm, given, target=target: fit(norm, given, target))
        for name, target in wanted.items()
    ]
    with torch.no_grad():
        model(**batch)
    for hook in hooks:
        hook.remove()
