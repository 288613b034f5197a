"""Terms, floor, soft labels: who may teach, who is good enough, and that no row gets another's labels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgedistill.errors import SourceError, StageError, TermsError
from edgedistill.models import check_folder, load_model, load_tokenizer, save
from edgedistill.recipe import Teacher
from edgedistill.stages import teach
from edgedistill.stages.teach import LabelParams, check_floor, check_terms, label, read_labels
from edgedistill.store import Artifact, Store
from edgedistill.tables import make_rows, write_rows
from edgedistill.teachers import transformers as local
from tests.conftest import tickets

CLASSES = ["account", "billing", "delivery"]
TASK = "text-classification"


@pytest.fixture(scope="module")
def headed(tiny_teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher that has a head for the classes, with its outputs in another order than ours."""
    import torch

    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("headed")
    save(load_model(tiny_teacher, TASK, ["delivery", "account", "billing"]), load_tokenizer(tiny_teacher), folder)
    return folder


def test_terms_known_open_licence_passes_and_is_recorded(tmp_path: Path) -> None:
    """A build stopped for no reason, or a bundle that cannot say why it was allowed."""
    teacher = Teacher(model="m", license="Apache-2.0", license_basis="model card")
    assert check_terms(teacher, tmp_path, "w") == {"license": "apache-2.0", "basis": "model card", "model": "m"}


def test_terms_from_the_models_own_card(tiny_teacher: Path) -> None:
    """A licence that the card states asked for again."""
    record = check_terms(Teacher(model="m"), tiny_teacher, "w")
    assert (record["license"], record["basis"]) == ("mit", "the model's own card (README.md)")


def test_unknown_terms_stop(tmp_path: Path) -> None:
    """A student distilled from a teacher whose terms nobody looked up."""
    with pytest.raises(TermsError) as error:
        check_terms(Teacher(model="m"), tmp_path, "teacher.license")
    assert str(error.value) == (
        "teacher.license: the terms of the teacher are unknown, so nobody can say whether a student may be distilled from it. Look them up and "
        'write, for example, license = "apache-2.0" under [teacher], with license_basis = "where it is stated".'
    )
    assert error.value.exit_code == 2


@pytest.mark.parametrize(
    ("license", "text"),
    [("cc-by-nc-4.0", "do not allow it: no commercial use"), ("my-own", "is no licence that edgedistill knows to allow distillation")],
)
def test_forbidding_or_strange_terms_stop(tmp_path: Path, license: str, text: str) -> None:
    """A forbidding licence passed because it is written down."""
    with pytest.raises(TermsError, match=text):
        check_terms(Teacher(model="m", license=license), tmp_path, "teacher.license")


def test_teacher_below_the_floor_stops_unless_accepted() -> None:
    """Hours spent on distilling a teacher that a linear model beats."""
    facts = {"accuracy": 0.7, "floor": 0.8, "test_rows": 100}
    with pytest.raises(StageError, match=r"right on 70\.0% of 100 held-out rows; TF-IDF with a linear SVM reaches 80\.0%"):
        check_floor(facts, Teacher(model="m"), "teacher")
    check_floor(facts, Teacher(model="m", below_floor="accept"), "teacher")


def test_floor_learns_what_is_easy() -> None:
    """A floor that is broken, so that every teacher stands above it."""
    rows = tickets(300)
    train, test = rows[:240], rows[240:]
    numbers = {name: place for place, name in enumerate(CLASSES)}
    made = [make_rows([text for text, _ in part], [numbers[queue] for _, queue in part]) for part in (train, test)]
    assert teach.floor_accuracy(*made) > 0.95


def test_adopted_head_is_put_into_our_order(headed: Path, tmp_path: Path) -> None:
    """Class 0 of the teacher taken for class 0 of the data."""
    theirs = local.logits(headed, ["refund my invoice"], CLASSES, TASK, Teacher(model="m"), 32, "float32")
    local.adopt(headed, tmp_path / "adopted", CLASSES, TASK)
    ours = local.logits(tmp_path / "adopted", ["refund my invoice"], CLASSES, TASK, Teacher(model="m"), 32, "float32")
    assert local.has_head(headed, CLASSES, TASK) and not local.has_head(headed, ["a", "b", "c"], TASK)
    assert not local.has_head(headed, CLASSES, "token-classification")
    np.testing.assert_allclose(ours[0], theirs[0][[1, 2, 0]], atol=1e-6)  # theirs: delivery, account, billing


