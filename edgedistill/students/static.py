"""A bag of sub-words: one vector a token, the mean and the maximum over the text, a small head. The cheapest student there is.

It knows which words a text holds, and with `ngrams` which pairs of neighbours; it knows no order beyond that, so some tasks are out of its reach, and the
float student in the report shows it. The table starts from the teacher (token_vectors.py); that of the pairs starts small and learns in training. A
learned weight a token needs no table of its own, since a weight times a row is another row.

Sources: fastText, arXiv:1607.01759 (hashed n-grams); model2vec, https://github.com/MinishLab/model2vec (a table from a transformer).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgedistill.recipe import Student
from edgedistill.students.conv import start_small

ABOUT = "bag of sub-word embeddings that start from the teacher's, with a small head; about twenty microseconds an answer"
TASKS = frozenset({"classify", "multi_label", "score", "embed"})  # one vector a text: a bag has no answer for each word
OPTIONS = frozenset({"width", "ngrams", "head", "vocabulary"})
WIDTH, NGRAMS, HEAD = 128, 16_384, 128  # pairs: 0.837 → 0.877 on TREC-6, for five microseconds and as many bytes again


def start(source: Path, out: Path, options: Student, texts: Sequence[str], classes: list[str], task: str, seed: int) -> dict[str, Any]:
    """Write the untrained student under `out`."""
    from edgedistill.architectures import StaticConfig

    config = StaticConfig(
        hidden_size=options.width or WIDTH,
        ngrams=NGRAMS if options.ngrams is None else options.ngrams,
        classifier_width=HEAD if options.head is None else options.head,
    )
    return start_small(source, out, config, config.hidden_size, options, texts, classes, task, seed)


def learning_rate(facts: Mapping[str, Any]) -> float:
    return 2e-3


def sizes(options: Student, teacher: Mapping[str, Any]) -> list[Student]:
    """A ladder of candidates from the cheapest to the dearest; what `options` fixes stays fixed."""
    ladder = []
    for width, ngrams in ((64, 0), (128, NGRAMS)):
        size = {"family": "static", "width": options.width or width, "head": HEAD if options.head is None else options.head}
        candidate = options.model_copy(update={"ngrams": ngrams if options.ngrams is None else options.ngrams, **size})
        if candidate not in ladder:
            ladder.append(candidate)
    return ladder
