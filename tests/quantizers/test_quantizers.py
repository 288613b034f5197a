"""Every quantizer keeps its contract; int4 is checked against the library's own quantizer and numpy."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from edgedistill import plugins
from edgedistill.digests import file_digest, tree_digest
from edgedistill.errors import StageError
from edgedistill.exporters.onnx import batches, export
from edgedistill.int8_safety import require_saturation_free, saturation_free
from edgedistill.onnx_graph import Batch, run, session
from tests.tiny_models import SENTENCES, tiny_bert

# Root mean square error over rows, as a share of the standard deviation of the logits. This model has random weights, and so no slack: sound graphs have
# 0.07 (dynamic), 0.08 (static) and 0.53 (int4) here, a real student's 0.02, 0.02 and 0.03. Faults put in on purpose give 0.37 (zero
# point) and 1.4 (scales) in static, 1.1 (scales), 3.0 (nibbles), 4.2 (zero points) in int4.
BOUNDS = {"onnx_int8_dynamic": 0.15, "onnx_int8_static": 0.15, "onnx_int8_int4_table": 0.75, "onnx_int4_block": 0.75}
SCHEMES = [name for name in plugins.names("quantizers") if plugins.find("quantizers", name).FORMAT == "onnx"]


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = tiny_bert(tmp_path_factory.mktemp("bert") / "model", hidden=128)
    export(model, model.parent / "graphs", SENTENCES, 48)
    return model.parent / "graphs"


@pytest.fixture(scope="module")
def rows(graphs: Path) -> list[Batch]:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(graphs / "tokenizer.json"))
    return batches([tokenizer.encode(text).ids for text in SENTENCES], 0, size=4)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_contract(scheme: str, graphs: Path, rows: list[Batch], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A scheme that breaks one of these breaks the stage, the bundle or the device that relies on it."""
    quantizer: ModuleType = plugins.find("quantizers", scheme)
    before = tree_digest(graphs)
    for name in ("once", "twice"):
        quantizer.quantize(graphs, tmp_path / name, rows, frozenset())
    model = tmp_path / "once" / "model.onnx"
    facts = json.loads((tmp_path / "once" / "facts.json").read_text())

    assert quantizer.ABOUT
    assert capfd.readouterr() == ("", ""), "stages print nothing"
    assert tree_digest(graphs) == before, "the input folder is only read"
    assert sorted(path.name for path in (tmp_path / "once").iterdir()) == ["facts.json", "model.onnx"], "no temporary file stays"
    assert file_digest(model) == file_digest(tmp_path / "twice" / "model.onnx"), "the same graph gives the same bytes"
    assert str(tmp_path).encode() not in model.read_bytes()

    ours, theirs = session(model), session(graphs / "model.onnx")
    for side in ("get_inputs", "get_outputs"):
        assert [(one.name, one.type) for one in getattr(ours, side)()] == [(one.name, one.type) for one in getattr(theirs, side)()]

    assert facts["bytes"] == model.stat().st_size < 0.45 * facts["float_bytes"]
    right, logits = run(graphs / "model.onnx", rows), run(model, rows)
    assert 0 < np.sqrt(((logits - right) ** 2).mean()) < BOUNDS[scheme] * right.std()
    assert facts["saturation_free"] is True and saturation_free(model) == []
    assert not [name for name, kind, size in _constants(model) if kind == "float" and size >= 128 * 128], (
        "the tables and products are quantized"
    )


@pytest.mark.parametrize("scheme", SCHEMES)
def test_keep_float(scheme: str, graphs: Path, rows: list[Batch], tmp_path: Path) -> None:
    """A layer that sensitivity chose to keep, and that is quantized all the same, spends the budget for nothing."""
    quantizer = plugins.find("quantizers", scheme)
    layers = quantizer.layers(graphs)
    assert len(layers) == len(set(layers)) and all(layers)
    quantizer.quantize(graphs, tmp_path / "all", rows, frozenset())
    right = run(graphs / "model.onnx", rows)
    for number, layer in enumerate(layers):
        quantizer.quantize(graphs, tmp_path / str(number), rows, frozenset([layer]))
        bigger = (tmp_path / str(number) / "model.onnx").stat().st_size - (tmp_path / "all" / "model.onnx").stat().st_size
        assert bigger > 0, f"{layer} was not kept"
        assert json.loads((tmp_path / str(number) / "facts.json").read_text())["kept_float"] == [layer]
    quantizer.quantize(graphs, tmp_path / "none", rows, frozenset(layers))
    assert np.abs(run(tmp_path / "none" / "model.onnx", rows) - right).max() < 1e-4 * np.abs(right).max(), "all in float is the float graph"


