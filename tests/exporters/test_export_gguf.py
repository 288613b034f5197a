"""GGUF of encoders: the answers are torch's, the ids are the tokenizer's, and what llama.cpp cannot hold is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edgedistill import llama
from edgedistill.digests import file_digest
from edgedistill.errors import InputError, ParityError, StageError
from edgedistill.exporters import gguf as exporter
from edgedistill.exporters.onnx import load_eager, torch_logits
from edgedistill.gguf_file import read_gguf
from edgedistill.runtimes import llama_cpp
from edgedistill.token_parity import corpus, first_difference, told
from tests.tiny_models import SENTENCES, tiny_bert, tiny_mpnet

CLASSIFY, EMBED = "text-classification", "sentence-similarity"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bert(tmp_path_factory.mktemp("bert") / "model")


@pytest.fixture(scope="module")
def exported(model: Path) -> tuple[Path, dict[str, float]]:
    return model.parent / "gguf", exporter.export(model, model.parent / "gguf", SENTENCES, 48)


def test_answers_and_ids_are_checked(exported: tuple[Path, dict[str, float]], capfd: pytest.CaptureFixture[str]) -> None:
    """A conversion that nobody held against torch."""
    folder, facts = exported
    assert facts["token_texts"] > 2000 and facts["rows"] == len(SENTENCES) + len(exporter.AWKWARD)
    assert 0 < facts["error_model"] < facts["tolerance"]
    assert sorted(file.name for file in folder.iterdir()) == ["model.gguf", "tokenizer.json"]
    header = read_gguf(folder / "model.gguf")
    assert header.fact("classifier.output_labels") == [f"LABEL_{place}" for place in range(5)]
    assert {tensor.type for tensor in header.tensors.values()} == {"F32"}


def test_same_model_same_bytes(model: Path, exported: tuple[Path, dict[str, float]], tmp_path: Path) -> None:
    """A store that holds two files for one key; a machine's path in a file that ships."""
    spec = json.loads((exported[0] / "tokenizer.json").read_text())
    exporter.write(load_eager(model, CLASSIFY), spec, tmp_path / "model.gguf", CLASSIFY)
    assert file_digest(tmp_path / "model.gguf") == file_digest(exported[0] / "model.gguf")
    assert b"/tmp" not in (tmp_path / "model.gguf").read_bytes()


def test_a_dropped_pooler_is_found(model: Path, exported: tuple[Path, dict[str, float]], tmp_path: Path) -> None:
    """What llama.cpp's own converter makes of a BERT classifier: other answers, and no error. Here it is one."""
    (tmp_path / "tokenizer.json").write_bytes((exported[0] / "tokenizer.json").read_bytes())
    torch_model, tokenizer = load_eager(model, CLASSIFY), llama_cpp.open_tokenizer(tmp_path / "tokenizer.json", 48)
    spec = json.loads((tmp_path / "tokenizer.json").read_text())
    exporter.write(torch_model, spec, tmp_path / "model.gguf", CLASSIFY, pooler=False)
    rows = [tokenizer.encode(text).ids for text in SENTENCES]
    without, right = llama.open_file(tmp_path / "model.gguf", 48), torch_logits(torch_model, rows)
    answers = [int(without.outputs(ids).argmax()) for ids in rows]
    assert sum(answer == row.argmax() for answer, row in zip(answers, right, strict=True)) < len(rows)
    with pytest.raises(ParityError) as error:
        exporter.check_logits(tmp_path, torch_model, tokenizer, SENTENCES, 48)
    assert f"llama.cpp answers {SENTENCES[0]!r} otherwise than torch" in str(error.value)


def test_a_wrong_vocabulary_is_found(exported: tuple[Path, dict[str, float]], tmp_path: Path) -> None:
    """Two tokens that changed places: every answer that reads them is wrong, and nothing else says so."""
    spec = json.loads((exported[0] / "tokenizer.json").read_text())
    vocabulary = spec["model"]["vocab"]
    vocabulary["moon"], vocabulary["river"] = vocabulary["river"], vocabulary["moon"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec))
    (tmp_path / "model.gguf").write_bytes((exported[0] / "model.gguf").read_bytes())
    with pytest.raises(ParityError) as error:
        exporter.check_ids(tmp_path, SENTENCES)
    assert "llama.cpp's tokenizer and tokenizer.json give different ids for " in str(error.value)
    assert "first difference at " in str(error.value)


