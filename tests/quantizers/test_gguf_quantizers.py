"""llama.cpp's types: every one by name, each held to the contract, and the mix by measured sensitivity to what it promises."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedistill import gguf_decoder, plugins
from edgedistill.digests import file_digest
from edgedistill.errors import RecipeError, StageError
from edgedistill.exporters import gguf as exporter
from edgedistill.gguf_file import read_gguf
from edgedistill.gguf_importance import runner
from edgedistill.gguf_mixture import _groups, _hull, choose
from edgedistill.gguf_quantization import replaced
from edgedistill.llama import FILE_TYPES, open_file
from edgedistill.llama_causal import kl, open_decoder
from edgedistill.quantizers.gguf import NAMES, SCHEMES
from edgedistill.serving import open_tokenizer
from edgedistill.stages.benchmark import _notes
from tests.tiny_decoders import tiny_decoder
from tests.tiny_models import SENTENCES, tiny_bert

FEW = ("gguf_f16", "gguf_q8_0", "gguf_q4_k_m", "gguf_q4_k_m_imatrix", "gguf_q4_0", "gguf_iq4_xs")
LARGEST = 0.6  # of float32


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT whose rows every type divides, as float GGUF."""
    folder = tmp_path_factory.mktemp("encoder")
    exporter.export(tiny_bert(folder / "model", hidden=256), folder / "gguf", SENTENCES, 48)
    return folder / "gguf"


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama with rows of 64 and of 256, as float16 GGUF."""
    folder = tmp_path_factory.mktemp("decoder")
    gguf_decoder.write_decoder(tiny_decoder(folder / "model", intermediate_size=256), folder / "gguf", SENTENCES)
    return folder / "gguf"


def batches(graphs: Path) -> list[dict[str, Any]]:
    tokenizer = open_tokenizer(graphs / "tokenizer.json", 48)
    rows = [tokenizer.encode(text).ids for text in SENTENCES]
    wide = max(map(len, rows))
    ids = np.array([row + [0] * (wide - len(row)) for row in rows])
    return [{"input_ids": ids, "attention_mask": np.array([[1] * len(row) + [0] * (wide - len(row)) for row in rows])}]


def answers(folder: Path, rows: Sequence[dict[str, Any]]) -> np.ndarray:
    opened = open_file(folder / "model.gguf", 48)
    given = [ids[mask == 1].tolist() for batch in rows for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)]
    return np.stack([opened.outputs(ids) for ids in given])


def test_every_type_has_a_name() -> None:
    """A type of llama.cpp's that can be had by no recipe, or one that is no type of its."""
    assert {file_type for file_type, _ in SCHEMES.values()} == {*FILE_TYPES} - {"F32"}
    assert {"gguf_q4_k_m", "gguf_q4_k_m_imatrix", "gguf_q4_k_m_mixed", "gguf_iq2_xxs", "gguf_tq2_0", "gguf_bf16"} <= {*NAMES}
    assert "gguf_q8_0_imatrix" not in NAMES and "gguf_iq2_xxs_imatrix" not in NAMES and "gguf" not in plugins.names("quantizers")
    assert plugins.find("quantizers", "gguf_q4_k_m_mixed").STAND_IN == "gguf_q4_k_m"  # before training; its own measuring takes minutes
    assert {plugins.find("quantizers", name).STAND_IN for name in NAMES} <= {*NAMES}
    with pytest.raises(RecipeError) as error:
        plugins.find("quantizers", "gguf_q4_km")
    assert str(error.value) == 'there is no quantizer called "gguf_q4_km". Did you mean "gguf_q4_k_m"?'


def test_the_types_are_llama_cpps() -> None:
    """A number that means another type to llama.cpp than to us."""
    from gguf import LlamaFileType

    theirs = {one.name.removeprefix("MOSTLY_").removeprefix("ALL_"): int(one) for one in LlamaFileType}
    assert {name: number for name, number in FILE_TYPES.items() if name != "Q2_0"} == {
        name: theirs[name] for name in FILE_TYPES if name != "Q2_0"
    }


