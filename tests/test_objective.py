"""The objective: parts that are trained and resumed, a teacher that is not, and guards that stop a useless run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from edgedistill.errors import RecipeError, StageError
from edgedistill.models import check_ids, load_model, load_tokenizer, same_ids
from edgedistill.objective import Objective, unbalanced
from edgedistill.recipe import Student
from edgedistill.students import transformer
from edgedistill.training import Schedule, train
from tests.conftest import tickets

CLASSES, TASK = ["account", "billing", "delivery"], "text-classification"
ROWS = tickets(90)
TEXTS = [text for text, _ in ROWS]


@pytest.fixture(scope="module")
def cut(tiny_teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student of two layers and the task's vocabulary."""
    folder = tmp_path_factory.mktemp("cut")
    transformer.start(tiny_teacher, folder, Student(layers=2), TEXTS, CLASSES, TASK, 0)
    return folder


def columns(sharp: float = 5.0) -> dict[str, np.ndarray]:
    labels = np.array([CLASSES.index(queue) for _, queue in ROWS])
    return {"teacher_logits": (sharp * np.eye(3)[labels]).astype(np.float32), "labels": labels}


def objective(cut: Path, teacher: Path, *losses: dict[str, object], steps: int | None = None) -> Objective:
    torch.manual_seed(0)
    ids = same_ids(load_tokenizer(cut, 32), load_tokenizer(teacher, 32), TEXTS)
    assert ids is not None
    return Objective(
        losses, load_model(cut, TASK, CLASSES), columns(), load_model(teacher, TASK, CLASSES).requires_grad_(False), ids, steps
    )


def tokens(cut: Path) -> list[list[int]]:
    return [encoding.ids for encoding in load_tokenizer(cut, 32).encode_batch(TEXTS)]


def learn(made: Objective, rows: list[list[int]], checkpoints: Path, steps: int = 60, rate: float = 1e-3) -> None:
    made.train()
    schedule = Schedule(steps, rate, 16, "float32", 0)
    train(made, rows, columns(), None, schedule, pad_id=0, checkpoints=checkpoints, label="x")


def test_teacher_reads_the_students_tokens_through_the_cut(cut: Path, tiny_teacher: Path) -> None:
    """Token i of the student compared with another word's vector: an uncut teacher, given the mapped ids, must see its own embedding rows."""
    made = objective(cut, tiny_teacher, {"kind": "embedding_layer"})
    ids = torch.tensor([tokens(cut)[0]])
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    (value,) = made.values(batch)
    assert value.item() == pytest.approx(0, abs=1e-10), "student and teacher have the same table, and the projection is the identity"
    assert not torch.equal(made._teacher_ids[ids], ids)


def test_other_tokens_are_no_same_ids(cut: Path, tiny_teacher: Path) -> None:
    """Two tokenizers that cut a text differently taken for alike."""
    assert same_ids(load_tokenizer(cut, 32), load_tokenizer(tiny_teacher, 32), ["zebra harpsichord"]) is None


def test_what_a_loss_owns_is_trained_and_resumed(cut: Path, tiny_teacher: Path, tmp_path: Path) -> None:
    """Projections that stand still, that start anew after a kill, or a teacher that is trained along."""
    losses = [{"kind": "soft_target"}, {"kind": "hidden_states", "weight": 0.1}]
    made = objective(cut, tiny_teacher, *losses)
    frozen = made._teacher[0].model
    before = {name: value.clone() for name, value in made.state_dict().items()}
    asked = [value.clone() for value in frozen.state_dict().values()]
    assert [name for name in before if name.startswith("parts_")] == ["parts_1.1-2.weight", "parts_1.2-4.weight"]
    assert not any(value.shape == frozen.get_input_embeddings().weight.shape for value in before.values()), (
        "the teacher is in the checkpoint"
    )
    real, calls = Objective.forward, 0

    def killed(self: Objective, *args: object, **inputs: object) -> object:
        nonlocal calls
        calls += 1
        if calls > 40:
            raise KeyboardInterrupt
        return real(self, *args, **inputs)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Objective, "forward", killed)
        learn(made, tokens(cut), tmp_path)
    again = objective(cut, tiny_teacher, *losses)
    seen: list[torch.Tensor] = []
    hook = again.register_forward_pre_hook(lambda module, _: seen.append(module.state_dict()["parts_1.1-2.weight"].clone()))
    learn(again, tokens(cut), tmp_path)
    hook.remove()
    assert len(seen) == 35 and not torch.equal(seen[0], before["parts_1.1-2.weight"]), "the projection was not in the checkpoint of step 25"
    assert all(torch.equal(one, two) for one, two in zip(asked, frozen.state_dict().values(), strict=True))


