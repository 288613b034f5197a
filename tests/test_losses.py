"""Losses against hand-computed values."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from edgedistill import plugins
from edgedistill.errors import RecipeError
from edgedistill.features import Seen, Sizes, layer_pairs
from edgedistill.losses import (
    attention_relations,
    attention_scores,
    binary_target,
    distance_angle,
    embedding_layer,
    hard_answer,
    hard_label,
    hidden_states,
    in_batch_ranking,
    score_target,
    similarity_preserving,
    soft_target,
    top_k_target,
)
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


def test_soft_target_counts_only_what_the_mask_counts() -> None:
    """Padding and inner sub-words of a tagger pulled towards whatever the teacher says there."""
    student = SimpleNamespace(logits=torch.tensor([[[0.0, 0.0], [9.0, -9.0]]], requires_grad=True))
    batch = {"teacher_logits": torch.tensor([[[2.0, 0.0], [-5.0, 5.0]]]), "mask": torch.tensor([[1, 0]])}
    p = 1 / (1 + math.exp(-2))
    want = p * math.log(p / 0.5) + (1 - p) * math.log((1 - p) / 0.5)
    for options in (soft_target.Options(temperature=1.0), top_k_target.Options(k=2)):
        plugin = soft_target if isinstance(options, soft_target.Options) else top_k_target
        value = plugin.loss(student, batch, options)  # type: ignore[arg-type]
        assert value.item() == pytest.approx(want, rel=1e-6)


def test_binary_target_by_hand() -> None:
    """Classes that compete though each is a yes or no of its own. Teacher (2, -2), student (0, 0), T = 2: both classes are equally off."""
    p = 1 / (1 + math.exp(-1))
    want = 4 * (p * math.log(p / 0.5) + (1 - p) * math.log((1 - p) / 0.5))
    batch = {"teacher_logits": torch.tensor([[2.0, -2.0]])}
    assert binary_target.loss(outputs([0.0, 0.0]), batch, binary_target.Options(temperature=2.0)).item() == pytest.approx(want, rel=1e-6)
    far = binary_target.loss(outputs([200.0, 0.0]), {"teacher_logits": torch.tensor([[-200.0, 0.0]])}, binary_target.Options())
    assert math.isfinite(far.item()) and far.item() > 100


def test_score_target_by_hand() -> None:
    """A far miss that counts by its square where Huber was asked for. Misses 0.5 and 3."""
    batch = {"teacher_logits": torch.tensor([[1.0], [0.0]])}
    student = outputs([1.5], [3.0])
    assert score_target.loss(student, batch, score_target.Options()).item() == pytest.approx((0.25 + 9) / 2)
    assert score_target.loss(student, batch, score_target.Options(error="huber")).item() == pytest.approx((0.125 + 2.5) / 2)


def test_top_k_keeps_the_mass_of_the_tail() -> None:
    """A student taught to be surer than its teacher. Teacher (0.5, 0.2, 0.2, 0.1), k = 1: "the first" against "something else"."""
    batch = {"teacher_logits": torch.tensor([[0.5, 0.2, 0.2, 0.1]]).log()}
    want = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert top_k_target.loss(outputs([0.0] * 4), batch, top_k_target.Options(k=1)).item() == pytest.approx(want, rel=1e-5)
    whole = soft_target.loss(outputs([0.0] * 4), batch, soft_target.Options(temperature=1.0)).item()
    assert top_k_target.loss(outputs([0.0] * 4), batch, top_k_target.Options(k=99)).item() == pytest.approx(whole, rel=1e-5)


def test_hard_answer_by_hand() -> None:
    """A teacher's other logits that leak in, or a confidence that is not spread. Teacher 0.8, 0.15, 0.05; student e, 1, 1."""
    batch = {"teacher_logits": torch.tensor([[0.8, 0.15, 0.05]]).log()}
    log_sum = math.log(math.e + 2)
    ignore = hard_answer.loss(outputs([1.0, 0.0, 0.0]), batch, hard_answer.Options())
    spread = hard_answer.loss(outputs([1.0, 0.0, 0.0]), batch, hard_answer.Options(confidence="spread"))
    assert ignore.item() == pytest.approx(log_sum - 1, rel=1e-6)
    assert spread.item() == pytest.approx(0.8 * (log_sum - 1) + 0.2 * log_sum, rel=1e-6)


