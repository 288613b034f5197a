"""The embedding layer: what the student's first vectors say of each token, through a learned projection.

Of use to a student with a table of its own or of another width; one that starts from the teacher's table is there already. Source:
TinyBERT, arXiv:1909.10351, eq. 9.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from edgedistill.features import HIDDEN, Sizes, projection, token_error
from edgedistill.settings import Section

NEEDS = frozenset({HIDDEN})


class Options(Section):
    weight: float = Field(1.0, gt=0, description="factor of this term in the whole loss")


def attach(student: Sizes, teacher: Sizes, options: Options) -> Any:
    """The projection."""
    return projection(student.widths[0], teacher.widths[0])


def loss(outputs: Any, batch: dict[str, Any], options: Options, parts: Any) -> Any:
    """‖W·student - teacher‖² of the embedding layer's output (positions and norm included), mean over real tokens and width."""
    return token_error(parts(outputs.hidden[0].float()), batch[HIDDEN][0], batch["attention_mask"])
