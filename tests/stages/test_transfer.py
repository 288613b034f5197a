"""The transfer set: no test text in it whatever steers it, quotas met, held-out texts unseen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from edgedistill import augment
from edgedistill.duplicates import near_duplicates, normalised
from edgedistill.recipe import Transfer
from edgedistill.slices import baseline, member_of
from edgedistill.stages import transfer
from edgedistill.stages.transfer import read_families
from edgedistill.tables import Rows, make_rows, read_rows, write_rows
from tests.conftest import tickets

SLICES = {"asks": r"(?i)\brefund\b"}


def grown(
    folder: Path, teacher: Path, options: Transfer, traffic: bool = False, seed: int = 0
) -> tuple[Rows, Rows, Rows, dict[str, object]]:
    """(transfer set, held out, test, facts)."""
    texts = list(dict.fromkeys(text for text, _ in tickets(260)))
    prepared, out = folder / "prepared", folder / "out"
    for place in (prepared, out):
        place.mkdir()
    train, test = make_rows(texts[:150], [0] * 150), make_rows(texts[150:190])
    write_rows(prepared / "train.parquet", train)
    write_rows(prepared / "test.parquet", test)
    if traffic:
        write_rows(prepared / "traffic.parquet", make_rows(texts[190:]))
    transfer.run(out, transfer.Params(options, 0.9, seed, SLICES), prepared=prepared, model=teacher)
    facts = json.loads((out / "facts.json").read_text())
    return read_rows(out / "transfer.parquet"), read_rows(out / "held_out.parquet"), test, facts


@pytest.mark.parametrize("traffic", [False, True])
@pytest.mark.parametrize("options", [{}, {"quotas": {"typos": 0.2, "asks": 0.2, "very_short": 0.1}}, {"pool": 12.0}])
def test_no_test_or_held_out_text_enters(tmp_path: Path, tiny_teacher: Path, options: dict[str, object], traffic: bool) -> None:
    """A test text, or nearly one, that the teacher labels for the student; a held-out text, or anything grown from one, that it learns from."""
    rows, held, test, facts = grown(tmp_path, tiny_teacher, Transfer(growth=6, held_out=0.2, **options), traffic)  # type: ignore[arg-type]
    barred = [normalised(text) for text in (*test.texts, *held.texts)]
    mine = [normalised(text) for text in rows.texts]
    assert not set(mine) & set(barred)
    real = facts["training_rows"] + facts["traffic_rows"]  # type: ignore[operator]
    assert not near_duplicates(mine[real:], 0.9, against=barred)
    assert len(set(rows.keys)) == len(rows) == facts["rows"] and len(held) == facts["held_out_rows"] == (14 if traffic else 30)
    families = read_families(tmp_path / "out" / "families.parquet")
    assert set(families) == set(rows.keys[real:])
    seeds = set(rows.keys[:real])
    assert all(set(parents) <= seeds and parents for parents in families.values())


def test_quotas_are_met_and_the_size_kept(tmp_path: Path, tiny_teacher: Path) -> None:
    """A quota that is recorded as reached and is not, that doubles the set, or that takes its texts from one source only."""
    quotas = {"typos": 0.15, "upper_case": 0.1, "asks": 0.2}
    (tmp_path / "plain").mkdir()
    plain, _, _, _ = grown(tmp_path / "plain", tiny_teacher, Transfer(growth=6))
    rows, _, _, facts = grown(tmp_path, tiny_teacher, Transfer(growth=6, quotas=quotas))
    train = [text for text, label in zip(rows.texts, rows.labels, strict=True) if label >= 0]
    belongs = member_of(list(quotas), SLICES, baseline(train))
    before, after = ([belongs(text) for text in part.texts] for part in (plain, rows))
    for entry in facts["quotas"]:  # type: ignore[attr-defined]
        share = sum(entry["name"] in names for names in after) / len(rows)
        assert entry["reached"] and entry["share"] == pytest.approx(share) and share >= quotas[entry["name"]]
    assert sum("upper_case" in names for names in before) / len(plain) < 0.1, "else nothing had to be steered"
    assert abs(len(rows) - len(plain)) <= 0.02 * len(plain)


def test_a_quota_that_the_texts_do_not_give_is_said_to_be_missed(tmp_path: Path, tiny_teacher: Path) -> None:
    """A quota that hangs for ever, or that the facts call reached."""
    rows, _, _, facts = grown(tmp_path, tiny_teacher, Transfer(growth=3, quotas={"non_latin": 0.5}))
    assert facts["quotas"] == [{"name": "non_latin", "asked": 0.5, "rows": 0, "share": 0.0, "reached": False}]
    assert len(rows) > 300


def test_same_seed_same_set(tmp_path: Path, tiny_teacher: Path) -> None:
    """A transfer set, and so every label, that differs from run to run."""
    options = Transfer(growth=4, quotas={"typos": 0.1})
    for name in "ab":
        (tmp_path / name).mkdir()
    first, second = (grown(tmp_path / name, tiny_teacher, options) for name in "ab")
    assert first[0].texts == second[0].texts and first[1].keys == second[1].keys


@pytest.mark.parametrize("method", ["similar", "reword"])
def test_words_grow_from_a_byte_level_teacher(tmp_path: Path, method: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens in texts in the place of words, with the mark of a space or as pieces, where the teacher's tokenizer is byte-level BPE."""
    monkeypatch.setattr(augment, "COMMON_HERE", 10)  # the tickets have few words
    texts = [text for text, _ in tickets(260)]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    # Enough words that a hundred are common and others are left: what no ticket says, each often.
    more = [f"{first}{second}zz" for first in "bcdfghjklmnp" for second in "aeiouqrstvwx"]
    tokenizer.train_from_iterator(
        texts + more * 50, trainers.BpeTrainer(vocab_size=2000, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    )
    model = tmp_path / "model"
    model.mkdir()
    tokenizer.save(str(model / "tokenizer.json"))
    table = np.random.default_rng(0).normal(size=(tokenizer.get_vocab_size(), 8)).astype(np.float32)
    save_file({"model.embed_tokens.weight": table}, model / "model.safetensors")
    rows, _, _, facts = grown(tmp_path, model, Transfer(growth=3, held_out=0.2, methods={method: 1.0}))
    known = {*more, *(word.lower() for text in texts for word in text.split())}
    words = {word.lower() for text in rows.texts for word in text.split()}
    assert facts["grown_rows"] and words & {*more}
    assert not {
        word for word in words if not any(other.startswith(word) for other in known)
    }  # BPE lists the beginnings of words among them
