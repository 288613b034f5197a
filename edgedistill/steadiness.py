"""Whether a machine was the same at the end of a run as at its beginning: what `steady.py` measures and a report keeps."""

from __future__ import annotations

from dataclasses import dataclass

BOUND = 0.25  # drift of the clock beyond it makes a run invalid


@dataclass(frozen=True)
class Steadiness:
    """The fixed loop before and after a run, milliseconds: the fastest, and the slower of the two medians over it."""

    before_ms: float
    after_ms: float
    noise: float = 1.0

    @classmethod
    def of(cls, before: tuple[float, float], after: tuple[float, float]) -> Steadiness:
        return cls(before[0], after[0], max(before[1] / before[0], after[1] / after[0]))

    @property
    def drift(self) -> float:
        """How much longer it took after, as a share; below 0 where it took less."""
        return self.after_ms / self.before_ms - 1

    @property
    def valid(self) -> bool:
        return abs(self.drift) <= BOUND

    def sentence(self) -> str:
        taken = f"a fixed loop took {self.before_ms:.2f} ms before and {self.after_ms:.2f} ms after, its median {self.noise:.2f}× that"
        if self.valid:
            return f"the machine was steady: {taken}"
        return f"invalid: the machine's clock drifted by {self.drift:+.0%} during the run ({taken}). Measure again on a quiet, cool machine"