@pytest.mark.parametrize("kind", ["hidden_states", "attention_scores", "attention_relations", "embedding_layer"])
def test_feature_losses_fall(kind: str, cut: Path, tiny_teacher: Path, tmp_path: Path) -> None:
    """A loss that pushes away from the teacher."""
    made = objective(cut, tiny_teacher, {"kind": kind})
    with torch.no_grad():  # else the embedding layer has nothing to learn
        made.student.get_input_embeddings().weight.add_(0.1 * torch.randn_like(made.student.get_input_embeddings().weight))
    ids = torch.tensor([row[:6] for row in tokens(cut) if len(row) >= 6])
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    (before,) = made.values(batch)
    learn(made, tokens(cut), tmp_path)
    (after,) = made.values(batch)
    assert after.item() < 0.8 * before.item()


def test_balance_by_hand(cut: Path, tiny_teacher: Path) -> None:
    """A warning that names the wrong loss or weight. The same loss twice, the second 200 times lighter."""
    twice = [{"kind": "soft_target"}, {"kind": "soft_target", "weight": 0.005}]
    made = objective(cut, tiny_teacher, *twice)
    ids = torch.tensor(tokens(cut)[0])[None]
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "teacher_logits": torch.tensor([[5.0, 0, 0]])}
    facts, warnings = made.balance([batch])
    assert facts[0]["gradient_norm"] == pytest.approx(200 * facts[1]["gradient_norm"], rel=1e-3)
    assert warnings == [
        "the loss soft_target pulls 200 times less at the student than soft_target, so it has no effect. "
        "Write weight = 1 for soft_target to make them equal, or leave it out."
    ]
    assert all(weight.grad is None for weight in made.parameters()), "the weighing left gradients behind"


def test_a_loss_lost_beside_another_stops() -> None:
    """Hours of training with a loss that has no effect. One that is at its least already is no fault."""
    at_rest = {"kind": "embedding_layer", "weight": 1.0, "gradient_norm": 0.0}
    soft = {"kind": "soft_target", "weight": 1.0, "gradient_norm": 3.0}
    assert unbalanced([soft, at_rest]) == []
    with pytest.raises(StageError) as error:
        unbalanced([soft, {"kind": "similarity_preserving", "weight": 1.0, "gradient_norm": 1.5e-4}])
    assert str(error.value) == (
        "distill.losses: the loss similarity_preserving pulls 20,000 times less at the student than soft_target, so it has no effect. "
        "Write weight = 2e+04 for similarity_preserving to make them equal, or leave it out."
    )


def test_a_student_that_learns_passes_and_one_that_does_not_stops(cut: Path, tiny_teacher: Path, tmp_path: Path) -> None:
    """A useless run that goes on to its end, or a good one that is stopped."""
    learn(objective(cut, tiny_teacher, {"kind": "soft_target"}, steps=120), tokens(cut), tmp_path / "good", 120)
    with pytest.raises(StageError) as error:
        learn(objective(cut, tiny_teacher, {"kind": "soft_target"}, steps=120), tokens(cut), tmp_path / "bad", 120, rate=1e-12)
    said = str(error.value)
    assert said.startswith("distill: after 100 steps the student (loss ") and "gives the teacher's mean distribution to every text" in said
    assert said.endswith("or take more of the teacher's layers.")


def test_not_a_number_stops_and_names_the_loss(cut: Path, tiny_teacher: Path, tmp_path: Path) -> None:
    """A student of nothing but NaN that is exported."""
    with pytest.raises(StageError) as error:
        learn(objective(cut, tiny_teacher, {"kind": "soft_target"}), tokens(cut), tmp_path, rate=1e30)
    assert "the loss soft_target is no finite number any more at step" in str(error.value)
    assert str(error.value).endswith("Lower distill.learning_rate, or the weight of this loss.")


def test_rows_that_lack_a_column_are_refused(cut: Path) -> None:
    """A KeyError in the first step."""
    with pytest.raises(RecipeError) as error:
        Objective([{"kind": "distance_angle"}], load_model(cut, TASK, CLASSES), columns())
    assert str(error.value) == "distill.losses: the losses need teacher_embedding, which these rows do not have."


def test_ids_out_of_range_are_named(cut: Path, tiny_teacher: Path) -> None:
    """`IndexError: index out of range in self`, which says neither which file is wrong nor what to do."""
    model = load_model(cut, TASK, CLASSES)
    rows = len(model.get_input_embeddings().weight)
    check_ids(model, [[0, rows - 1], []], "here")
    with pytest.raises(StageError) as error:
        check_ids(model, [[3], [rows]], "here")
    assert str(error.value) == (
        f"here: the tokenizer gives token id {rows}, and the model has embeddings for ids 0 to {rows - 1} only. "
        "The folder's tokenizer.json belongs to another model: take the one that was saved with it."
    )
