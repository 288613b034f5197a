"""The built-in slices hold what their descriptions say."""

from __future__ import annotations

import pytest

from edgedistill.slices import baseline, member_of, slices_of

BASE = baseline(["where is my parcel number please"] * 6 + ["a b c d e f g h"] * 2)


@pytest.mark.parametrize(
    ("text", "slices"),
    [
        ("where is my parcel", []),
        ("my parcel !", ["very_short"]),
        ("where is my parcl please", ["typos"]),
        ("where is my pacrel please", ["typos"]),
        ("where is my parcels please", []),
        ("where is my morsel please", []),
        ("WHERE IS MY PARCEl", ["upper_case"]),
        ("where is order 12 now", ["digits"]),
        ("где моя посылка сейчас", ["non_latin"]),
        ("小包はどこですか", ["non_latin"]),
        ("ｗｈｅｒｅ is my parcel", []),
        ("🙂", ["very_short"]),
        (" ".join("abcdefghijkl"), ["very_long"]),
    ],
)
def test_built_in_slices(text: str, slices: list[str]) -> None:
    """A slice holds other rows than its description says: inflection is a typo, Japanese is very short for want of spaces."""
    assert slices_of(text, BASE) == slices


def test_member_of_asks_regular_expressions_and_built_in_slices() -> None:
    """A quota met by texts of another slice; a user's slice that is shadowed by a built-in one of the same name."""
    belongs = member_of(["typos", "digits", "parcels", "gone"], {"parcels": "(?i)parcel", "digits": "seven", "gone": object()}, BASE)
    assert belongs("where is my PARCEL please") == ["parcels"]
    assert belongs("where is my parcl number 7 please") == ["typos"]
    assert belongs("seven parcels") == ["digits", "parcels"]