def test_length_bucketing_changes_no_logit(headed: Path) -> None:
    """Padding that leaks into the answer, or batches put back in another order."""
    texts = [text for text, _ in tickets(40)] + ["", "refund " * 60]
    together = local.logits(headed, texts, CLASSES, TASK, Teacher(model="m"), 32, "float32")
    alone = np.concatenate([local.logits(headed, [text], CLASSES, TASK, Teacher(model="m"), 32, "float32") for text in texts])
    np.testing.assert_allclose(together, alone, atol=1e-5)


def prepared_and_transfer(folder: Path, texts: list[str]) -> dict[str, Path]:
    (folder / "prepared").mkdir()
    (folder / "prepared" / "classes.json").write_text(json.dumps(CLASSES))
    (folder / "transfer").mkdir()
    write_rows(folder / "transfer" / "transfer.parquet", make_rows(texts))
    return {"prepared": folder / "prepared", "transfer": folder / "transfer"}


def test_interrupted_labelling_goes_on(headed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Teacher calls paid twice, or rows matched with another row's labels after a resume."""
    monkeypatch.setattr(teach, "SHARD", 16)
    (tmp_path / "teacher").mkdir()
    (tmp_path / "teacher" / "model").symlink_to(headed)
    texts = [text for text, _ in tickets(60)]
    inputs = prepared_and_transfer(tmp_path, texts) | {"teacher": tmp_path / "teacher"}
    out, real, asked = tmp_path / "out", local.logits, []
    out.mkdir()

    def failing(model: Path, shard: list[str], *rest: Any) -> np.ndarray:
        asked.append(len(shard))
        if len(asked) == 3:
            raise KeyboardInterrupt
        return real(model, shard, *rest)

    monkeypatch.setattr(local, "logits", failing)
    params = LabelParams(Teacher(model="m"), "classify", 32, "float32")
    with pytest.raises(KeyboardInterrupt):
        label(out, params, **inputs)
    label(out, params, **inputs)
    assert asked == [16, 16, 16, 16, 12], "the two finished shards were asked for again"
    keys = make_rows(texts).keys
    np.testing.assert_allclose(
        read_labels(out / "labels.parquet", keys), real(headed, texts, CLASSES, TASK, Teacher(model="m"), 32, "float32"), atol=1e-5
    )
    shuffled = keys[::-1]
    np.testing.assert_array_equal(read_labels(out / "labels.parquet", shuffled), read_labels(out / "labels.parquet", keys)[::-1])
    with pytest.raises(StageError, match="1 texts of the transfer set have no soft label"):
        read_labels(out / "labels.parquet", [*keys, "0" * 32])


def test_a_larger_set_asks_the_teacher_only_what_is_new(headed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More traffic, more growth: an hour of labels paid again, or a text with the answer to another. Nor does a kill in between, or another set
    that was labelled meanwhile, cost a text its label.
    """
    monkeypatch.setattr(teach, "SHARD", 16)
    texts = list(dict.fromkeys(text for text, _ in tickets(87)))
    inputs = prepared_and_transfer(tmp_path, texts) | {"teacher": tmp_path / "teacher"}
    (tmp_path / "teacher").mkdir()
    (tmp_path / "teacher" / "model").symlink_to(headed)
    asked, real, store = [], local.logits, Store(tmp_path / "store")
    stops = [False]

    def counted(model: Path, shard: list[str], *rest: Any) -> np.ndarray:
        if stops[0] and len(shard) < 16:
            raise KeyboardInterrupt
        asked.extend(shard)
        return real(model, shard, *rest)

    def labels(rows: list[str], max_tokens: int = 32) -> Path:
        write_rows(inputs["transfer"] / "transfer.parquet", make_rows(rows))
        sources = {
            name: Artifact(folder, f"{name} {len(rows) if name == 'transfer' else ''}", "x", 0.0, True) for name, folder in inputs.items()
        }
        return store.build(teach.LABEL, LabelParams(Teacher(model="m"), "classify", max_tokens, "float32"), **sources).path

    monkeypatch.setattr(local, "logits", counted)
    labels(texts[:10])
    assert set(asked) == set(texts[:10])
    stops[0] = True
    with pytest.raises(KeyboardInterrupt):
        labels(texts)
    killed = len(asked)
    stops[0] = False
    labels(texts[5:15])
    whole = labels(texts)
    assert 10 < killed < len(asked) and set(asked) == set(texts) and len(asked) - len(texts) <= 5, "some were asked twice"
    np.testing.assert_allclose(
        read_labels(whole / "labels.parquet", make_rows(texts).keys),
        real(headed, texts, CLASSES, TASK, Teacher(model="m"), 32, "float32"),
        atol=1e-5,
    )
    labels(texts, max_tokens=8)
    assert len(asked) >= 2 * len(texts), "answers to texts that were cut off elsewhere"


def test_held_out_texts_are_labelled_too(headed: Path, tmp_path: Path) -> None:
    """Held-out texts that nobody knows the teacher's answer to."""
    (tmp_path / "teacher").mkdir()
    (tmp_path / "teacher" / "model").symlink_to(headed)
    inputs = prepared_and_transfer(tmp_path, ["refund my invoice"]) | {"teacher": tmp_path / "teacher"}
    held = make_rows(["late parcel"])
    write_rows(tmp_path / "transfer" / "held_out.parquet", held)
    (tmp_path / "out").mkdir()
    label(tmp_path / "out", LabelParams(Teacher(model="m"), "classify", 32, "float32"), **inputs)
    assert read_labels(tmp_path / "out" / "labels.parquet", held.keys).shape == (1, 3)


@pytest.mark.parametrize("load", ["8bit", "4bit"])
def test_quantized_teacher_really_is_and_nearly_agrees(headed: Path, load: str) -> None:
    """An option that loads float weights all the same, or a teacher that forgets its answers."""
    import bitsandbytes as bnb

    options = Teacher(model="m", load=load)  # type: ignore[arg-type]
    texts = [text for text, _ in tickets(30)]
    float_logits = local.logits(headed, texts, CLASSES, TASK, Teacher(model="m"), 32, "float32")
    logits = local.logits(headed, texts, CLASSES, TASK, options, 32, "float32")
    loaded = next(iter(local._last_model.values()))
    kind = {"8bit": bnb.nn.Linear8bitLt, "4bit": bnb.nn.Linear4bit}[load]
    assert sum(isinstance(module, kind) for module in loaded.modules()) >= 4 * 6
    assert 0 < np.abs(logits - float_logits).max() < 0.5 * np.abs(float_logits).max()


def test_quantized_teacher_learns_through_adapters(tiny_teacher: Path, tmp_path: Path) -> None:
    """load = "4bit" that crashes at the first step, or a saved teacher that is not what was trained."""
    rows = tickets(120)
    labels = np.array([CLASSES.index(queue) for _, queue in rows], dtype=np.int64)
    options = Teacher(model="m", load="4bit", epochs=20, learning_rate=1e-3, batch_size=16)
    texts = [text for text, _ in rows]
    label = lambda row, offsets: labels[row]  # noqa: E731
    local.fine_tune(
        tiny_teacher, tmp_path / "out", texts, label, "classes", CLASSES, TASK, options, 32, "float32", 0, tmp_path / "checkpoints"
    )
    logits = local.logits(tmp_path / "out", texts, CLASSES, TASK, Teacher(model="m"), 32, "float32")
    chosen = logits[np.arange(len(labels)), labels]
    # ln 3 = 1.10 says nothing. Four vocabularies (the fixture's trainer breaks ties at random) gave 0.43 to 0.56.
    assert (np.logaddexp.reduce(logits, axis=1) - chosen).mean() < 0.8


def test_remote_code_is_refused(tiny_teacher: Path, tmp_path: Path) -> None:
    """A model folder whose own code is run."""
    config = json.loads((tiny_teacher / "config.json").read_text()) | {"auto_map": {"AutoModel": "modeling_evil.Evil"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(SourceError) as error:
        check_folder(tmp_path)
    assert "the model asks to run code of its own (auto_map: AutoModel). edgedistill never runs code from a model folder" in str(
        error.value
    )
    assert error.value.exit_code == 2


def test_pickled_weights_are_refused(tiny_teacher: Path, tmp_path: Path) -> None:
    """A pickle from outside that is opened."""
    (tmp_path / "config.json").write_bytes((tiny_teacher / "config.json").read_bytes())
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(SourceError, match="Pickled weights"):
        check_folder(tmp_path)


def test_installing_bitsandbytes_does_not_teach_again() -> None:
    """`make test` installs bitsandbytes; the next `make demo` must not train for ten minutes because of that."""
    assert teach.lowbit(Teacher(model="m")) == ""
    assert teach.lowbit(Teacher(model="m", load="4bit")) != ""
    assert "bitsandbytes" not in teach.FINE_TUNE.packages + teach.LABEL.packages