@pytest.mark.parametrize("scheme", FEW)
def test_contract(scheme: str, encoder: Path, tmp_path: Path) -> None:
    """A scheme that breaks its contract: other bytes for the same graph, a layer quantized that was to be kept, answers that are not the model's."""
    held_to_the_contract(scheme, encoder, tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("scheme", [name for name in NAMES if name not in FEW and not name.endswith("_mixed")])
def test_contract_of_the_others(scheme: str, encoder: Path, tmp_path: Path) -> None:
    """As above, of every other type."""
    held_to_the_contract(scheme, encoder, tmp_path, twice=False)


def held_to_the_contract(scheme: str, graphs: Path, tmp_path: Path, twice: bool = True) -> None:
    quantizer, rows = plugins.find("quantizers", scheme), batches(graphs)
    for folder in ("once", "twice") if twice else ("once",):
        quantizer.quantize(graphs, tmp_path / folder, rows, frozenset())
    once = tmp_path / "once"
    assert sorted(file.name for file in once.iterdir()) == ["facts.json", "model.gguf"]
    if twice:
        assert file_digest(once / "model.gguf") == file_digest(tmp_path / "twice" / "model.gguf")
    right = answers(graphs, rows)
    # Root mean square error as a share of the logits' spread. Random weights have no slack: a real student's are a tenth of these (DECISIONS.md),
    # and one or two bits leave little (4.7 and 5.9 were seen).
    error, bits = np.sqrt(((answers(once, rows) - right) ** 2).mean()) / right.std(), _bits(SCHEMES[scheme][0])
    assert 0 < error < {16: 0.05, 8: 0.15, 6: 0.5, 5: 0.8, 4: 1.5, 3: 4.0}.get(bits, 8.0), error
    facts = json.loads((once / "facts.json").read_text())
    assert facts["bytes"] == (once / "model.gguf").stat().st_size < LARGEST * facts["float_bytes"] and facts["replaced"] == {}
    assert facts["importance_texts"] == (len(SENTENCES) if SCHEMES[scheme][1] else 0)
    layers = quantizer.layers(graphs)
    assert bool(layers) == (bits != 16)
    if layers:
        quantizer.quantize(graphs, tmp_path / "all kept", rows, frozenset(layers))
        assert np.array_equal(answers(tmp_path / "all kept", rows), right)


def _bits(file_type: str) -> int:
    return int(
        "".join(
            sign
            for sign in file_type.removeprefix("BF").removeprefix("F").removeprefix("IQ").removeprefix("Q").split("_")[0]
            if sign.isdigit()
        )
        or 0
    )


def test_importance_is_of_use(decoder: Path, tmp_path: Path) -> None:
    """An importance matrix that changes bytes and wins nothing: at 4 bits it was seen to take a third off the divergence."""
    rows = batches(decoder)[0]["input_ids"].tolist()
    run = runner(decoder / "model.gguf", 48)
    right = np.concatenate([run(row) for row in rows])
    apart = {}
    for scheme in ("gguf_q4_0", "gguf_q4_0_imatrix"):
        plugins.find("quantizers", scheme).quantize(decoder, tmp_path / scheme, rows, frozenset())
        other = open_decoder(tmp_path / scheme / "model.gguf", 48)
        apart[scheme] = kl(right, np.concatenate([other.logits(row) for row in rows])).mean()
    assert apart["gguf_q4_0_imatrix"] < apart["gguf_q4_0"]


def test_a_mix_by_measure(decoder: Path, tmp_path: Path) -> None:
    """A mix that is larger than the stock one, worse than it, or not what its facts say."""
    quantizer, rows = plugins.find("quantizers", "gguf_q4_k_m_mixed"), batches(decoder)
    quantizer.quantize(decoder, tmp_path / "mixed", rows, frozenset())
    plugins.find("quantizers", "gguf_q4_k_m").quantize(decoder, tmp_path / "stock", rows, frozenset())
    assert sorted(file.name for file in (tmp_path / "mixed").iterdir()) == ["facts.json", "model.gguf"]
    facts = json.loads((tmp_path / "mixed" / "facts.json").read_text())
    assert facts["bytes"] <= (tmp_path / "stock" / "model.gguf").stat().st_size
    assert facts["divergence"][facts["won"]] == min(facts["divergence"].values()) > 0
    types = {name: tensor.type for name, tensor in read_gguf(tmp_path / "mixed" / "model.gguf").tensors.items()}
    assert facts["won"] == "mixed" and facts["chosen"] == {name: types[name] for name in facts["chosen"]}
    assert _notes(tmp_path / "mixed") == [
        f"types chosen by measured sensitivity: divergence from float {facts['divergence']['mixed'] / facts['divergence']['stock']:.2f} of stock's; "
        "taken was mixed"
    ]


def test_a_mix_of_an_encoder(tmp_path: Path) -> None:
    """Encoders, whose divergence is one number a text, left out."""
    exporter.export(tiny_bert(tmp_path / "model"), tmp_path / "gguf", SENTENCES, 48)
    rows = batches(tmp_path / "gguf")
    plugins.find("quantizers", "gguf_q4_0_mixed").quantize(tmp_path / "gguf", tmp_path / "mixed", rows, frozenset(["blk.0.attn_q.weight"]))
    facts = json.loads((tmp_path / "mixed" / "facts.json").read_text())
    assert facts["divergence"][facts["won"]] <= facts["divergence"]["stock"]
    assert read_gguf(tmp_path / "mixed" / "model.gguf").tensors["blk.0.attn_q.weight"].type == "F32"


def test_without_texts(encoder: Path, tmp_path: Path) -> None:
    """An importance matrix of nothing."""
    with pytest.raises(StageError, match=r"transfer: an importance matrix needs texts, and there are none"):
        plugins.find("quantizers", "gguf_iq2_xs").quantize(encoder, tmp_path, [], frozenset())


@pytest.mark.parametrize(
    ("scheme", "said"),
    [
        ("gguf_q4_k_m", "Q5_0, since its rows are 64 wide and a k-quant needs a multiple of 256"),
        ("gguf_iq4_xs", "IQ4_NL, since its rows are 64 wide and IQ4_XS needs a multiple of 256"),
        ("gguf_tq2_0", "Q4_0, since its rows are 64 wide and TQ2_0 needs a multiple of 256"),
        ("gguf_q1_0", None),
    ],
)
def test_what_a_type_cannot_divide_is_said(scheme: str, said: str | None, decoder: Path, tmp_path: Path) -> None:
    """A file called Q4_K_M in which no tensor is, and a report that does not say so."""
    if said is None:  # llama.cpp has nothing to put in its place
        with pytest.raises(StageError, match="llama.cpp could not quantize to Q1_0"):
            plugins.find("quantizers", scheme).quantize(decoder, tmp_path, [], frozenset())
        return
    plugins.find("quantizers", scheme).quantize(decoder, tmp_path, [], frozenset())
    facts = json.loads((tmp_path / "facts.json").read_text())
    assert facts["replaced"]["blk.0.attn_q.weight"] == said and "blk.0.ffn_down.weight" not in facts["replaced"]
    assert any(note.endswith(f"tensors are {said}") for note in _notes(tmp_path))


def test_tensors_that_stay_float_are_not_called_replaced(encoder: Path) -> None:
    """A note on each table that llama.cpp never quantizes."""
    assert replaced(read_gguf(encoder / "model.gguf").tensors, "Q4_K_M", {}) == {} and encoder.is_dir()


# --- the choice -------------------------------------------------------------------------------------------------------------------------

OPTIONS = st.lists(
    st.lists(st.tuples(st.integers(1, 40), st.floats(0, 10, allow_subnormal=False)), min_size=1, max_size=4), min_size=1, max_size=4
)


@given(OPTIONS, st.integers(0, 170))
def test_the_choice_is_near_the_best_one(made: list[list[tuple[int, float]]], budget: int) -> None:
    """Bytes overspent; or bits given where they win little. Held against all assignments: it costs no more than the best of one step less budget."""
    options = {f"t{n}": [(f"k{m}", *one) for m, one in enumerate(given)] for n, given in enumerate(made)}
    smallest = sum(min(size for size, _ in given) for given in made)
    chosen = choose(options, budget)
    sizes = {name: {kind: (size, cost) for kind, size, cost in given} for name, given in options.items()}
    spent, cost = (sum(sizes[name][kind][part] for name, kind in chosen.items()) for part in (0, 1))
    assert chosen.keys() == options.keys() and (spent <= budget or spent == smallest)
    step = max(max(size for size, _ in given) - min(size for size, _ in given) for given in made)
    for combination in itertools.product(*made):
        if sum(size for size, _ in combination) <= budget - step:
            assert cost <= sum(cost for _, cost in combination) + 1e-9


def test_the_hull_by_hand() -> None:
    """A type that is dominated, or that a mixture of its neighbours beats, taken as a step."""
    given = [("a", 1, 10.0), ("b", 2, 9.5), ("c", 3, 2.0), ("d", 3, 5.0), ("e", 4, 3.0), ("f", 9, 1.0)]
    assert [kind for kind, _, _ in _hull(sorted(given, key=lambda one: one[1:]))] == ["a", "c", "f"]


def test_groups() -> None:
    """Thirty layers measured tensor by tensor for an hour, or tensors of different roles measured as one."""
    names = ["token_embd.weight", *(f"blk.{layer}.{role}.weight" for layer in range(30) for role in "abcdefg")]
    groups = _groups(names)
    assert len(groups) <= 72 and sorted(itertools.chain(*groups)) == sorted(names) and ["token_embd.weight"] in groups
    assert all(len({name.split(".")[-2] for name in group}) == 1 for group in groups)
    assert all(len(group) == 1 for group in _groups(names[:40]))
