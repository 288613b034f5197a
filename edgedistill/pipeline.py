"""The whole product on one screen: `build` is the pipeline; `compile` runs it, `plan` only looks at it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from edgedistill import plugins
from edgedistill.budget import Budget
from edgedistill.errors import InputError, RecipeError, missing_extra
from edgedistill.features import EMBEDDING, TOKEN_LEVEL, needs_of
from edgedistill.recipe import Member, Recipe, Rule, Student, Transfer, alone
from edgedistill.report import Report, read_report
from edgedistill.search import Candidate, ladder, name_of, search
from edgedistill.sources import Source, home, resolve
from edgedistill.stages import (
    ask,
    benchmark,
    bundle,
    combine,
    coverage,
    distill,
    embed,
    export,
    foretell,
    page,
    prepare,
    probe,
    quantize,
    select,
    start,
    teach,
    transfer,
)
from edgedistill.store import Artifact, Keyed, Stage, Store
from edgedistill.target import Target, find_target

Until = Literal["prepare", "teach", "distill", "export", "quantize", "benchmark", "select", "bundle"]
HELD_OUT = {False: 0.05, True: 0.1}  # of the real texts, without and with a search
QUANTIZATION_SHARE = 0.5  # of the allowed accuracy drop; the other half is distillation's


class Make(Protocol):
    """Gives the result of a stage: by building it, or by only looking where it would be."""

    def __call__(self, stage: Stage, params: Any, /, **inputs: Keyed) -> Artifact: ...


@dataclass(frozen=True)
class Built:
    """What one target gets: the folders of its last stages; those that `until` left out are missing."""

    target: Target
    results: dict[str, Artifact] = field(default_factory=dict)


def build(recipe: Recipe, targets: Sequence[Target], make: Make, cache: Path, until: Until = "bundle") -> list[Built]:
    """The pipeline, from top to bottom. Every step is a stage whose result `make` finds or makes."""
    data = {
        name: _source(recipe, f"data.{name}", cache) for name in ("train", "test", "traffic", "templates") if getattr(recipe.data, name)
    }
    prepared = make(prepare.PREPARE, prepare.Params(recipe.data, recipe.seed, recipe.task, _ruling_labels(recipe, cache)), **data)
    if until == "prepare":
        return [Built(target, {"prepare": prepared}) for target in targets]

    precision, tokens = _precision(), recipe.student.max_tokens
    teachers = [_taught(make, recipe, member, where, cache, precision, prepared) for where, member in recipe.teacher.members()]
    model, teacher = teachers[0].model, teachers[0].artifact
    encoder = model if _teachable(recipe) else _source(recipe, "student.start", cache)  # whose vectors say which words and texts are alike
    texts = make(
        transfer.TRANSFER,
        transfer.Params(_pool(recipe), recipe.data.near_duplicate, recipe.seed, recipe.data.slices),
        prepared=prepared,
        model=encoder,
    )
    texts, labels = _labels(make, recipe, teachers, precision, prepared, texts)
    if until == "teach":
        return [Built(target, {"prepare": prepared, "teach": labels}) for target in targets]

    embedded = make(embed.EMBED, embed.Params(tokens, precision, recipe.seed), prepared=prepared, transfer=texts, model=encoder)
    covered = make(coverage.COVERAGE, coverage.Params(recipe.seed), embedded=embedded, transfer=texts)
    base = _Base(make, recipe, cache, precision, prepared, texts, labels, teachers[0])
    chosen, record = _search(base, targets, model) if recipe.student.family == "auto" else _as_asked(base, targets)
    if until == "distill":
        return [Built(target, {"prepare": prepared, "distill": chosen[target.name].finished}) for target in targets]

    built = []
    for target in targets:
        students = {"distilled": chosen[target.name].finished}
        for run in _controls(recipe):
            students[run] = base.trained(chosen[target.name].student, chosen[target.name].start, run)
        graphs = {"teacher": base.exported(teacher, target.format)}
        graphs |= {run: base.exported(student, target.format) for run, student in students.items()}
        results = {"prepare": prepared, "transfer": texts, "teacher": teacher, "export": graphs["distilled"]} | students
        budget = recipe.budget.over(target.budget)
        binaries = {
            scheme: _quantized(make, recipe, budget, scheme, prepared=prepared, transfer=texts, labels=labels, graphs=graphs["distilled"])
            for scheme in (target.schemes if until not in ("export",) else [])
        }
        results |= binaries
        if until in ("benchmark", "select", "bundle"):
            entries, files = _entries(graphs, binaries, _teachable(recipe))
            facts: dict[str, Any] = {
                "name": recipe.name,
                "task": recipe.task,
                "target": target.model_dump(mode="json"),
                "max_tokens": tokens,
            }
            measured = make(
                benchmark.BENCHMARK,
                benchmark.Params(**facts, entries=entries, machine=benchmark.this_machine(), seed=recipe.seed),
                prepared=prepared,
                **files,
            )
            results["benchmark"] = measured
        if until in ("select", "bundle"):
            results["select"] = make(select.SELECT, select.Params(budget, recipe.compile.prefer), measured=measured)
        if until == "bundle":
            lineage = _lineage(recipe, data, teachers)
            results["bundle"] = make(
                bundle.BUNDLE,
                bundle.Params(**facts, entries=entries, lineage=lineage),
                prepared=prepared,
                transfer=texts,
                student=students["distilled"],
                selected=results["select"],
                **files,
            )
            results["foretell"] = make(
                foretell.FORETELL,
                foretell.Params(recipe.task, facts["target"], tokens, entries, recipe.data.slices, recipe.seed),
                prepared=prepared,
                transfer=texts,
                labels=labels,
                coverage=covered,
                selected=results["select"],
                **files,
            )
            results["page"] = make(
                page.PAGE,
                page.Params(lineage, tuple(binaries), record),
                prepared=prepared,
                transfer=texts,
                teacher=teacher,
                coverage=covered,
                foretold=results["foretell"],
                selected=results["select"],
                **({"combined": labels} if len(teachers) > 1 else {}),
                **{f"run_{run}": student for run, student in students.items()},
                **{f"quantized_{scheme}": binary for scheme, binary in binaries.items()},
            )
        built.append(Built(target, results))
    return built


def _teachable(recipe: Recipe) -> bool:
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


def _controls(recipe: Recipe) -> list[distill.Run]:
    """The students that prove what each part bought. Without labels there is none of labels alone."""
    if not recipe.distill.control:
        return []
    return ["labels", "train_rows"] if recipe.data.labelled else ["train_rows"]


def _ruling_labels(recipe: Recipe, cache: Path) -> tuple[str, ...] | None:
    """The teacher's own labels, when there are no others: nobody labelled the rows, or it can only be used as it is."""
    kind = plugins.find("teachers", recipe.teacher.kind)
    if recipe.data.labelled and kind.TEACHABLE:
        return None
    model = resolve(recipe.teacher.model, folder=recipe.folder, cache=cache / "sources", where="teacher.model")
    own = kind.labels(model.path, plugins.find("tasks", recipe.task).HUB_TASK)
    if own is None:
        raise RecipeError(
            f'nobody labelled the rows, and the teacher cannot answer task "{recipe.task}" as it is.',
            where="teacher.model",
            write="Take a teacher with a head for the task, or label some rows and name their column with label = … under [data].",
        )
    return tuple(own)


