"""The runners in JavaScript, for links/browser.py and links/node.py: what they are made of, and what they do not answer.

`measure.mjs` is the runner, `page.mjs` has it in a page that `drive.mjs` opens in Chromium, `node.mjs` has it in Node. They run a bundle by the very
files that the web app runs it by (sample_apps/web/bundle.mjs and what it imports). GGUF is run by wllama in a page, by node-llama-cpp's library in
Node, and only where an answer is written. What is fetched has its digest here or in that app's app.toml.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import tomllib
from pathlib import Path

from edgedistill import npm
from edgedistill.digests import file_digest
from edgedistill.native import app_folder
from edgedistill.sources import home

FOLDER = Path(__file__).parent
# Drives Chromium; Apache-2.0.
PLAYWRIGHT = npm.Package("playwright-core@1.65.1", "6f5a60be62a4fddfbe7d10c448d8fbd54547da3358f2f8a04211440471ee863e", [])
# ONNX Runtime for Node, MIT. Its archive has the libraries of five systems.
ONNXRUNTIME_NODE = npm.Package(
    "onnxruntime-node@1.30.0",
    "6e3390d6b783e7be946fad629292799da28d0b42f84856e50d2c1b0383291e75",
    ["/dist/", "/bin/napi-v6/linux/", "/package.json"],
)
ONNXRUNTIME_COMMON = npm.Package("onnxruntime-common@1.30.0", "7906c439e0d3e0f4048caa23b64cdfadc0f455c377f579ce1ab2a4b778f07d5f", [])
# The library of node-llama-cpp for 64-bit x86 Linux, MIT.
LLAMA_NODE = npm.Package(
    "@node-llama-cpp/linux-x64@3.22.1", "0d953e1503d5ab4608d8ed5b739132308c81ac05ffeb760d2a7f30e08a9f90e0", ["/bins/", "/package.json"]
)
# What bundle.mjs answers, by the runtime.
TASKS = {
    "onnxruntime": frozenset({"classify", "multi_label", "score", "embed", "tag"}),
    "llama_cpp": frozenset({"generate"}),
}
FORMATS = {"onnxruntime": "onnx", "llama_cpp": "gguf"}
SHARED = ("bundle.mjs", "grammar.mjs", "llama.mjs", "places.mjs", "writer.mjs")  # files of the web app


def refuses(task: str, tokenizer: Path, runtime: str = "onnxruntime") -> str | None:
    """Why the JavaScript runners cannot answer a task with a tokenizer.json; None when they can."""
    if task not in TASKS.get(runtime, ()):
        return f'the JavaScript runners of {runtime} have no answer to the task "{task}" yet.'
    if task != "tag" or not tokenizer.is_file():
        return None
    kind = json.loads(tokenizer.read_text(encoding="utf-8"))["model"].get("type")
    return None if kind == "WordPiece" else f"in JavaScript the places of WordPiece's tokens alone are known, and this tokenizer is {kind}."


def bundle_code() -> list[Path]:
    """bundle.mjs and what it imports, shared with the apps."""
    return [app_folder("web") / name for name in SHARED]


def web_packages(runtime: str = "onnxruntime") -> list[npm.Package]:
    """What the page needs: the packages of the web app."""
    wanted = tomllib.loads((app_folder("web") / "app.toml").read_text(encoding="utf-8"))["npm"]
    return npm.packages(wanted, FORMATS[runtime])


def identity(packages: list[npm.Package]) -> str:
    """Digest of all that makes a runner."""
    files = sorted([*FOLDER.glob("*.mjs"), *FOLDER.glob("*.html"), *bundle_code()])
    return hashlib.sha256(" ".join([*(package.sha256 for package in packages), *map(file_digest, files)]).encode()).hexdigest()


def page_files(runtime: str = "onnxruntime") -> dict[str, str]:
    """What the page's server serves: path → file. The packages are fetched when they are not there."""
    files = {f"/{file.name}": file for file in FOLDER.glob("*.mjs")}
    files |= {"/": FOLDER / "page.html", **{f"/{file.name}": file for file in bundle_code()}}
    for package in web_packages(runtime):
        for name in package.files:
            place = npm.kept(package) / name
            inside = [file for file in place.rglob("*") if file.is_file()] if place.is_dir() else [place]
            files |= {f"/vendor/{file.relative_to(place.parent).as_posix()}": file for file in inside}
    return {path: str(file) for path, file in files.items()}


def node_packages(runtime: str = "onnxruntime") -> list[npm.Package]:
    """What the runner in Node needs."""
    engine = [ONNXRUNTIME_NODE, ONNXRUNTIME_COMMON] if runtime == "onnxruntime" else [LLAMA_NODE]
    return [*engine, next(package for package in web_packages(runtime) if "tokenizers" in package.spec)]


def node_modules(runtime: str = "onnxruntime") -> Path:
    """A node_modules folder with what runs models and the tokenizers, beside the runner's files: Node looks for modules from where a file is."""
    wanted = node_packages(runtime)
    place = home() / "npm" / f"node-{identity(wanted)[:16]}"
    if not place.is_dir():
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent, prefix=".node-") as scratch:
            draft = Path(scratch) / "content"
            for package in wanted:
                link = draft / "node_modules" / package.spec.rpartition("@")[0]
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(npm.kept(package).resolve())
            for file in (*FOLDER.glob("*.mjs"), *bundle_code()):
                (draft / file.name).write_bytes(file.read_bytes())
            if not place.is_dir():
                draft.replace(place)
    return place / "node_modules"
