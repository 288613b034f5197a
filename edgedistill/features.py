"""What losses look at inside a model while it runs: hidden states, queries, keys and values, and the vector that the head reads.

One forward pass gives all of it. Queries, keys and values are caught at the linear layers that make them, so attention may be computed by
any kernel: scores and relations follow from them, and no slow "eager" attention is needed. (What a model adds to its scores afterwards, such
as MPNet's bias by distance, is not in them.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgedistill import plugins
from edgedistill.errors import RecipeError

HIDDEN, ATTENTION, EMBEDDING = "teacher_hidden", "teacher_attention", "teacher_embedding"
TOKEN_LEVEL = frozenset({HIDDEN, ATTENTION})  # had by running the teacher on the very batch; EMBEDDING is cached beside the logits
_PROJECTIONS = (("query", "key", "value"), ("q_lin", "k_lin", "v_lin"), ("q_proj", "k_proj", "v_proj"), ("q", "k", "v"))


@dataclass
class Seen:
    """What one forward pass showed. All tensors are floats.

    logits: [rows, classes] or [rows, tokens, classes]. hidden: the embedding layer's output, then each layer's, [rows, tokens, width].
    attention: (query, key, value) of each layer, [rows, tokens, width]. embedding: what the head reads, [rows, width].
    """

    logits: Any
    hidden: tuple[Any, ...] = ()
    attention: tuple[tuple[Any, Any, Any], ...] = ()
    embedding: Any = None


@dataclass(frozen=True)
class Sizes:
    """What a loss must know of a model before training.

    layers: how many there are beside the embedding layer. widths: of the embedding layer's output and of each layer's. width: of queries, keys
    and values; heads: 0 when there is no attention. embedding: width of what the head reads. decoder: whether a token sees those before it alone.
    """

    layers: int = 0
    widths: tuple[int, ...] = ()
    width: int = 0
    heads: int = 0
    embedding: int = 0
    decoder: bool = False


def needs_of(losses: Sequence[Mapping[str, Any]]) -> frozenset[str]:
    """What a recipe's losses read, together."""
    return frozenset().union(*(plugins.find("losses", loss["kind"]).NEEDS for loss in losses))


class Observer:
    """A model and the places where it is watched. who: "student" or "teacher", for errors. needs: the names above."""

    def __init__(self, model: Any, needs: frozenset[str], who: str) -> None:
        self.model, self.needs, self.who = model, needs, who
        self._caught: dict[Any, Any] = {}
        self._hooks: list[Any] = []
        self._layers: list[tuple[Any, ...]] = []
        self._head: Any = None
        if ATTENTION in needs:
            self._layers = _attention_layers(model)
            for module in (part for layer in self._layers for part in layer):
                self._hooks.append(module.register_forward_hook(self._catch_output))
        self._embeds = bool(getattr(model, "embeds", False))  # what it gives is the embedding itself
        if EMBEDDING in needs and not self._embeds:
            self._head = _head(model)
            if self._head is not None:
                self._hooks.append(self._head.register_forward_pre_hook(self._catch_input))

    def __call__(self, input_ids: Any, attention_mask: Any) -> Seen:
        """One forward pass. Raises RecipeError when the model cannot show what is asked for."""
        self._caught.clear()
        more = (
            {"output_hidden_states": True}
            if HIDDEN in self.needs or (EMBEDDING in self.needs and self._head is None and not self._embeds)
            else {}
        )
        try:
            outputs = self.model(input_ids=input_ids, attention_mask=attention_mask, **more)
        except TypeError as problem:
            if not more or "output_hidden_states" not in str(problem):
                raise
            raise self._blind("hidden states layer by layer") from None
        hidden = tuple(getattr(outputs, "hidden_states", None) or ()) if more else ()
        if HIDDEN in self.needs and not hidden:
            raise self._blind("hidden states layer by layer")
        if ATTENTION in self.needs and not self._layers:
            raise self._blind("queries, keys and values")
        attention = tuple((self._caught[q], self._caught[k], self._caught[v]) for q, k, v in self._layers)
        embedding = None
        if EMBEDDING in self.needs:
            embedding = self._caught[self._head] if self._head is not None else hidden[-1] if hidden and not self._embeds else outputs[0]
            if embedding.ndim == 3:  # a vector a token: their mean is the text's
                embedding = mean_over_tokens(embedding, attention_mask)
        self._caught.clear()
        return Seen(outputs.logits if hasattr(outputs, "logits") else outputs[0], hidden, attention, embedding)

    def sizes(self) -> Sizes:
        """Seen on a small batch, so any family of models can say them."""
        import torch

        with torch.no_grad():
            seen = self(torch.zeros(1, 4, dtype=torch.int64), torch.ones(1, 4, dtype=torch.int64))
        return Sizes(
            layers=len(seen.hidden) - 1 if seen.hidden else len(seen.attention),
            widths=tuple(state.shape[-1] for state in seen.hidden),
            width=seen.attention[0][0].shape[-1] if seen.attention else 0,
            heads=int(getattr(self.model.config, "num_attention_heads", 0) or 0) if seen.attention else 0,
            embedding=0 if seen.embedding is None else seen.embedding.shape[-1],
        )

    def close(self) -> None:
        """Take the watching off again."""
        for hook in self._hooks:
            hook.remove()

    def _catch_output(self, module: Any, _: Any, output: Any) -> None:
        self._caught[module] = output

    def _catch_input(self, module: Any, inputs: tuple[Any, ...]) -> None:
        self._caught[module] = inputs[0]

    def _blind(self, what: str) -> RecipeError:
        kind = getattr(self.model.config, "model_type", type(self.model).__name__)
        return RecipeError(
            f"a loss compares {what}, and the {self.who} ({kind}) shows none.",
            where="distill.losses",
            write='Take losses of whole texts, such as "soft_target", "similarity_preserving" or "distance_angle".',
        )


