"""From commands and a tiny decoder to a verified GGUF bundle that writes JSON under a grammar."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
from jinja2 import Template

from edgedistill.bundle_format import read_golden
from edgedistill.gguf_file import read_gguf
from edgedistill.pipeline import compile
from edgedistill.recipe import read_recipe
from edgedistill.report import summary
from edgedistill.stages.verify import verify
from edgedistill.store import Store
from edgedistill.tasks import generate
from tests.tiny_decoders import tiny_decoder

TARGET = """
name = "small-llama"
about = "t"
isa = "x86-64-v3"
runtime = "llama_cpp"
format = "gguf"
schemes = ["gguf_q8_0"]
threads = 1
kv_cache = "q8_0"
[link]
kind = "local"
"""
RECIPE = """
name = "lights"
task = "generate"
[data]
train = "train.jsonl"
test = "test.jsonl"
label = "answer"
near_duplicate = 1.0
[teacher]
kind = "causal_lm"
model = "teacher"
license = "mit"
epochs = 4
batch_size = 16
learning_rate = 3e-3
[transfer]
growth = 1.2
held_out = 0.1
[transfer.methods]
typo = 1.0
[student]
family = "decoder"
layers = 1
max_tokens = 128
[distill]
steps = 12
batch_size = 8
[[distill.losses]]
kind = "{loss}"
[compile]
targets = ["small-llama.toml"]
draft_tokens = 3
[budget]
accuracy_drop = 0.99
"""


def commands(count: int, seed: int) -> list[dict[str, str]]:
    """Rows that a small decoder can learn something of."""
    draw, rows = random.Random(seed), {}
    while len(rows) < count:
        level, room = draw.randrange(100), draw.choice(["hall", "den", "bath"])
        text, answer = draw.choice(
            [(f"{room} to {level}", {"do": "set", "room": room, "to": level}), (f"{room} off {level}", {"do": "off", "room": room})]
        )
        rows[text] = {"text": text, "answer": json.dumps(answer)}
    return list(rows.values())


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(generate, "FEWEST_SAMPLES", 24)  # these tests look at no timing
    tiny_decoder(tmp_path / "teacher", num_hidden_layers=3, head_dim=32)  # a multiple of 32, as memory in 8 bits wants it
    for name, rows in (("train", commands(96, 0)), ("test", commands(24, 1))):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "small-llama.toml").write_text(TARGET)
    (tmp_path / "recipe.toml").write_text(RECIPE.format(loss="forward_kl"))
    return tmp_path / "recipe.toml"


def test_a_decoder_all_the_way(recipe: Path, tmp_path: Path) -> None:
    """A bundle whose decoder answers otherwise than it was measured, whose answers break its own grammar, or whose figures of writing are missing."""
    store = Store(tmp_path / "store")
    (made,) = compile(read_recipe(recipe), out=tmp_path / "out", store=store)
    names = {variant.name: variant for variant in made.report.variants}
    assert set(names) == {"teacher float", "teacher q8_0", "student float", "student q8_0", "control: labels alone"}
    assert made.report.metric == "exact match" and made.report.how == "measured" and made.bundle is not None
    assert names["student q8_0"].model_bytes < names["student float"].model_bytes < names["teacher float"].model_bytes
    for row in summary(made.report):
        assert {"slot F1", "valid"} <= set(row["further"])
        if row["role"] == "student":
            # Hardly taught, it knows no JSON: the grammar does. Only an answer that fills its room is not valid.
            assert row["further"]["valid"]["value"] > 0.5 and "valid without grammar" in row["further"]
        if row["role"] != "control":
            assert row["writing"]["tokens_a_second"] > 0 and row["writing"]["first_ms"]["p50"] > 0
    # The teacher's thoughts are kept small.
    (labels,) = store.root.glob("label-*/facts.json")
    assert json.loads(labels.read_text())["bytes_a_token"] <= 400
    # The student as draft of its teacher: what the teacher takes is what it would have written.
    drafting = made.drafting
    assert drafting and (drafting.teacher, drafting.draft, drafting.ahead) == ("teacher q8_0", made.choice.chosen, 3)
    assert 0 < sum(drafting.accepted) <= sum(drafting.proposed) <= 3 * sum(drafting.passes)
    assert sum(drafting.tokens) <= sum(drafting.accepted) + sum(drafting.passes) and sum(drafting.same) > 0.8 * len(drafting.same)
    assert "The student as draft of its teacher" in made.page.read_text()
    manifest = json.loads((made.bundle / "manifest.json").read_text())
    assert manifest["target"]["kv_cache"] == "q8_0"
    assert manifest["settings"]["grammar"].startswith("root ::= kind0 | kind1\n")
    assert manifest["extra"]["stop"] == {"token": "<|im_end|>", "most_tokens": 64}
    template = read_gguf(made.bundle / "model.gguf").facts["tokenizer.chat_template"]
    before, behind = manifest["settings"]["prompt"]
    assert Template(template).render(messages=[{"role": "user", "content": "hall off"}]) == f"{before}hall off{behind}"
    assert verify(made.bundle).good
    assert "Answers as they are written" in made.page.read_text()
    # An app that drives llama-cpp-python by itself, from what the manifest says, answers as the bundle promises.
    code = "import json, sys\nfrom pathlib import Path\nfrom sample_apps.voice_commands.ask import Commands\n"
    code += "app = Commands(Path(sys.argv[1]))\nprint(json.dumps([app.ask(text) for text in sys.argv[2:]]))"
    golden = [vector for vector in read_golden(made.bundle / "golden.jsonl") if vector.answer is not None and vector.text.isascii()][:6]
    asked = subprocess.run([sys.executable, "-c", code, str(made.bundle), *(one.text for one in golden)], capture_output=True, text=True)
    assert golden and asked.returncode == 0, asked.stderr
    assert json.loads(asked.stdout) == [vector.answer for vector in golden]


@pytest.mark.long
def test_the_students_own_answers_beside_fixed_ones(recipe: Path, tmp_path: Path) -> None:
    """On-policy distillation that never writes, or has no control with as many steps; the teacher's text that is not asked for."""
    further = [f'[[distill.losses]]\nkind = "{kind}"\n' for kind in ("teacher_text", "hidden_states")]
    text = RECIPE.format(loss="on_policy") + "".join(further)
    text = text.replace('[compile]\ntargets = ["small-llama.toml"]\ndraft_tokens = 3\n[budget]\naccuracy_drop = 0.99\n', "")
    recipe.write_text(text + '[compile]\ntargets = ["small-llama.toml"]\n[budget]\naccuracy_drop = 0.99\n')
    store = Store(tmp_path / "store")
    (made,) = compile(read_recipe(recipe), out=tmp_path / "out", store=store)
    assert {"control: labels alone", "control: fixed answers alone"} < {variant.name for variant in made.report.variants}
    runs = {facts["run"]: facts for facts in (json.loads(file.read_text()) for file in store.root.glob("distill-*/facts.json"))}
    assert runs["distilled"]["own_answers"] > 0 and runs["off_policy"]["own_answers"] == runs["labels"]["own_answers"] == 0
    assert runs["distilled"]["steps"] == runs["off_policy"]["steps"]
    for run, kinds in (("distilled", ["on_policy", "teacher_text", "hidden_states"]), ("labels", ["hard_label"])):
        assert [term["kind"] for term in runs[run]["terms"]] == kinds and all(term["gradient_norm"] > 0 for term in runs[run]["terms"])


