"""The verbs. The only place that prints or exits."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgedistill.errors import EdgedistillError, InputError, missing_extra

if TYPE_CHECKING:
    from edgedistill.pipeline import Outcome
    from edgedistill.report import Drafting, Report, State
    from edgedistill.stages.select import Choice
    from edgedistill.store import Artifact

app = typer.Typer(
    help="Distill a student for a narrow task, quantize it, export it per target, and prove that it keeps the answers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, all else on stderr.")]
Targets = Annotated[list[str] | None, typer.Option("--target", "-t", help="Target by name or path; over the recipe's own. Repeatable.")]
EXIT = {"PASS": 0, "FAIL": 1, "UNDECIDED": 3}


@app.callback()
def _everywhere(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    Debug.on = debug


class Debug:
    """Whether `--debug` was given."""

    on = False


@app.command()
def compile(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a TOML file.")],
    target: Targets = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Where bundles and reports go; default out/NAME.")] = None,
    until: Annotated[
        str, typer.Option("--until", help="Stop after this stage: prepare, teach, distill, export, quantize, benchmark, select.")
    ] = "bundle",
    as_json: AsJson = False,
) -> None:
    """Build everything the recipe asks for: one measured bundle a target.

    Exit codes: 0 every budget met, 1 a budget missed, 2 wrong input, 3 undecided, 4 a stage failed.
    """
    import typing

    from edgedistill import pipeline
    from edgedistill.recipe import read_recipe

    if until not in typing.get_args(pipeline.Until):
        raise pipeline.unknown_until(until)
    with _progress() as on_stage:
        outcomes = pipeline.compile(read_recipe(recipe), targets=target or [], out=out, until=until, on_stage=on_stage)  # type: ignore[arg-type]
    if as_json:
        _json([_outcome_json(outcome) for outcome in outcomes])
    for outcome in outcomes if not as_json else []:
        _table(outcome.report, outcome.choice)
        if any(variant.writing for variant in outcome.report.variants):
            _writing(outcome.report)
        _delivered(outcome)
    raise typer.Exit(_exit_code([outcome.choice.state for outcome in outcomes]))


@app.command()
def plan(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a TOML file.")],
    target: Targets = None,
    as_json: AsJson = False,
) -> None:
    """Say what compile would run, what is cached, how long and how large. Runs nothing."""
    from edgedistill import pipeline
    from edgedistill.recipe import read_recipe

    read = read_recipe(recipe)
    steps = pipeline.plan(read, targets=target or [])
    if as_json:
        return _json([vars(step) for step in steps])
    from rich.table import Table

    table = Table("stage", "what", "state", "time", "size", title=f"plan of {recipe}")
    for step in steps:
        seconds = "?" if step.seconds is None else f"{step.seconds:.0f} s" if step.cached else f"about {step.seconds:.0f} s"
        size = f"{step.megabytes:.1f} MB" if step.megabytes is not None else ""
        table.add_row(step.stage, step.what, "cached" if step.cached else "to do", seconds, size)
    _console().print(table)
    todo = [step for step in steps if not step.cached]
    known = sum(step.seconds or 0 for step in todo)
    unknown = sum(step.seconds is None for step in todo)
    more = f", and {unknown} stages that never ran here" if unknown else ""
    _console().print(
        f"{len(todo)} of {len(steps)} stages to do, about {known / 60:.1f} minutes{more}." if todo else "Nothing to do: all is cached."
    )
    for name, told in pipeline.not_measured(read, target or []):
        _console().print(f"{name} will not be measured from here. {told}.")
    return None


@app.command()
def bench(
    bundle: Annotated[Path, typer.Argument(help="The bundle's folder.")],
    target: Annotated[str | None, typer.Option("--target", "-t", help="Measure for this target instead of the bundle's own.")] = None,
    as_json: AsJson = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Raw samples as CSV on stdout, the verdict on stderr.")] = False,
    sustained: Annotated[
        float | None, typer.Option("--sustained", min=1, help="Then run so many seconds without a pause, and show the latency over time.")
    ] = None,
    budget_only: Annotated[bool, typer.Option("--budget-only", help="One line and the exit code, for CI.")] = False,
    junit: Annotated[Path | None, typer.Option("--junit", help="Write the checks as JUnit XML to this file, too.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write the JSON to this file, too; as RUN/bench.json `report RUN` shows it.")
    ] = None,
) -> None:
    """Run a bundle again where its target is reached, golden vectors first, and hold it against its budget."""
    from edgedistill.stages.bench import bench as measure
    from edgedistill.stages.bench import samples_csv

    result = measure(bundle, target, sustained)
    if junit is not None:
        junit.write_text(result.junit(), encoding="utf-8")
    if out is not None:
        out.write_text(json.dumps(result.as_json(), ensure_ascii=False) + "\n", encoding="utf-8")
    if as_json:
        _json(result.as_json())
    elif as_csv:
        sys.stdout.write(samples_csv(result))
        sys.stderr.write(result.one_line() + "\n")
    elif budget_only:
        print(result.one_line())
    else:
        for line in result.lines():
            _console().print(line)
    raise typer.Exit(EXIT[result.state])


@app.command()
def calibrate(
    target: Annotated[str, typer.Option("--target", "-t", help="The target whose device is at hand, by name or path.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write the calibration table to this file, too.")] = None,
    as_json: AsJson = False,
) -> None:
    """Measure a set of graphs on a device and fit what their operations cost there, for estimates without it.

    Prints the calibration table for the target's file, and how far estimates of graphs that were left out are off.
    """
    from edgedistill.stages.calibrate import calibrate as measure

    with _progress():
        found = measure(target)
    if out is not None:
        out.write_text(found.toml(), encoding="utf-8")
    if as_json:
        return _json(found.as_json())
    for line in found.lines():
        _console().print(line)
    print(f"\n{found.toml()}")
    return None


@app.command()
def verify(
    bundle: Annotated[Path, typer.Argument(help="The bundle's folder.")],
    everywhere: Annotated[
        bool, typer.Option("--everywhere", help="On every kind of processor that can be had from here: x86, ARM, WebAssembly, Node.")
    ] = False,
    target: Annotated[str | None, typer.Option("--target", "-t", help="Through this target's link instead of on this machine.")] = None,
    as_json: AsJson = False,
) -> None:
    """Check a bundle's digests and golden vectors on the runtime. Needs no torch: CI on a device calls this."""
    if everywhere:
        return _everywhere_agrees(bundle, as_json)
    from edgedistill.stages.verify import summary
    from edgedistill.stages.verify import verify as check

    worth = ""
    if target is not None:
        from edgedistill.stages.agree import on_target

        result, worth = on_target(bundle, target)
    else:
        result = check(bundle)
    if as_json:
        _json({**vars(result), "good": result.good, **({"target": target, "how": worth} if worth else {})})
    else:
        print(f"{summary(result)} on {target}, {worth}" if worth else summary(result))
    raise typer.Exit(0 if result.good else 1)


