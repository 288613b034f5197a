"""Losses against hand-computed values."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from edgedistill import plugins
from edgedistill.losses import hard_label, soft_target
from edgedistill.settings import Section


def outputs(*logits: list[float]) -> SimpleNamespace:
    return SimpleNamespace(logits=torch.tensor(logits, requires_grad=True))


def test_soft_target_by_hand() -> None:
    """T² forgotten, the KL the wrong way round, or a sum where a mean belongs. Teacher (2, 0), student (0, 0), T = 2: p = σ(1)."""
    p = 1 / (1 + math.exp(-1))
    one = 4 * (p * math.log(p / 0.5) + (1 - p) * math.log((1 - p) / 0.5))
    batch = {"teacher_logits": torch.tensor([[2.0, 0.0], [0.0, 0.0]])}
    value = soft_target.loss(outputs([0.0, 0.0], [0.0, 0.0]), batch, soft_target.Options(temperature=2.0))
    assert value.item() == pytest.approx(one / 2, rel=1e-6)  # the second row adds nothing, the mean is over both


def test_soft_target_is_zero_at_the_teacher() -> None:
    """A loss whose least value is not where student and teacher agree; a shift of all logits must not matter."""
    batch = {"teacher_logits": torch.tensor([[3.0, -1.0, 0.5]])}
    student = outputs([13.0, 9.0, 10.5])
    value = soft_target.loss(student, batch, soft_target.Options())
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-6)
    assert student.logits.grad.abs().max() < 1e-6


def test_hard_label_leaves_unlabelled_rows_out() -> None:
    """Rows that nobody labelled taken for class -1, or counted into the mean."""
    batch = {"labels": torch.tensor([0, -1])}
    value = hard_label.loss(outputs([1.0, 0.0], [5.0, -5.0]), batch, hard_label.Options())
    assert value.item() == pytest.approx(math.log(1 + math.exp(-1)), rel=1e-6)
    assert hard_label.loss(outputs([1.0, 0.0]), {"labels": torch.tensor([-1])}, hard_label.Options()).item() == 0


@pytest.mark.parametrize("name", plugins.names("losses"))
def test_every_loss_keeps_the_contract(name: str) -> None:
    """A loss file that the pipeline cannot use: no docstring with its source, no options, no gradient, or not a scalar."""
    plugin = plugins.find("losses", name)
    assert issubclass(plugin.Options, Section) and "weight" in plugin.Options.model_fields
    assert "arXiv:" in plugin.__doc__
    student = outputs([0.3, -0.2, 0.1], [0.0, 1.0, 0.0])
    batch = {"teacher_logits": torch.randn(2, 3), "labels": torch.tensor([0, 2])}
    assert batch.keys() >= plugin.NEEDS
    value = plugin.loss(student, batch, plugin.Options())
    value.backward()
    assert value.ndim == 0 and student.logits.grad.abs().sum() > 0