def _attention_layers(model: Any) -> list[tuple[Any, ...]]:
    """The linear layers that make queries, keys and values, one triple a layer of the model, in order."""
    layers = []
    for module in model.modules():
        children = dict(module.named_children())
        for names in _PROJECTIONS:
            if all(hasattr(children.get(name), "weight") for name in names):
                layers.append(tuple(children[name] for name in names))
                break
    return layers


def _head(model: Any) -> Any:
    """The last linear layer with one output a class; None when the model has no head, as a sentence embedder."""
    from torch.nn import Linear

    classes = getattr(model.config, "num_labels", None)
    heads = [module for module in model.modules() if isinstance(module, Linear) and module.out_features == classes]
    named = hasattr(model, "classifier") or hasattr(model, "score") or "For" in type(model).__name__
    return heads[-1] if heads and named else None


# --- what losses of one kind share ----------------------------------------------------------------------------------------------------


def counted(values: Any, batch: dict[str, Any]) -> Any:
    """Logits with any leading dimensions, [..., classes], as float rows [answers, classes]: those that `batch["mask"]` counts, or all.

    mask: 0 or 1 in the shape of the leading dimensions. A text has one answer in classification, one a token in tagging.
    """
    mask = batch.get("mask")
    return values.float()[mask.bool()] if mask is not None else values.float().reshape(-1, values.shape[-1])


def mean_over_tokens(states: Any, mask: Any) -> Any:
    """The mean of the real tokens' vectors. states: [rows, tokens, width], mask: [rows, tokens]."""
    weight = mask.unsqueeze(-1).to(states.dtype)
    return (states * weight).sum(1) / weight.sum(1).clamp(min=1)


def token_error(ours: Any, theirs: Any, mask: Any) -> Any:
    """Squared error, mean over real tokens and width. ours, theirs: [rows, tokens, width], mask: [rows, tokens]."""
    real = mask.bool()
    return (ours.float()[real] - theirs.float()[real]).pow(2).mean()


def layer_pairs(wanted: Sequence[Sequence[int]] | None, student: int, teacher: int, first: int, kind: str) -> list[tuple[int, int]]:
    """[student layer, teacher layer] pairs; left out, each student layer m of M is matched with layer m·N/M of N (arXiv:1909.10351, §4.2).

    Layer 1 is the first one; 0, where `first` allows it, is the embedding layer's output. Raises RecipeError for layers that do not exist.
    """
    where = f"distill.losses, {kind}"
    example = f"Write pairs of [student layer, teacher layer], such as layers = [[{student}, {teacher}]]."
    if student < 1:
        raise RecipeError(
            "the student has no layers to compare.", where=where, write='Take a loss of whole texts, such as "similarity_preserving".'
        )
    if wanted is None:
        return [(layer, round(layer * teacher / student)) for layer in range(1, student + 1)]
    if not wanted or any(len(pair) != 2 for pair in wanted):
        raise RecipeError("the layer map does not hold two numbers an entry.", where=where, write=example)
    for pair in wanted:
        for who, layer, count in (("student", pair[0], student), ("teacher", pair[1], teacher)):
            if not first <= layer <= count:
                raise RecipeError(
                    f"the layer map names layer {layer} of the {who}, which has layers {first} to {count}.", where=where, write=example
                )
    if len({pair[0] for pair in wanted}) < len(wanted):
        raise RecipeError("the layer map names a layer of the student twice.", where=where, write=example)
    return [(pair[0], pair[1]) for pair in wanted]


def projection(student: int, teacher: int) -> Any:
    """A learned map between widths. Equal widths start at the identity: a student cut from its teacher lives in the same space."""
    from torch.nn import Linear, init

    linear = Linear(student, teacher, bias=False)
    (init.eye_ if student == teacher else init.orthogonal_)(linear.weight)
    return linear
