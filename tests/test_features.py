"""What is seen inside a model: right for every architecture, and refused where there is nothing to see."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from edgedistill.errors import RecipeError
from edgedistill.features import ATTENTION, EMBEDDING, HIDDEN, Observer
from edgedistill.losses.attention_scores import scores
from edgedistill.models import load_model
from tests.tiny_models import ARCHITECTURES, tiny_bert

CLASSES, TASK = [str(number) for number in range(5)], "text-classification"
BATCH = {"input_ids": torch.tensor([[5, 9, 11, 12], [5, 7, 8, 0]]), "attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_sees_the_same_in_every_architecture(architecture: str, tmp_path: Path) -> None:
    """Layers in another order, keys taken for queries, or a vector that the head does not read."""
    build: Callable[[Path], Path] = ARCHITECTURES[architecture]
    model = load_model(build(tmp_path), TASK, CLASSES, attn_implementation="eager")
    watched = Observer(model, frozenset({HIDDEN, ATTENTION, EMBEDDING}), "student")
    with torch.no_grad():
        seen = watched(**BATCH)
        plain = model(**BATCH, output_attentions=True)
    torch.testing.assert_close(seen.logits, plain.logits)
    assert len(seen.hidden) == 3 and len(seen.attention) == 2
    heads = [module for module in model.modules() if isinstance(module, torch.nn.Linear) and module.out_features == 5]
    torch.testing.assert_close(heads[-1](seen.embedding), seen.logits)
    sizes = watched.sizes()
    assert (sizes.layers, sizes.width, sizes.heads, sizes.embedding) == (2, 64, 4, 64) and len(sizes.widths) == 3
    if architecture != "mpnet":  # whose scores get a bias by distance on top
        for (query, key, _), attention in zip(seen.attention, plain.attentions, strict=True):
            mine = scores(query, key, 4).masked_fill(~BATCH["attention_mask"].bool()[:, None, None, :], float("-inf")).softmax(-1)
            torch.testing.assert_close(mine[0], attention[0], atol=1e-5, rtol=1e-4)
    watched.close()
    hooks = [hook for module in model.modules() for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values())]
    assert not any(getattr(hook, "__self__", None) is watched for hook in hooks)  # transformers has hooks of its own


class Bag(torch.nn.Module):
    """A student without layers or attention, as an embedding bag is."""

    def __init__(self) -> None:
        super().__init__()
        from transformers import PretrainedConfig

        self.config = PretrainedConfig(num_labels=5)
        self.table, self.classifier = torch.nn.Embedding(20, 8), torch.nn.Linear(8, 5)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> object:
        from transformers.modeling_outputs import SequenceClassifierOutput

        return SequenceClassifierOutput(logits=self.classifier(self.table(input_ids).mean(1)))


@pytest.mark.parametrize(("need", "what"), [(HIDDEN, "hidden states layer by layer"), (ATTENTION, "queries, keys and values")])
def test_students_without_layers_are_refused(need: str, what: str) -> None:
    """An IndexError deep in a loss for a student that has no attention."""
    with pytest.raises(RecipeError) as error:
        Observer(Bag(), frozenset({need}), "student")(**BATCH)
    assert f"distill.losses: a loss compares {what}, and the student (" in str(error.value)
    assert str(error.value).endswith(
        'shows none. Take losses of whole texts, such as "soft_target", "similarity_preserving" or "distance_angle".'
    )


def test_students_without_layers_have_an_embedding() -> None:
    """Relational losses that serve transformers alone."""
    bag = Bag()
    seen = Observer(bag, frozenset({EMBEDDING}), "student")(**BATCH)
    torch.testing.assert_close(seen.embedding, bag.table(BATCH["input_ids"]).mean(1))


def test_a_model_without_a_head_gives_the_mean_of_its_tokens(tmp_path: Path) -> None:
    """A sentence embedder whose padding counts, or whose some linear layer is taken for a head."""
    from transformers import AutoModel

    model = AutoModel.from_pretrained(tiny_bert(tmp_path)).eval()
    with torch.no_grad():
        seen = Observer(model, frozenset({EMBEDDING}), "teacher")(**BATCH)
        states = model(**BATCH).last_hidden_state
    torch.testing.assert_close(seen.embedding[1], states[1, :3].mean(0))
