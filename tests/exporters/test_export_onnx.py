"""The exported graphs and tokenizer say what torch says, on every architecture we name."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edgedistill.digests import file_digest
from edgedistill.errors import ParityError
from edgedistill.exporters import onnx as exporter
from edgedistill.onnx_graph import run, session
from tests.tiny_models import ARCHITECTURES, SENTENCES, tiny_bert

MAX_TOKENS = 48


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A tiny BERT folder and its export."""
    model = tiny_bert(tmp_path_factory.mktemp("bert") / "model")
    exporter.export(model, model.parent / "graphs", SENTENCES, MAX_TOKENS)
    return model, model.parent / "graphs"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_keeps_its_logits(architecture: str, tmp_path: Path) -> None:
    """A fusion that fits BERT but changes another architecture would ship wrong answers."""
    model = ARCHITECTURES[architecture](tmp_path / "model")
    facts = exporter.export(model, tmp_path / "graphs", SENTENCES, MAX_TOKENS)
    assert facts["rows"] == len(SENTENCES) + len(exporter.AWKWARD)
    for name in ("unfused", "products", "model"):
        assert facts[f"error_{name}"] < 0.1 * facts["tolerance"], f"{name} is nearer to the bound than float32 rounding explains"
    assert (facts["fused_attention"] == 2) == (architecture != "mpnet")  # MPNet's distance bias has no fused operator
    assert sorted(path.name for path in (tmp_path / "graphs").iterdir()) == ["model.onnx", "products.onnx", "tokenizer.json"]


@pytest.mark.parametrize("graph", ["model.onnx", "products.onnx"])
def test_batch_and_sequence_are_free(bert: tuple[Path, Path], graph: str) -> None:
    """A size of the traced example that stays in the graph makes every other length fail on the device."""
    opened = session(bert[1] / graph)
    assert [(part.name, part.type) for part in opened.get_inputs()] == [("input_ids", "tensor(int64)"), ("attention_mask", "tensor(int64)")]
    assert [part.name for part in opened.get_outputs()] == ["logits"]
    for rows, length in ((1, 2), (3, 7), (2, MAX_TOKENS)):
        ids = np.full((rows, length), 9, np.int64)
        assert opened.run(None, {"input_ids": ids, "attention_mask": np.ones_like(ids)})[0].shape == (rows, 5)


def test_the_logits_are_spread(bert: tuple[Path, Path]) -> None:
    """On a model that answers every text alike, every other test here would pass for nothing."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(bert[1] / "tokenizer.json"))
    logits = run(bert[1] / "model.onnx", exporter.batches([tokenizer.encode(text).ids for text in SENTENCES], 0))
    assert logits.std(axis=0).min() > 0.2
    assert len(set(logits.argmax(axis=1))) > 1


def test_two_exports_have_the_same_bytes_and_name_no_place(bert: tuple[Path, Path], tmp_path: Path) -> None:
    """Bytes that change from run to run, or that hold a path of this machine, make every bundle a new one."""
    exporter.export(bert[0], tmp_path / "again", SENTENCES, MAX_TOKENS)
    for name in ("model.onnx", "products.onnx", "tokenizer.json"):
        assert file_digest(tmp_path / "again" / name) == file_digest(bert[1] / name)
        content = (bert[1] / name).read_bytes()
        for place in (str(bert[0].parent), "site-packages", "modeling_bert.py", str(Path.home()) + "/"):
            assert place.encode() not in content


def test_nothing_is_printed(
    bert: tuple[Path, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    """A library's warning in the middle of a progress bar, or of `--json`."""
    recwarn.clear()
    exporter.export(bert[0], tmp_path / "again", SENTENCES[:2], MAX_TOKENS)
    assert capfd.readouterr() == ("", "")
    assert not recwarn.list


def test_the_tokenizer_pads_nothing_and_truncates(bert: tuple[Path, Path]) -> None:
    """A fixed padding that travels to the device multiplies its latency; a missing truncation breaks on a long text."""
    shipped = json.loads((bert[0] / "tokenizer.json").read_text())
    written = json.loads((bert[1] / "tokenizer.json").read_text())
    assert shipped["padding"]["strategy"] == {"Fixed": 64}
    assert written["padding"] is None
    assert written["truncation"]["max_length"] == MAX_TOKENS


def test_a_graph_that_differs_stops_the_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An exported graph with one lost bias is a model nobody trained."""
    import onnx

    right = exporter._fuse

    def wrong(config: object, unfused: Path, path: Path, *, whole_attention: bool) -> None:
        right(config, unfused, path, whole_attention=whole_attention)
        model = onnx.load(str(path))
        bias = next(tensor for tensor in model.graph.initializer if tensor.name.endswith("classifier.bias"))
        bias.CopyFrom(onnx.numpy_helper.from_array(np.zeros(5, np.float32), bias.name))
        onnx.save(model, str(path))

    monkeypatch.setattr(exporter, "_fuse", wrong)
    model = tiny_bert(tmp_path / "model")
    with pytest.raises(
        ParityError, match=r"differs from torch on 20 of 20 texts in a padded batch; the first is 'how far is the moon"
    ) as error:
        exporter.export(model, tmp_path / "graphs", SENTENCES, MAX_TOKENS)
    assert "is allowed. This model's architecture cannot be exported faithfully" in str(error.value)
    assert error.value.exit_code == 4


def test_a_tokenizer_that_differs_stops_the_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ids from another tokenizer than the model was trained on give confident nonsense."""
    import transformers

    model = tiny_bert(tmp_path / "model")
    trained_on = transformers.AutoTokenizer.from_pretrained(model)

    def swapped(text: str, **options: object) -> dict[str, list[int]]:
        return {"input_ids": [5 if one == 6 else one for one in trained_on(text.upper(), **options)["input_ids"]] + [0]}

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", lambda *_, **__: swapped)
    with pytest.raises(
        ParityError, match="the tokenizer file and AutoTokenizer give different ids for 'how far is the moon from the earth"
    ):
        exporter.export(model, tmp_path / "graphs", SENTENCES, MAX_TOKENS)


def test_the_example_may_be_a_single_text(bert: tuple[Path, Path], tmp_path: Path) -> None:
    """A data set of one row, or rows of one length, must not shape the graph."""
    exporter.export(bert[0], tmp_path / "one", ["who"], MAX_TOKENS)
    assert file_digest(tmp_path / "one" / "model.onnx") == file_digest(bert[1] / "model.onnx")
