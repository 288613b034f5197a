"""Budget: what the binary may cost on the device, and what it may lose against the teacher."""

from __future__ import annotations

from pydantic import Field

from edgedistill.settings import Section


class Budget(Section):
    """Limits. A target states its own; a recipe's `[budget]` goes over it. A limit left out is not checked."""

    p90_ms: float | None = Field(None, gt=0, description="90th percentile of one answer, text in to answer out, milliseconds")
    size_mb: float | None = Field(None, gt=0, description="model file and tokenizer, megabytes (10^6 bytes)")
    peak_mb: float | None = Field(None, gt=0, description="peak resident memory of the process that answers, megabytes (10^6 bytes)")
    accuracy_drop: float | None = Field(
        None, ge=0, lt=1, description="how much accuracy may fall below the teacher's, as a share (0.01 is one point)"
    )

    def over(self, base: Budget) -> Budget:
        """This budget laid over `base`: what is stated here wins."""
        return Budget(**{**base.model_dump(exclude_none=True), **self.model_dump(exclude_none=True)})