@pytest.mark.long
def test_voice_commands_with_the_real_teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sample app's own recipe on the real SmolLM2, read back from its GGUF: two of its layers, a few steps, so nothing is learned but the way."""
    monkeypatch.setattr(generate, "FEWEST_SAMPLES", 24)
    app = Path(__file__).parent.parent / "sample_apps" / "voice_commands"
    make = [sys.executable, str(app / "make_data.py"), "--out", str(tmp_path / "data"), "--rows", "64", "--test-rows", "16"]
    make += ["--intents", "HassTurnOn", "HassTurnOff"]
    subprocess.run(make, check=True, capture_output=True)
    recipe = (app / "recipe.toml").read_text()
    for old, new in (
        ("epochs        = 1\n", "epochs = 1\nlayers = 2\n"),
        ("layers     = 4 ", "layers = 1 "),
        ("vocabulary = 12000 ", "vocabulary = 1000 "),
        ("epochs        = 5\n", "steps = 4\n"),
    ):
        assert old in recipe, old
        recipe = recipe.replace(old, new)
    (tmp_path / "recipe.toml").write_text(recipe + "[budget]\naccuracy_drop = 0.99\np90_ms = 60000\npeak_mb = 2000\n")
    target = (app / "laptop.toml").read_text()
    others = '"gguf_q8_0", "gguf_q4_k_m", "gguf_q4_k_m_mixed", "gguf_q4_0", '
    assert others + '"gguf_q4_0_imatrix"' in target
    (tmp_path / "laptop.toml").write_text(target.replace(others, '"gguf_q8_0", '))
    (made,) = compile(read_recipe(tmp_path / "recipe.toml"), out=tmp_path / "out", store=Store(tmp_path / "store"))
    assert made.bundle is not None and verify(made.bundle).good and made.drafting is not None
    names = {variant.name: variant for variant in made.report.variants}
    assert {"teacher q8_0", "student q8_0", "student q4_0_imatrix"} < set(names)
    assert names["teacher q8_0"].size_bytes > 4 * names["student q8_0"].size_bytes  # most of it is the vocabulary
    rows = {tuple(sorted(json.loads(line))) for line in (tmp_path / "data" / "train.jsonl").read_text().splitlines()}
    assert rows == {("answer", "template", "text")}
    templates = [{json.loads(line)["template"] for line in (tmp_path / "data" / f"{name}.jsonl").open()} for name in ("train", "test")]
    assert not templates[0] & templates[1]