# --- teachers -----------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Taught:
    """A teacher that knows the task: what the recipe says of it, its artifact, its source and its terms."""

    member: Member
    artifact: Artifact
    model: Source
    terms: dict[str, str]


def _taught(make: Make, recipe: Recipe, member: Member, where: str, cache: Path, precision: str, prepared: Keyed) -> _Taught:
    """One teacher, fine-tuned where needed. Raises for terms that forbid it and for one that a linear model beats."""
    model = resolve(member.model, folder=recipe.folder, cache=cache / "sources", where=f"{where}.model")
    terms = teach.check_terms(member, model.path, f"{where}.license")
    own, low = alone(member), teach.lowbit(member)
    params = teach.FineTuneParams(own, recipe.task, recipe.student.max_tokens, precision, recipe.seed, low)
    artifact = make(teach.FINE_TUNE, params, prepared=prepared, model=model)
    if (artifact.path / "facts.json").is_file():
        teach.check_floor(json.loads((artifact.path / "facts.json").read_text()), member, where)
    return _Taught(member, artifact, model, terms)


def _labels(
    make: Make, recipe: Recipe, teachers: Sequence[_Taught], precision: str, prepared: Keyed, texts: Artifact
) -> tuple[Artifact, Artifact]:
    """(transfer set, its soft labels). Under a budget of calls the transfer set is what was asked for."""
    first, tokens = teachers[0].member, recipe.student.max_tokens
    if hasattr(plugins.find("tasks", recipe.task), "positions") and (
        first.calls is not None or len(teachers) > 1 or recipe.distill.rounds > 1
    ):
        raise RecipeError(
            f'a budget of calls, several teachers and further rounds are not there for task "{recipe.task}", which answers word by word.',
            where="teacher",
            write="Leave out calls, [[teacher.also]] and distill.rounds.",
        )
    if hasattr(plugins.find("tasks", recipe.task), "together") and (
        first.calls is not None or len(teachers) > 1 or recipe.distill.rounds > 1
    ):
        raise RecipeError(
            f'a budget of calls, several teachers and further rounds are not there for task "{recipe.task}", whose answers are vectors.',
            where="teacher",
            write="Leave out calls, [[teacher.also]] and distill.rounds.",
        )
    if first.calls is not None:
        asking = ask.Params(
            alone(first, calls=first.calls),
            recipe.transfer,
            recipe.data.slices,
            recipe.task,
            tokens,
            precision,
            recipe.seed,
            teach.lowbit(first),
        )
        asked = make(ask.ASK, asking, prepared=prepared, teacher=teachers[0].artifact, transfer=texts)
        return asked, asked
    needs = needs_of(recipe.distill.losses)
    labelled = [
        _labelled(make, recipe, one, one is teachers[0] and EMBEDDING in needs, precision, prepared=prepared, transfer=texts)
        for one in teachers
    ]
    if len(teachers) == 1:
        return texts, labelled[0]
    weights = [one.member.weight for one in teachers]
    return texts, _combined(make, recipe, teachers, labelled, weights, recipe.teacher.combine, prepared)


