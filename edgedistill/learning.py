"""The students of a build: started, trained, exported, probed, quantized; the one that the recipe describes, or the one that a search finds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from edgedistill import plugins
from edgedistill.budget import Budget
from edgedistill.errors import RecipeError
from edgedistill.features import TOKEN_LEVEL, needs_of
from edgedistill.machine import this_machine
from edgedistill.making import Making, of_format
from edgedistill.models import sizes_of
from edgedistill.recipe import Member, Recipe, Student
from edgedistill.search import Candidate, ladder, name_of, search
from edgedistill.sequences import OWN_TEXT
from edgedistill.serving import writes
from edgedistill.stages import distill, export, learn_to_write, probe, quantize, quantize_writer, start
from edgedistill.store import Artifact, Keyed
from edgedistill.target import Target
from edgedistill.teaching import Taught, combined, labelled

QUANTIZATION_SHARE = 0.5  # of the allowed accuracy drop; the other half is distillation's
THROUGH_QUANTIZER_SHARE = 0.25  # of the steps, for a finished student that learns on through a quantizer


@dataclass(frozen=True)
class Students:
    """What all students of a build have in common, and what can be done to one."""

    on: Making
    prepared: Artifact
    texts: Artifact
    labels: Artifact
    main: Taught

    @property
    def recipe(self) -> Recipe:
        return self.on.recipe

    @property
    def teacher(self) -> Artifact:
        return self.main.artifact

    @property
    def writes(self) -> bool:
        return writes(plugins.find("tasks", self.recipe.task))

    def started(self, student: Student) -> Artifact:
        spec = student.start or self.recipe.student.start
        source = self.on.source(spec, "student.start") if spec else self.teacher
        params = start.Params(student, self.recipe.task, self.recipe.seed)
        return self.on.make(start.START, params, prepared=self.prepared, transfer=self.texts, source=source)

    def shrunk(self, candidate: Candidate, larger: Candidate, layers: int) -> Artifact | None:
        """The weights of a candidate as a cut out of a larger one that has learned. layers: of the model that both are described by."""
        within = getattr(plugins.find("students", candidate.student.family), "within", None)
        if within is None or candidate.student.family != larger.student.family:
            return None
        cut = within(candidate.student, larger.student, layers)
        if cut is None:
            return None
        params = start.Params(candidate.student, self.recipe.task, self.recipe.seed, cut)
        return self.on.make(start.START, params, prepared=self.prepared, transfer=self.texts, source=larger.newest)

    def trained(
        self,
        student: Student,
        weights: Keyed,
        run: distill.Run = "distilled",
        share: float = 1.0,
        labels: Keyed | None = None,
        scheme: str | None = None,
        graphs: Keyed | None = None,
    ) -> Artifact:
        """labels: soft labels that take the place of the teacher's, in later rounds. scheme, graphs: the quantizer that a finished student
        learns on through, and its float graphs."""
        recipe = self.recipe
        # What is asked of one round does not depend on how many there are, nor on which controls stand beside it.
        alone = {"rounds": 1, "round_teacher": "average", "through_quantizer": "when_needed", "control": True}
        once = recipe.distill.model_copy(update=alone)
        params = distill.Params(run, student, once, recipe.task, self.on.precision, recipe.seed, share, scheme)
        watched = {"teacher": self.teacher} if needs_of(recipe.distill.losses) & (TOKEN_LEVEL | {OWN_TEXT}) else {}
        inputs = {"prepared": self.prepared, "transfer": self.texts, "labels": labels or self.labels, "start": weights, **watched}
        inputs |= {"graphs": graphs} if graphs else {}
        return self.on.make(learn_to_write.LEARN_TO_WRITE if self.writes else distill.DISTILL, params, **inputs)

    def further_rounds(self, student: Student, weights: Keyed, finished: Artifact) -> Artifact:
        """Self-distillation: the student just finished teaches the next, which starts from the same weights."""
        for _ in range(1, self.recipe.distill.rounds):
            last = Taught(Member(model="the last student"), finished, self.main.model, self.main.terms)
            answers = labelled(self.on, last, False, prepared=self.prepared, transfer=self.texts)
            shares = [1.0 if self.recipe.distill.round_teacher == "average" else 0.0, 1.0]
            mixed = combined(self.on, [self.main, last], [self.labels, answers], shares, "weighted", self.prepared)
            finished = self.trained(student, weights, labels=mixed)
        return finished

    def exported(self, model: Keyed, format: str) -> Artifact:
        return self.on.make(
            of_format(export.EXPORT, format),
            export.Params(format, self.recipe.student.max_tokens, self.recipe.task),
            prepared=self.prepared,
            model=model,
        )

    def quantized_teacher(self, graphs: Keyed, scheme: str) -> Artifact:
        """The teacher by a scheme, with nothing kept in float: what the student's speed and size are fairly held against."""
        params = quantize.Params(scheme, self.recipe.student.max_tokens, self.recipe.seed, task=self.recipe.task)
        known: dict[str, Keyed] = {"prepared": self.prepared, "transfer": self.texts, "labels": self.labels}
        return self.on.make(of_format(quantize_writer.QUANTIZE, "gguf"), params, **known, graphs=graphs)

    def probed(self, graphs: Keyed, target: Target) -> Artifact:
        device = target.model_dump(mode="json", exclude={"budget"})  # another budget is no reason to measure again
        params = probe.Params(self.recipe.task, device, self.recipe.student.max_tokens, this_machine(), self.recipe.seed)
        return self.on.make(of_format(probe.PROBE, target.format), params, prepared=self.prepared, transfer=self.texts, graphs=graphs)

    def quantized(self, chosen: Chosen, graphs: Artifact, scheme: str, budget: Budget) -> Artifact:
        """One quantized binary, from the float `graphs` of a finished student.

        Three ways, each only when the one before loses more than the budget leaves: every layer as it is; after the student learned on through the
        quantizer's arithmetic; with the layers that lose most in float, of whichever of the two loses less.
        """
        how = self.recipe.distill.through_quantizer
        known: dict[str, Keyed] = {"prepared": self.prepared, "transfer": self.texts, "labels": self.labels}
        params = quantize.Params(scheme, self.recipe.student.max_tokens, self.recipe.seed, task=self.recipe.task)
        quantizer = plugins.find("quantizers", scheme)
        stage = of_format(quantize_writer.QUANTIZE if self.writes else quantize.QUANTIZE, quantizer.FORMAT)
        allowed = QUANTIZATION_SHARE * (budget.accuracy_drop or 0.02)
        ways: list[dict[str, Keyed]] = [{"graphs": graphs}]
        binary = self.on.make(stage, params, **known, **ways[0])
        if how != "never" and hasattr(quantizer, "ARITHMETIC") and (how == "always" or _drop(binary) > allowed):
            aware = self.trained(chosen.student, chosen.finished, share=THROUGH_QUANTIZER_SHARE, scheme=scheme, graphs=graphs)
            ways.append({"graphs": self.exported(aware, quantizer.FORMAT), "plain": graphs})
            learned = self.on.make(stage, params, **known, **ways[1])
            if how == "always" or _drop(learned, unseen=True) < _drop(binary, unseen=True):
                binary, ways = learned, ways[::-1]
        if _drop(binary, unseen=len(ways) > 1) > allowed:
            return self.on.make(stage, replace(params, allowed_drop=allowed), **known, **ways[0])
        return binary


