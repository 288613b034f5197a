"""Tiny real classifiers of several architectures: seeded random weights that give spread-out logits, and a tokenizer over a handful of sentences."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

SENTENCES = [
    "how far is the moon from the earth ?",
    "who wrote the long novel about the white whale ?",
    "what is the name of the river that runs through london ?",
    "when did the first train leave the old station ?",
    "why do cats sleep all day and run around at night ?",
    "how many people live in the largest city of brazil ?",
    "what does the word serendipity mean ?",
    "where can i buy a cheap ticket for the evening show ?",
    "who",
    "is it true that bees never sleep , and if so , how do they rest during the long and cold winter months ?",
]
SPECIAL = {"wordpiece": ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"), "bpe": ("<pad>", "<unk>", "<s>", "</s>", "<mask>")}


def tiny_bert(folder: Path, classes: int = 5, layers: int = 2, hidden: int = 64) -> Path:
    """A BERT classifier in `folder`."""
    from transformers import BertConfig, BertForSequenceClassification

    size = _tokenizer(folder, "wordpiece")
    config = BertConfig(vocab_size=size, max_position_embeddings=64, pad_token_id=0, num_labels=classes, **_sizes(layers, hidden))
    return _save(BertForSequenceClassification(config), folder)


def tiny_electra(folder: Path, classes: int = 5, layers: int = 2, hidden: int = 64) -> Path:
    """An ELECTRA classifier whose embeddings are narrower than its layers."""
    from transformers import ElectraConfig, ElectraForSequenceClassification

    size = _tokenizer(folder, "wordpiece")
    config = ElectraConfig(
        vocab_size=size, embedding_size=32, max_position_embeddings=64, pad_token_id=0, num_labels=classes, **_sizes(layers, hidden)
    )
    return _save(ElectraForSequenceClassification(config), folder)


def tiny_distilbert(folder: Path, classes: int = 5, layers: int = 2, hidden: int = 64) -> Path:
    """A DistilBERT classifier: no token types, its own names for everything."""
    from transformers import DistilBertConfig, DistilBertForSequenceClassification

    size = _tokenizer(folder, "wordpiece")
    config = DistilBertConfig(
        vocab_size=size,
        max_position_embeddings=64,
        pad_token_id=0,
        num_labels=classes,
        dim=hidden,
        n_layers=layers,
        n_heads=4,
        hidden_dim=2 * hidden,
    )
    return _save(DistilBertForSequenceClassification(config), folder)


def tiny_roberta(folder: Path, classes: int = 5, layers: int = 2, hidden: int = 64) -> Path:
    """A RoBERTa classifier: positions are counted over the tokens that are not padding, and padding is not id 0."""
    from transformers import RobertaConfig, RobertaForSequenceClassification

    size = _tokenizer(folder, "bpe")
    config = RobertaConfig(
        vocab_size=size,
        max_position_embeddings=66,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
        num_labels=classes,
        **_sizes(layers, hidden),
    )
    return _save(RobertaForSequenceClassification(config), folder)


def tiny_mpnet(folder: Path, classes: int = 5, layers: int = 2, hidden: int = 64) -> Path:
    """An MPNet classifier: a learned bias by distance on every attention score."""
    from transformers import MPNetConfig, MPNetForSequenceClassification

    size = _tokenizer(folder, "bpe")
    config = MPNetConfig(
        vocab_size=size,
        max_position_embeddings=66,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
        num_labels=classes,
        **_sizes(layers, hidden),
    )
    return _save(MPNetForSequenceClassification(config), folder)


def tiny_conv(folder: Path, classes: int = 5, layers: int = 2, hidden: int = 64) -> Path:
    """Our own convolutions."""
    from edgedistill.architectures import ConvConfig, ConvForSequenceClassification

    size = _tokenizer(folder, "wordpiece")
    config = ConvConfig(vocab_size=size, embedding_size=48, hidden_size=hidden, num_hidden_layers=layers, num_labels=classes)
    return _save(ConvForSequenceClassification(config), folder)


def tiny_static(folder: Path, classes: int = 5, hidden: int = 64) -> Path:
    """Our own bag of sub-words and their pairs."""
    from edgedistill.architectures import StaticConfig, StaticForSequenceClassification

    size = _tokenizer(folder, "wordpiece")
    config = StaticConfig(vocab_size=size, hidden_size=hidden, ngrams=256, classifier_width=64, num_labels=classes)
    return _save(StaticForSequenceClassification(config), folder)


ARCHITECTURES: dict[str, Callable[[Path], Path]] = {
    "bert": tiny_bert,
    "electra": tiny_electra,
    "distilbert": tiny_distilbert,
    "roberta": tiny_roberta,
    "mpnet": tiny_mpnet,
}


def _sizes(layers: int, hidden: int) -> dict[str, int]:
    return {"hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": 4, "intermediate_size": 2 * hidden}


def _save(model: Any, folder: Path) -> Path:
    import torch

    generator = torch.Generator().manual_seed(7)
    for name, weight in model.named_parameters():
        with torch.no_grad():
            if weight.ndim == 2:  # wide enough that rows, and so logits, differ; default initialisation gives every text the same answer
                gain = (
                    4.0 if weight.shape[0] < 16 else 1.0
                )  # the head; a larger gain inside makes the layers chaotic, as no trained model is
                spread = 1.0 if "embedding" in name or "bias" in name else gain / weight.shape[1] ** 0.5
                weight.copy_(torch.randn(weight.shape, generator=generator) * spread)
            elif name.endswith("bias"):
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.1)
            elif weight.ndim == 1:
                weight.copy_(1 + torch.randn(weight.shape, generator=generator) * 0.1)
    _centre(model, folder)
    model.save_pretrained(folder)
    return folder


def _centre(model: Any, folder: Path) -> None:
    """Take the mean logits off the head's bias: else random weights prefer one class for every text, and no comparison of answers could fail."""
    import torch
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model.eval()
    with torch.no_grad():
        logits = [
            model(input_ids=torch.tensor([tokenizer(text, padding=False, truncation=True, max_length=48)["input_ids"]])).logits[0]
            for text in SENTENCES
        ]
        heads = [weight for name, weight in model.named_parameters() if name.startswith("classifier") and name.endswith("bias")]
        heads[-1] -= torch.stack(logits).mean(dim=0)