def _labelled(make: Make, recipe: Recipe, one: _Taught, embeddings: bool, precision: str, **inputs: Keyed) -> Artifact:
    """One teacher's soft labels of the transfer set."""
    params = teach.EmbeddingLabelParams if embeddings else teach.LabelParams
    asked = params(alone(one.member), recipe.task, recipe.student.max_tokens, precision, teach.lowbit(one.member))
    return make(teach.LABEL, asked, teacher=one.artifact, **inputs)


def _combined(
    make: Make,
    recipe: Recipe,
    teachers: Sequence[_Taught],
    labels: Sequence[Artifact],
    weights: Sequence[float],
    rule: Rule,
    prepared: Keyed,
) -> Artifact:
    """Several sets of soft labels as one."""
    members = tuple(alone(one.member) for one in teachers)
    params = combine.Params(members, tuple(weights), rule, recipe.task, recipe.student.max_tokens)
    inputs = {f"label_{place}": one for place, one in enumerate(labels)} | {
        f"teacher_{place}": one.artifact for place, one in enumerate(teachers)
    }
    return make(combine.COMBINE, params, prepared=prepared, **inputs)


# --- students ---------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Base:
    """What all students of a build have in common, and what can be done to one."""

    make: Make
    recipe: Recipe
    cache: Path
    precision: str
    prepared: Artifact
    texts: Artifact
    labels: Artifact
    main: _Taught

    @property
    def teacher(self) -> Artifact:
        return self.main.artifact

    def started(self, student: Student) -> Artifact:
        spec = student.start or self.recipe.student.start
        source = resolve(spec, folder=self.recipe.folder, cache=self.cache / "sources", where="student.start") if spec else self.teacher
        params = start.Params(student, self.recipe.task, self.recipe.seed)
        return self.make(start.START, params, prepared=self.prepared, transfer=self.texts, source=source)

    def trained(
        self, student: Student, weights: Keyed, run: distill.Run = "distilled", share: float = 1.0, labels: Keyed | None = None
    ) -> Artifact:
        """labels: soft labels that take the place of the teacher's, in later rounds."""
        recipe = self.recipe
        # What is asked of one round does not depend on how many there are.
        once = recipe.distill.model_copy(update={"rounds": 1, "round_teacher": "average"})
        params = distill.Params(run, student, once, recipe.task, self.precision, recipe.seed, share)
        watched = {"teacher": self.teacher} if needs_of(recipe.distill.losses) & TOKEN_LEVEL else {}
        inputs = {"prepared": self.prepared, "transfer": self.texts, "labels": labels or self.labels, "start": weights, **watched}
        return self.make(distill.DISTILL, params, **inputs)

    def further_rounds(self, student: Student, weights: Keyed, finished: Artifact) -> Artifact:
        """Self-distillation: the student just finished teaches the next, which starts from the same weights."""
        for _ in range(1, self.recipe.distill.rounds):
            last = _Taught(Member(model="the last student"), finished, self.main.model, self.main.terms)
            answers = _labelled(self.make, self.recipe, last, False, self.precision, prepared=self.prepared, transfer=self.texts)
            shares = [1.0 if self.recipe.distill.round_teacher == "average" else 0.0, 1.0]
            mixed = _combined(self.make, self.recipe, [self.main, last], [self.labels, answers], shares, "weighted", self.prepared)
            finished = self.trained(student, weights, labels=mixed)
        return finished

    def exported(self, model: Keyed, format: str) -> Artifact:
        return self.make(
            export.EXPORT, export.Params(format, self.recipe.student.max_tokens, self.recipe.task), prepared=self.prepared, model=model
        )

    def probed(self, graphs: Keyed, target: Target) -> Artifact:
        device = target.model_dump(mode="json", exclude={"budget"})  # another budget is no reason to measure again
        params = probe.Params(self.recipe.task, device, self.recipe.student.max_tokens, benchmark.this_machine(), self.recipe.seed)
        return self.make(probe.PROBE, params, prepared=self.prepared, transfer=self.texts, graphs=graphs)


