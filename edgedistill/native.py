"""The C++ runner, built for a processor: the source of sample_apps/embedded_linux with ONNX Runtime's own library for it.

Built when it is first needed and kept under the home (`native/`), which is safe to delete. Nothing that is fetched is run here; each download has
its digest below. Headers and library may be of different releases: ONNX Runtime's C API only grows, and the headers are the older ones.
"""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgedistill import npm
from edgedistill.digests import file_digest
from edgedistill.errors import StageError, TargetError, nearest
from edgedistill.sources import home

# In a checkout the apps stand beside the package; an installed package carries them inside.
_APPS = (Path(__file__).parent.parent / "sample_apps", Path(__file__).parent / "app_files")

ONNXRUNTIME = "1.32.0"
LIBRARY = f"libonnxruntime.so.{ONNXRUNTIME}"
# An npm package of ONNX Runtime's builds for Unity (MIT): the only place in a registry that has its C and C++ headers.
HEADERS = ("com.github.asus4.onnxruntime@0.4.9", "e59788788818fdde1b2e522e766a21ba0f7d8391de55737abf81e32cc801785d")
HEADER_FOLDER = "ios-arm64_x86_64-simulator/onnxruntime.framework/Headers"  # they are the same for all platforms
JSON = ("nlohmann-json==3.12.0", "any", "nlohmann_json/include/")


@dataclass(frozen=True)
class Machine:
    """A processor family. wheel: of ONNX Runtime, whose library we take; compiler: what must be there, and the Debian package that has it."""

    wheel_platform: str
    wheel_digest: str
    compiler: str
    package: str
    toolchain: str | None = None


MACHINES = {
    "aarch64": Machine(
        "manylinux_2_28_aarch64",
        "2303372a85299b6757b0e11e1cbf13e410ddf7e10c37f4b37e99d1c90e7daf7c",
        "aarch64-linux-gnu-g++",
        "g++-aarch64-linux-gnu",
        "toolchain-aarch64.cmake",
    ),
    "x86_64": Machine("manylinux_2_28_x86_64", "5a34fc4dfeb5a7b4a74c95dcba1e773d722abda720b474edf1b0c419dc6d163d", "g++", "g++"),
}
# What the runner and ONNX Runtime need of the system, the loader first: for systems that have another C library (Android).
C_LIBRARIES = ("libc.so.6", "libm.so.6", "libdl.so.2", "librt.so.1", "libpthread.so.0", "libstdc++.so.6", "libgcc_s.so.1")
LOADERS = {"aarch64": "ld-linux-aarch64.so.1", "x86_64": "ld-linux-x86-64.so.2"}
TASKS = frozenset({"classify", "multi_label", "score", "embed"})  # that the runner answers
JSON_DIGEST = "5f6132720fb25d0d70bf0742f8397b49a540dcc193e7312a914f6aa49f054810"


def app_folders() -> list[Path]:
    """Where sample apps are."""
    return [folder for folder in _APPS if folder.is_dir()]


def app_folder(name: str) -> Path:
    """The files of a sample app."""
    return next(folder / name for folder in app_folders() if (folder / name).is_dir())


def known(machine: str) -> str:
    """A processor family for which there is a runner. Raises TargetError with the nearest name for another."""
    if machine not in MACHINES:
        raise TargetError(f'there is no runner for "{machine}".', where="target: link.machine", write=nearest(machine, MACHINES))
    return machine


def lacking(machine: str) -> str | None:
    """None when the runner is built or can be, else what to install."""
    if built(machine).is_dir():
        return None
    wanted = {MACHINES[machine].compiler: MACHINES[machine].package, "cmake": "cmake", "npm": "npm"}
    missing = [package for command, package in wanted.items() if shutil.which(command) is None]
    return f"the C++ runner cannot be built here. Run: sudo apt-get install {' '.join(missing)}" if missing else None


def refuses(task: str, tokenizer: Path) -> str | None:
    """Why the C++ runner cannot answer a task with a tokenizer.json; None when it can."""
    if task not in TASKS:
        return f'the C++ runner has no answer to the task "{task}" yet.'
    kind = json.loads(tokenizer.read_text(encoding="utf-8"))["model"].get("type") if tokenizer.is_file() else "WordPiece"
    return None if kind == "WordPiece" else f"the C++ runner cuts texts by WordPiece, and this model's tokenizer is {kind}."


def identity(machine: str) -> str:
    """Digest of all that makes the runner: the source, ONNX Runtime, the processor."""
    source = app_folder("embedded_linux")
    files = sorted(file for pattern in ("*.cpp", "*.hpp", "*.cmake", "CMakeLists.txt") for file in source.glob(pattern))
    facts = [machine, MACHINES[machine].wheel_digest, HEADERS[1], JSON_DIGEST, *(file_digest(file) for file in files)]
    return hashlib.sha256(" ".join(facts).encode()).hexdigest()


def built(machine: str) -> Path:
    """Where the runner for a processor is, or will be: a folder with `runner`, `edge` and ONNX Runtime's library."""
    return home() / "native" / f"{machine}-{identity(machine)[:16]}"


