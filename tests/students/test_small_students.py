"""conv and static: they answer alike in torch, in float ONNX and in every quantized form, padded or not, and start from the teacher."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from edgedistill import plugins
from edgedistill.errors import RecipeError
from edgedistill.exporters.onnx import batches, export
from edgedistill.int8_safety import saturation_free
from edgedistill.models import load_model, load_tokenizer, model_class
from edgedistill.onnx_graph import Batch, run
from edgedistill.recipe import Recipe, Student, unknown_options
from edgedistill.students import conv, static, transformer
from edgedistill.token_vectors import principal
from tests.tiny_models import ARCHITECTURES, SENTENCES, tiny_bert

CLASSES, TASK = list("abcde"), "text-classification"
FORMS: dict[str, dict[str, object]] = {
    "conv": {"family": "conv", "width": 48, "channels": 64},
    "conv, deep": {"family": "conv", "width": 64, "channels": 48, "layers": 2, "kernel": 5, "head": 32},
    "conv, one token": {"family": "conv", "width": 64, "channels": 64, "kernel": 1},
    "static": {"family": "static", "width": 64, "ngrams": 0, "head": 32},
    "static, pairs": {"family": "static", "width": 64, "ngrams": 256, "head": 0},
}
SCHEMES = [name for name in plugins.names("quantizers") if plugins.find("quantizers", name).FORMAT == "onnx"]
# Root mean square error as a share of the logits' standard deviation, over these forms: up to 0.03 for int8, 0.14 where tables have 4 bits.
BOUNDS = {"onnx_int8_dynamic": 0.06, "onnx_int8_static": 0.06}


def started(source: Path, out: Path, form: str, task: str = TASK) -> dict[str, object]:
    out.mkdir(parents=True)
    options = Student(**FORMS[form])  # type: ignore[arg-type]
    family: ModuleType = plugins.find("students", options.family)
    facts: dict[str, object] = family.start(source, out, options, SENTENCES, CLASSES, task, 0)
    return facts


def spread_logits(folder: Path) -> None:
    """Heads of an untrained student are small; a larger one makes differences visible."""
    model = load_model(folder, TASK, CLASSES)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.startswith("classifier") and weight.ndim == 2:
                weight.mul_(3)
    model.save_pretrained(folder)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bert(tmp_path_factory.mktemp("teacher") / "model")


@pytest.fixture(scope="module", params=FORMS)
def student(request: pytest.FixtureRequest, teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a student, its graphs under `graphs`."""
    folder = tmp_path_factory.mktemp("student") / "model"
    started(teacher, folder, request.param)
    spread_logits(folder)
    export(folder, folder / "graphs", SENTENCES, 48)  # parity, alone and in padded batches, is checked here
    return folder


@pytest.fixture(scope="module")
def rows(student: Path) -> list[Batch]:
    tokenizer = load_tokenizer(student)
    return batches([encoding.ids for encoding in tokenizer.encode_batch(SENTENCES)], 0, size=4)


def test_padding_never_matters(student: Path, rows: list[Batch]) -> None:
    """A convolution, a maximum or a mean that reads padding; or one that trusts what stands there to be the padding token."""
    alone = [
        {name: part[line : line + 1, : batch["attention_mask"][line].sum()] for name, part in batch.items()}
        for batch in rows
        for line in range(len(batch["input_ids"]))
    ]
    noise = [
        {"input_ids": np.where(batch["attention_mask"] == 1, batch["input_ids"], 7), "attention_mask": batch["attention_mask"]}
        for batch in rows
    ]
    right = run(student / "graphs" / "model.onnx", alone)
    assert right.std(axis=0).min() > 0.02, "all texts are answered alike, so nothing could go wrong here"
    for padded in (rows, noise):
        np.testing.assert_allclose(run(student / "graphs" / "model.onnx", padded), right, atol=1e-5)