@dataclass(frozen=True)
class _Chosen:
    """The student of a target: its size, its weights before training, and after."""

    student: Student
    start: Artifact
    finished: Artifact


def _as_asked(base: _Base, targets: Sequence[Target]) -> tuple[dict[str, _Chosen], None]:
    """The one student that the recipe describes, for every target."""
    student = base.recipe.student
    begin = base.started(student)
    one = _Chosen(student, begin, base.further_rounds(student, begin, base.trained(student, begin)))
    return {target.name: one for target in targets}, None


def _search(base: _Base, targets: Sequence[Target], model: Source) -> tuple[dict[str, _Chosen], dict[str, Any]]:
    """The cheapest student for each target that keeps the answers, and the record of how it was found."""
    candidates = []
    source = _source(base.recipe, "student.start", base.cache).path if base.recipe.student.start else model.path
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
        chosen[name] = _Chosen(candidate.student, candidate.start, finished)
    return chosen, found.record


# --- compile and plan -----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """What compile leaves for one target. bundle is None when nothing met the budget."""

    target: str
    folder: Path
    report: Report
    choice: select.Choice
    bundle: Path | None
    page: Path


@dataclass(frozen=True)
class Step:
    """A line of a plan. seconds: how long it took or, from earlier runs here, may take; None when nothing is known."""

    stage: str
    what: str
    cached: bool
    seconds: float | None
    megabytes: float | None


def compile(
    recipe: Recipe,
    *,
    targets: Sequence[str] = (),
    out: Path | None = None,
    until: Until = "bundle",
    store: Store | None = None,
    on_stage: Callable[[Artifact], None] = lambda artifact: None,
) -> list[Outcome]:
    """Build everything the recipe asks for; copy bundle, report and page of each target under `out` (default `out/NAME`).

    targets: over the recipe's own. Gives one outcome a target, or none when `until` stops before select. Raises EdgedistillError.
    """
    store = store or Store(home() / "store")

    def make(stage: Stage, params: Any, /, **inputs: Keyed) -> Artifact:
        artifact = store.build(stage, params, **inputs)
        on_stage(artifact)
        return artifact

    built = build(recipe, _targets(recipe, targets), make, home(), until)
    return [_deliver(one, out or Path("out") / recipe.name) for one in built if "select" in one.results]


def plan(recipe: Recipe, *, targets: Sequence[str] = (), until: Until = "bundle", store: Store | None = None) -> list[Step]:
    """What `compile` would do, what of it is cached, and how long the rest took when it last ran here. Runs no stage."""
    store = store or Store(home() / "store")
    steps: dict[str, Step] = {}

    def look(stage: Stage, params: Any, /, **inputs: Keyed) -> Artifact:
        key = store.key(stage, params, {name: source.key for name, source in inputs.items()})
        found = store.find(stage, key)
        seconds = found.seconds if found else store.typical_seconds(stage)
        megabytes = sum(file.stat().st_size for file in found.path.rglob("*") if file.is_file()) / 1e6 if found else None
        what = [getattr(params, "run", None) or getattr(params, "scheme", None) or ""]
        what += [name_of(params.student)] if hasattr(params, "student") else []
        steps[key] = Step(stage.name, " ".join(filter(None, what)), found is not None, seconds, megabytes)
        return found or Artifact(store.root / f"{stage.name}-{key[:16]}", key, stage.name, seconds or 0.0, cached=False)

    build(recipe, _targets(recipe, targets), look, home(), until)
    return list(steps.values())


