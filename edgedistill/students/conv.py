"""A convolution over sub-word embeddings, with the mean and the maximum over the text and a small head: tens of microseconds an answer.

What a narrow task asks of a text is often settled by a few words and their neighbours; one convolution over three tokens sees those, and the maximum over
the text finds the one that matters wherever it stands. The table starts from the teacher (token_vectors.py); the convolution starts fresh and learns in
minutes. Source: "Convolutional Neural Networks for Sentence Classification", arXiv:1408.5882.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgedistill import vocabulary
from edgedistill.errors import RecipeError
from edgedistill.models import load_model, load_tokenizer, model_class, parameter_count, save
from edgedistill.recipe import Student
from edgedistill.token_vectors import counts, token_vectors

ABOUT = "convolutions over sub-word embeddings that start from the teacher's; tens of microseconds an answer"
TASKS = frozenset({"classify", "multi_label", "score", "tag", "embed"})  # it reads and does not write
OPTIONS = frozenset({"layers", "width", "channels", "kernel", "head", "vocabulary"})
WIDTH, CHANNELS, KERNEL, HEAD = 128, 256, 3, 0
PAIRS = 0.3  # a pair begins as noise that must not drown the tokens: this share of a token's spread


def start(source: Path, out: Path, options: Student, texts: Sequence[str], classes: list[str], task: str, seed: int) -> dict[str, Any]:
    """Write the untrained student under `out`. Raises RecipeError for options that make no convolution."""
    from edgedistill.architectures import ConvConfig

    if isinstance(options.layers, list):
        raise RecipeError(
            f"student.layers = {options.layers} chooses layers of the teacher, and a convolution keeps none of them.",
            write=f"Write how many convolutions there are, such as layers = {max(1, len(options.layers))}.",
        )
    kernel = options.kernel or KERNEL
    if kernel % 2 == 0:
        raise RecipeError(
            f"student.kernel = {kernel}, but a convolution looks equally far to both sides.", write=f"Write {kernel - 1} or {kernel + 1}."
        )
    config = ConvConfig(
        embedding_size=options.width or WIDTH,
        hidden_size=options.channels or CHANNELS,
        kernel_size=kernel,
        num_hidden_layers=1 if options.layers is None else options.layers,
        classifier_width=HEAD if options.head is None else options.head,
    )
    if config.num_hidden_layers < 1:
        raise RecipeError("student.layers = 0 leaves no convolution.", write='Write layers = 1, or family = "static".')
    return start_small(source, out, config, config.embedding_size, options, texts, classes, task, seed)


def start_small(
    source: Path, out: Path, config: Any, width: int, options: Student, texts: Sequence[str], classes: list[str], task: str, seed: int
) -> dict[str, Any]:
    """Write a student of one of our own architectures whose token table comes from `source`, and give its facts.

    config: sizes of the architecture; vocabulary and classes are filled in here. width: of the token table.
    """
    import torch

    torch.manual_seed(seed)
    teacher = load_model(source, task, classes)
    tokenizer = load_tokenizer(source)
    before = len(teacher.get_input_embeddings().weight)
    cut = (
        vocabulary.cut(tokenizer, texts, options.vocabulary if isinstance(options.vocabulary, int) else None)
        if options.vocabulary != "full"
        else vocabulary.Cut(tokenizer, list(range(tokenizer.get_vocab_size())))
    )
    seen = counts(cut.tokenizer, texts)
    table = token_vectors(teacher, tokenizer, cut.kept, seen.sqrt() + 1, width)
    pad = teacher.config.pad_token_id
    config.vocab_size = len(table)
    config.pad_token_id = cut.kept.index(pad) if pad in cut.kept else 0  # what stands at padding is never read
    config.id2label, config.label2id = dict(enumerate(classes)), {name: place for place, name in enumerate(classes)}
    student = model_class(task).from_config(config)
    with torch.no_grad():
        student.get_input_embeddings().weight.copy_(table)
        if getattr(config, "ngrams", 0):
            student.base_model.pairs.weight.mul_(PAIRS)
    save(student, cut.tokenizer, out)
    return {
        "architecture": config.model_type,
        "layers": list(range(config.num_hidden_layers)),
        "layers_before": getattr(teacher.config, "num_hidden_layers", None),
        "width": width,
        "vocabulary": len(table),
        "vocabulary_before": before,
        "parameters": parameter_count(student),
        "parameters_before": parameter_count(teacher),
        "texts_with_equal_ids": len(texts) if options.vocabulary == "task" else None,
    }


def learning_rate(facts: Mapping[str, Any]) -> float:
    return 2e-3


def sizes(options: Student, teacher: Mapping[str, Any]) -> list[Student]:
    """A ladder of candidates from the cheapest to the dearest; what `options` fixes stays fixed. teacher: not needed, every size can start from any."""
    steps = [(64, 128, 1), (128, 256, 1), (192, 384, 1), (192, 384, 2)]
    ladder = []
    for width, channels, layers in steps:
        size = {"width": options.width or width, "channels": options.channels or channels, "layers": options.layers or layers}
        candidate = options.model_copy(update={"family": "conv", "kernel": options.kernel or KERNEL, "head": options.head or HEAD, **size})
        if candidate not in ladder:
            ladder.append(candidate)
    return ladder