def _tokenizer(folder: Path, kind: str) -> int:
    """Saves a tokenizer; padding to a fixed length is on, as some repositories ship it. Gives the size of its vocabulary.

    The vocabulary is spelt out, not trained: the trainers of `tokenizers` break ties in another order each run, and every figure of a test with them.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    pad, unk, cls, sep, mask = SPECIAL[kind]
    if kind == "wordpiece":
        words = sorted({word for sentence in SENTENCES for word in sentence.split()})
        letters = "abcdefghijklmnopqrstuvwxyz0123456789"
        pieces = [
            pad,
            unk,
            cls,
            sep,
            mask,
            *letters,
            *(f"##{letter}" for letter in letters),
            *(word for word in words if len(word) > 1 or word in "?,"),
        ]
        tokenizer = Tokenizer(models.WordPiece({piece: number for number, piece in enumerate(pieces)}, unk_token=unk))
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    else:
        pieces = [cls, pad, sep, unk, mask, *sorted(pre_tokenizers.ByteLevel.alphabet())]
        merges = [("t", "h"), ("i", "n"), ("e", "r")]
        pieces += ["".join(pair) for pair in merges]
        tokenizer = Tokenizer(models.BPE({piece: number for number, piece in enumerate(pieces)}, merges))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens([pad, unk, cls, sep, mask])
    ends = [(token, tokenizer.token_to_id(token)) for token in (cls, sep)]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{cls} $A {sep}", special_tokens=ends)
    tokenizer.enable_padding(length=64, pad_id=tokenizer.token_to_id(pad), pad_token=pad)
    folder.mkdir(parents=True, exist_ok=True)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=pad, unk_token=unk, cls_token=cls, sep_token=sep, mask_token=mask, model_max_length=64
    )
    wrapped.save_pretrained(folder)
    return int(tokenizer.get_vocab_size())