def _deliver(built: Built, out: Path) -> Outcome:
    """Copy what the user takes away out of the store; an older delivery of the same target is replaced."""
    folder = out / built.target.name
    selected = built.results["select"].path
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("report.json", "choice.json"):
        shutil.copyfile(selected / name, folder / name)
    for name in ("report.html", "details.json") if "page" in built.results else ():
        shutil.copyfile(built.results["page"].path / name, folder / name)
    choice = select.read_choice(selected / "choice.json")
    shutil.rmtree(folder / "bundle", ignore_errors=True)
    ships = "bundle" in built.results and choice.state != "FAIL"
    if ships:
        shutil.copytree(built.results["bundle"].path, folder / "bundle", ignore=shutil.ignore_patterns("artifact.json"))
    return Outcome(
        built.target.name,
        folder,
        read_report(selected / "report.json"),
        choice,
        folder / "bundle" if ships else None,
        folder / "report.html",
    )


def _quantized(make: Make, recipe: Recipe, budget: Budget, scheme: str, **inputs: Keyed) -> Artifact:
    """One quantized binary. Layers stay in float only when it loses more than the budget leaves, so another budget seldom makes another binary."""
    plain = make(quantize.QUANTIZE, quantize.Params(scheme, recipe.student.max_tokens, recipe.seed, task=recipe.task), **inputs)
    allowed = QUANTIZATION_SHARE * (budget.accuracy_drop or 0.02)
    loss = plain.path / "loss.json"
    if loss.is_file() and json.loads(loss.read_text())["drop"] > allowed:
        return make(quantize.QUANTIZE, quantize.Params(scheme, recipe.student.max_tokens, recipe.seed, allowed, recipe.task), **inputs)
    return plain


def _entries(
    graphs: dict[str, Artifact], binaries: dict[str, Artifact], teachable: bool
) -> tuple[tuple[benchmark.Entry, ...], dict[str, Keyed]]:
    """What is benchmarked, and the folders of its files."""
    names = {"labels": "control: labels alone", "train_rows": "control: training rows alone"}
    entries = [
        benchmark.Entry("teacher", "teacher float" if teachable else "teacher as it is", "teacher", "float" if teachable else "as it is"),
        benchmark.Entry("student", "student float", "student", "float"),
    ]
    files: dict[str, Keyed] = {
        "teacher_model": graphs["teacher"],
        "teacher_graphs": graphs["teacher"],
        "student_model": graphs["distilled"],
        "student_graphs": graphs["distilled"],
    }
    for scheme, binary in binaries.items():
        entries.append(benchmark.Entry(scheme, f"student {scheme.removeprefix('onnx_')}", "student", scheme))
        files |= {f"{scheme}_model": binary, f"{scheme}_graphs": graphs["distilled"]}
    for run, name in names.items():
        if run in graphs:
            entries.append(benchmark.Entry(run, name, "control", "float"))
            files |= {f"{run}_model": graphs[run], f"{run}_graphs": graphs[run]}
    return tuple(entries), files


def _pool(recipe: Recipe) -> Transfer:
    """What the transfer set depends on: how is chosen from it does not change it. A search needs more rows to tell its candidates apart."""
    share = HELD_OUT[recipe.student.family == "auto"] if recipe.transfer.held_out is None else recipe.transfer.held_out
    return recipe.transfer.model_copy(update={"choose": "active", "held_out": share})


def _lineage(recipe: Recipe, data: dict[str, Source], teachers: Sequence[_Taught]) -> dict[str, Any]:
    """Where the model comes from: enough to make it again, and no path of this machine."""
    asked = recipe.model_dump(mode="json", exclude={"compile": True, "data": {"train", "test", "traffic", "templates"}})
    first, *more = [{**one.terms, "model": one.model.origin, "sha256": one.model.key} for one in teachers]
    return {
        "data": {name: {"source": source.origin, "sha256": source.key} for name, source in data.items()},
        "teacher": first | ({"also": more} if more else {}),
        "recipe": asked,
    }


def _targets(recipe: Recipe, names: Sequence[str]) -> list[Target]:
    return [find_target(name, folder=recipe.folder, where="compile.targets") for name in (names or recipe.compile.targets)]


def _source(recipe: Recipe, key: str, cache: Path) -> Source:
    section, name = key.split(".")
    spec = getattr(getattr(recipe, section), name)
    return resolve(spec, folder=recipe.folder, cache=cache / "sources", where=key)


def _precision() -> str:
    try:
        from edgedistill.training import best_precision

        return best_precision()
    except ModuleNotFoundError as error:
        raise missing_extra(error, "compile") from error


def unknown_until(until: str) -> InputError:
    """The error for `--until` with a name that is no stage."""
    from edgedistill.errors import nearest

    names = list(Until.__args__)  # type: ignore[attr-defined]
    return InputError(f'there is no stage "{until}" to stop after.', where="--until", write=nearest(until, names))


__all__ = ["Outcome", "Step", "compile", "plan", "plugins"]