def test_graph_is_lean(student: Path) -> None:
    """Nodes that do nothing: each costs a microsecond, and an answer takes twenty to forty."""
    import onnx

    graph = onnx.load(str(student / "graphs" / "model.onnx")).graph
    kinds = [node.op_type for node in graph.node]
    assert not {"Transpose", "Where", "Shape", "Identity", "Expand", "ConstantOfShape", "Reshape", "Dropout", "Constant"} & set(kinds), (
        kinds
    )
    assert len(kinds) <= 36, kinds  # two convolutions over five tokens and a head of two layers; one convolution over three has 20
    assert (student / "graphs" / "model.onnx").read_bytes() == (student / "graphs" / "products.onnx").read_bytes()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_quantizer_treats_it_well(student: Path, rows: list[Batch], scheme: str, tmp_path: Path) -> None:
    """A scheme that leaves the table or the convolution in float, saturates without VNNI, or changes the answers."""
    plugins.find("quantizers", scheme).quantize(student / "graphs", tmp_path, rows, frozenset())
    right, logits = run(student / "graphs" / "model.onnx", rows), run(tmp_path / "model.onnx", rows)
    assert 0 < np.sqrt(((logits - right) ** 2).mean()) < BOUNDS.get(scheme, 0.3) * right.std()
    assert saturation_free(tmp_path / "model.onnx") == []
    facts = json.loads((tmp_path / "facts.json").read_text())
    assert facts["bytes"] < 0.5 * facts["float_bytes"]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_starts_from_every_architecture(architecture: str, tmp_path: Path) -> None:
    """A family that works from BERT alone."""
    facts = started(ARCHITECTURES[architecture](tmp_path / "source"), tmp_path / "student", "conv")
    assert facts["architecture"] == "edgedistill_conv" and facts["width"] == 48
    export(tmp_path / "student", tmp_path / "graphs", SENTENCES, 48)


def test_likeness_of_tokens_comes_from_the_teacher(teacher: Path, tmp_path: Path) -> None:
    """A table whose rows stand at other tokens' places: kept wide enough, vectors are as alike as the teacher's three views of the tokens are."""
    from edgedistill.token_vectors import _levelled, _views

    out = tmp_path / "student"
    out.mkdir()
    conv.start(teacher, out, Student(family="conv", width=192), SENTENCES, CLASSES, TASK, 0)
    before, after = load_tokenizer(teacher), load_tokenizer(out)
    kept = [before.token_to_id(after.id_to_token(place)) for place in range(after.get_vocab_size())]
    views = torch.cat([_levelled(view) for view in _views(load_model(teacher, TASK, CLASSES), before, torch.tensor(kept))], dim=1)
    table = load_model(out, TASK, CLASSES).get_input_embeddings().weight.detach()
    distances = [torch.cdist(vectors.float(), vectors.float()) for vectors in (views, table)]
    ratio = distances[1][0, 1:] / distances[0][0, 1:]
    assert ratio.std() / ratio.mean() < 1e-3


def test_principal_components_by_hand() -> None:
    """Components of the unweighted rows. All weight on two rows: their difference is the only direction."""
    rows = torch.tensor([[1.0, 1.0, 0.0], [3.0, 3.0, 0.0], [0.0, 0.0, 50.0]])
    found = principal(rows, torch.tensor([1.0, 1.0, 0.0]), 1)
    np.testing.assert_allclose(found[:2, 0].numpy(), [-(2**0.5), 2**0.5], rtol=1e-6)


def test_loads_through_the_auto_classes_and_runs_no_code_of_the_folder(teacher: Path, tmp_path: Path) -> None:
    """A student that only our own code can read, or a config that asks for remote code."""
    from transformers import AutoModel

    started(teacher, tmp_path / "s", "conv")
    config = json.loads((tmp_path / "s" / "config.json").read_text())
    assert config["model_type"] == "edgedistill_conv" and "auto_map" not in config
    classifier, encoder = load_model(tmp_path / "s", TASK, CLASSES), AutoModel.from_pretrained(tmp_path / "s").eval()
    batch = {"input_ids": torch.tensor([[2, 9, 11, 3]]), "attention_mask": torch.ones(1, 4, dtype=torch.int64)}
    pooled = encoder(**batch).pooler_output
    assert pooled.shape == (1, 128)  # maximum and mean of 64 channels
    torch.testing.assert_close(classifier.classifier(pooled), classifier(**batch).logits)


def test_conv_tags_tokens(teacher: Path, tmp_path: Path) -> None:
    """A head that sees the pooled text alone cannot tag: one row of labels a token, and padding changes none."""
    started(teacher, tmp_path / "s", "conv", "token-classification")
    model = load_model(tmp_path / "s", "token-classification", CLASSES)
    assert type(model).__name__ == "ConvForTokenClassification" and isinstance(
        model, model_class("token-classification")._model_mapping[type(model.config)]
    )
    ids = torch.tensor([[2, 9, 11, 3, 0, 0]])
    padded = model(input_ids=ids, attention_mask=(ids > 0).long()).logits
    assert padded.shape == (1, 6, 5)
    torch.testing.assert_close(padded[:, :4], model(input_ids=ids[:, :4], attention_mask=torch.ones(1, 4)).logits)