def test_hidden_states_by_hand() -> None:
    """Padding counted, layers mapped one off, or a projection that starts elsewhere than at the identity."""
    options = hidden_states.Options(layers=[[1, 2]])
    parts = hidden_states.attach(Sizes(1, (2, 2)), Sizes(2, (2, 2, 2)), options)
    student = Seen(None, (torch.zeros(1, 2, 2), torch.tensor([[[1.0, 2.0], [7.0, 7.0]]])))
    batch = {
        "teacher_hidden": (torch.full((1, 2, 2), 50.0), torch.full((1, 2, 2), 60.0), torch.zeros(1, 2, 2)),
        "attention_mask": torch.tensor([[1, 0]]),
    }
    assert hidden_states.loss(student, batch, options, parts).item() == pytest.approx((1 + 4) / 2)


def test_hidden_states_of_decoders_are_the_last_alone() -> None:
    """Layers between compared by themselves, whose few huge numbers are all that would be learned."""
    four, thirty = Sizes(4, (2,) * 5, decoder=True), Sizes(30, (2,) * 31, decoder=True)
    assert list(hidden_states.attach(four, thirty, hidden_states.Options())) == ["4-30"]
    assert list(hidden_states.attach(four, thirty, hidden_states.Options(layers=[[2, 15]]))) == ["2-15"]
    assert list(hidden_states.attach(Sizes(2, (2,) * 3), Sizes(6, (2,) * 7), hidden_states.Options())) == ["1-3", "2-6"]


def test_layers_spread_evenly() -> None:
    """Every layer of the student matched with the teacher's last: TinyBERT's map takes every third of twelve for four."""
    assert layer_pairs(None, 4, 12, 0, "x") == [(1, 3), (2, 6), (3, 9), (4, 12)]
    assert layer_pairs(None, 2, 5, 1, "x") == [(1, 2), (2, 5)]


@pytest.mark.parametrize(
    ("layers", "first", "text"),
    [
        ([[1, 7]], 0, "the layer map names layer 7 of the teacher, which has layers 0 to 6."),
        ([[3, 6]], 0, "the layer map names layer 3 of the student, which has layers 0 to 2."),
        ([[0, 0]], 1, "the layer map names layer 0 of the student, which has layers 1 to 2."),
        ([[1, 2], [1, 3]], 0, "the layer map names a layer of the student twice."),
        ([[1, 2, 3]], 0, "the layer map does not hold two numbers an entry."),
        ([], 0, "the layer map does not hold two numbers an entry."),
    ],
)
def test_layer_maps_that_do_not_exist(layers: list[list[int]], first: int, text: str) -> None:
    """An IndexError in the middle of the training for a layer that is not there."""
    with pytest.raises(RecipeError) as error:
        layer_pairs(layers, 2, 6, first, "hidden_states")
    assert str(error.value) == (
        f"distill.losses, hidden_states: {text} Write pairs of [student layer, teacher layer], such as layers = [[2, 6]]."
    )


def test_layers_of_a_student_that_has_none() -> None:
    """A mean over no layers at all, which is no number."""
    with pytest.raises(RecipeError, match="distill.losses, hidden_states: the student has no layers to compare"):
        hidden_states.attach(Sizes(0, (8,)), Sizes(6, (8,) * 7), hidden_states.Options())


def test_embedding_layer_by_hand() -> None:
    """Padding counted, or a narrower student compared without its projection."""
    parts = embedding_layer.attach(Sizes(0, (1,)), Sizes(1, (2, 2)), embedding_layer.Options())
    with torch.no_grad():
        parts.weight.copy_(torch.tensor([[1.0], [2.0]]))
    batch = {"teacher_hidden": (torch.zeros(1, 2, 2),), "attention_mask": torch.tensor([[1, 0]])}
    value = embedding_layer.loss(Seen(None, (torch.tensor([[[3.0], [99.0]]]),)), batch, embedding_layer.Options(), parts)
    assert value.item() == pytest.approx((3**2 + 6**2) / 2)


def test_attention_scores_by_hand() -> None:
    """Scores not scaled by the head's width, or padding compared. One head of width 4: q·k / 2."""
    parts = attention_scores.attach(Sizes(1, width=4, heads=1), Sizes(1, width=4, heads=1), attention_scores.Options())
    query, key = torch.tensor([[[1.0, 1, 1, 1], [9, 9, 9, 9]]]), torch.tensor([[[2.0, 2, 2, 2], [9, 9, 9, 9]]])
    student = Seen(None, attention=((query, key, key),))
    batch = {"teacher_attention": ((torch.zeros(1, 2, 4),) * 3,), "attention_mask": torch.tensor([[1, 0]])}
    assert attention_scores.loss(student, batch, attention_scores.Options(), parts).item() == pytest.approx((8 / 2) ** 2)


