"""What several tests need: a data file, a tiny real teacher, a recipe of both, and a home of their own."""

from __future__ import annotations

import csv
import random
import resource
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

# The first example pays for imports; a time limit on it would only make the tests flaky on a busy machine.
settings.register_profile("edgedistill", deadline=None)
settings.load_profile("edgedistill")


def cpu_seconds() -> float:
    """Processor time of this process and of its children that ended: what a machine that is busy with other work does not change much."""
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


QUEUES = {
    "billing": ["invoice", "refund", "charged", "payment", "receipt", "price", "bill", "credit"],
    "delivery": ["parcel", "courier", "late", "tracking", "shipped", "address", "arrived", "package"],
    "account": ["password", "login", "email", "locked", "username", "profile", "reset", "signin"],
}
FILLERS = [
    "my",
    "the",
    "I",
    "please",
    "help",
    "with",
    "about",
    "was",
    "not",
    "yet",
    "still",
    "again",
    "since",
    "yesterday",
    "order",
    "number",
    "today",
    "can",
    "you",
    "why",
    "is",
]


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test gets a store of its own, and nothing reaches a hub."""
    home = tmp_path / "home"
    monkeypatch.setenv("EDGEDISTILL_HOME", str(home))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return home


def tickets(count: int = 240, seed: int = 0) -> list[tuple[str, str]]:
    """(text, queue) rows that a small model can learn: each text holds a word of its queue among fillers."""
    draw = random.Random(seed)
    rows = []
    for number in range(count):
        queue = list(QUEUES)[number % 3]
        words = [*draw.sample(QUEUES[queue], 2), *draw.sample(FILLERS, draw.randint(3, 8))]
        draw.shuffle(words)
        rows.append((" ".join(words), queue))
    return rows


def write_csv(path: Path, rows: list[tuple[str, str]], text: str = "body", label: str = "queue") -> Path:
    """A csv with a header."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow([text, label])
        writer.writerows(rows)
    return path


@pytest.fixture(scope="session")
def tiny_teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real BERT of four narrow layers with a WordPiece tokenizer, seeded random weights, saved as any hub model is."""
    import torch
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("models") / "tiny-teacher"
    folder.mkdir()
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    extra = ["unrelated words that no ticket holds keep the vocabulary wide: zebra volcano quantum harpsichord"] * 20
    trainer = trainers.WordPieceTrainer(vocab_size=600, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    tokenizer.train_from_iterator([*(text for text, _ in tickets(600, 7)), *extra], trainer)
    cls, sep = tokenizer.token_to_id("[CLS]"), tokenizer.token_to_id("[SEP]")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", cls), ("[SEP]", sep)]
    )
    tokenizer.enable_padding(length=64)  # as some repositories ship it: must never reach a device
    tokenizer.save(str(folder / "tokenizer.json"))
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=128,
        pad_token_id=0,
    )
    BertModel(config).save_pretrained(folder)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# tiny teacher\n")
    return folder


RECIPE = """
name = "tickets"
task = "classify"
[data]
train = "tickets.csv"
text  = "body"
label = "queue"
[teacher]
model         = "{teacher}"
license       = "mit"
epochs        = 6
learning_rate = 1e-3
below_floor   = "accept"
[transfer]
growth = 3
[student]
family     = "transformer"
layers     = 2
max_tokens = 32
[distill]
steps         = 60
batch_size    = 16
learning_rate = 1e-3
[compile]
targets = ["laptop-x86"]
[budget]
accuracy_drop = 0.5
"""


@pytest.fixture
def recipe_file(tmp_path: Path, tiny_teacher: Path) -> Callable[..., Path]:
    """Writes a recipe beside its data; keyword arguments replace text in it."""

    def write(*changes: tuple[str, str]) -> Path:
        text = RECIPE.format(teacher=tiny_teacher)
        for old, new in changes:
            assert old in text, f"the recipe holds no {old!r}"
            text = text.replace(old, new)
        if not (tmp_path / "tickets.csv").exists():
            write_csv(tmp_path / "tickets.csv", tickets())
        (tmp_path / "recipe.toml").write_text(text, encoding="utf-8")
        return tmp_path / "recipe.toml"

    return write


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small int8 bundle; tests that change it copy it first."""
    from tests.tiny_bundle import make_bundle

    return make_bundle(tmp_path_factory.mktemp("tiny-bundle"))


@pytest.fixture(scope="session")
def tag_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small bundle that tags."""
    from tests.tiny_tag import make_tag_bundle

    return make_tag_bundle(tmp_path_factory.mktemp("tiny-tags"))


@pytest.fixture(scope="session")
def gguf_bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Small GGUF bundles: one that classifies, and decoders of two kinds that write JSON. Tests that change one copy it first."""
    from tests.tiny_gguf import make_gguf_bundle

    tasks = {"classify": "classify", "llama": "generate", "qwen2": "generate"}
    return {name: make_gguf_bundle(tmp_path_factory.mktemp(f"gguf-{name}"), task, name) for name, task in tasks.items()}


def share_native(home: Path) -> None:
    """Give a home the C++ runners and npm packages that earlier tests had. They are kept in .venv, so that `make clean` deletes them."""
    home.mkdir(parents=True, exist_ok=True)
    for folder in ("native", "npm"):
        kept = Path(__file__).parent.parent / ".venv" / folder
        kept.mkdir(parents=True, exist_ok=True)
        (home / folder).symlink_to(kept)


@pytest.fixture
def native_home(own_home: Path) -> Path:
    """This test's home, with the shared C++ runners."""
    share_native(own_home)
    return own_home
