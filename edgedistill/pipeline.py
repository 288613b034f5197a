"""The whole product on one screen: `build` is the pipeline; `compile` runs it, `plan` only looks at it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from edgedistill import plugins
from edgedistill.errors import InputError, TargetError
from edgedistill.features import needs_of
from edgedistill.learning import Students, as_asked, searched
from edgedistill.links import how, stood_in, told
from edgedistill.machine import this_machine
from edgedistill.making import Make, Making, making, of_format
from edgedistill.recipe import Recipe, Transfer
from edgedistill.report import Drafting, Report, read_report
from edgedistill.search import name_of
from edgedistill.sequences import OWN_TEXT
from edgedistill.serving import writes
from edgedistill.sources import Source, home
from edgedistill.stages import benchmark, bundle, coverage, distill, embed, foretell, page, prepare, select, speculate, transfer
from edgedistill.store import Artifact, Keyed, Stage, Store
from edgedistill.target import Target, find_target
from edgedistill.teaching import Composer, Taught, composed, composer, ruling_labels, runs_here, soft_labels, taught, teachable

Until = Literal["prepare", "teach", "distill", "export", "quantize", "benchmark", "select", "bundle"]
HELD_OUT = {False: 0.05, True: 0.1}  # of the real texts, without and with a search


@dataclass(frozen=True)
class Built:
    """What one target gets: the folders of its last stages; those that `until` left out are missing."""

    target: Target
    results: dict[str, Artifact] = field(default_factory=dict)


def build(recipe: Recipe, targets: Sequence[Target], make: Make, cache: Path, until: Until = "bundle") -> list[Built]:
    """The pipeline, from top to bottom. Every step is a stage whose result `make` finds or makes."""
    on = making(make, recipe, cache)
    if until in ("benchmark", "select", "bundle"):
        _answered(on, targets)
    given = {name: getattr(recipe.data, name) for name in ("train", "test", "templates")}
    given |= {name: traffic.file for name, traffic in recipe.data.unlabelled().items()}
    data = {name: on.source(spec, f"data.{name}") for name, spec in given.items() if spec}
    prepared = make(prepare.PREPARE, prepare.Params(recipe.data, recipe.seed, recipe.task, ruling_labels(on)), **data)
    if until == "prepare":
        return [Built(target, {"prepare": prepared}) for target in targets]

    tokens, writer = recipe.student.max_tokens, composer(on)
    teachers = [taught(on, member, where, prepared) for where, member in recipe.teacher.members()]
    teacher = teachers[0].artifact
    # Whose vectors say which words and which texts are alike. A teacher that can only be run has none, and a student has a start then.
    encoder = (teachers[0].before or teachers[0].model) if teachable(recipe) else on.source(recipe.student.start or "", "student.start")
    texts = make(
        transfer.TRANSFER,
        transfer.Params(_pool(recipe), recipe.data.near_duplicate, recipe.seed, recipe.data.slices),
        prepared=prepared,
        model=encoder,
        **composed(on, writer, _pool(recipe).held_out or 0.0, prepared),
    )
    texts, labels = soft_labels(on, teachers, prepared, texts)
    if until == "teach":
        return [Built(target, {"prepare": prepared, "teach": labels}) for target in targets]

    embedded = make(embed.EMBED, embed.Params(tokens, on.precision, recipe.seed), prepared=prepared, transfer=texts, model=encoder)
    covered = make(coverage.COVERAGE, coverage.Params(recipe.seed), embedded=embedded, transfer=texts)
    base = Students(on, prepared, texts, labels, teachers[0])
    chosen, record = searched(base, targets) if recipe.student.family == "auto" else as_asked(base, targets)
    if until == "distill":
        return [Built(target, {"prepare": prepared, "distill": chosen[target.name].finished}) for target in targets]

    built = []
    for target in targets:
        students = {"distilled": chosen[target.name].finished}
        for run in _controls(recipe):
            students[run] = base.trained(chosen[target.name].student, chosen[target.name].start, run)
        graphs = {"teacher": base.exported(teacher, target.format) if runs_here(recipe) else teacher}
        graphs |= {run: base.exported(student, target.format) for run, student in students.items()}
        results = {"prepare": prepared, "transfer": texts, "teacher": teacher, "export": graphs["distilled"]} | students
        budget = recipe.budget.over(target.budget)
        schemes = target.schemes if until != "export" else []
        binaries = {scheme: base.quantized(chosen[target.name], graphs["distilled"], scheme, budget) for scheme in schemes}
        results |= binaries
        if until in ("benchmark", "select", "bundle"):
            entries, files = _entries(graphs, binaries, recipe)
            if base.writes and "gguf_q8_0" in binaries:
                small = base.quantized_teacher(graphs["teacher"], "gguf_q8_0")
                entries = (entries[0], benchmark.Entry("teacher_q8_0", "teacher q8_0", "teacher", "gguf_q8_0"), *entries[1:])
                files |= {"teacher_q8_0_model": small, "teacher_q8_0_graphs": graphs["teacher"]}
            facts: dict[str, Any] = {
                "name": recipe.name,
                "task": recipe.task,
                "target": target.model_dump(mode="json"),
                "max_tokens": tokens,
            }
            measured = make(
                of_format(benchmark.BENCHMARK, target.format),
                benchmark.Params(**facts, entries=entries, machine=this_machine() | _runner(target), seed=recipe.seed),
                prepared=prepared,
                **files,
            )
            results["benchmark"] = measured
        if until in ("select", "bundle"):
            results["select"] = make(select.SELECT, select.Params(budget, recipe.compile.prefer), measured=measured)
        if until == "bundle":
            lineage = _lineage(recipe, data, teachers, writer)
            results["bundle"] = make(
                of_format(bundle.BUNDLE, target.format),
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
            more: dict[str, Keyed] = {"combined": labels} if len(teachers) > 1 else {}
            if recipe.compile.draft_tokens:
                machine, ahead = this_machine(), recipe.compile.draft_tokens
                more["drafted"] = results["drafted"] = make(
                    speculate.SPECULATE,
                    speculate.Params(facts["target"], tokens, entries, machine, ahead, recipe.seed),
                    prepared=prepared,
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
                **more,
                **{f"run_{run}": student for run, student in students.items()},
                **{f"quantized_{scheme}": binary for scheme, binary in binaries.items()},
            )
        built.append(Built(target, results))
    return built


def _controls(recipe: Recipe) -> list[distill.Run]:
    """The students that prove what each part bought. Without labels there is none of labels alone."""
    if not recipe.distill.control:
        return []
    labels: list[distill.Run] = ["labels"] if recipe.data.labelled else []
    if recipe.distill.control == "labels":
        return labels
    if writes(plugins.find("tasks", recipe.task)):
        return [*labels, "off_policy"] if OWN_TEXT in needs_of(recipe.distill.losses) else labels
    return [*labels, "train_rows"]


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
    drafting: Drafting | None = None


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

    chosen = _targets(recipe, targets)
    if until in ("benchmark", "select", "bundle"):
        _reachable(chosen)
    built = build(recipe, chosen, make, home(), until)
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
        Drafting.model_validate_json((built.results["drafted"].path / "drafting.json").read_text()) if "drafted" in built.results else None,
    )


def _entries(
    graphs: dict[str, Artifact], binaries: dict[str, Artifact], recipe: Recipe
) -> tuple[tuple[benchmark.Entry, ...], dict[str, Keyed]]:
    """What is benchmarked, and the folders of its files."""
    names = {
        "labels": "control: labels alone",
        "train_rows": "control: training rows alone",
        "off_policy": "control: fixed answers alone",
    }
    scheme = "float" if teachable(recipe) else "as it is" if runs_here(recipe) else "behind its API"
    entries = [
        benchmark.Entry("teacher", f"teacher {scheme}", "teacher", scheme),
        benchmark.Entry("student", "student float", "student", "float"),
    ]
    files: dict[str, Keyed] = {
        "teacher_model": graphs["teacher"],
        "teacher_graphs": graphs["teacher"],
        "student_model": graphs["distilled"],
        "student_graphs": graphs["distilled"],
    }
    for scheme, binary in binaries.items():
        entries.append(benchmark.Entry(scheme, f"student {scheme.removeprefix('onnx_').removeprefix('gguf_')}", "student", scheme))
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


def _lineage(recipe: Recipe, data: dict[str, Source], teachers: Sequence[Taught], writer: Composer | None) -> dict[str, Any]:
    """Where the model comes from: enough to make it again, and no path of this machine."""
    files: dict[str, Any] = dict.fromkeys(("train", "test", "traffic", "templates"), True)
    if not isinstance(recipe.data.traffic, str | None):  # how it is read stays
        files["traffic"] = {"__all__": {"file"}} if isinstance(recipe.data.traffic, list) else {"file"}
    asked = recipe.model_dump(mode="json", exclude={"compile": True, "data": files})
    first, *more = [{**one.terms, "model": one.model.origin, "sha256": one.model.key} for one in teachers]
    return {
        "data": {name: {"source": source.origin, "sha256": source.key} for name, source in data.items()},
        "teacher": first | ({"also": more} if more else {}),
        **({"writer": writer.record} if writer else {}),
        "recipe": asked,
    }


def _runner(target: Target) -> dict[str, str]:
    """What answers on this target, where it is not our own Python: part of a benchmark's key."""
    link = plugins.find("links", target.link.kind)
    facts: dict[str, str] = {"runner": link.identity(target.link, target.runtime)} if hasattr(link, "identity") else {}
    return facts | (link.machine(target.link) if hasattr(link, "machine") else {})


