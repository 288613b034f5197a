"""What losses on written answers share: teacher and student side by side at each token of an answer.

A teacher's distribution over tens of thousands of tokens is kept as its k likeliest ones, each with its log-probability, and the mass of all others
together. Student and teacher are compared on those k + 1 outcomes: throwing the rest away and scaling up would teach the student to be surer than
its teacher (arXiv:2503.16870). A token that the student's smaller vocabulary lacks counts among the others.
"""

from __future__ import annotations

from typing import Any

TEACHER_TOP = "teacher_top"  # what a loss on written answers asks for in NEEDS
OWN_TEXT = "own_text"  # that it also wants answers that the student wrote itself
LEAST = -18.0  # log-probability that is as good as none: e^-18 is the noise of float32 sums


def side_by_side(logits: Any, batch: dict[str, Any]) -> tuple[Any, Any]:
    """(student's, teacher's) log-probabilities of the same k + 1 outcomes, float [tokens, k + 1], the last being all other tokens.

    logits: the student's, float [tokens, vocabulary]. batch: `teacher_ids` int [tokens, k], -1 for a token that the student lacks; `teacher_logs`
    float [tokens, k]; `teacher_tail` float [tokens], log-probability of all tokens that are not among the k.
    """
    import torch

    ids, logs = batch["teacher_ids"].long(), batch["teacher_logs"].float()
    known = ids >= 0
    none = torch.full_like(logs, float("-inf"))
    ours = torch.where(known, logits.float().log_softmax(-1).gather(-1, ids.clamp(min=0)), none)
    theirs = torch.where(known, logs, none)
    lacking = torch.where(known, none, logs).logsumexp(-1)
    tail = torch.logaddexp(batch["teacher_tail"].float(), lacking)
    rest = torch.log1p(-ours.exp().sum(-1).clamp(max=1 - 1e-6))
    return (
        torch.cat([ours, rest[:, None]], -1).clamp(min=LEAST),
        torch.cat([theirs, tail[:, None]], -1).clamp(min=LEAST),
    )


def kl(one: Any, other: Any) -> Any:
    """KL(one ‖ other), nats, mean over tokens; both log-probabilities, float [tokens, outcomes]."""
    return (one.exp() * (one - other)).sum(-1).mean()


def mixed(theirs: Any, ours: Any, beta: float) -> Any:
    """Generalised Jensen–Shannon divergence: β KL(teacher ‖ M) + (1 - β) KL(student ‖ M) with M = β teacher + (1 - β) student."""
    import math

    import torch

    middle = torch.logaddexp(theirs + math.log(beta), ours + math.log(1 - beta))
    return beta * kl(theirs, middle) + (1 - beta) * kl(ours, middle)
