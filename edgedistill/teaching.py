"""The teachers of a build: made good at the task, asked for their soft labels, combined where there are several."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from edgedistill import plugins
from edgedistill.errors import RecipeError
from edgedistill.features import EMBEDDING, needs_of
from edgedistill.making import Making
from edgedistill.recipe import Member, Recipe, Rule, Teacher, alone
from edgedistill.serving import writes
from edgedistill.sources import Source
from edgedistill.stages import ask, combine, compose, teach, write
from edgedistill.store import Artifact, Keyed


@dataclass(frozen=True)
class Taught:
    """A teacher that knows the task: what the recipe says of it, its artifact, its source and its terms.

    before: the folder of the model before it was taught, where that is not the source as it is.
    """

    member: Member
    artifact: Artifact
    model: Source
    terms: dict[str, str]
    before: Keyed | None = None


def taught(on: Making, member: Member, where: str, prepared: Keyed) -> Taught:
    """One teacher, fine-tuned where needed. Raises for terms that forbid it and for one that a linear model beats."""
    model, recipe = on.source(member.model, f"{where}.model"), on.recipe
    terms = teach.check_terms(member, model.path, f"{where}.license")
    own, low = alone(member), teach.lowbit(member)
    params = teach.FineTuneParams(own, recipe.task, recipe.student.max_tokens, on.precision, recipe.seed, low)
    if writes(plugins.find("tasks", recipe.task)):
        before = on.make(write.UNPACK, write.UnpackParams(member.kind, recipe.task, member.layers), model=model)
        return Taught(member, on.make(write.TEACH, params, prepared=prepared, model=before), model, terms, before)
    artifact = on.make(teach.FINE_TUNE, params, prepared=prepared, model=model)
    if (artifact.path / "facts.json").is_file():
        teach.check_floor(json.loads((artifact.path / "facts.json").read_text()), member, where)
    return Taught(member, artifact, model, terms)


def soft_labels(on: Making, teachers: Sequence[Taught], prepared: Keyed, texts: Artifact) -> tuple[Artifact, Artifact]:
    """(transfer set, its soft labels). Under a budget of calls the transfer set is what was asked for.

    Raises RecipeError for a budget of calls, several teachers or further rounds where the task's answers are no probabilities of a text.
    """
    recipe, first = on.recipe, teachers[0].member
    task = plugins.find("tasks", recipe.task)
    answers = (
        "which answers word by word"
        if hasattr(task, "positions")
        else "whose answers are vectors"
        if hasattr(task, "together")
        else "whose answers are written"
        if writes(task)
        else ""
    )
    if answers and (first.calls is not None or len(teachers) > 1 or recipe.distill.rounds > 1):
        raise RecipeError(
            f'a budget of calls, several teachers and further rounds are not there for task "{recipe.task}", {answers}.',
            where="teacher",
            write="Leave out calls, [[teacher.also]] and distill.rounds.",
        )
    if first.calls is not None:
        asking = ask.Params(
            alone(first, calls=first.calls),
            recipe.transfer,
            recipe.data.slices,
            recipe.task,
            recipe.student.max_tokens,
            on.precision,
            recipe.seed,
            teach.lowbit(first),
        )
        asked = on.make(ask.ASK, asking, prepared=prepared, teacher=teachers[0].artifact, transfer=texts)
        return asked, asked
    needs = needs_of(recipe.distill.losses)
    said = [labelled(on, one, one is teachers[0] and EMBEDDING in needs, prepared=prepared, transfer=texts) for one in teachers]
    if len(teachers) == 1:
        return texts, said[0]
    weights = [one.member.weight for one in teachers]
    return texts, combined(on, teachers, said, weights, recipe.teacher.combine, prepared)


def labelled(on: Making, one: Taught, embeddings: bool, **inputs: Keyed) -> Artifact:
    """One teacher's soft labels of the transfer set."""
    if writes(plugins.find("tasks", on.recipe.task)):
        every = "teacher_text" in needs_of(on.recipe.distill.losses)
        own, most = alone(one.member), on.recipe.student.max_tokens
        return on.make(write.LABEL, write.WriteParams(own, on.recipe.task, most, on.precision, every=every), teacher=one.artifact, **inputs)
    params = teach.EmbeddingLabelParams if embeddings else teach.LabelParams
    asked = params(alone(one.member), on.recipe.task, on.recipe.student.max_tokens, on.precision, teach.lowbit(one.member))
    return on.make(teach.LABEL, asked, teacher=one.artifact, **inputs)