def _reachable(targets: Sequence[Target]) -> None:
    """Raises TargetError when a target cannot be reached from here: before hours are spent, not after."""
    for target in targets:
        lacking = plugins.find("links", target.link.kind).ready(target.link)
        if lacking:
            raise TargetError(lacking, where=target.name, write='Or write [link] kind = "build_only" in a target file of your own.')


def _answered(on: Making, targets: Sequence[Target]) -> None:
    """Raises TargetError when what runs on a target cannot answer the task, or read the student's tokenizer: before hours are spent, too."""
    for target in targets:
        if writes(plugins.find("tasks", on.recipe.task)) and not hasattr(plugins.find("runtimes", target.runtime), "open_writer"):
            raise TargetError(
                f"its runtime {target.runtime} writes no answers, and task {on.recipe.task} wants one.",
                where=target.name,
                write='Take a target whose runtime is "llama_cpp", such as laptop-x86-llama.',
            )
        link = plugins.find("links", target.link.kind)
        families, asked = getattr(link, "FAMILIES", None), _families(on.recipe)
        if families is not None and not asked <= families:
            named = ", ".join(sorted(families))
            raise TargetError(
                f"students of the family {named} run there, and the recipe asks for {', '.join(sorted(asked - families))}.",
                where=target.name,
                write=f'Write [student] family = "{named}", or [search] families = ["{named}"].',
            )
        refuses = getattr(link, "refuses", None)
        if refuses is None:
            continue
        start = on.recipe.student.start
        source = on.source(start, "student.start") if start else on.source(on.recipe.teacher.model, "teacher.model")
        why = refuses(on.recipe.task, source.path / "tokenizer.json", target.runtime)
        if why:
            raise TargetError(
                why, where=target.name, write='Take another target, or write [link] kind = "build_only" in a target file of your own.'
            )