def _drop(binary: Artifact, unseen: bool = False) -> float:
    """What quantizing lost, as a share; 0 in a plan, where nothing is known yet. unseen: on held-out texts, where there are enough of them."""
    file = binary.path / "loss.json"
    loss = json.loads(file.read_text()) if file.is_file() else {"drop": 0.0}
    held_out = loss.get("unseen_drop") if unseen else None
    return float(loss["drop"] if held_out is None else held_out)


@dataclass(frozen=True)
class Chosen:
    """The student of a target: its size, its weights before training, and after."""

    student: Student
    start: Artifact
    finished: Artifact


def as_asked(base: Students, targets: Sequence[Target]) -> tuple[dict[str, Chosen], None]:
    """The one student that the recipe describes, for every target."""
    student = base.recipe.student
    begin = base.started(student)
    one = Chosen(student, begin, base.further_rounds(student, begin, base.trained(student, begin)))
    return {target.name: one for target in targets}, None


def searched(base: Students, targets: Sequence[Target]) -> tuple[dict[str, Chosen], dict[str, Any]]:
    """The cheapest student for each target that keeps the answers, and the record of how it was found."""
    other = [target.name for target in targets if target.format != "onnx"]
    if other:
        raise RecipeError(
            f"a search looks at students that only ONNX can hold, and {other[0]} wants another format.",
            where="student.family",
            write='Name the student: family = "transformer" and its layers under [student].',
        )
    candidates = []
    spec = base.recipe.student.start
    source = base.on.source(spec, "student.start").path if spec else base.main.model.path
    layers = sizes_of(source)["layers"]
    for student in ladder(base.recipe, source):
        begin = base.started(student)
        candidates.append(Candidate(name_of(student), student, begin, base.exported(begin, targets[0].format)))
    found = search(
        base.recipe,
        targets,
        candidates,
        probed=lambda candidate, target: base.probed(candidate.graphs, target),
        trained=lambda candidate, share, weights: base.trained(candidate.student, weights, share=share),
        shrunk=lambda candidate, larger: base.shrunk(candidate, larger, layers),
    )
    chosen = {}
    for name, candidate in found.candidates.items():
        finished = base.further_rounds(candidate.student, candidate.start, found.students[name])
        chosen[name] = Chosen(candidate.student, candidate.start, finished)
    return chosen, found.record
