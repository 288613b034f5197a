"""The students of a build: started, trained, exported, probed; the one that the recipe describes, or the one that a search finds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edgedistill.errors import RecipeError
from edgedistill.features import TOKEN_LEVEL, needs_of
from edgedistill.making import Making, of_format
from edgedistill.recipe import Member, Recipe, Student
from edgedistill.search import Candidate, ladder, name_of, search
from edgedistill.stages import benchmark, distill, export, probe, start
from edgedistill.store import Artifact, Keyed
from edgedistill.target import Target
from edgedistill.teaching import Taught, combined, labelled


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

    def started(self, student: Student) -> Artifact:
        spec = student.start or self.recipe.student.start
        source = self.on.source(spec, "student.start") if spec else self.teacher
        params = start.Params(student, self.recipe.task, self.recipe.seed)
        return self.on.make(start.START, params, prepared=self.prepared, transfer=self.texts, source=source)

    def trained(
        self, student: Student, weights: Keyed, run: distill.Run = "distilled", share: float = 1.0, labels: Keyed | None = None
    ) -> Artifact:
        """labels: soft labels that take the place of the teacher's, in later rounds."""
        recipe = self.recipe
        # What is asked of one round does not depend on how many there are.
        once = recipe.distill.model_copy(update={"rounds": 1, "round_teacher": "average"})
        params = distill.Params(run, student, once, recipe.task, self.on.precision, recipe.seed, share)
        watched = {"teacher": self.teacher} if needs_of(recipe.distill.losses) & TOKEN_LEVEL else {}
        inputs = {"prepared": self.prepared, "transfer": self.texts, "labels": labels or self.labels, "start": weights, **watched}
        return self.on.make(distill.DISTILL, params, **inputs)

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

    def probed(self, graphs: Keyed, target: Target) -> Artifact:
        device = target.model_dump(mode="json", exclude={"budget"})  # another budget is no reason to measure again
        params = probe.Params(self.recipe.task, device, self.recipe.student.max_tokens, benchmark.this_machine(), self.recipe.seed)
        return self.on.make(of_format(probe.PROBE, target.format), params, prepared=self.prepared, transfer=self.texts, graphs=graphs)


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
    for student in ladder(base.recipe, source):
        begin = base.started(student)
        candidates.append(Candidate(name_of(student), student, begin, base.exported(begin, targets[0].format)))
    found = search(
        base.recipe,
        targets,
        candidates,
        probed=lambda candidate, target: base.probed(candidate.graphs, target),
        trained=lambda candidate, share, weights: base.trained(candidate.student, weights, share=share),
    )
    chosen = {}
    for name, candidate in found.candidates.items():
        finished = base.further_rounds(candidate.student, candidate.start, found.students[name])
        chosen[name] = Chosen(candidate.student, candidate.start, finished)
    return chosen, found.record