def test_attention_scores_needs_equal_heads() -> None:
    """Heads compared with heads that are not theirs."""
    with pytest.raises(RecipeError) as error:
        attention_scores.attach(Sizes(2, width=8, heads=4), Sizes(6, width=24, heads=12), attention_scores.Options())
    assert str(error.value) == (
        "distill.losses, attention_scores: the student has 4 attention heads and the teacher 12, so there are no pairs to compare. "
        'Write kind = "attention_relations", which needs no equal heads.'
    )


def test_attention_relations_by_hand() -> None:
    """A relation that lacks its √d, or takes in padding. One head, width 1, two tokens of three: value-value products over √1."""
    options = attention_relations.Options(relations=["value-value"])
    parts = attention_relations.attach(Sizes(1, width=1, heads=1), Sizes(1, width=1, heads=1), options)
    nothing, value = torch.zeros(1, 3, 1), torch.tensor([[[1.0], [2.0], [50.0]]])
    student = Seen(None, attention=((nothing, nothing, nothing),))
    batch = {"teacher_attention": ((nothing, nothing, value),), "attention_mask": torch.tensor([[1, 1, 0]])}

    def divergence(products: list[float]) -> float:  # from the student's even halves
        total = sum(map(math.exp, products))
        return sum(math.exp(x) / total * math.log(math.exp(x) / total / 0.5) for x in products)

    want = (divergence([1, 2]) + divergence([2, 4])) / 2
    assert attention_relations.loss(student, batch, options, parts).item() == pytest.approx(want, rel=1e-5)


def test_attention_relations_need_no_equal_widths() -> None:
    """Relation heads that do not divide both widths found out only by a reshape; gradient that is not a number under a mask."""
    parts = attention_relations.attach(Sizes(2, width=48, heads=4), Sizes(6, width=64, heads=8), attention_relations.Options())
    assert parts.heads == 8
    with pytest.raises(RecipeError) as error:
        attention_relations.attach(Sizes(2, width=48, heads=4), Sizes(6, width=64, heads=8), attention_relations.Options(heads=12))
    assert str(error.value) == (
        "distill.losses, attention_relations: 12 relation heads do not divide the widths 48 and 64. Write heads = 8."
    )
    ours = tuple(torch.randn(2, 3, 48, requires_grad=True) for _ in range(3))
    batch = {
        "teacher_attention": ((torch.randn(2, 3, 64),) * 3,) * 6,
        "attention_mask": torch.tensor([[1, 1, 0], [1, 1, 1]]),
    }
    attention_relations.loss(Seen(None, attention=(ours, ours)), batch, attention_relations.Options(), parts).backward()
    assert all(torch.isfinite(part.grad).all() and not part.grad[0, 2].any() for part in ours)


def test_distance_and_angle_by_hand() -> None:
    """Distances not scaled by their mean, or the angle taken at the wrong point. A right triangle with legs 3 and 4."""
    triangle = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]])
    torch.testing.assert_close(distance_angle.distances(triangle)[0], torch.tensor([0.0, 3 / 4, 4 / 4]))
    cosines = distance_angle.angles(triangle)
    assert cosines[0, 1, 2].item() == pytest.approx(0, abs=1e-6)
    assert cosines[1, 0, 2].item() == pytest.approx(3 / 5) and cosines[2, 0, 1].item() == pytest.approx(4 / 5)
    student = Seen(None, embedding=torch.tensor([[0.0], [1.0], [2.0]]))  # distances 1, 1, 2 over 4/3
    value = distance_angle.loss(student, {"teacher_embedding": triangle}, distance_angle.Options(angle=0.0))
    misses = [(3 / 4 - 3 / 4), (4 / 4 - 6 / 4), (5 / 4 - 3 / 4)]  # pairs 01, 02, 12
    assert value.item() == pytest.approx(2 * sum(miss**2 / 2 for miss in misses) / 9, rel=1e-5)


def test_relational_losses_are_zero_for_a_turned_teacher() -> None:
    """A relation that depends on the axes: a student that is the teacher, turned, keeps every distance and angle, and needs no pull."""
    torch.manual_seed(0)
    teacher = torch.randn(6, 4)
    turn, _ = torch.linalg.qr(torch.randn(4, 4))
    wider = torch.cat([teacher @ turn, torch.zeros(6, 3)], dim=1).requires_grad_()
    for plugin in (distance_angle, similarity_preserving, in_batch_ranking):
        value = plugin.loss(Seen(None, embedding=wider), {"teacher_embedding": teacher}, plugin.Options())  # type: ignore[attr-defined]
        assert value.item() == pytest.approx(0, abs=1e-5)
        (grad,) = torch.autograd.grad(value, wider)
        assert torch.isfinite(grad).all()
    for rows in (1, 2):  # the last batch of a pass may be this small
        for plugin in (distance_angle, in_batch_ranking):
            few = torch.randn(rows, 7, requires_grad=True)
            plugin.loss(Seen(None, embedding=few), {"teacher_embedding": teacher[:rows]}, plugin.Options()).backward()  # type: ignore[attr-defined]
            assert torch.isfinite(few.grad).all()