def test_hidden_states_for_feature_losses(teacher: Path, tmp_path: Path) -> None:
    """A feature loss that finds no states: the table's vectors, then one entry a convolution, 0 at padding."""
    started(teacher, tmp_path / "s", "conv, deep")
    model = load_model(tmp_path / "s", TASK, CLASSES)
    ids = torch.tensor([[2, 9, 3, 0]])
    states = model(input_ids=ids, attention_mask=(ids > 0).long(), output_hidden_states=True).hidden_states
    assert [tuple(state.shape) for state in states] == [(1, 4, 64), (1, 4, 48), (1, 4, 48)]
    assert all(not state[:, 3].any() for state in states)


def test_import_is_light() -> None:
    """torch and transformers pulled in by `import edgedistill`, or by looking a family up."""
    import subprocess
    import sys

    modules = "edgedistill, edgedistill.students.conv, edgedistill.students.static, edgedistill.students.transformer"
    code = f"import sys, {modules}; print({{'torch', 'transformers'}} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"family": "transformer", "kernel": 5},
            'student.kernel is no option of the family "transformer", which has ffn, heads, layers, vocabulary, width. '
            'Leave it out, or write family = "conv".',
        ),
        (
            {"family": "static", "layers": 2},
            'student.layers is no option of the family "static", which has head, ngrams, vocabulary, width. '
            'Leave it out, or write family = "conv".',
        ),
        ({"family": "conv", "width": 64, "head": 32}, ""),
    ],
)
def test_options_of_another_family(options: dict[str, object], message: str) -> None:
    """An option that is silently ignored."""
    student = Student(**options)  # type: ignore[arg-type]
    assert unknown_options(student, student.family) == message
    recipe = {
        "name": "x",
        "task": "classify",
        "data": {"train": "x.csv"},
        "teacher": {"model": "x"},
        "compile": {"targets": ["laptop-x86"]},
    }
    if message:
        with pytest.raises(ValueError, match="is no option of the family"):
            Recipe(**recipe, student=options)  # type: ignore[arg-type]
    else:
        Recipe(**recipe, student=options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernel": 4}, "student.kernel = 4, but a convolution looks equally far to both sides. Write 3 or 5."),
        ({"layers": 0}, 'student.layers = 0 leaves no convolution. Write layers = 1, or family = "static".'),
        (
            {"layers": [0, 2]},
            "student.layers = [0, 2] chooses layers of the teacher, and a convolution keeps none of them. "
            "Write how many convolutions there are, such as layers = 2.",
        ),
    ],
)
def test_what_makes_no_convolution(options: dict[str, object], message: str, teacher: Path, tmp_path: Path) -> None:
    """An even kernel, which would shift every answer by half a token, or no layer at all."""
    with pytest.raises(RecipeError) as error:
        conv.start(teacher, tmp_path, Student(family="conv", **options), SENTENCES, CLASSES, TASK, 0)  # type: ignore[arg-type]
    assert str(error.value) == message


@pytest.mark.parametrize("family", [conv, static, transformer])
def test_ladders_are_complete_and_keep_what_is_fixed(family: ModuleType, teacher: Path, tmp_path: Path) -> None:
    """A candidate that its own family refuses, two alike, or one that changes what the user fixed."""
    facts = {"layers": 6, "width": 384, "heads": 12, "ffn": 1536}
    ladder = family.sizes(Student(max_tokens=40), facts)
    assert len(ladder) >= 2 and len({one.model_dump_json() for one in ladder}) == len(ladder)
    assert all(unknown_options(one, one.family) == "" and one.max_tokens == 40 for one in ladder)
    fixed = family.sizes(Student(width=96), facts)
    assert {one.width for one in fixed} == {96} and len({one.model_dump_json() for one in fixed}) == len(fixed)
    small = [family.sizes(Student(), {"layers": 2, "width": 64, "heads": 4, "ffn": 128})[place] for place in (0, -1)]
    parameters = []
    for number, one in enumerate(small):
        (tmp_path / str(number)).mkdir()
        parameters.append(family.start(teacher, tmp_path / str(number), one, SENTENCES, CLASSES, TASK, 0)["parameters"])
    assert parameters[0] < parameters[1]