def combined(
    on: Making, teachers: Sequence[Taught], labels: Sequence[Artifact], weights: Sequence[float], rule: Rule, prepared: Keyed
) -> Artifact:
    """Several sets of soft labels as one."""
    members = tuple(alone(one.member) for one in teachers)
    params = combine.Params(members, tuple(weights), rule, on.recipe.task, on.recipe.student.max_tokens)
    inputs = {f"label_{place}": one for place, one in enumerate(labels)} | {
        f"teacher_{place}": one.artifact for place, one in enumerate(teachers)
    }
    return on.make(combine.COMBINE, params, prepared=prepared, **inputs)


@dataclass(frozen=True)
class Composer:
    """The language model that writes texts for the transfer set: its source and its terms."""

    model: Source
    terms: dict[str, str]

    @property
    def record(self) -> dict[str, str]:
        return {**self.terms, "model": self.model.origin, "sha256": self.model.key}


def composer(on: Making) -> Composer | None:
    """The recipe's `[transfer.writer]`, if it names one. Raises for terms that forbid to learn from what it writes, before anything is learned."""
    writer = on.recipe.transfer.writer
    if writer is None:
        return None
    model = on.source(writer.model, "transfer.writer.model")
    asked = Teacher(kind="causal_lm", model=writer.model, license=writer.license, license_basis=writer.license_basis)
    return Composer(model, teach.check_terms(asked, model.path, "transfer.writer.license", "transfer.writer"))


def composed(on: Making, by: Composer | None, held_out: float, prepared: Keyed) -> dict[str, Keyed]:
    """The texts that it wrote, as an input of the transfer set. held_out: share of the real texts that it must not read."""
    recipe, writer = on.recipe, on.recipe.transfer.writer
    if writer is None or by is None:
        return {}
    folder = on.make(write.UNPACK, write.UnpackParams("causal_lm", recipe.task, None), model=by.model)
    params = compose.Params(writer, held_out, recipe.student.max_tokens, on.precision, recipe.seed)
    return {"written": on.make(compose.COMPOSE, params, prepared=prepared, model=folder)}


# --- what a teacher can be asked for -----------------------------------------------------------------------------------------------------


def teachable(recipe: Recipe) -> bool:
    """Whether the teacher is a model that can be looked into and cut, or only be run. Raises RecipeError when the student has no start then."""
    if plugins.find("teachers", recipe.teacher.kind).TEACHABLE:
        return True
    if recipe.student.start is None:
        raise RecipeError(
            f'a teacher of kind "{recipe.teacher.kind}" can only be run, so no student can be cut from it.',
            where="student.start",
            write='Name an encoder to start from, such as start = "hf:sentence-transformers/all-MiniLM-L6-v2" under [student].',
        )
    return False


def runs_here(recipe: Recipe) -> bool:
    """Whether the teacher is a model that can be measured on a target, or one behind an API."""
    return getattr(plugins.find("teachers", recipe.teacher.kind), "RUNS_HERE", True)


def ruling_labels(on: Making) -> tuple[str, ...] | None:
    """The teacher's own labels, when there are no others: nobody labelled the rows, or it can only be used as it is."""
    recipe = on.recipe
    kind = plugins.find("teachers", recipe.teacher.kind)
    if recipe.data.labelled and kind.TEACHABLE:
        return None
    model = on.source(recipe.teacher.model, "teacher.model")
    own = kind.labels(model.path, plugins.find("tasks", recipe.task).HUB_TASK)
    if own is None:
        raise RecipeError(
            f'nobody labelled the rows, and the teacher cannot answer task "{recipe.task}" as it is.',
            where="teacher.model",
            write="Take a teacher with a head for the task, or label some rows and name their column with label = … under [data].",
        )
    return tuple(own)
