"""The objective of a distillation: the student, the frozen teacher and the recipe's losses as one module that gives one scalar.

That they are one module makes the rest simple: what a loss owns (projections) is trained, checkpointed and, over several processes, averaged
like the student's own weights. The objective also watches over the run, so that a useless one ends early and says why.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from edgedistill import plugins
from edgedistill.errors import RecipeError, StageError
from edgedistill.features import ATTENTION, EMBEDDING, HIDDEN, TOKEN_LEVEL, Observer, Seen, Sizes, needs_of
from edgedistill.training import Column

WORTH_A_WORD = 100  # ratio of the terms' gradient norms beyond which the smaller ones hardly count …
HOPELESS = 10_000  # … and beyond which they cannot be told from the noise of float arithmetic
AT_REST = 1e-6  # a gradient below this: the term is at its least already, as the embeddings of a student cut from its teacher
TELLS_SOMETHING = 0.01  # nats by which the teacher's answers differ from their mean
FIRST_LOOK = 100  # steps, at least, before a student is judged


class Term:
    """One loss of the recipe: its function, its options, and what it owns."""

    def __init__(self, loss: Mapping[str, Any]) -> None:
        plugin = plugins.find("losses", loss["kind"])
        self.kind: str = loss["kind"]
        self.options: Any = plugin.Options(**{key: value for key, value in loss.items() if key != "kind"})
        self.loss: Any = plugin.loss
        self.attach: Any = getattr(plugin, "attach", None)
        self.constant: Any = getattr(plugin, "constant", None)
        self.parts: Any = None
        self.answer: Any = None  # the best logits that ignore the input

    def value(self, outputs: Any, batch: dict[str, Any]) -> Any:
        """The weighted loss."""
        rest = () if self.parts is None else (self.parts,)
        return self.options.weight * self.loss(outputs, batch, self.options, *rest)

    def value_of_constant(self, batch: dict[str, Any]) -> Any:
        """The weighted loss of a student that gives the same answer to every input."""
        logits = self.answer.expand(*batch["teacher_logits"].shape)
        return self.value(Seen(logits), batch)


class Objective(torch.nn.Module):
    """The weighted sum of the losses, as a function of a batch. Raises StageError when the run has no use.

    teacher: a frozen model, when a loss looks inside it. teacher_ids: teacher's token id of each of the student's (int64 [tokens]).
    steps: of the whole run; the student is judged after a quarter of them; None: never.
    """

    def __init__(
        self,
        losses: Sequence[Mapping[str, Any]],
        student: Any,
        columns: Mapping[str, Column],
        teacher: Any = None,
        teacher_ids: npt.NDArray[np.int64] | None = None,
        steps: int | None = None,
    ) -> None:
        super().__init__()
        self.student = student
        self.terms = [Term(loss) for loss in losses]
        needs = needs_of(losses)
        missing = {name for name in needs - TOKEN_LEVEL if name not in columns}
        if missing:
            raise RecipeError(f"the losses need {', '.join(sorted(missing))}, which these rows do not have.", where="distill.losses")
        self._watched = Observer(student, needs, "student")
        # A plain list hides the teacher from torch: it is neither trained nor written into checkpoints.
        self._teacher = [Observer(teacher, needs & TOKEN_LEVEL, "teacher")] if needs & TOKEN_LEVEL else []
        self._teacher_ids = torch.from_numpy(teacher_ids) if teacher_ids is not None else None
        self._attach(columns)
        self._judged_at = max(FIRST_LOOK, steps // 4) if steps is not None else None
        self._step, self._window, self._last = 0, [0.0, 0.0], [0.0] * len(self.terms)
        known = {
            name: torch.from_numpy(values if isinstance(values, np.ndarray) else np.concatenate(values))
            for name, values in columns.items()
            if name in ("teacher_logits", "mask")
        }
        for term in self.terms:
            if term.constant is not None and "teacher_logits" in known:
                term.answer = term.constant(known, term.options)

    def forward(self, input_ids: Any, attention_mask: Any, **columns: Any) -> Any:
        """The scalar. input_ids, attention_mask: int64 [rows, tokens]; columns: tensors with one entry a row."""
        values = self.values({"input_ids": input_ids, "attention_mask": attention_mask, **columns})
        if self.training:
            self._watch(values, columns)
        return sum(values)

    def values(self, batch: dict[str, Any]) -> list[Any]:
        """The weighted loss of each term."""
        outputs = self._watched(batch["input_ids"], batch["attention_mask"])
        # Losses are sums of small differences: they are computed in float32 even where the models run in bfloat16.
        batch = batch | self._shown(batch)
        with torch.autocast("cpu", enabled=False):
            return [term.value(outputs, batch) for term in self.terms]

    def _shown(self, batch: dict[str, Any]) -> dict[str, Any]:
        """What the frozen teacher shows on the batch."""
        if not self._teacher:
            return {}
        ids = batch["input_ids"] if self._teacher_ids is None else self._teacher_ids[batch["input_ids"]]
        with torch.no_grad():  # not inference_mode: autograd must be able to keep these beside the student's
            seen = self._teacher[0](ids, batch["attention_mask"])
        return {HIDDEN: seen.hidden, ATTENTION: seen.attention}

    def _attach(self, columns: Mapping[str, Column]) -> None:
        if not any(term.attach for term in self.terms):
            return
        was = self.student.training
        self.student.eval()
        ours = self._watched.sizes()
        theirs = self._teacher[0].sizes() if self._teacher else Sizes(embedding=len(columns[EMBEDDING][0]) if EMBEDDING in columns else 0)
        attach(self, self.terms, ours, theirs)
        self.student.train(was)

    # --- guards -----------------------------------------------------------------------------------------------------------------------

    def balance(self, batches: Sequence[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[str]]:
        """How hard each weighted term pulls at the student before the first step, and what to say of it, as the function `balance` gives it."""
        was = self.training
        self.eval()
        found = balance(self.terms, self.values, self.student, batches)
        self.train(was)
        return found

    def _watch(self, values: list[Any], columns: dict[str, Any]) -> None:
        """Stop a run that broke, or that learns nothing."""
        self._step += 1
        with torch.no_grad():
            now = [float(value) for value in values]
            for term, value in zip(self.terms, now, strict=True):
                if not np.isfinite(value):
                    raise StageError(
                        f"the loss {term.kind} is no finite number any more at step {self._step}.",
                        where="distill",
                        write="Lower distill.learning_rate, or the weight of this loss.",
                    )
            share = 0.05
            self._last = [(1 - share) * old + share * new if self._step > 1 else new for old, new in zip(self._last, now, strict=True)]
            # The student is compared, over the last steps before the look, with the best that one can answer without reading the text.
            if self._judged_at is None or not self._judged_at - FIRST_LOOK // 2 < self._step <= self._judged_at:
                return
            for term, value in zip(self.terms, now, strict=True):
                if term.answer is not None:
                    self._window[0] += value
                    self._window[1] += float(term.value_of_constant(columns))
        count = FIRST_LOOK // 2
        # A teacher that says nearly the same of every text can be learned without reading; that says nothing against the student.
        tells = self._window[1] / count > TELLS_SOMETHING
        if self._step == self._judged_at and tells and self._window[0] >= self._window[1]:
            raise StageError(
                f"after {self._step} steps the student (loss {self._window[0] / count:.4g}) is no better than one that gives the teacher's mean "
                f"distribution to every text ({self._window[1] / count:.4g}): it does not learn.",
                where="distill",
                write="Change distill.learning_rate (lower it when the loss jumps, raise it when the loss stands still), give soft_target more "
                "weight than other losses, or take more of the teacher's layers.",
            )

    def last(self) -> list[float]:
        """The running mean of each weighted term at the end."""
        return [float(f"{value:.4g}") for value in self._last]

    def close(self) -> None:
        """Take the hooks off the student."""
        self._watched.close()
        for teacher in self._teacher:
            teacher.close()


def attach(objective: torch.nn.Module, terms: Sequence[Term], ours: Sizes, theirs: Sizes) -> None:
    """Give each loss what it owns for a student and a teacher of these sizes, as a part of the objective where it is to be trained."""
    state = torch.get_rng_state()
    torch.manual_seed(0)  # projections start the same way each time, and leave the run's other random choices alone
    for place, term in enumerate(terms):
        if term.attach:
            term.parts = term.attach(ours, theirs, term.options)
            if isinstance(term.parts, torch.nn.Module):  # what is to be trained
                objective.add_module(f"parts_{place}", term.parts)
    torch.set_rng_state(state)


def balance(
    terms: Sequence[Term], values: Callable[[dict[str, Any]], Sequence[Any]], student: torch.nn.Module, batches: Sequence[dict[str, Any]]
) -> tuple[list[dict[str, Any]], list[str]]:
    """How hard each weighted term pulls at the student before the first step, and what to say of it.

    values: the weighted loss of each term, of a batch. Gives, for each term, its kind, weight and the mean gradient norm over `batches`, and the
    warnings. Raises StageError when a term is lost beside another one.
    """
    weights = [weight for weight in student.parameters() if weight.requires_grad]
    norms = np.zeros(len(terms))
    for batch in batches:
        for place, value in enumerate(values(batch)):
            if not value.requires_grad:
                continue
            pulls = torch.autograd.grad(value, weights, retain_graph=True, allow_unused=True)
            norms[place] += float(torch.stack([pull.float().norm() for pull in pulls if pull is not None]).norm()) / len(batches)
    facts = [
        {"kind": term.kind, "weight": term.options.weight, "gradient_norm": float(f"{norm:.4g}")}
        for term, norm in zip(terms, norms, strict=True)
    ]
    return facts, unbalanced(facts)


def unbalanced(facts: Sequence[Mapping[str, Any]]) -> list[str]:
    """A warning for each term whose pull is more than a hundred times smaller than the strongest. Raises StageError beyond 10,000."""
    pulling = [fact for fact in facts if fact["gradient_norm"] > AT_REST]
    if len(pulling) < 2:
        return []
    strongest = max(pulling, key=lambda fact: fact["gradient_norm"])
    said = []
    for fact in pulling:
        ratio = strongest["gradient_norm"] / fact["gradient_norm"]
        if ratio <= WORTH_A_WORD:
            continue
        what = f"the loss {fact['kind']} pulls {ratio:,.0f} times less at the student than {strongest['kind']}, so it has no effect."
        write = f"Write weight = {fact['weight'] * ratio:.2g} for {fact['kind']} to make them equal, or leave it out."
        if ratio > HOPELESS:
            raise StageError(what, where="distill.losses", write=write)
        said.append(f"{what} {write}")
    return said
