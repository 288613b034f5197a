"""A committee of quick students: linear models over words that say, in seconds, where the soft labels seen so far do not settle the answer.

Each member learns the teacher's probabilities by ridge regression from TF-IDF of words, word pairs and character n-grams, on its own bootstrap
sample of the labelled texts (query by bagging, Abe and Mamitsuka 1998). Doubt is how near the second answer of their mean comes to the first
(margin sampling, Scheffer et al. 2001): a label there decides between two answers, where a high entropy may only mean odd words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

MEMBERS = 5
RIDGE = 1.0
FEATURES = 2**15  # most frequent n-grams that are kept
TEMPERATURE = 0.2  # probabilities by least squares are flat: their differences are sharpened by this before they are compared


@dataclass(frozen=True)
class Words:
    """The texts as sparse TF-IDF rows, [texts, n-grams]: the same for every round."""

    rows: Any

    @classmethod
    def of(cls, texts: Sequence[str]) -> Words:
        """Raises ValueError when no text holds a word."""
        from scipy.sparse import hstack
        from sklearn.feature_extraction.text import TfidfVectorizer

        options: dict[str, Any] = {"sublinear_tf": True, "min_df": 2, "max_features": FEATURES, "dtype": np.float32}
        by_word = TfidfVectorizer(ngram_range=(1, 2), tokenizer=str.split, **options, token_pattern=None)
        by_char = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 4), **options)
        try:
            return cls(hstack([by_word.fit_transform(texts), by_char.fit_transform(texts)]).tocsr())
        except ValueError:  # hardly a word stands twice
            by_char.min_df = 1
            return cls(by_char.fit_transform(texts))


Kind = Literal["one of", "any of", "numbers"]  # what a soft label is: one distribution, a probability a class, or numbers


def committee(
    words: Words, labelled: Sequence[int] | Array, soft: Array, ask: Sequence[int] | Array, seed: int, kind: Kind = "one of"
) -> Array:
    """What each member answers, float [MEMBERS, len(ask), outputs].

    labelled: the places of the texts whose soft labels `soft` [len(labelled), outputs] are known. ask: places to answer.
    """
    from sklearn.linear_model import Ridge

    draw = np.random.default_rng(seed)
    places = np.asarray(labelled)
    answers = []
    for _ in range(MEMBERS):
        sample = draw.integers(0, len(places), len(places))
        member = Ridge(alpha=RIDGE, solver="sparse_cg", fit_intercept=True, tol=1e-3)
        member.fit(words.rows[places[sample]], soft[sample])
        answers.append(member.predict(words.rows[np.asarray(ask)]).reshape(len(ask), -1))
        if kind == "one of":
            raised = np.exp((answers[-1] - answers[-1].max(axis=1, keepdims=True)) / TEMPERATURE)
            answers[-1] = raised / raised.sum(axis=1, keepdims=True)
    return np.stack(answers)


def doubt(answers: Array, kind: Kind = "one of") -> Array:
    """How open the answer is, [texts]. answers: [members, texts, outputs].

    "one of": one minus the margin between the two best answers of the committee's mean. "any of": how near the least settled class is to one half,
    0 … 1. "numbers", which have no second answer: how far the members are apart.
    """
    mean = answers.mean(axis=0)
    if kind == "numbers":
        return np.asarray(answers.std(axis=0).sum(axis=1))
    if kind == "any of":
        return np.asarray(1 - np.abs(2 * np.clip(mean, 0, 1) - 1).min(axis=1))
    if mean.shape[1] < 2:
        return np.zeros(len(mean))
    best = np.sort(mean, axis=1)
    return np.asarray(1 - (best[:, -1] - best[:, -2]))


def word_directions(texts: Sequence[str], width: int) -> npt.NDArray[np.float32]:
    """Texts as their main directions in TF-IDF space (latent semantic analysis), float32 [texts, at most width]."""
    from sklearn.decomposition import TruncatedSVD

    rows = Words.of(texts).rows
    most = min(width, rows.shape[1] - 1, rows.shape[0])
    if most < 1:
        return np.asarray(rows.toarray(), np.float32)
    return np.asarray(TruncatedSVD(most, random_state=0, n_iter=3).fit_transform(rows), np.float32)
