"""Duplicates: which texts are the same, exactly or nearly.

Two texts are the same when their normalised forms are. They are near-duplicates when the sets of their character 5-grams have a Jaccard
similarity at or over a threshold. Such pairs are found by MinHash (Broder, 1997) and locality-sensitive hashing, and each pair so found is
confirmed by its true similarity: hashing may overlook a pair, seldom (MISSED), and never makes one up. That deduplication changes measured
accuracy is shown by Lee et al., "Deduplicating Training Data Makes Language Models Better" (arXiv:2107.06499).
"""

from __future__ import annotations

import unicodedata
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from edgedistill.progress import tick

SHINGLE = 5  # characters; DESIGN's near_duplicate is stated over these
PERMUTATIONS = 128
MISSED = 1e-3  # how likely a pair exactly at the threshold may be overlooked


def normalised(text: str) -> str:
    """The form in which two texts count as the same: Unicode NFKC, case folded, runs of whitespace made one space."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


@dataclass(frozen=True)
class Pair:
    """Two places whose texts are near-duplicates: `removed` goes because `kept` stays."""

    kept: int
    removed: int
    similarity: float


def near_duplicates(texts: Sequence[str], threshold: float, against: Sequence[str] = ()) -> list[Pair]:
    """Texts that are nearly the same as an earlier one that stays, or as one of `against` (then `kept` is its place there).

    texts: normalised. threshold: Jaccard similarity of their sets of character 5-grams; 1 finds nothing. With `against`, texts are
    compared with those alone. No two texts that stay are near-duplicates, short of the MISSED chance of the hashing. The order of texts
    decides, nothing else.
    """
    if threshold >= 1 or not texts:
        return []
    from datasketch import MinHash, MinHashLSH

    everything = [*against, *texts]
    index = MinHashLSH(num_perm=PERMUTATIONS, params=_bands(threshold))
    hashes = MinHash.generator((_shingles(text) for text in everything), num_perm=PERMUTATIONS, hashfunc=zlib.crc32)
    signatures = np.empty((len(everything), PERMUTATIONS), np.uint64)
    pairs: list[Pair] = []
    for place, minhash in enumerate(hashes):
        signatures[place] = minhash.hashvalues
        if place % 1000 == 0:
            tick("near duplicates", place, len(everything))
        if place >= len(against):
            twin = _nearest_twin(place, np.array(sorted(index.query(minhash)), np.int64), signatures, everything, threshold)
            if twin:
                pairs.append(Pair(twin[0], place - len(against), twin[1]))
                continue
            if against:
                continue
        index.insert(place, minhash, check_duplication=False)
    return pairs


def _nearest_twin(place: int, candidates: Any, signatures: Any, texts: Sequence[str], threshold: float) -> tuple[int, float] | None:
    """The first candidate that truly is a near-duplicate, and how alike it is."""
    if not len(candidates):
        return None
    # The signatures estimate the similarity with a deviation of at most 0.045; five of those below the threshold is not worth a closer
    # look.
    likely = (signatures[candidates] == signatures[place]).mean(axis=1) >= threshold - 0.22
    mine = _shingles(texts[place])
    for candidate in candidates[likely]:
        theirs = _shingles(texts[candidate])
        common = len(mine & theirs)
        similarity = common / (len(mine) + len(theirs) - common)
        if similarity >= threshold:
            return int(candidate), similarity
    return None


def _shingles(text: str) -> set[bytes]:
    """The character 5-grams of a text; a shorter text is its own."""
    if text.isascii():
        content = text.encode()
        return {content[start : start + SHINGLE] for start in range(max(1, len(content) - SHINGLE + 1))}
    return {text[start : start + SHINGLE].encode() for start in range(max(1, len(text) - SHINGLE + 1))}


@cache
def _bands(threshold: float) -> tuple[int, int]:
    """(bands, rows a band): the longest bands, so the fewest false candidates, that overlook a pair at the threshold at most MISSED often.

    datasketch's own choice weighs misses and false candidates alike, and at 0.9 overlooks every tenth pair; false ones only cost us time.
    """
    sizes = [size for size in range(1, PERMUTATIONS // 2 + 1) if (1 - threshold**size) ** (PERMUTATIONS // size) <= MISSED]
    size = max(sizes, default=1)
    return PERMUTATIONS // size, size
