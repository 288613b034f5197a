"""The GGUF reader: what is no whole file is refused with one sentence, whatever its bytes say."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edgedistill.errors import InputError
from edgedistill.gguf_file import TYPES, read_gguf

TOKENS = ["[PAD]", "[UNK]", "\u2581word", "s"]


def write(path: Path, change: Callable[[object], None] = lambda writer: None, tokens: list[str] = TOKENS, rows: int = 4) -> Path:
    """A small whole GGUF by the `gguf` package; `change` may add to it."""
    import gguf

    writer = gguf.GGUFWriter(path, "bert")
    writer.add_context_length(64)
    writer.add_block_count(1)
    writer.add_tokenizer_model("bert")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, 1, 1][: len(tokens)])
    writer.add_array("bert.classifier.output_labels", ["yes", "no"])
    change(writer)
    writer.add_tensor("token_embd.weight", np.arange(rows * 32, dtype=np.float32).reshape(rows, 32))
    writer.add_tensor("token_embd_norm.weight", np.ones(32, np.float32))
    writer.add_tensor("blk.0.attn_norm.weight", np.ones(32, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write(tmp_path_factory.mktemp("gguf") / "model.gguf").read_bytes()


def test_reads_what_the_library_wrote(tmp_path: Path) -> None:
    """A reader that is safe because it reads something else."""
    import gguf

    path = write(tmp_path / "model.gguf")
    ours, theirs = read_gguf(path), gguf.GGUFReader(path)
    assert ours.fact("context_length") == 64 and ours.facts["tokenizer.ggml.tokens"] == TOKENS
    assert ours.fact("classifier.output_labels") == ["yes", "no"]
    assert {name: (one.shape, one.type, one.offset, one.bytes) for name, one in ours.tensors.items()} == {
        one.name: (tuple(int(side) for side in one.shape), one.tensor_type.name, one.data_offset, one.n_bytes) for one in theirs.tensors
    }


def test_sizes_of_types_are_llama_cpps() -> None:
    """A wrong block size: tensors that end where they do not."""
    import ctypes

    from llama_cpp._ggml import libggml

    libggml.ggml_type_name.restype, libggml.ggml_type_size.restype = ctypes.c_char_p, ctypes.c_size_t
    libggml.ggml_blck_size.restype = ctypes.c_int64
    for number, found in TYPES.items():
        name = libggml.ggml_type_name(number).decode().upper()
        assert (name, libggml.ggml_blck_size(number), libggml.ggml_type_size(number)) == found


@given(st.data())
def test_cut_short(whole: bytes, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """A download that stopped halfway and ends the app in llama.cpp."""
    cut = data.draw(st.integers(0, len(whole) - 1))
    path = tmp_path_factory.mktemp("cut") / "model.gguf"
    path.write_bytes(whole[:cut])
    with pytest.raises(InputError) as error:
        read_gguf(path)
    assert "this is no whole GGUF model: " in str(error.value) and str(error.value).endswith("Copy the file again, or convert it anew.")


@given(st.data())
def test_wild_numbers(whole: bytes, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """A length, an offset or a type that says what cannot be: an hour of reading, all memory, or another exception than ours."""
    wild = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(wild) - 9))
        number = data.draw(st.sampled_from([0, 1, 255, 2**31, 2**32 - 1, 2**40, 2**63, 2**64 - 1]) | st.integers(0, 2**64 - 1))
        wild[at : at + 8] = struct.pack("<Q", number)
    path = tmp_path_factory.mktemp("wild") / "model.gguf"
    path.write_bytes(wild)
    try:
        read = read_gguf(path)
    except InputError as error:
        assert "this is no whole GGUF model: " in str(error)
    else:  # a harmless place: a weight, a name
        assert all(one.offset + one.bytes <= len(wild) for one in read.tensors.values())


@given(st.binary(max_size=200))
@example(b"GGUF")
@example(b"GGUF" + struct.pack("<IQQ", 3, 2**63, 2**63))
def test_any_bytes(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    """A file of another kind under the name of a model."""
    path = tmp_path_factory.mktemp("any") / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(InputError, match="this is no whole GGUF model"):
        read_gguf(path)


@pytest.mark.parametrize(
    ("change", "tokens", "rows", "said"),
    [
        (None, ["a", "a", "b", "c"], 4, "a token stands in its vocabulary twice"),
        (None, TOKENS, 3, "it has 4 tokens and 3 rows in token_embd.weight"),
        (lambda writer: writer.add_bos_token_id(9), TOKENS, 4, "tokenizer.ggml.bos_token_id is 9, and there are 4 tokens"),
        (lambda writer: writer.add_token_scores([0.0]), TOKENS, 4, "tokenizer.ggml.scores does not fit its 4 tokens"),
        (
            lambda writer: writer.add_tokenizer_model("magic"),
            TOKENS,
            4,
            "its tokenizer is 'magic', and known are bert, gpt2, llama, no_vocab",
        ),
        (lambda writer: writer.add_tokenizer_model("llama"), TOKENS, 4, "its vocabulary lacks tokens of single bytes"),
        (lambda writer: writer.add_block_count(0), TOKENS, 4, "it says that it has 0 layers, and holds 1"),
        (lambda writer: writer.add_block_count(2**31), TOKENS, 4, "it says that it has 2147483648 layers, and holds 1"),
        (
            lambda writer: writer.add_layer_norm_rms_eps(-1.0),
            TOKENS,
            4,
            "bert.attention.layer_norm_rms_epsilon is -1.0, and must lie between 0 and 1",
        ),
        (
            lambda writer: writer.add_layer_norm_eps(float("nan")),
            TOKENS,
            4,
            "bert.attention.layer_norm_epsilon is nan, and must lie between 0 and 1",
        ),
        (lambda writer: writer.add_rope_dimension_count(7), TOKENS, 4, "it turns 7 numbers of a head of 0"),
        (lambda writer: writer.add_uint32("general.alignment", 48), TOKENS, 4, "its alignment is 48, and must be a power of two"),
    ],
)
def test_what_ends_llama_cpp_in_an_assertion(
    tmp_path: Path, change: Callable[[object], None] | None, tokens: list[str], rows: int, said: str
) -> None:
    """A file that is whole and that llama.cpp answers with an abort of the process."""
    path = write(tmp_path / "model.gguf", change or (lambda writer: None), tokens, rows)
    with pytest.raises(InputError) as error:
        read_gguf(path)
    assert str(error.value) == f"{path}: this is no whole GGUF model: {said}. Copy the file again, or convert it anew."


def test_no_file(tmp_path: Path) -> None:
    """A traceback for a name that was mistyped."""
    with pytest.raises(InputError) as error:
        read_gguf(tmp_path / "none.gguf")
    assert str(error.value) == f"{tmp_path / 'none.gguf'}: the file cannot be read: No such file or directory."