def _everywhere_agrees(bundle: Path, as_json: bool) -> None:
    from rich.table import Table

    from edgedistill.stages import agree

    with _progress():
        places = agree.agree(bundle)
    if as_json:
        _json({"places": agree.as_json(places), "verdict": agree.verdict(places)})
    else:
        table = Table("where", "equal", "largest logit difference", "first that differs, or what is missing")
        for row in agree.rows(places):
            table.add_row(*row)
        _console().print(table)
        _console().print(agree.verdict(places))
    raise typer.Exit(0 if all(place.result is None or place.result.good for place in places) else 1)


@app.command()
def compare(
    a: Annotated[Path, typer.Argument(help="A bundle or a run.")],
    b: Annotated[Path, typer.Argument(help="The bundle or run to hold against it.")],
    as_json: AsJson = False,
) -> None:
    """Compare what two bundles or runs shipped, row by row."""
    from edgedistill.stages.compare import compare as pair

    result = pair(a, b)
    if as_json:
        return _json(dataclasses.asdict(result))
    for line in result.lines():
        _console().print(line)
    return None


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="The folder of one target that compile wrote.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The page; default RUN/report.html.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write the run's report as one self-contained HTML page."""
    from edgedistill.stages.page import render_run

    page = out or run / "report.html"
    page.write_text(render_run(run), encoding="utf-8")
    if as_json:
        _json({"page": str(page)})
    else:
        print(page)


