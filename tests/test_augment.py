"""Augmentation: new texts, never a test text, the same for the same seed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedistill.augment import COMMON_HERE, COMMONEST, NEAREST, Augmenter, neighbours

TEXTS = [
    "who wrote the red book",
    "who wrote the blue book",
    "where is the red house",
    "where was the old red bridge",
    "what did the old man say",
]
ALL = {"replace": 1.0, "similar": 1.0, "reword": 1.0, "recombine": 1.0, "delete": 1.0, "typo": 1.0, "case": 1.0}


def same(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize("method", list(ALL))
def test_each_method_makes_new_texts(method: str) -> None:
    """A method that does nothing, gives the text back, or gives one twice."""
    grown = Augmenter(TEXTS, {"red": ["green", "purple"]}, {"old": ["new"], "house": ["shed"]}).grow(6, {method: 1.0}, 0, TEXTS, same)
    assert grown and len(set(grown)) == len(grown) and not set(grown) & set(TEXTS)


@given(st.lists(st.text(max_size=30), min_size=1, max_size=8), st.integers(0, 5))
def test_nothing_excluded_comes_out_and_seeds_repeat(texts: list[str], seed: int) -> None:
    """A test text that leaks into the transfer set, or a set that differs from run to run."""
    grown = Augmenter(texts).grow(20, ALL, seed, TEXTS, same)
    assert not {same(text) for text in grown} & {same(text) for text in TEXTS}
    assert grown == Augmenter(texts).grow(20, ALL, seed, TEXTS, same)


def test_replacement_fits_its_neighbours() -> None:
    """Words put where they never stood: between "the" and "book" only "red" and "blue" were seen."""
    grown = Augmenter(TEXTS).grow(50, {"replace": 1.0}, 0, [], same)
    assert {text.split()[3] for text in grown if text.startswith("who wrote the") and text.endswith("book")} <= {"red", "blue"}


def circle() -> tuple[dict[str, int], np.ndarray]:
    """A vocabulary of common words and then twenty more, "worda" to "wordt", whose embeddings lie on a circle in that order."""
    words = [f"{chr(97 + first)}{chr(97 + second)}q" for first in range(10) for second in range(COMMONEST // 10)]
    words += [f"word{chr(97 + number)}" for number in range(20)]
    angles = np.linspace(0, 2 * np.pi, 20, endpoint=False)
    ring = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    table = np.concatenate([np.tile([[1e-3, 0.0], [-1e-3, 0.0]], (COMMONEST // 2, 1)), ring]).astype(np.float32)
    return {word: row for row, word in enumerate(words)}, table


def test_neighbours_are_the_nearest() -> None:
    """Another neighbour than the nearest by cosine, or the word itself."""
    vocabulary, table = circle()
    near = neighbours(["Wordc and wordk", "aaq of wordt"], vocabulary, table, reword=True)
    assert set(near) == {"wordc", "wordk", "wordt"}  # what is common in the language is left alone, however rare it is here
    assert set(near["wordc"][:2]) == {"wordb", "wordd"} and set(near["wordt"][:2]) == {"words", "worda"}
    assert all(len(words) == NEAREST for words in near.values())


def test_no_neighbour_begins_alike_or_is_common() -> None:
    """ "sets" in the place of "set", which teaches nothing, and "the", which lies near everything."""
    vocabulary, table = circle()
    vocabulary["wordcs"] = len(table)
    near = neighbours(["wordc"], vocabulary, np.concatenate([table, table[vocabulary["wordc"]][None]]), reword=True)
    assert "wordcs" not in near["wordc"] and not {*near["wordc"]} & {*list(vocabulary)[:COMMONEST]}
    # A word among whose nearest are only its own forms has none: `similar` must leave it.
    forms = {
        word: row for row, word in enumerate([*list(vocabulary)[:COMMONEST], "stem", *(f"stem{chr(97 + number)}" for number in range(20))])
    }
    assert neighbours(["stem"], forms, np.ones((len(forms), 2), np.float32), reword=True) == {}


def test_similar_leaves_the_commonest_words_of_the_texts() -> None:
    """A question word that is exchanged, so that the text asks something else."""
    vocabulary, table = circle()
    common = [f"filler{number}" for number in range(COMMON_HERE - 1)]
    near = neighbours(["wordc " + " ".join(common)] * 3 + ["wordk"], vocabulary, table)
    assert set(near) == {"wordk"}
