"""Near-duplicates are what their definition says, few are overlooked, and finding them is quick."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgedistill import duplicates
from edgedistill.duplicates import near_duplicates, normalised
from tests.conftest import cpu_seconds

WORDS = [a + b for a in ("ka", "lo", "mi", "te", "su", "ra", "po", "ne") for b in ("bar", "dil", "gon", "fex", "zum", "wit")]


def jaccard(a: str, b: str) -> float:
    """The definition, written out: sets of character 5-grams of the normalised texts."""
    one, two = ({text[i : i + 5] for i in range(max(1, len(text) - 4))} for text in map(normalised, (a, b)))
    return len(one & two) / len(one | two)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.text("ab ", min_size=1, max_size=14), max_size=25), st.sampled_from([0.5, 0.7, 0.9]))
def test_near_duplicates_are_what_the_definition_says(texts: list[str], threshold: float) -> None:
    """Hashing overlooks pairs, or takes texts for alike that are not."""
    texts = [normalised(text) for text in texts]
    pairs = near_duplicates(texts, threshold)
    removed = {pair.removed for pair in pairs}
    kept = [place for place in range(len(texts)) if place not in removed]
    for pair in pairs:
        assert pair.kept in kept
        assert pair.similarity == jaccard(texts[pair.kept], texts[pair.removed]) >= threshold
    assert not [(a, b) for a in kept for b in kept if a < b and jaccard(texts[a], texts[b]) >= threshold]


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.8, 0.9, 0.99])
def test_few_pairs_are_overlooked(threshold: float) -> None:
    """datasketch's own choice of bands overlooks every tenth pair at the threshold."""
    bands, size = duplicates._bands(threshold)
    assert bands * size <= duplicates.PERMUTATIONS
    assert (1 - threshold**size) ** bands <= duplicates.MISSED


def test_thousands_of_short_texts_are_quick() -> None:
    """Deduplication compares all with all, and a real data set takes minutes."""
    draw = random.Random(0)
    texts = [" ".join(draw.choices(WORDS, k=10)) for _ in range(5000)]
    start = cpu_seconds()
    assert len(near_duplicates(texts, 0.9)) < 5
    assert cpu_seconds() - start < 8