def _families(recipe: Recipe) -> set[str]:
    """The families of students that may come out."""
    if recipe.student.family != "auto":
        return {recipe.student.family}
    return {student.family for student in recipe.search.students} or set(recipe.search.families) or {"static", "conv", "transformer"}


def _targets(recipe: Recipe, names: Sequence[str]) -> list[Target]:
    return [stood_in(target) for target in _asked_for(recipe, names)]


def _asked_for(recipe: Recipe, names: Sequence[str]) -> list[Target]:
    return [find_target(name, folder=recipe.folder, where="compile.targets") for name in (names or recipe.compile.targets)]


def not_measured(recipe: Recipe, names: Sequence[str]) -> list[tuple[str, str]]:
    """The targets whose latency nothing here can measure, and how each is reached or estimated."""
    targets = _asked_for(recipe, names)
    return [(one.name, told(one)) for one in targets if how(one.link) != "measured" or stood_in(one) is not one]


def unknown_until(until: str) -> InputError:
    """The error for `--until` with a name that is no stage."""
    from edgedistill.errors import nearest

    names = list(Until.__args__)  # type: ignore[attr-defined]
    return InputError(f'there is no stage "{until}" to stop after.', where="--until", write=nearest(until, names))


__all__ = ["Outcome", "Step", "compile", "plan"]