def build(machine: str) -> Path:
    """The folder of the runner, built when it is not there. Raises StageError with what is missing or what the compiler said."""
    from filelock import FileLock

    place = built(machine)
    if place.is_dir():
        return place
    if missing := lacking(machine):
        raise StageError(missing)
    place.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(place.with_suffix(".lock")):
        if place.is_dir():  # another process was faster
            return place
        with tempfile.TemporaryDirectory(dir=place.parent, prefix=".build-") as scratch:
            draft = Path(scratch)
            runtime = onnxruntime_folder(machine, draft / "onnxruntime")
            options = [f"-DONNXRUNTIME={runtime}", f"-DJSON={json_folder(draft / 'json')}"]
            if toolchain := MACHINES[machine].toolchain:
                options.append(f"-DCMAKE_TOOLCHAIN_FILE={toolchain}")
            _run(["cmake", "-S", str(app_folder("embedded_linux")), "-B", str(draft / "build"), *options])
            _run(["cmake", "--build", str(draft / "build"), "--parallel", "2"])
            done = draft / "done"
            done.mkdir()
            for program in ("runner", "edge"):
                shutil.copy2(draft / "build" / program, done / program)
            shutil.copy2(runtime / "lib" / LIBRARY, done / "libonnxruntime.so.1")
            done.replace(place)  # last: its existence means that it is whole
    return place


def c_libraries(machine: str) -> list[Path]:
    """The loader and the C library that the runner was built with, as files of this machine. Raises StageError when the compiler has none."""
    names = (LOADERS[machine], *C_LIBRARIES)
    ask = [MACHINES[machine].compiler, *(f"-print-file-name={name}" for name in names)]
    if shutil.which(ask[0]) is None:
        raise StageError(f"{ask[0]} is missing. Run: sudo apt-get install {MACHINES[machine].package}")
    found = [Path(subprocess.run([ask[0], option], capture_output=True, text=True, check=True).stdout.strip()) for option in ask[1:]]
    if missing := [path.name for path in found if not path.is_file()]:
        raise StageError(f"{ask[0]} has no {missing[0]}.", write=f"Run: sudo apt-get install {MACHINES[machine].package}")
    return found


def counting_plugin() -> Path:
    """The plugin by which qemu counts instructions, built when it is not there. Raises StageError without a C compiler."""
    source = Path(__file__).parent / "count_instructions.c"
    place = home() / "native" / f"count-{file_digest(source)[:16]}.so"
    if not place.is_file():
        compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
        if compiler is None:
            raise StageError("a C compiler is missing. Run: sudo apt-get install gcc")
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent, prefix=".count-") as scratch:
            _run([compiler, "-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-o", f"{scratch}/count.so", str(source)])
            Path(scratch, "count.so").replace(place)
    return place


def onnxruntime_folder(machine: str, out: Path) -> Path:
    """ONNX Runtime as CMake wants it: `include/` and `lib/`."""
    about = MACHINES[machine]
    (out / "lib").mkdir(parents=True)
    with zipfile.ZipFile(_wheel(f"onnxruntime=={ONNXRUNTIME}", about.wheel_platform, about.wheel_digest)) as wheel:
        (out / "lib" / LIBRARY).write_bytes(wheel.read(f"onnxruntime/capi/{LIBRARY}"))
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (out / "lib" / name).symlink_to(LIBRARY)
    shutil.copytree(_headers(), out / "include")
    return out


def json_folder(out: Path) -> Path:
    """nlohmann/json.hpp and what it includes, in `out`."""
    spec, system, inside = JSON
    with zipfile.ZipFile(_wheel(spec, system, JSON_DIGEST)) as wheel:
        for name in wheel.namelist():
            if name.startswith(inside) and name.endswith(".hpp"):
                file = out / name.removeprefix(inside)
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(wheel.read(name))
    return out


def _headers() -> Path:
    """ONNX Runtime's headers, kept: their package is 150 MB, of which they are one."""
    place = home() / "native" / f"headers-{HEADERS[1][:16]}"
    if place.is_dir():
        return place
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=".headers-") as scratch:
        draft = Path(scratch) / "content"
        npm.unpack(npm.fetch(*HEADERS, Path(scratch)), draft, inside=(HEADER_FOLDER,))
        if not place.is_dir():
            next(draft.rglob("onnxruntime_c_api.h")).parent.replace(place)
    return place


def _wheel(spec: str, system: str, digest: str) -> Path:
    """One wheel for another machine, kept. pip knows the user's index, proxy and certificates."""
    place = home() / "native" / "wheels" / f"{digest}.whl"
    if not place.is_file():
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent, prefix=".fetch-") as scratch:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
            command += ["--only-binary=:all:", "--platform", system, "--python-version", "3.11", "--dest", scratch, spec]
            _run(command)
            _checked(next(Path(scratch).glob("*.whl")), spec, digest).replace(place)
    return place


def _checked(file: Path, spec: str, digest: str) -> Path:
    found = file_digest(file)
    if found != digest:
        raise StageError(f"{spec} is not what it was: SHA-256 {found[:16]}…, wanted {digest[:16]}….", write="Do not use it.")
    return file


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = [line for line in (done.stderr + done.stdout).splitlines() if "rror" in line] or (done.stderr or "no message").splitlines()
        raise StageError(f"the C++ runner cannot be built: {' '.join(command[:2])} … said: {said[0].strip()[:300]}")


def this_machine() -> str:
    """The name of this processor's family."""
    return platform.machine()
