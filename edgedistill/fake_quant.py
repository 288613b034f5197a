"""Training through the target's quantizer: the student computes what ONNX Runtime will compute from its quantized binary, and learns with it.

Quantization-aware training: on the way forward every weight stands on the grid that the quantizer would store, and every input of a product is
rounded as the runtime rounds it; on the way back both roundings pass the gradient as if they were not there (the straight-through estimator,
arXiv:1308.3432; for integer inference arXiv:1712.05877; blocks of four bits, LLM-QAT, arXiv:2305.17888).

A quantizer says by its `ARITHMETIC` which grids it stores and how its runtime rounds. `attach` puts that into a model, `settle` takes it out again and
leaves every weight on its grid. Each grid gives itself back: what `settle` left, the quantizer stores without any further loss, so nothing has
to be handed to it beside the weights, and the exported binary answers as the model did in training (tests/test_fake_quant.py holds the two together).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

Batch = dict[str, Any]
"""`input_ids` and `attention_mask`, tensors int64 [rows, tokens]."""

TINY = 1e-12
BLOCK = 64  # weights that share a scale where four bits are used
SHRINK = [1.0 - 0.025 * step for step in range(13)]  # shares of a block's range that are tried before it is cut into 4-bit steps


@dataclass(frozen=True)
class Arithmetic:
    """What a quantizer stores and its runtime rounds.

    products, tables: the grid of the weights of linear maps, and of embedding tables. activations: how a product's left side is rounded.
    narrowest_product, narrowest_table: outputs of a product and width of a table below which they stay in float.
    """

    products: Literal["int7_channel", "int4_block"]
    tables: Literal["uint8_tensor", "int4_block"]
    activations: Literal["uint8_row", "int8_block"]
    narrowest_product: int = 1
    narrowest_table: int = 1


# --- grids of weights: float [rows, width] → the same, every value on the grid --------------------------------------------------------------


def int7_channel(weight: Any, block: int = 0) -> Any:
    """Signed steps −64…64 with one scale a row (an output channel): the grid of `quantize_dynamic(per_channel=True, reduce_range=True)`."""
    scale = (weight.abs().amax(dim=1, keepdim=True) / 64).clamp(min=TINY)
    return (weight / scale).round() * scale


def uint8_tensor(weight: Any, block: int = 0) -> Any:
    """Steps 0…255 with one scale and one zero point for the whole table: what `quantize_dynamic` makes of a `Gather`."""
    return _asymmetric(weight.reshape(1, -1), 255).reshape(weight.shape)


def int4_block(weight: Any, block: int) -> Any:
    """Steps 0…15 with a scale and a zero point for each `block` of a row; the last block is filled with zeros, as the quantizer does."""
    return _blocks(weight, block, lambda values: _asymmetric(values, 15))


def _asymmetric(values: Any, steps: int) -> Any:
    """Values [groups, members] on the grid from each group's smallest to its largest; zero is always on it.

    The smallest value gets the first step and the largest the last, even where rounding would put both on the same side of a half: so the grid is as
    wide as the values, and gives itself back.
    """
    import torch

    low, high = values.amin(dim=-1, keepdim=True).clamp(max=0), values.amax(dim=-1, keepdim=True).clamp(min=0)
    scale = ((high - low) / steps).clamp(min=TINY)
    zero = (-low / scale).round().clamp(0, steps)
    step = ((values / scale).round() + zero).clamp(0, steps)
    step = torch.where(values >= high, float(steps), torch.where(values <= low, 0.0, step))
    return torch.where(high > low, (step - zero) * scale, 0.0)


def _blocks(rows: Any, block: int, grid: Callable[[Any], Any]) -> Any:
    """`grid` applied to each block of the last axis."""
    from torch.nn import functional

    width = rows.shape[-1]
    filled = functional.pad(rows, (0, -width % block))
    return grid(filled.reshape(*rows.shape[:-1], -1, block)).reshape(filled.shape)[..., :width]


# --- rounding of activations: float [rows, …, width] → the same, rounded ----------------------------------------------------------------------


def uint8_row(values: Any, counted: Any = None) -> Any:
    """As `DynamicQuantizeLinear` (ONNX operator specification, opset 11): uint8, scale and zero point from all values of one text.

    counted: bool [rows, tokens], the positions that the range is taken from; None for all.
    """
    spread = values if counted is None else values * counted[..., None]  # a zero never widens the range: it is always within it
    flat = spread.flatten(1)
    shape = (-1, *[1] * (values.ndim - 1))
    low, high = flat.amin(dim=1).clamp(max=0).reshape(shape), flat.amax(dim=1).clamp(min=0).reshape(shape)
    scale = ((high - low) / 255).clamp(min=TINY)
    zero = (-low / scale).round().clamp(0, 255)
    return (((values / scale).round() + zero).clamp(0, 255) - zero) * scale


def int8_block(values: Any, counted: Any = None) -> Any:
    """As `MatMulNBits` at accuracy level 4: signed steps −127…127, one scale for each 64 values of a token."""

    def grid(blocks: Any) -> Any:
        largest = blocks.abs().amax(dim=-1, keepdim=True).clamp(min=TINY)
        return (blocks * (127 / largest)).round() * (largest / 127)  # a product, as the runtime does it: it decides where halves go

    return _blocks(values, BLOCK, grid)


GRIDS = {"int7_channel": int7_channel, "uint8_tensor": uint8_tensor, "int4_block": int4_block}
ROUNDING = {"uint8_row": uint8_row, "int8_block": int8_block}


# --- in and out of a model -----------------------------------------------------------------------------------------------------------------


def attach(model: Any, arithmetic: Arithmetic, example: Batch | None = None) -> Callable[[], None]:
    """Put `arithmetic` into `model` in place; gives the function that takes it out and leaves all weights on their grids.

    example: a few real texts, given when the exporter computes what only the first token needs at the first token alone: they show where that is.
    """
    import torch
    from torch import nn
    from torch.nn.utils import parametrize

    class Grid(nn.Module):
        def __init__(self, name: str, block: int) -> None:
            super().__init__()
            self.name, self.block = name, block

        def forward(self, weight: Any) -> Any:
            with torch.no_grad():
                moved = GRIDS[self.name](weight, self.block) - weight
            return weight + moved  # the gradient passes as if nothing was rounded

    linear = [one for one in model.modules() if isinstance(one, nn.Linear) and one.out_features >= arithmetic.narrowest_product]
    embeddings = [one for one in model.modules() if isinstance(one, nn.Embedding) and one.embedding_dim >= arithmetic.narrowest_table]
    _fold_token_types(model)
    first_only = _read_at_the_first_token(model, linear, example) if example else []
    mask: dict[str, Any] = {}
    hooks = [model.register_forward_pre_hook(lambda _, args, options: mask.update(now=options.get("attention_mask")), with_kwargs=True)]
    round_off = ROUNDING[arithmetic.activations]

    def rounded(first: bool) -> Callable[[Any, tuple[Any, ...]], tuple[Any, ...]]:
        def hook(module: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
            values = inputs[0]
            with torch.no_grad():
                counted = mask.get("now")
                counted = counted.bool() if counted is not None and values.shape[:-1] == counted.shape else None
                if first and values.ndim == 3:
                    counted = torch.zeros(values.shape[:-1], dtype=torch.bool)
                    counted[:, 0] = True
                moved = round_off(values, counted) - values
            return (values + moved,)

        return hook

    for module in linear:
        hooks.append(module.register_forward_pre_hook(rounded(module in first_only)))
    parametrized: list[tuple[Any, str, int]] = [(one, arithmetic.products, BLOCK) for one in linear]
    parametrized += [(one, arithmetic.tables, table_block(one.embedding_dim)) for one in embeddings]
    for module, name, block in parametrized:
        if name == "int4_block":
            _clip(module.weight, block)
        parametrize.register_parametrization(module, "weight", Grid(name, block))

    def settle() -> None:
        for hook in hooks:
            hook.remove()
        for module, *_ in parametrized:
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)

    return settle


def table_block(width: int) -> int:
    """Weights that share a scale in a row of a table: no block may reach into the next row."""
    block = BLOCK
    while block > 16 and width % block:
        block //= 2
    return block


def _clip(weight: Any, block: int) -> None:
    """Cut each block of a weight [rows, width] to the range whose grid errs least: four bits are too few to reach for an outlier."""
    import torch

    def clipped(blocks: Any) -> Any:
        best, found = torch.full(blocks.shape[:-1], torch.inf), blocks
        low, high = blocks.amin(dim=-1, keepdim=True).clamp(max=0), blocks.amax(dim=-1, keepdim=True).clamp(min=0)
        for shrink in SHRINK:
            tried = blocks.clamp(low * shrink, high * shrink)
            error = ((_asymmetric(tried, 15) - blocks) ** 2).sum(dim=-1)
            found = torch.where((error < best)[..., None], tried, found)
            best = torch.minimum(error, best)
        return found

    with torch.no_grad():
        weight.copy_(_blocks(weight, block, clipped))


def _fold_token_types(model: Any) -> None:
    """A single text has token type 0 throughout, and the exporter adds that row to the position table: so must the grid of that table see it."""
    import torch

    for part in model.modules():
        types, positions = getattr(part, "token_type_embeddings", None), getattr(part, "position_embeddings", None)
        if not isinstance(types, torch.nn.Embedding) or not isinstance(positions, torch.nn.Embedding):
            continue
        if types.weight.shape[1] == positions.weight.shape[1]:
            with torch.no_grad():
                positions.weight += types.weight[0]
                types.weight.zero_()
            types.weight.requires_grad_(False)


def _read_at_the_first_token(model: Any, modules: list[Any], example: Batch) -> list[Any]:
    """The modules of which nothing but the first token reaches the answer: their ranges are of that token alone.

    Found by trying: what they read at every other position is replaced, and the answer stays. Query, key and value read one tensor, which is rounded
    once; the other positions of the key reach the answer, so the range of all three is taken from all positions.
    """
    import torch

    read: dict[int, list[Any]] = {}  # which tensor → the modules that read it
    kept = []  # so that no address is used twice
    needed = []

    def asked(hook: Callable[..., Any], *which: Any) -> Any:
        hooks = [module.register_forward_pre_hook(hook) for module in which]
        logits = model(**example).logits
        for one in hooks:
            one.remove()
        return logits

    def note(module: Any, inputs: tuple[Any, ...]) -> None:
        kept.append(inputs[0])
        read.setdefault(id(inputs[0]), []).append(module)

    def replace(module: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        values = inputs[0].clone()
        if values.ndim == 3:
            values[:, 1:] = -values[:, 1:]
        else:
            needed.append(module)
        return (values,)

    with torch.inference_mode():
        right = asked(note, *modules)
        needed += [module for module in modules if not torch.equal(asked(replace, module), right)]
    return [module for group in read.values() if not any(one in needed for one in group) for module in group]
