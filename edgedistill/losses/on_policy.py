"""On-policy distillation: the student writes answers itself, the teacher scores each token of them, the student learns from that.

A student that has only ever seen right beginnings does not know how to go on from its own mistakes. So in a share of the steps the batch's answers are
those that the student writes now, sampled at a temperature; in the others they are the fixed ones. An answer that was written may be used again in a
later step (replay): writing costs more than learning from it. No gradient flows through the writing. A student that cannot write yet has nothing to be
scored on, so a first part of the steps is on fixed answers alone: GKD starts from a student that was fine-tuned. Source: GKD, arXiv:2306.13649,
algorithm 1 and §3.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from edgedistill.sequences import OWN_TEXT, TEACHER_TOP, kl, mixed, side_by_side
from edgedistill.settings import Section

NEEDS = frozenset({TEACHER_TOP, OWN_TEXT})


class Options(Section):
    weight: float = Field(1.0, gt=0, description="factor of this term in the whole loss")
    divergence: Literal["forward", "reverse", "jensen_shannon"] = Field("reverse", description="what is compared at each token")
    beta: float = Field(0.5, gt=0, lt=1, description="divergence jensen_shannon: share of the teacher in the mixture")
    share: float = Field(0.5, ge=0, le=1, description="of the steps whose answers the student writes itself")
    after: float = Field(0.25, ge=0, lt=1, description="share of all steps that come first, on fixed answers alone")
    temperature: float = Field(1.0, gt=0, description="at which it writes")
    replay: int = Field(2, ge=1, description="how many steps learn from an answer that it wrote")


def loss(outputs: Any, batch: dict[str, Any], options: Options) -> Any:
    """The divergence, mean over tokens; batch: of fixed answers or of the student's own, as `sequences.side_by_side` reads it."""
    ours, theirs = side_by_side(outputs.logits, batch)
    if options.divergence == "jensen_shannon":
        return mixed(theirs, ours, options.beta)
    return kl(theirs, ours) if options.divergence == "forward" else kl(ours, theirs)