@app.command()
def init(
    data: Annotated[Path, typer.Argument(help="A csv, tsv, jsonl or parquet file with texts and labels.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The recipe to write; default recipe.toml beside the data.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over a recipe that is there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Look at a data file, say what is in it, and write a recipe for it."""
    from edgedistill.stages.init import describe, look, write_recipe
    from edgedistill.store import plain

    recipe = out or data.parent / "recipe.toml"
    profile = look(data)
    if recipe.exists() and not force:
        raise InputError(
            "there is a recipe already.", where=str(recipe), write="Give another name with --out, or --force to write over it."
        )
    train = (
        str(data.resolve().relative_to(recipe.parent.resolve()))
        if data.resolve().is_relative_to(recipe.parent.resolve())
        else str(data.resolve())
    )
    recipe.write_text(write_recipe(profile, train=train), encoding="utf-8")
    if as_json:
        return _json({"recipe": str(recipe), "profile": plain(profile)})
    for line in describe(profile):
        print(line)
    print(f"\nWrote {recipe}. Next: edgedistill plan {recipe}")
    return None


@app.command()
def trim(
    bundle: Annotated[Path, typer.Argument(help="The bundle's folder.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The new folder.")],
    target: Annotated[str | None, typer.Option("--target", "-t", help="For this target instead of the bundle's own.")] = None,
    as_json: AsJson = False,
) -> None:
    """Put the model into ONNX Runtime's own format and list the operators that it needs, for a library built with these alone."""
    from edgedistill.stages.trim import OPERATORS
    from edgedistill.stages.trim import trim as make
    from edgedistill.stages.verify import summary

    made = make(bundle, out, target)
    if as_json:
        return _json({**vars(made), "golden": vars(made.golden), "folder": str(out)})
    count = sum(len(line.split(";")[2].split(",")) for line in made.operators)
    print(f"Wrote {out}: {made.bytes_before / 1e6:.2f} MB became {made.bytes_after / 1e6:.2f}, {count} operators")
    print(f"{summary(made.golden)} on {made.target}, {made.how}")
    print(f"Build ONNX Runtime with --minimal_build --include_ops_by_config {out / OPERATORS} --enable_reduced_operator_type_support")
    return None


@app.command(name="app")
def assemble_app(
    name: Annotated[str | None, typer.Argument(help="The app; without one, all are listed.")] = None,
    bundle: Annotated[Path | None, typer.Option("--bundle", "-b", help="The bundle that it runs.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The new folder; default the app's name.")] = None,
    as_json: AsJson = False,
) -> None:
    """Put a bundle into a sample app, ready to open or to build."""
    from edgedistill.stages.app import app_names, assemble, find_app

    if name is None:
        found = [find_app(one) for one in app_names()]
        if as_json:
            return _json([vars(one) for one in found])
        for one in found:
            print(f"{one.name}: {one.about} ({', '.join(one.tasks)})")
        return None
    if bundle is None:
        find_app(name)
        raise InputError("no bundle is given.", where="--bundle", write="Give the folder that compile wrote.")
    made, folder = assemble(name, bundle, out or Path(name)), out or Path(name)
    if as_json:
        return _json({"app": made.name, "folder": str(folder), "next": made.next})
    print(f"Wrote {folder}. Next, in that folder:")
    for command in made.next:
        print(f"  {command}")
    return None


@app.command()
def targets(name: Annotated[str | None, typer.Argument(help="One target, in full.")] = None, as_json: AsJson = False) -> None:
    """List the targets, or show one."""
    from edgedistill.links import told
    from edgedistill.target import find_target, target_names

    chosen = [find_target(one) for one in ([name] if name else target_names())]
    if as_json:
        return _json([one.model_dump(mode="json") | {"reached": told(one)} for one in chosen])
    if name:
        for key, value in chosen[0].model_dump(mode="json", exclude_none=True).items():
            print(f"{key}: {value}")
        print(f"from this machine: {told(chosen[0])}")
        return None
    from rich.table import Table

    table = Table("target", "what", "runtime", "budget", "from this machine")
    for one in chosen:
        budget = ", ".join(f"{key} {value:g}" for key, value in one.budget.model_dump(exclude_none=True).items())
        table.add_row(one.name, one.about, f"{one.runtime}, {one.threads} thr.", budget, told(one))
    _console().print(table)
    return None


@app.command()
def schema(
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder to write recipe.schema.json and target.schema.json.")] = None,
) -> None:
    """Print the JSON Schemas of recipes and targets."""
    from edgedistill.recipe import Recipe
    from edgedistill.target import Target

    schemas = {"recipe": Recipe.model_json_schema(), "target": Target.model_json_schema()}
    if out is None:
        return _json(schemas)
    out.mkdir(parents=True, exist_ok=True)
    for name, document in schemas.items():
        (out / f"{name}.schema.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return None


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Say what this machine can run and what is missing."""
    from edgedistill.stages.doctor import examine

    found = examine()
    if as_json:
        return _json(found)
    for group, facts in found.items():
        print(f"{group}:")
        for name, value in facts.items():
            print(f"  {name}: {value}")
    return None


def main() -> None:
    """The console command. Turns every error into one paragraph and its exit code."""
    try:
        # Outside standalone mode typer gives back the code of a typer.Exit instead of leaving.
        sys.exit(app(standalone_mode=False) or 0)
    except EdgedistillError as error:
        _fail(error)
    except ModuleNotFoundError as error:
        _fail(missing_extra(error, "this verb"))
    except KeyboardInterrupt:
        sys.stderr.write("Stopped. What was finished is kept; the same command goes on from there.\n")
        sys.exit(130)
    except Exception as error:
        _usage_or_raise(error)


def _usage_or_raise(error: Exception) -> None:
    """typer's own complaints about arguments are the user's input being wrong: exit 2."""
    if hasattr(error, "show") and hasattr(error, "exit_code"):
        error.show()
        sys.exit(2)
    if type(error).__name__ == "Abort":
        sys.exit(130)
    raise error


def _fail(error: EdgedistillError) -> None:
    if Debug.on:
        import traceback

        traceback.print_exc()
    sys.stderr.write(f"Error: {error.paragraph()}\n")
    sys.exit(error.exit_code)


# --- what people see ------------------------------------------------------------------------------------------------------------------


def _json(document: Any) -> None:
    sys.stdout.write(json.dumps(document, indent=1, ensure_ascii=False) + "\n")


def _console() -> Any:
    from rich.console import Console

    # A log has no width of its own: wide enough that no table is cut.
    return Console(width=None if sys.stdout.isatty() else 160, highlight=False)


@contextmanager
def _progress() -> Iterator[Callable[[Artifact], None]]:
    """Bars with time left on a terminal, plain lines in a log; both on stderr."""
    from edgedistill.progress import listening

    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description:<36}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True)) as bars:
            tasks: dict[str, Any] = {}

            def tick(label: str, done: int, total: int) -> None:
                if label not in tasks:
                    tasks[label] = bars.add_task(label, total=total)
                bars.update(tasks[label], completed=done, total=total)

            with listening(tick):
                yield lambda artifact: bars.console.print(_stage_line(artifact))
        return
    last: dict[str, float] = {}

    def line(label: str, done: int, total: int) -> None:
        now = time.monotonic()
        if done == total or now - last.setdefault(label, now) > 20:
            last[label] = now
            sys.stderr.write(f"  {label}: {done} of {total}\n")
            sys.stderr.flush()

    def stage(artifact: Artifact) -> None:
        sys.stderr.write(_stage_line(artifact) + "\n")
        sys.stderr.flush()

    with listening(line):
        yield stage


def _stage_line(artifact: Artifact) -> str:
    state = "cached" if artifact.cached else f"{artifact.seconds:.1f} s"
    facts = artifact.path / "facts.json"
    warnings = json.loads(facts.read_text(encoding="utf-8")).get("warnings", []) if facts.is_file() else []
    return "\n".join([f"{artifact.stage:<10} {artifact.key[:12]}  {state}", *(f"  warning: {warning}" for warning in warnings)])


def _table(report: Report, choice: Choice) -> None:
    """The comparison that everything was done for."""
    from rich.table import Table

    from edgedistill.report import accuracy, flips, overall, percentile_ms, speed_up, verdicts

    table = Table(title=f"{report.name} on {report.target['name']} ({report.how}; {report.where})")
    for name in (
        "variant",
        "size MB",
        "p50 ms",
        "p90 ms",
        "p99 ms",
        "peak MB",
        "× teacher",
        f"{report.metric} [95 %]",
        "flips (lost/won)",
        "budget",
    ):
        table.add_column(name, justify="left" if name == "variant" else "right", no_wrap=True)
    for variant in report.variants:
        timings, right = variant.timings.get("real"), accuracy(report, variant)
        times = [f"{percentile_ms(timings, share).value:.2f}" if timings else "–" for share in (0.5, 0.9, 0.99)]
        factor, changed = speed_up(variant, report.teacher), flips(report, variant, report.teacher)
        table.add_row(
            f"{variant.name} ◀" if variant.name == choice.chosen else variant.name,
            f"{variant.size_bytes / 1e6:.2f}",
            *times,
            f"{variant.peak_bytes / 1e6:.0f}" if variant.peak_bytes else "–",
            f"{factor:.1f}" if factor else "–",
            f"{100 * right.value:.1f} [{100 * right.low:.1f}–{100 * right.high:.1f}]",
            "–" if variant is report.teacher else f"{changed.total} ({changed.lost}/{changed.won})",
            overall(verdicts(report, variant)) if variant.role == "student" else "",
        )
    _console().print(table)


def _writing(report: Report) -> None:
    """What is to be said of answers that are written, token by token."""
    from rich.table import Table

    from edgedistill.report import further, speed

    table = Table(title="Answers as they are written")
    figures = list(dict.fromkeys(name for variant in report.variants for name in variant.further))
    for name in ("variant", "first token ms, p50", "p90", "prompt tokens/s", "tokens/s", "tokens an answer", *figures):
        table.add_column(name, justify="left" if name == "variant" else "right")
    for variant in report.variants:
        fast, found = speed(variant), further(report, variant)
        numbers = (
            (fast.first_ms["p50"], fast.first_ms["p90"], fast.prompt_tokens_a_second, fast.tokens_a_second, fast.tokens_an_answer)
            if fast
            else ()
        )
        shown = [f"{number:.1f}" for number in numbers] or ["–"] * 5
        table.add_row(variant.name, *shown, *(f"{100 * found[name].value:.1f}" if name in found else "–" for name in figures))
    _console().print(table)


def _delivered(outcome: Outcome) -> None:
    from edgedistill.report import accuracy_difference

    report, choice = outcome.report, outcome.choice
    if report.steady is not None:
        print(f"{report.steady.sentence().capitalize()}.")
    for reason in choice.reasons:
        print(reason)
    for note in [note for variant in report.variants if variant.name == choice.chosen for note in variant.notes]:
        if note.startswith("estimated"):
            print(f"{note[0].upper()}{note[1:]}.")
    for name, why in choice.rejected.items():
        print(f"Not {name}: {why}.")
    for advice in choice.advice:
        print(advice)
    base = next(variant for variant in report.students if variant.scheme == "float")
    words = {
        "control: labels alone": "Distillation gain",
        "control: training rows alone": "What the transfer set bought",
        "control: fixed answers alone": "What the student's own answers bought",
    }
    for control in (variant for variant in report.variants if variant.role == "control"):
        gain = accuracy_difference(report, base, control)
        print(f"{words.get(control.name, control.name)}: {100 * gain.value:+.1f} points [{100 * gain.low:+.1f} to {100 * gain.high:+.1f}].")
    if drafting := outcome.drafting:
        faster, taken = drafting.speed_up(), drafting.acceptance()
        print(
            f"As a draft of its teacher: {faster.value:.2f} times faster [{faster.low:.2f} to {faster.high:.2f}], "
            f"{100 * taken.value:.0f} % of {drafting.ahead} tokens guessed ahead are the teacher's."
        )
    print(f"Report: {outcome.page}")
    print(f"Bundle: {outcome.bundle}" if outcome.bundle else "No bundle was written, since no student meets the budget.")


def _outcome_json(outcome: Outcome) -> dict[str, Any]:
    from edgedistill.report import summary

    return {
        "target": outcome.target,
        "state": outcome.choice.state,
        "chosen": outcome.choice.chosen,
        "reasons": outcome.choice.reasons,
        "rejected": outcome.choice.rejected,
        "advice": outcome.choice.advice,
        "variants": summary(outcome.report),
        "bundle": str(outcome.bundle) if outcome.bundle else None,
        "report": str(outcome.page),
        **({"drafting": _drafting_json(outcome.drafting)} if outcome.drafting else {}),
    }


def _drafting_json(drafting: Drafting) -> dict[str, Any]:
    figures = {"speed_up": drafting.speed_up(), "acceptance": drafting.acceptance(), "tokens_a_pass": drafting.tokens_a_pass()}
    return {
        "teacher": drafting.teacher,
        "draft": drafting.draft,
        "ahead": drafting.ahead,
        "answers": len(drafting.same),
        "same_answers": sum(drafting.same),
        **{name: vars(figure) for name, figure in figures.items()},
    }


def _exit_code(states: list[State]) -> int:
    return 1 if "FAIL" in states else 3 if "UNDECIDED" in states else 0


if __name__ == "__main__":
    main()