@pytest.mark.parametrize("scheme", SCHEMES)
def test_padding_changes_little(scheme: str, graphs: Path, rows: list[Batch], tmp_path: Path) -> None:
    """A quantized graph that forgets its mask answers by the length of its neighbours. (Dynamic ranges do see the padding: a little is allowed.)"""
    quantizer = plugins.find("quantizers", scheme)
    quantizer.quantize(graphs, tmp_path, rows, frozenset())
    alone = [
        {name: part[line : line + 1, : batch["attention_mask"][line].sum()] for name, part in batch.items()}
        for batch in rows
        for line in range(len(batch["input_ids"]))
    ]
    padded, single = run(tmp_path / "model.onnx", rows), run(tmp_path / "model.onnx", alone)
    assert np.sqrt(((padded - single) ** 2).mean()) < BOUNDS[scheme] * padded.std()


def test_static_products_run_as_integers(graphs: Path, rows: list[Batch], tmp_path: Path) -> None:
    """A QDQ graph whose pairs ONNX Runtime does not fuse is a float graph with extra work."""
    import onnx
    import onnxruntime

    quantizer = plugins.find("quantizers", "onnx_int8_static")
    quantizer.quantize(graphs, tmp_path, rows, frozenset())
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "loaded.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), options, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(str(tmp_path / "loaded.onnx")).graph.node]
    products = [node for node in onnx.load(str(graphs / "products.onnx")).graph.node if node.op_type == "MatMul"]
    assert kinds.count("MatMulIntegerToFloat") + kinds.count("QGemm") == len(products)
    assert not {"MatMul", "Gemm", "DequantizeLinear"} & set(kinds)


def test_static_keeps_the_nearest_calibrator(graphs: Path, rows: list[Batch], tmp_path: Path) -> None:
    """One fixed calibrator is the wrong one for some model."""
    plugins.find("quantizers", "onnx_int8_static").quantize(graphs, tmp_path, rows, frozenset())
    facts = json.loads((tmp_path / "facts.json").read_text())
    assert set(facts["divergence"]) == {"min_max", "percentile", "entropy"}
    assert facts["calibrator"] == min(facts["divergence"], key=facts["divergence"].__getitem__)