@pytest.mark.parametrize("dimensions", [64, 24])
def test_sentence_encoder(model: Path, tmp_path: Path, dimensions: int) -> None:
    """Vectors without their linear map, pooled otherwise, or not of length 1."""
    from edgedistill.models import load_model, load_tokenizer, save

    source = tmp_path / "model"
    save(load_model(model, EMBED, [str(place) for place in range(dimensions)]), load_tokenizer(model), source)
    exporter.export(source, tmp_path / "gguf", SENTENCES, 48, EMBED)
    opened = llama_cpp.open_model(tmp_path / "gguf" / "model.gguf", tmp_path / "gguf" / "tokenizer.json", 48, 1)
    vector = opened.logits(opened.encode(SENTENCES[1])[0])
    assert vector.shape == (dimensions,) and np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)


def test_a_cut_vocabulary(model: Path, tmp_path: Path) -> None:
    """A student whose token table was cut to the task's words: llama.cpp's default ids of [CLS] and [SEP] lie outside of it."""
    from edgedistill.models import load_model, load_tokenizer, save
    from edgedistill.students.transformer import keep_embeddings
    from edgedistill.vocabulary import cut

    smaller = cut(load_tokenizer(model), SENTENCES[:4])
    torch_model = load_model(model, CLASSIFY, [f"LABEL_{place}" for place in range(5)])
    keep_embeddings(torch_model, smaller.kept)
    save(torch_model, smaller.tokenizer, tmp_path / "model")
    facts = exporter.export(tmp_path / "model", tmp_path / "gguf", SENTENCES[:4], 48)
    assert facts["token_texts"] > 2000
    assert read_gguf(tmp_path / "gguf" / "model.gguf").tensors["token_embd.weight"].shape[1] == len(smaller.kept)


def test_no_graph_for_it(tmp_path: Path) -> None:
    """A model under the name of another, whose extra weights are dropped in silence."""
    source = tiny_mpnet(tmp_path / "model")
    with pytest.raises(StageError) as error:
        exporter.export(source, tmp_path / "gguf", SENTENCES, 48)
    assert str(error.value) == (
        "compile.targets: llama.cpp has no graph for a mpnet model of task text-classification. "
        "Take a target of format onnx, or a BERT with one answer a text."
    )


def test_a_tokenizer_that_llama_cpp_does_not_know(model: Path, tmp_path: Path) -> None:
    """Ids by the rules of another tokenizer."""
    spec = json.loads((model / "tokenizer.json").read_text())
    spec["pre_tokenizer"] = {"type": "Whitespace"}
    with pytest.raises(StageError) as error:
        exporter.write(load_eager(model, CLASSIFY), spec, tmp_path / "model.gguf", CLASSIFY)
    assert str(error.value) == (
        "tokenizer.json: llama.cpp does not know WordPiece behind BertNormalizer and Whitespace. Take a target of format onnx."
    )


def test_a_context_longer_than_the_models(exported: tuple[Path, dict[str, float]]) -> None:
    """Positions that the table does not have: llama.cpp would read past its end."""
    file = exported[0] / "model.gguf"
    with pytest.raises(InputError) as error:
        llama.open_file(file, 100)
    assert str(error.value) == f"{file}: the model reads 64 tokens at most, and 100 are asked for. Lower student.max_tokens."


def test_cut_short(exported: tuple[Path, dict[str, float]], tmp_path: Path) -> None:
    """A half download, handed to llama.cpp."""
    (tmp_path / "model.gguf").write_bytes((exported[0] / "model.gguf").read_bytes()[:-100])
    with pytest.raises(InputError, match="this is no whole GGUF model: it ends inside "):
        llama.open_file(tmp_path / "model.gguf", 48)


def test_fixed_lengths(exported: tuple[Path, dict[str, float]]) -> None:
    """Latency at 16 tokens that was taken at 12."""
    opened = llama_cpp.open_model(exported[0] / "model.gguf", exported[0] / "tokenizer.json", 48, 1)
    for tokens in (16, 48):
        ids, offsets = opened.encode(SENTENCES[0], tokens)
        assert len(ids) == len(offsets) == tokens and np.isfinite(opened.logits(ids)).all()
    with pytest.raises(StageError, match="49 tokens do not fit a context of 48"):
        opened.logits([5] * 49)


def test_the_strings_that_ids_are_held_to() -> None:
    """A corpus of a hundred plain sentences under the name of a fuzzed one; a difference told by the longest text that has it."""
    strings = corpus(SENTENCES, ["[CLS]"])
    assert len(strings) > 3000 and strings == corpus(SENTENCES, ["[CLS]"])
    assert {SENTENCES[0], ""} <= set(strings) and any("[CLS]" in text for text in strings)
    assert sum(not text.isascii() for text in strings) > 1000
    found = first_difference(
        ["aab", "ab", "b"], lambda text: [ord(sign) for sign in text], lambda text: [ord(sign) for sign in text.replace("a", "c")]
    )
    assert found is not None and told(*found) == "'ab': 2 and 2 tokens, first difference at 0 ([97, 98] and [99, 98])"
