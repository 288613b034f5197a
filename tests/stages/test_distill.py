"""Students: cut as asked, started from the teacher, trained through the Trainer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from edgedistill.errors import RecipeError
from edgedistill.models import load_model, load_tokenizer
from edgedistill.recipe import Student
from edgedistill.stages import distill
from edgedistill.students import transformer
from edgedistill.students.transformer import which_layers
from edgedistill.tables import make_rows, write_rows
from edgedistill.training import Schedule, pad, train
from tests.conftest import tickets

CLASSES, TASK = ["account", "billing", "delivery"], "text-classification"
TEXTS = [text for text, _ in tickets(90)]


def started(teacher: Path, out: Path, **options: object) -> tuple[object, dict[str, object]]:
    out.mkdir()
    facts = transformer.start(teacher, out, Student(**options), TEXTS, CLASSES, TASK, 0)  # type: ignore[arg-type]
    return load_model(out, TASK, CLASSES), facts


def test_which_layers() -> None:
    """Layers bunched at one end, or one that does not exist."""
    assert [which_layers(count, 12) for count in (1, 2, 3, 4, 12)] == [[0], [0, 11], [0, 6, 11], [0, 4, 7, 11], list(range(12))]
    assert which_layers([1, 5], 6) == [1, 5]
    for wrong in (0, 7, [6], [], [2, 1], [1, 1]):
        with pytest.raises(RecipeError):
            which_layers(wrong, 6)


def test_all_layers_and_full_vocabulary_are_the_teacher(tiny_teacher: Path, tmp_path: Path) -> None:
    """A cut that changes what it should only copy."""
    teacher_model = load_model(tiny_teacher, TASK, CLASSES)
    student, _ = started(tiny_teacher, tmp_path / "s", layers=4, vocabulary="full")
    batch = {name: torch.from_numpy(value) for name, value in pad([[2, 9, 11, 3], [2, 7, 3]], 0).items()}
    states = [model.base_model(**batch).last_hidden_state.detach() for model in (teacher_model, student)]
    torch.testing.assert_close(states[0], states[1])


def test_task_vocabulary_keeps_the_embeddings_of_its_tokens(tiny_teacher: Path, tmp_path: Path) -> None:
    """Embedding rows that stand at another token's place after the cut."""
    student, facts = started(tiny_teacher, tmp_path / "s", layers=[0, 3])
    before, after = load_tokenizer(tiny_teacher), load_tokenizer(tmp_path / "s")
    table = load_model(tiny_teacher, TASK, CLASSES).get_input_embeddings().weight
    assert facts["vocabulary"] == after.get_vocab_size() < facts["vocabulary_before"]
    for token, place in after.get_vocab().items():
        torch.testing.assert_close(student.get_input_embeddings().weight[place], table[before.token_to_id(token)])  # type: ignore[attr-defined]


def test_feed_forward_is_pruned_by_importance(tiny_teacher: Path, tmp_path: Path) -> None:
    """Neurons dropped at random: what is kept must stay nearer to the unpruned student than a random choice of the same size."""
    full, _ = started(tiny_teacher, tmp_path / "full", layers=4)
    pruned, facts = started(tiny_teacher, tmp_path / "pruned", layers=4, ffn=64)
    ids = [encoding.ids for encoding in load_tokenizer(tmp_path / "full").encode_batch(TEXTS[:30])]
    batch = {name: torch.from_numpy(value) for name, value in pad(ids, 0).items()}

    def error(model: object) -> float:
        with torch.inference_mode():
            states = [m.base_model(**batch).last_hidden_state for m in (full, model)]  # type: ignore[attr-defined]
        return float((states[0] - states[1]).pow(2).mean())

    torch.manual_seed(0)
    chance = load_model(tmp_path / "full", TASK, CLASSES)
    with torch.no_grad():
        for layer in chance.bert.encoder.layer:
            layer.output.dense.weight[:, torch.randperm(128)[:64]] = 0
    assert facts["ffn"] == 64 and pruned.config.intermediate_size == 64  # type: ignore[attr-defined]
    assert error(pruned) < 0.5 * error(chance)


def test_training_resumes_at_its_step(tiny_teacher: Path, tmp_path: Path) -> None:
    """A resumed training that starts again from nothing, or that stops before its last step."""
    tokens = [encoding.ids for encoding in load_tokenizer(tiny_teacher, 32).encode_batch(TEXTS)]
    labels = np.array([CLASSES.index(queue) for _, queue in tickets(90)])

    def learn(stop_at: int | None) -> tuple[int, float]:
        torch.manual_seed(0)
        model = load_model(tiny_teacher, TASK, CLASSES)
        model.train()
        steps, last = 0, 0.0

        def loss(outputs: object, batch: dict[str, torch.Tensor]) -> torch.Tensor:
            nonlocal steps, last
            steps += 1
            if stop_at is not None and steps > stop_at:
                raise KeyboardInterrupt
            value = torch.nn.functional.cross_entropy(outputs.logits, batch["labels"])  # type: ignore[attr-defined]
            last = float(value)
            return value

        schedule = Schedule(100, 1e-3, 16, "float32", 0)
        train(model, tokens, {"labels": labels}, loss, schedule, pad_id=0, checkpoints=tmp_path / "checkpoints", label="x")
        return steps, last

    with pytest.raises(KeyboardInterrupt):
        learn(60)
    assert [folder.name for folder in (tmp_path / "checkpoints").glob("checkpoint-*")] == ["checkpoint-50"]
    steps, last = learn(None)
    assert steps == 50 and last < 0.5 * np.log(3), "half the steps alone do not get there"


def test_padding_by_hand() -> None:
    """A mask that hides real tokens."""
    batch = pad([[5, 6, 7], [8]], 0)
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 0, 0]] and batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]


def test_average_is_the_running_mean(tiny_teacher: Path, tmp_path: Path) -> None:
    """Last weights kept where the average was asked for. One row at a fixed rate: the average lags behind, between start and end."""
    kept = {}
    for average in (None, 0.9):
        torch.manual_seed(0)
        model = load_model(tiny_teacher, TASK, CLASSES)
        before = model.classifier.weight.detach().clone()
        schedule = Schedule(8, 1e-2, 1, "float32", 0, average=average)
        loss = lambda outputs, batch: outputs.logits[:, 0].sum()  # noqa: E731
        train(model, [[2, 9, 3]], {}, loss, schedule, pad_id=0, checkpoints=tmp_path / str(average), label="x")
        kept[average] = (model.classifier.weight.detach() - before)[0].abs().sum()
    assert 0.1 * kept[None] < kept[0.9] < 0.98 * kept[None]


def test_control_learns_every_gold_label_and_none_that_is_held_out(tmp_path: Path) -> None:
    """A control of fewer labels than the user has, since the teacher was asked about few texts: a gain that is none."""
    for name in ("prepared", "transfer"):
        (tmp_path / name).mkdir()
    write_rows(tmp_path / "prepared" / "train.parquet", make_rows(["a", "b", "c"], [0, 1, 2]))
    write_rows(tmp_path / "transfer" / "held_out.parquet", make_rows(["b"], [1]))
    rows = distill._with_gold(tmp_path / "prepared", tmp_path / "transfer")
    assert rows.texts == ["a", "c"] and rows.labels.tolist() == [0, 2]
