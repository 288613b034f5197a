"""Clusters of texts, and names for them.

Vectors are taken relative to the traffic's mean and brought to length one before anything is compared: those of a language model share one
large direction that says nothing about the text (arXiv:1702.01417). A cluster is named by its most telling words: those that are frequent in
it and rare elsewhere, weighed by class-based TF-IDF (BERTopic, arXiv:2203.05794) in its form that holds frequent words down.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgedistill.slices import bare_words

Array = npt.NDArray[Any]

ROWS_A_CLUSTER = 60  # so that a share or a coverage of a cluster has an interval worth reading
MOST_CLUSTERS = 24  # so that the table is read to its end
FEWEST = 20  # rows; a smaller cluster is no kind of its own
NAME_WORDS = 4


def directions(vectors: Array, centre: Array) -> Array:
    """Vectors relative to `centre`, of length one; float32 [rows, width]."""
    moved = vectors.astype(np.float32) - centre.astype(np.float32)
    return np.asarray(moved / np.maximum(np.linalg.norm(moved, axis=1, keepdims=True), 1e-9))


def cluster(vectors: Array, seed: int, most: int = MOST_CLUSTERS) -> tuple[Array, Array]:
    """k-means over `directions`: (the cluster of each row, int [rows]; the centres, float [clusters, width]).

    There is a cluster for every ROWS_A_CLUSTER rows, two at least and `most` at most, and never more than there are different vectors.
    """
    from sklearn.cluster import KMeans

    distinct = len(np.unique(np.round(vectors, 5), axis=0))
    count = max(1, min(most, max(2, len(vectors) // ROWS_A_CLUSTER), distinct))
    found = KMeans(count, n_init=3, random_state=seed).fit(vectors)
    large = np.bincount(found.labels_, minlength=count) >= min(FEWEST, len(vectors) / count)
    centres = found.cluster_centers_[large]  # k-means spends centres on texts that are like no other: they go to the nearest kind
    return assign(vectors, centres), np.asarray(centres)


def assign(vectors: Array, centres: Array) -> Array:
    """The nearest centre of each row, int [rows]."""
    # |v − c|² = |v|² − 2 v·c + |c|², and |v|² is the same for all centres.
    return np.asarray((np.square(centres).sum(axis=1) - 2 * vectors @ centres.T).argmin(axis=1))


def names(texts: Sequence[str], clusters: Sequence[int] | Array, count: int) -> list[list[str]]:
    """The NAME_WORDS most telling words of each of `count` clusters: √tf(word, cluster) · log(1 + (A − f + ½) / (f + ½)), nought at least.

    A: words a cluster on average; f: how often the word stands in all of them. Ties go by the alphabet.
    """
    inside = [Counter[str]() for _ in range(count)]
    for text, number in zip(texts, clusters, strict=True):
        inside[int(number)].update(bare_words(text))
    everywhere: Counter[str] = sum(inside, Counter())
    average = everywhere.total() / max(1, count)
    weigh = {word: math.log(max(1.0, 1 + (average - times + 0.5) / (times + 0.5))) for word, times in everywhere.items()}
    return [
        [word for word, _ in sorted(found.items(), key=lambda item: (-math.sqrt(item[1]) * weigh[item[0]], item[0]))][:NAME_WORDS]
        for found in inside
    ]
