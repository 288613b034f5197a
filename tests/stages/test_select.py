"""Which of the binaries that fit ships."""

from __future__ import annotations

from typing import Any

from edgedistill.report import Timings, Variant
from edgedistill.stages.select import choose
from tests.test_report import report, variant


def binary(name: str, size: int, apart: float | None, ms: float = 1.0) -> Variant:
    times = Timings(tokenize_ns=[0] * 40, model_ns=[int(1e6 * ms)] * 40, decode_ns=[0] * 40)
    return variant(name, scheme=name, model_bytes=size, divergence=apart, timings={"real": times})


def chosen(prefer: str, *variants: Variant, float_ms: float = 2.0) -> Any:
    whole = binary("float", 4_000_000, 0.0, float_ms)
    return choose(report(whole, *variants).model_copy(update={"prefer": prefer}))


def test_of_binaries_as_large_the_one_nearest_to_float_ships() -> None:
    """Q4_0 without importance for a tenth of a millisecond, at two points less of exact match."""
    choice = chosen("smallest", binary("plain", 1_000_000, 0.3), binary("weighed", 1_000_000, 0.1, 1.1), binary("larger", 1_100_000, 0.05))
    assert choice.chosen == "weighed"
    assert choice.reasons[0] == "weighed is the nearest to float among the smallest of the 4 students that meet every limit."
    assert choice.rejected == {"plain": "as large, and no nearer to float", "larger": "1.10× the size", "float": "4.00× the size"}


def test_a_divergence_that_is_not_known_decides_nothing() -> None:
    """A report made before divergence was kept."""
    choice = chosen("smallest", binary("plain", 1_000_000, 0.3), binary("weighed", 1_000_016, None))
    assert choice.chosen == "plain"
    assert choice.reasons[0] == "plain is the smallest of the 3 students that meet every limit."


def test_the_fastest_is_not_given_up_for_a_larger_one() -> None:
    """Float in the place of int8 because both take the same time here."""
    assert chosen("fastest", binary("int8", 1_000_000, 0.3), float_ms=1.001).chosen == "int8"
    choice = chosen("fastest", binary("int8", 1_000_000, 0.3), binary("weighed", 1_000_016, 0.1, 1.001))
    assert choice.chosen == "weighed" and choice.rejected["int8"] == "as fast, and no nearer to float"
    assert chosen("fastest", binary("int8", 1_000_000, 0.3), binary("weighed", 1_000_016, 0.1, 1.1)).chosen == "int8"
