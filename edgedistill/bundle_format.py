"""The bundle: a folder that a device needs and nothing more. Its manifest, golden vectors and the checks on both.

Standard library only: the sample apps and `verify` read bundles where neither torch nor pydantic is installed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from edgedistill.digests import file_digest
from edgedistill.errors import BundleError

FORMAT_VERSION = 1
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Manifest:
    """What a bundle says of itself.

    labels: the model's outputs, in order. settings: what else the task's post-processing needs (tasks/), nothing for plain classification.
    files: path inside the bundle → SHA-256, every file but the manifest. logit_bound: how far the logits on another processor may lie from
    the golden ones. lineage: from which data, teacher and terms the model came.
    """

    name: str
    task: str
    labels: list[str]
    format: str
    model: str
    tokenizer: str
    max_tokens: int
    scheme: str
    runtime: str
    threads: int
    target: dict[str, Any]
    files: dict[str, str]
    logit_bound: float
    measured: dict[str, Any]
    versions: dict[str, str]
    lineage: dict[str, Any]
    format_version: int = FORMAT_VERSION
    extra: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)

    def task_settings(self) -> dict[str, Any]:
        """The task's settings as `answer` takes them."""
        return {"labels": self.labels, **self.settings}


@dataclass(frozen=True)
class Golden:
    """One golden vector: a text, the token ids it must give, the logits ([outputs] or [tokens, outputs]) and the answer.

    answer: JSON, as the task's `answer` gives it; None where close logits are all there is to ask (numbers, and near ties, which rounding decides).
    written: of an answer that is written, its tokens; logits are the log-probability of each, told what stands before it, and likeliest the token that
    comes first there without the grammar.
    """

    text: str
    ids: list[int]
    logits: list[Any]
    answer: Any
    written: list[int] = field(default_factory=list)
    likeliest: list[int] = field(default_factory=list)


def read_bundle(folder: Path) -> Manifest:
    """Read and check a bundle: every file is there, inside the folder, and has its digest.

    Raises BundleError that names the first file that is not as the manifest says.
    """
    manifest = read_manifest(folder)
    for name, digest in manifest.files.items():
        file = _inside(folder, name)
        if not file.is_file():
            raise BundleError(f'the bundle lacks its file "{name}".', where=str(folder), write="Copy the whole folder again.")
        found = file_digest(file)
        if found != digest:
            raise BundleError(
                f'"{name}" was changed after the bundle was made: SHA-256 {found[:16]}…, the manifest says {digest[:16]}….',
                where=str(folder),
                write="Copy the bundle again, or compile it anew.",
            )
    for needed in (manifest.model, manifest.tokenizer, "golden.jsonl"):
        if needed not in manifest.files:
            raise BundleError(
                f'the manifest gives no digest for "{needed}".', where=str(folder / MANIFEST), write="Compile the bundle anew."
            )
    return manifest


def read_manifest(folder: Path) -> Manifest:
    """The manifest alone, its form checked but no digest."""
    path = folder / MANIFEST
    if not path.is_file():
        raise BundleError("this is no bundle: it has no manifest.json.", where=str(folder), write="Give the folder that compile wrote.")
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        version = facts.get("format_version")
        if version != FORMAT_VERSION:
            raise BundleError(
                f"the bundle has format version {version}, this edgedistill reads {FORMAT_VERSION}.",
                where=str(path),
                write="Use the edgedistill that made it, or compile it anew.",
            )
        manifest = Manifest(**facts)
    except (json.JSONDecodeError, UnicodeDecodeError, TypeError, AttributeError) as problem:
        raise BundleError(f"the manifest cannot be read: {problem}.", where=str(path), write="Copy the bundle again.") from None
    for name in (*manifest.files, manifest.model, manifest.tokenizer):
        _inside(folder, name)
    return manifest


def _inside(folder: Path, name: str) -> Path:
    """The file `name` of the bundle. Raises BundleError when the name leads outside, links included."""
    path = PurePosixPath(name)
    file = folder / path
    if path.is_absolute() or ".." in path.parts or "\\" in name or not file.resolve().is_relative_to(folder.resolve()):
        raise BundleError(
            f'the manifest names "{name}", which lies outside the bundle.', where=str(folder), write="Do not use this bundle."
        )
    return file


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write manifest.json. It is written last, so its existence means that the bundle is complete."""
    (folder / MANIFEST).write_text(json.dumps(asdict(manifest), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def digests(folder: Path) -> dict[str, str]:
    """Path → SHA-256 of every file of a bundle but its manifest."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.name != MANIFEST)
    return {file.relative_to(folder).as_posix(): file_digest(file) for file in files}


def write_golden(path: Path, vectors: list[Golden]) -> None:
    """golden.jsonl: one vector a line, ASCII only, so that no editor or transfer can change a combining accent or a line separator."""
    lines = ({name: value for name, value in asdict(vector).items() if value or name not in ("written", "likeliest")} for vector in vectors)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="ascii")


def read_golden(path: Path) -> Iterator[Golden]:
    """The golden vectors of a bundle."""
    with path.open(encoding="ascii") as lines:
        for number, line in enumerate(lines, 1):
            try:
                yield Golden(**json.loads(line))
            except (json.JSONDecodeError, TypeError) as problem:
                raise BundleError(
                    f"line {number} is no golden vector: {problem}.", where=str(path), write="Copy the bundle again."
                ) from None
