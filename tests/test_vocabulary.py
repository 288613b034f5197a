"""The task vocabulary: ids map one to one on kept text, and other text falls back without becoming unknown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from edgedistill import vocabulary

CORPUS = [
    "who wrote the book about whales and wandering",
    "what is the tallest mountain in the world",
    "the quick brown fox jumps over the lazy dog",
    "unbelievable internationalization of understanding",
    "where when why how which whose whom",
] * 30
KEPT = ["who wrote the book", "the tallest fox", "where is the dog"]


def trained(kind: str) -> Tokenizer:
    """A tokenizer of each model type, trained on the corpus."""
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    if kind == "WordPiece":
        tokenizer, trainer = (
            Tokenizer(models.WordPiece(unk_token="<unk>")),
            trainers.WordPieceTrainer(vocab_size=300, special_tokens=special),
        )
        tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.BertPreTokenizer()
    elif kind == "BPE":
        tokenizer = Tokenizer(models.BPE())
        trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    else:
        tokenizer = Tokenizer(models.Unigram())
        trainer = trainers.UnigramTrainer(vocab_size=120, special_tokens=special, unk_token="<unk>")
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.train_from_iterator(CORPUS, trainer)
    first, last = tokenizer.token_to_id("<s>"), tokenizer.token_to_id("</s>")
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", first), ("</s>", last)])
    return tokenizer


@pytest.mark.parametrize("kind", ["WordPiece", "BPE", "Unigram"])
def test_kept_text_maps_one_to_one(kind: str) -> None:
    """A student that sees other tokens than it was cut for."""
    before = trained(kind)
    cut = vocabulary.cut(before, KEPT)
    assert len(cut.kept) < before.get_vocab_size()
    assert cut.kept == sorted(set(cut.kept))
    for text in KEPT:
        assert [cut.kept[new] for new in cut.tokenizer.encode(text).ids] == before.encode(text).ids
        assert cut.tokenizer.encode(text).tokens == before.encode(text).tokens


@pytest.mark.parametrize("kind", ["WordPiece", "BPE", "Unigram"])
def test_other_text_falls_back_to_its_characters(kind: str) -> None:
    """A word that becomes unknown because its own token was cut away."""
    before = trained(kind)
    cut = vocabulary.cut(before, KEPT)
    for text in CORPUS[:5]:
        encoding = cut.tokenizer.encode(text)
        assert "<unk>" not in encoding.tokens
        assert len(encoding.ids) <= len(text) + len(text.split()) + 2, "the fallback is at most one token a character"


_WORDPIECE = trained("WordPiece")


@given(st.lists(st.text(alphabet="abcdefghijklmnopqrstuvwxyz ?", max_size=40), min_size=1, max_size=8))
def test_any_kept_text_maps_one_to_one(texts: list[str]) -> None:
    """A proof that holds only for the texts that its author thought of."""
    cut = vocabulary.cut(_WORDPIECE, texts)
    for text in texts:
        assert [cut.kept[new] for new in cut.tokenizer.encode(text).ids] == _WORDPIECE.encode(text).ids


@pytest.mark.parametrize("kind", ["WordPiece", "BPE", "Unigram"])
def test_only_the_most_frequent_tokens(kind: str) -> None:
    """A smaller vocabulary in which a rare word becomes unknown, or a frequent one is spelt otherwise than before."""
    before = trained(kind)
    whole, few = vocabulary.cut(before, CORPUS), vocabulary.cut(before, CORPUS, most=12)
    assert len(few.kept) < len(whole.kept)
    for text in CORPUS:
        assert "<unk>" not in few.tokenizer.encode(text).tokens
        old = before.encode(text).ids
        if {*old} <= {*few.kept}:
            assert [few.kept[new] for new in few.tokenizer.encode(text).ids] == old


@pytest.mark.parametrize("kind", ["WordPiece", "BPE", "Unigram"])
def test_more_tokens_than_the_texts_have(kind: str) -> None:
    """Room that is left unused, a word of the language that stays in pieces, or a kept text that is spelt otherwise for it."""
    before = trained(kind)
    task = vocabulary.cut(before, KEPT)
    common = [row for row in vocabulary.whole_words(before.get_vocab()).values() if row not in task.kept]
    used = {token for text in KEPT for token in before.encode(text).ids}
    more = vocabulary.cut(before, KEPT, most=len(used) + 1)
    assert common[0] in more.kept and {*task.kept} <= {*more.kept}
    for text in KEPT:
        assert [more.kept[new] for new in more.tokenizer.encode(text).ids] == before.encode(text).ids
    word = before.decode([common[0]]).strip()
    spelt = more.tokenizer.encode(f"who {word}", add_special_tokens=False)
    assert [more.kept[new] for new in spelt.ids] == before.encode(f"who {word}", add_special_tokens=False).ids


def test_whole_words_are_words() -> None:
    """A piece taken for a word, bytes for letters, or capitals for another word."""
    assert vocabulary.whole_words({"Ġset": 2, "set": 3, "ĠSet": 4, "ting": 5, "ĠcafÃ©": 1, "Ġof": 6, "Ġ12": 7}) == {"café": 1, "set": 2}
    assert vocabulary.whole_words({"[CLS]": 0, "set": 1, "##ting": 2, "of": 3}) == {"set": 1}
    assert vocabulary.whole_words({"▁set": 1, "ting": 2, "▁Ganz": 3}) == {"set": 1}


def test_padding_of_the_source_is_dropped(tiny_teacher) -> None:  # type: ignore[no-untyped-def]
    """A fixed padding of the teacher's repository that a device would pay for on every text."""
    source = Tokenizer.from_file(str(tiny_teacher / "tokenizer.json"))
    assert source.padding is not None
    assert vocabulary.cut(source, ["refund"]).tokenizer.padding is None