def test_int4_is_read_by_the_runtime_as_we_wrote_it() -> None:
    """Nibbles, scales or zero points in another order than ONNX Runtime reads give plausible nonsense."""
    import onnx

    from edgedistill.quantizers import onnx_int4_block as int4

    draw = np.random.default_rng(0)
    weight = (draw.standard_normal((96, 40)) * draw.uniform(0.1, 3, (96, 1)) + 0.2).astype(np.float32)  # 96 = one block and a half
    table = draw.standard_normal((30, 48)).astype(np.float32)
    ids, x = np.array([[3, 29, 0]]), draw.standard_normal((2, 5, 96)).astype(np.float32)
    node, parts = int4._product(onnx.helper.make_node("MatMul", ["x", "w"], ["y"], name="p"), weight, None)
    next(fact for fact in node.attribute if fact.name == "accuracy_level").i = 1  # exact products: here the layout is tested
    look, rest = int4.block_table(onnx.helper.make_node("Gather", ["t", "ids"], ["z"], name="t"), table)
    made = onnx.helper.make_graph(
        [node, look],
        "g",
        [onnx.helper.make_tensor_value_info("x", 1, [None, None, 96]), onnx.helper.make_tensor_value_info("ids", 7, [None, None])],
        [onnx.helper.make_tensor_value_info("y", 1, None), onnx.helper.make_tensor_value_info("z", 1, None)],
        [*parts, *rest],
    )
    model = onnx.helper.make_model(
        made, opset_imports=[onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("com.microsoft", 1)], ir_version=8
    )
    y, z = session(model.SerializeToString()).run(None, {"x": x, "ids": ids})
    np.testing.assert_allclose(y, x @ _dequantized(*int4.block_quantize(weight.T), 96).T, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(z, _dequantized(*int4.block_quantize(table, None, 16), 48)[ids], rtol=1e-6, atol=1e-6)


def test_int4_search_beats_the_librarys_rounding() -> None:
    """The search is there to lose less than round to nearest; with a fault in it, it would lose more and nobody would see."""
    from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, DefaultWeightOnlyQuantizer

    from edgedistill.quantizers.onnx_int4_block import block_quantize

    weight = np.random.default_rng(1).standard_normal((128, 64)).astype(np.float32)  # [K, N]
    packed, scales, zeros = DefaultWeightOnlyQuantizer(DefaultWeightOnlyQuantConfig(block_size=64, bits=4)).qbits_block_quant(weight)
    steps = np.stack([packed & 15, packed >> 4], axis=-1).reshape(64, 2, 64)
    theirs = _dequantized(steps, scales, np.stack([zeros & 15, zeros >> 4], axis=-1).reshape(64, -1)[:, :2], 128)
    ours = _dequantized(*block_quantize(weight.T), 128)
    loss_theirs, loss_ours = ((theirs - weight.T) ** 2).mean(), ((ours - weight.T) ** 2).mean()
    assert loss_theirs < 0.02, "the library's blocks are read wrongly here"
    assert loss_ours < 0.95 * loss_theirs


def test_int4_search_spends_its_steps_where_inputs_are_driven() -> None:
    """Importance that is taken along the wrong axis, or not at all, makes calibration a no-op."""
    from edgedistill.quantizers.onnx_int4_block import block_quantize

    weight = np.random.default_rng(2).standard_normal((64, 64)).astype(np.float32)
    importance = np.where(np.arange(64) < 8, 100.0, 0.1).astype(np.float32)
    errors = [((_dequantized(*block_quantize(weight, how), 64) - weight) ** 2)[:, :8].mean() for how in (None, importance)]
    assert errors[1] < 0.8 * errors[0]


def test_constant_blocks_and_zeros_survive() -> None:
    """A block of zeros (a padding row of the word table) divides by its own range."""
    from edgedistill.quantizers.onnx_int4_block import block_quantize

    rows = np.stack([np.zeros(64), np.full(64, 0.5), np.full(64, -3.0), np.linspace(-1, 1, 64)]).astype(np.float32)
    found = _dequantized(*block_quantize(rows), 64)
    np.testing.assert_allclose(found[:3], rows[:3], atol=1e-6)
    assert np.abs(found[3] - rows[3]).max() < 2 / 15


@pytest.mark.parametrize(
    ("pair", "safe"), [((64, 64), True), ((127, 1), True), ((127, -127), True), ((127, 2), False), ((-65, -64), False), ((-128, 0), True)]
)
def test_the_proof_is_exact(pair: tuple[int, int], safe: bool, tmp_path: Path) -> None:
    """A proof that is too lax ships wrong answers to older laptops; one that is too strict refuses good graphs."""
    import onnx

    weight = np.zeros((3, 2), np.int8)  # an odd inner dimension: the last row has no neighbour
    weight[:2, 1], weight[2] = pair, 127
    made = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMulInteger", ["a", "w"], ["y"], name="p")],
        "g",
        [onnx.helper.make_tensor_value_info("a", 2, [None, 3])],
        [onnx.helper.make_tensor_value_info("y", 6, None)],
        [onnx.numpy_helper.from_array(weight, "w")],
    )
    onnx.save(onnx.helper.make_model(made, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8), str(tmp_path / "m.onnx"))
    assert (saturation_free(tmp_path / "m.onnx") == []) is safe
    largest = max(sum(max(one, 0) for one in pair), sum(max(-one, 0) for one in pair))
    assert (255 * largest <= 32767) is safe  # what the instruction does, by hand


def test_an_unsafe_graph_is_an_error(graphs: Path, tmp_path: Path) -> None:
    """ONNX Runtime's own default, full-range signed weights, is what must never pass."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    from edgedistill.onnx_graph import quiet

    with quiet():
        quantize_dynamic(
            onnx.load(str(graphs / "model.onnx")), tmp_path / "m.onnx", weight_type=QuantType.QInt8, extra_options={"DefaultTensorType": 1}
        )
    with pytest.raises(
        StageError, match=r"integer products of the quantized graph saturate on x86 CPUs without VNNI; the first: .*128 is safe"
    ):
        require_saturation_free(tmp_path / "m.onnx")


def _dequantized(steps: np.ndarray, scales: np.ndarray, zeros: np.ndarray, width: int) -> np.ndarray:
    """The reference: (step − zero) · scale, block by block."""
    full = (steps.astype(np.float32) - zeros[..., None].astype(np.float32)) * scales[..., None]
    return np.asarray(full.reshape(len(steps), -1)[:, :width])


def _constants(model: Path) -> list[tuple[str, str, int]]:
    import onnx

    return [
        (one.name, "float" if one.data_type == 1 else "other", int(np.prod(one.dims))) for one in onnx.load(str(model)).graph.initializer
    ]
