"""Files out of npm packages: fetched with npm, which knows the user's registry and proxy, checked against a digest, unpacked and never run."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

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


def vendor(package: Package, out: Path) -> None:
    """The wanted files, flat in `out`. They are kept under the home, so that they are fetched once."""
    place = home() / "npm" / package.sha256[:16]
    if not place.is_dir():
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent, prefix=".fetch-") as scratch:
            unpack(fetch(package.spec, package.sha256, Path(scratch)), Path(scratch) / "content")
            if not place.is_dir():
                (Path(scratch) / "content").replace(place)
    out.mkdir(parents=True, exist_ok=True)
    for name in package.files:
        shutil.copyfile(place / name, out / PurePosixPath(name).name)


def unpack(archive: Path, out: Path, inside: str = "") -> None:
    """The plain files of an npm archive whose path holds `inside`; no link, and nothing that leads outside."""
    with tarfile.open(archive) as package:
        for member in package:
            name = PurePosixPath(*PurePosixPath(member.name).parts[1:])
            if not member.isfile() or ".." in name.parts or name.is_absolute() or inside not in member.name:
                continue
            if content := package.extractfile(member):
                (out / name).parent.mkdir(parents=True, exist_ok=True)
                (out / name).write_bytes(content.read())
