"""A teacher that can only be run: logits, probabilities or label numbers out, and refused when it is none of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edgedistill.digests import file_digest
from edgedistill.errors import SourceError, StageError
from edgedistill.recipe import Teacher
from edgedistill.tasks import tag
from edgedistill.teachers import onnx as teacher
from tests.tiny_models import SENTENCES, _tokenizer

CLASSES = ["O", "B-X", "I-X"]
OPTIONS = Teacher(model="m", kind="onnx")
TOKEN, TEXT = "token-classification", "text-classification"


def black_box(folder: Path, end: str = "logits", by_token: bool = True, width: int = 3) -> tuple[Path, np.ndarray]:
    """A table look-up as a model: each token's row, or their mean; `end` is what comes out. Gives the folder and the table."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    size = _tokenizer(folder, "wordpiece")
    table = np.random.default_rng(0).normal(0, 2, (size, width)).astype(np.float32)
    nodes = [helper.make_node("Gather", ["table", "input_ids"], ["rows"])]
    if not by_token:
        nodes.append(helper.make_node("ReduceMean", ["rows"], ["mean"], axes=[1], keepdims=0))
    last = "rows" if by_token else "mean"
    kind = TensorProto.FLOAT
    if end == "probabilities":
        nodes.append(helper.make_node("Softmax", [last], [end], axis=-1))
    elif end == "labels":
        nodes.append(helper.make_node("ArgMax", [last], [end], axis=-1, keepdims=0))
        kind = TensorProto.INT64
    else:
        nodes.append(helper.make_node("Identity", [last], [end]))
    graph = helper.make_graph(
        nodes,
        "box",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["rows", "tokens"])],
        [helper.make_tensor_value_info(end, kind, None)],
        [numpy_helper.from_array(table, "table")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (folder / "onnx").mkdir(parents=True)
    onnx.save(model, str(folder / "onnx" / "model_q4.onnx"))
    (folder / "config.json").write_text(json.dumps({"id2label": {str(place): name for place, name in enumerate(CLASSES)}}))
    return folder, table


def adopted(model: Path, out: Path, task: str) -> Path:
    teacher.adopt(model, out, CLASSES, task)
    return out


def test_logits_of_words_are_those_of_their_first_tokens(tmp_path: Path) -> None:
    """Rows that got another text's answers when lengths were sorted, padding in an answer, or the wrong sub-word."""
    from edgedistill.models import load_tokenizer

    model, table = black_box(tmp_path / "box")
    out = adopted(model, tmp_path / "out", TOKEN)
    assert file_digest(out / "model.onnx") == file_digest(model / "onnx" / "model_q4.onnx"), "the user's own file is what is benchmarked"
    found = teacher.logits(out, SENTENCES, CLASSES, TOKEN, OPTIONS, 32, "float32", tag.positions)
    tokenizer = load_tokenizer(model, 32)
    for text, rows in zip(SENTENCES, found, strict=True):
        encoding = tokenizer.encode(text)
        np.testing.assert_array_equal(rows, table[np.array(encoding.ids)[tag.positions(text, encoding.offsets)]])


def test_probabilities_stand_as_their_logarithms(tmp_path: Path) -> None:
    """Probabilities taken for logits, which softens every answer."""
    raw = adopted(black_box(tmp_path / "a", by_token=False)[0], tmp_path / "a_out", TEXT)
    spread = adopted(black_box(tmp_path / "b", "probabilities", by_token=False)[0], tmp_path / "b_out", TEXT)
    logits, logs = (teacher.logits(out, SENTENCES, CLASSES, TEXT, OPTIONS, 32, "float32") for out in (raw, spread))
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(np.exp(logs), shares, rtol=1e-4)


def test_label_numbers_are_sure_answers(tmp_path: Path) -> None:
    """A black box without scores that is refused, or whose labels are shifted."""
    model, _ = black_box(tmp_path / "box", "labels")
    out = adopted(model, tmp_path / "out", TOKEN)
    (rows,) = teacher.logits(out, SENTENCES[:1], CLASSES, TOKEN, OPTIONS, 32, "float32", tag.positions)
    assert set(np.unique(rows)) == {0.0, teacher.SURE} and (rows.sum(axis=1) == teacher.SURE).all()


def test_other_outputs_are_no_answers(tmp_path: Path) -> None:
    """Hidden states taken for logits."""
    model, _ = black_box(tmp_path / "box", "last_hidden_state", width=8)
    with pytest.raises(StageError) as error:
        teacher.adopt(model, tmp_path / "out", CLASSES, TOKEN)
    assert "for one text it gives last_hidden_state [1, " in str(error.value)
    assert "tokens, 3 labels]. Give a model that ends in logits, probabilities or label numbers, with a name for each label" in str(
        error.value
    )


def test_folder_that_is_no_teacher(tmp_path: Path) -> None:
    """A missing config or a second file found out in the middle of the build."""
    model, _ = black_box(tmp_path / "box")
    (model / "other.onnx").write_bytes(b"")
    with pytest.raises(SourceError, match=r"an ONNX teacher is one \.onnx file; here stand 2: onnx/model_q4\.onnx, other\.onnx\."):
        teacher.adopt(model, tmp_path / "out", CLASSES, TOKEN)
    (model / "config.json").unlink()
    with pytest.raises(SourceError, match=r"this is no ONNX teacher: it has no config\.json\."):
        teacher.labels(model, TOKEN)


def test_it_is_never_trained(tmp_path: Path) -> None:
    """fine_tune = "always" ignored."""
    with pytest.raises(StageError, match="an ONNX teacher can only be run, not fine-tuned"):
        teacher.fine_tune(tmp_path)
