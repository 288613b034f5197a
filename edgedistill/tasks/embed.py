"""Sentence embeddings: a vector for each text, for search and similarity. Texts that mean the same lie near each other.

The model gives the vector itself, of length 1, so the cosine of two texts is the dot product of their vectors; apps compute it. Nobody labels
such rows: the teacher's own vectors are what is right, and what counts of them is which texts they put near which. So the student may be
narrower (`data.dimensions`), and it is judged by recall@k: for each test text, how many of the k nearest among the other test texts are also
among the teacher's k nearest. Sources: Sentence-BERT, arXiv:1908.10084; nearest neighbours kept as the measure: arXiv:1603.09320, §5.

A text's answer is its vector; what a set of texts has for a target (`together`) is the list of each one's nearest, by place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgedistill.errors import RecipeError

HUB_TASK = "sentence-similarity"
EXACT = False
UNLABELLED = True

NEAREST = 10
CHUNK = 1024  # rows of the table of similarities at a time


def about(settings: dict[str, Any]) -> str:
    """For the model card."""
    return (
        f"Gives a text a vector of {len(settings['labels'])} numbers and length 1; the dot product of two vectors says how alike the texts are. "
        f"Judged by how many of a text's {NEAREST} nearest texts are also among the teacher's {NEAREST}."
    )


def metric(settings: dict[str, Any]) -> str:
    return f"recall@{NEAREST}"


def soft(options: Any) -> str:
    return "sentence_vector"


def hard_kind(settings: dict[str, Any]) -> str:
    return "scores"


def read(label: str, text: str, options: Any) -> None:
    """Nothing: only the teacher knows."""
    return


def settings(targets: Sequence[Any], options: Any, labels: Sequence[str] | None = None) -> dict[str, Any]:
    """The numbers of the student's dimensions: as many as `dimensions` says, else the teacher's. Raises RecipeError for more than those."""
    theirs, wanted = list(labels or ()), options.dimensions
    if theirs and wanted and wanted > len(theirs):
        raise RecipeError(
            f"data.dimensions = {wanted}, but the teacher's vectors have {len(theirs)}.",
            write=f"Write 2 to {len(theirs)}, or leave it out.",
        )
    return {"labels": theirs[:wanted] if wanted else theirs}


def stratum(target: Any) -> str | None:
    return None


def classes(settings: dict[str, Any]) -> list[str]:
    return []


def names(target: Any, settings: dict[str, Any]) -> list[str]:
    return []


def number(target: Any, settings: dict[str, Any]) -> Any:
    return target


def answer(
    logits: npt.NDArray[Any], settings: dict[str, Any], text: str = "", offsets: Sequence[tuple[int, int]] | None = None
) -> dict[str, Any]:
    """The vector. logits: float [dimensions], of length 1."""
    vector = logits.tolist()
    return {"answer": vector, "target": vector}


def together(vectors: Sequence[Any], settings: dict[str, Any]) -> list[list[int]]:
    """The places of the nearest other texts of each, the nearest first; of equally near ones the first."""
    points = np.asarray(vectors, dtype=np.float32)
    found: list[list[int]] = []
    for begin in range(0, len(points), CHUNK):
        near = points[begin : begin + CHUNK] @ points.T
        near[np.arange(len(near)), np.arange(begin, begin + len(near))] = -np.inf  # a text is no neighbour of itself
        found += np.argsort(-near, axis=1, kind="stable")[:, : min(NEAREST, len(points) - 1)].tolist()
    return found


def judge(predicted: Any, target: Any, settings: dict[str, Any]) -> tuple[float, float]:
    """How many of the teacher's nearest texts were found, of how many: the parts of recall@k."""
    return float(len({*predicted} & {*target})), float(len(target))


def notes(vectors: Sequence[Any], right: Sequence[Any], settings: dict[str, Any]) -> list[str]:
    """A second figure for the report: whether texts are ordered as the teacher orders them, near and far."""
    return [f"Spearman of similarities with the teacher's: {spearman(vectors, right):.3f} (mean over texts)"]


def spearman(vectors: Sequence[Any], right: Sequence[Any]) -> float:
    """Each text's similarities to all others, ranked, against the teacher's: Spearman's rank correlation, mean over texts.

    vectors, right: [texts, width] of unit length, each of its own width. A text to which
    all others are equally near has no order and is left out. NaN for fewer than three texts.
    """
    from scipy.stats import spearmanr  # here: devices have the task and not scipy

    ours, theirs = np.asarray(vectors, dtype=np.float32), np.asarray(right, dtype=np.float32)
    if len(ours) < 3:
        return float("nan")
    found = []
    for row in range(len(ours)):
        near = [np.delete(points @ points[row], row) for points in (ours, theirs)]
        if all(np.ptp(one) > 0 for one in near):
            found.append(spearmanr(*near).statistic)
    return float(np.mean(found)) if found else float("nan")


def divergence(reference: npt.NDArray[Any], logits: npt.NDArray[Any], settings: dict[str, Any]) -> npt.NDArray[Any]:
    """1 - cosine of each row."""
    return np.asarray(np.maximum(0.0, 1.0 - (reference * logits).sum(axis=-1)))


def hard(
    target: Any, settings: dict[str, Any], text: str = "", offsets: Sequence[tuple[int, int]] | None = None
) -> npt.NDArray[np.float32]:
    """Never a label: NaN, float32 []."""
    return np.asarray(np.nan, np.float32)