def test_similarity_preserving_by_hand() -> None:
    """Rows not scaled to length 1, or the sum not over rows². Teacher (1,0), (0,1); student (1,0), (1,0): 1 against 1/√2."""
    student = Seen(None, embedding=torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
    value = similarity_preserving.loss(student, {"teacher_embedding": torch.eye(2)}, similarity_preserving.Options())
    half = 1 / math.sqrt(2)
    assert value.item() == pytest.approx(2 * ((1 - half) ** 2 + half**2) / 4, rel=1e-6)


def test_in_batch_ranking_by_hand() -> None:
    """A text that is its own nearest neighbour, which would drown all others. Cosines to the others: teacher 1, 0; student even."""
    teacher = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 3.0]])
    student = Seen(None, embedding=torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]]))
    value = in_batch_ranking.loss(student, {"teacher_embedding": teacher}, in_batch_ranking.Options(temperature=1.0))
    p = math.e / (math.e + 1)
    one = p * math.log(p / 0.5) + (1 - p) * math.log((1 - p) / 0.5)  # rows 1 and 2; row 3 finds both others equally far
    assert value.item() == pytest.approx(2 * one / 3, rel=1e-5)


@pytest.mark.parametrize("name", [name for name in plugins.names("losses") if hasattr(plugins.find("losses", name), "constant")])
def test_constant_is_the_best_answer_that_ignores_the_input(name: str) -> None:
    """A guard that compares a student with an answer that is not the best constant, and lets it pass too easily."""
    plugin = plugins.find("losses", name)
    torch.manual_seed(0)
    columns = {"teacher_logits": torch.randn(50, 3) * 2}
    options = plugin.Options()
    best = plugin.constant(columns, options)
    reached = plugin.loss(Seen(best.expand(50, 3)), columns, options).item()
    for _ in range(20):
        other = best + 0.3 * torch.randn(3)
        assert plugin.loss(Seen(other.expand(50, 3)), columns, options).item() >= reached - 1e-6


@pytest.mark.parametrize("name", plugins.names("losses"))
def test_every_loss_keeps_the_contract(name: str) -> None:
    """A loss file that the pipeline cannot use: no docstring with its source, no options, no gradient, or not a scalar."""
    plugin = plugins.find("losses", name)
    assert issubclass(plugin.Options, Section) and "weight" in plugin.Options.model_fields
    assert "arXiv:" in plugin.__doc__
    torch.manual_seed(0)
    leaves = [torch.randn(*shape, requires_grad=True) for shape in ((4, 3), (4, 5, 8), (4, 5, 8), (4, 8))]
    logits, first, second, embedding = leaves
    student = Seen(logits, (first, second), ((first, second, first),), embedding)
    other = torch.randn(3, 4, 5, 8)
    batch = {
        "teacher_logits": torch.randn(4, 3),
        "labels": torch.tensor([0, 2, -1, 1]),
        "teacher_embedding": torch.randn(4, 16),
        "teacher_hidden": tuple(other),
        "teacher_attention": ((other[0], other[1], other[2]),) * 2,
    }
    # Of answers that are written: the two likeliest tokens and the rest, one line a token.
    logs = torch.tensor([[0.6, 0.3], [0.5, 0.4], [0.7, 0.2], [0.8, 0.1]]).log()
    written = {
        "teacher_ids": torch.tensor([[0, 2], [1, 0], [2, 1], [0, 1]]),
        "teacher_logs": logs,
        "teacher_tail": torch.full((4,), 0.1).log(),
    }
    assert {*batch, "teacher_top", "teacher_text", "own_text"} >= plugin.NEEDS
    batch |= written
    batch["attention_mask"] = torch.tensor([[1] * 5, [1, 1, 0, 0, 0], [1] * 5, [1, 1, 1, 1, 0]])
    parts = [plugin.attach(Sizes(1, (8, 8), 8, 2, 8), Sizes(2, (8, 8, 8), 8, 2, 16), plugin.Options())] if hasattr(plugin, "attach") else []
    value = plugin.loss(student, batch, plugin.Options(), *parts)
    value.backward()
    assert value.ndim == 0 and any(leaf.grad is not None and leaf.grad.abs().sum() > 0 for leaf in leaves)
