"""app: put a bundle into a sample app, with all that the app needs, in a folder that opens or builds as it is.

A sample app is a folder in sample_apps/ with an `app.toml`: what it is, which tasks it answers, what is fetched for it (`native`: ONNX Runtime for
C++; `llama`: llama.cpp's source; `json`: a header; `npm`: packages and which of their files), where the bundle goes (`bundle`), which files of other
apps it uses (`also`), and what comes next. What is fetched has its digest there.
"""

from __future__ import annotations

import shutil
import tempfile
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgedistill import llama_native, microcontroller, native
from edgedistill.bundle_format import Manifest, read_bundle, read_golden
from edgedistill.errors import InputError, nearest
from edgedistill.npm import packages, vendor
from edgedistill.target import Target, find_target

NOT_COPIED = ("app.toml", "__init__.py", "__pycache__")


@dataclass(frozen=True)
class App:
    """A sample app. formats: of bundles that it runs. bundle: where in the app it goes. native: the processor for which ONNX Runtime comes along.
    llama: where llama.cpp's source goes. json: where the C++ header for JSON goes. board: the target without a system for whose memory the model is
    written as C, into `generated/`. npm: packages whose files go into `vendor/`. also: files of other apps, as `app/file`, and where they go.
    gguf_tasks: of GGUF bundles, where these are fewer. next: what starts it."""

    name: str
    about: str
    tasks: list[str]
    next: list[str]
    formats: list[str] = field(default_factory=lambda: ["onnx"])
    bundle: str = "bundle"
    native: str | None = None
    npm: list[dict[str, Any]] = field(default_factory=list)
    also: list[str] = field(default_factory=list)
    also_to: str = ""
    json: str | None = None
    llama: str | None = None
    gguf_tasks: list[str] | None = None
    board: str | None = None


def app_names() -> list[str]:
    """All apps that can be assembled."""
    return sorted({file.parent.name for folder in native.app_folders() for file in folder.glob("*/app.toml")})


def find_app(name: str) -> App:
    """An app by name. Raises InputError with the nearest name."""
    if name not in app_names():
        raise InputError(f'there is no app called "{name}".', write=nearest(name, app_names()))
    return App(name, **tomllib.loads((native.app_folder(name) / "app.toml").read_text(encoding="utf-8")))


def assemble(name: str, bundle: Path, out: Path) -> App:
    """Write the app into the new folder `out`. Raises InputError for a bundle of a task that the app does not answer, or a folder that is not empty."""
    app, manifest = find_app(name), read_bundle(bundle)
    _fits(app, manifest, bundle)
    if out.exists() and any(out.iterdir()):
        raise InputError("the folder is not empty.", where=str(out), write="Give a new folder with --out.")
    if app.board:  # first, since it may refuse the model
        _as_c(find_target(app.board), manifest, bundle, out / "generated")
    shutil.copytree(native.app_folder(name), out, ignore=shutil.ignore_patterns(*NOT_COPIED), dirs_exist_ok=True)
    if app.native:
        native.onnxruntime_folder(app.native, out / "onnxruntime")
    if app.llama:
        shutil.copytree(llama_native.source(), out / app.llama)
    if app.json:
        native.json_folder(out / app.json)
    for file in app.also:
        other, _, inside = file.partition("/")
        shutil.copyfile(native.app_folder(other) / inside, out / app.also_to / Path(inside).name)
    for package in packages(app.npm, manifest.format):
        vendor(package, out / "vendor")
    # Nothing but the files that the manifest vouches for.
    for name in (*manifest.files, "manifest.json"):
        (out / app.bundle / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(bundle / name, out / app.bundle / name)
    return app


def _as_c(board: Target, manifest: Manifest, bundle: Path, out: Path) -> None:
    model, tokenizer = bundle / manifest.model, bundle / manifest.tokenizer
    with tempfile.TemporaryDirectory() as scratch:
        draft = Path(scratch) / "generated"
        microcontroller.write_c(draft, model, tokenizer, manifest.max_tokens, manifest.task, manifest.task_settings(), board.limits)
        microcontroller.write_golden_c(draft, list(read_golden(bundle / "golden.jsonl")), manifest.logit_bound)
        shutil.copytree(draft, out)


def _fits(app: App, manifest: Manifest, bundle: Path) -> None:
    if app.gguf_tasks and manifest.format == "gguf" and manifest.task in app.tasks and manifest.task not in app.gguf_tasks:
        others = [other for other in app_names() if other != app.name and {"gguf"} & {*find_app(other).formats}]
        raise InputError(
            f"of GGUF bundles {app.name} takes {', '.join(app.gguf_tasks)}, and this one's task is {manifest.task}.",
            where=str(bundle),
            write=f"Apps for it: {', '.join(others)}; or compile for a target of format onnx.",
        )
    for what, given, known in (("task", manifest.task, app.tasks), ("format", manifest.format, app.formats)):
        if given not in known:
            others = [other for other in app_names() if given in (find_app(other).tasks if what == "task" else find_app(other).formats)]
            advice = f"Apps for it: {', '.join(others)}." if others else "No app takes it yet."
            raise InputError(f"the {what} of the bundle is {given}; {app.name} takes {', '.join(known)}.", where=str(bundle), write=advice)
