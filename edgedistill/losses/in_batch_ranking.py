"""In-batch ranking: each text ranks the others of its batch as the teacher ranks them. For embeddings that search and compare.

The similarities of one text to all others, over a temperature, are a distribution "which of these is meant"; the student's follows the
teacher's. Only the order and the gaps of similarities matter, so the student may be narrower. Source: SEED, arXiv:2101.04731, §3.2, with
the batch in place of its queue; ranking by softmax goes back to ListNet (Cao et al. 2007).
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from edgedistill.features import EMBEDDING
from edgedistill.settings import Section

NEEDS = frozenset({EMBEDDING})


class Options(Section):
    weight: float = Field(1.0, gt=0, description="factor of this term in the whole loss")
    temperature: float = Field(0.05, gt=0, description="divides the cosines; the smaller, the more only the nearest texts count")


def loss(outputs: Any, batch: dict[str, Any], options: Options) -> Any:
    """KL(teacher ‖ student) of softmax(cosine / temperature) over the other rows, mean over rows. Embeddings: float [rows, width]."""
    from torch.nn.functional import kl_div

    if len(batch[EMBEDDING]) < 3:  # with one other row there is nothing to rank
        return outputs.embedding.float().sum() * 0.0
    student, teacher = (_log_nearness(points, options.temperature) for points in (outputs.embedding, batch[EMBEDDING]))
    return kl_div(student, teacher, reduction="batchmean", log_target=True)


def _log_nearness(points: Any, temperature: float) -> Any:
    """Log-probability of each other row, [rows, rows - 1]: a row is no rival of itself."""
    import torch
    from torch.nn.functional import normalize

    unit = normalize(points.float(), dim=-1)
    others = ~torch.eye(len(unit), dtype=torch.bool)
    return ((unit @ unit.T)[others].view(len(unit), -1) / temperature).log_softmax(-1)
