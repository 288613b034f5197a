"""The C++ runner, built for a processor: the source of sample_apps/embedded_linux with ONNX Runtime's own library for it, or that of
sample_apps/embedded_linux_gguf with llama.cpp.

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

from edgedistill import llama_build, llama_native, npm
from edgedistill.digests import file_digest
from edgedistill.errors import StageError, TargetError, nearest
from edgedistill.sources import home

# In a checkout the apps stand beside the package; an installed package carries them inside.
_APPS = (Path(__file__).parent.parent / "sample_apps", Path(__file__).parent / "app_files")

ONNXRUNTIME = "1.32.0"
PROGRAMS = ("runner", "edge")
LIBRARY = f"libonnxruntime.so.{ONNXRUNTIME}"
# An npm package of ONNX Runtime's builds for Unity (MIT): the only place in a registry that has its C and C++ headers.
HEADERS = ("com.github.asus4.onnxruntime@0.4.9", "e59788788818fdde1b2e522e766a21ba0f7d8391de55737abf81e32cc801785d")
HEADER_FOLDER = "ios-arm64_x86_64-simulator/onnxruntime.framework/Headers"  # they are the same for all platforms
JSON = ("nlohmann-json==3.12.0", "any", "nlohmann_json/include/")


@dataclass(frozen=True)
class Machine:
    """A processor family. compiler: what must be there, and the Debian package that has it. wheel: of ONNX Runtime, whose library we take; none where
    there is none. toolchain: CMake's file, in one of the apps."""

    compiler: str
    package: str
    wheel_platform: str | None = None
    wheel_digest: str = ""
    toolchain: str | None = None


MACHINES = {
    "aarch64": Machine(
        "aarch64-linux-gnu-g++",
        "g++-aarch64-linux-gnu",
        "manylinux_2_28_aarch64",
        "2303372a85299b6757b0e11e1cbf13e410ddf7e10c37f4b37e99d1c90e7daf7c",
        "embedded_linux/toolchain-aarch64.cmake",
    ),
    "armv7": Machine("arm-linux-gnueabihf-g++", "g++-arm-linux-gnueabihf", toolchain="embedded_linux_gguf/toolchain-armv7.cmake"),
    "x86_64": Machine("g++", "g++", "manylinux_2_28_x86_64", "5a34fc4dfeb5a7b4a74c95dcba1e773d722abda720b474edf1b0c419dc6d163d"),
}
APPS = {"onnxruntime": "embedded_linux", "llama_cpp": "embedded_linux_gguf"}  # runtime → the app whose source its runner is
# What the runner and ONNX Runtime need of the system, the loader first: for systems that have another C library (Android).
C_LIBRARIES = ("libc.so.6", "libm.so.6", "libdl.so.2", "librt.so.1", "libpthread.so.0", "libstdc++.so.6", "libgcc_s.so.1")
LOADERS = {"aarch64": "ld-linux-aarch64.so.1", "armv7": "ld-linux-armhf.so.3", "x86_64": "ld-linux-x86-64.so.2"}
# What a runtime's runner answers.
TASKS = {
    "onnxruntime": frozenset({"classify", "multi_label", "score", "embed", "tag"}),
    "llama_cpp": frozenset({"classify", "multi_label", "score", "embed", "generate"}),
}
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


def lacking(machine: str, runtime: str | None = None) -> str | None:
    """None when the runner is built or can be, else what to install. runtime: of the runner; without one, of any."""
    if any(built(machine, name).is_dir() for name in ([runtime] if runtime else APPS) if runs(machine, name) is None):
        return None
    wanted = {MACHINES[machine].compiler: MACHINES[machine].package, "cmake": "cmake", "npm": "npm"}
    missing = [package for command, package in wanted.items() if shutil.which(command) is None]
    return f"the C++ runner cannot be built here. Run: sudo apt-get install {' '.join(missing)}" if missing else None


def runs(machine: str, runtime: str) -> str | None:
    """Why a processor family cannot have a runner of a runtime; None when it can."""
    if runtime not in APPS:
        return f"there is no C++ runner of {runtime}; there is of {' and '.join(APPS)}."
    if runtime == "onnxruntime" and not MACHINES[machine].wheel_platform:
        return f"there is no ONNX Runtime for {machine}; take a target whose runtime is llama_cpp."
    return None


def refuses(task: str, tokenizer: Path, runtime: str = "onnxruntime") -> str | None:
    """Why the C++ runner cannot answer a task with a tokenizer.json; None when it can."""
    if task not in TASKS.get(runtime, ()):
        return f'the C++ runner of {runtime} has no answer to the task "{task}" yet.'
    if task == "generate" or not tokenizer.is_file():  # decoders are cut by llama.cpp, and their exporter knows what that reads
        return None
    kind = json.loads(tokenizer.read_text(encoding="utf-8"))["model"].get("type")
    return None if kind == "WordPiece" else f"the C++ runner cuts texts by WordPiece, and this model's tokenizer is {kind}."


def identity(machine: str, runtime: str = "onnxruntime") -> str:
    """Digest of all that makes the runner: the source, the library that runs models, the processor."""
    folders = {app_folder("embedded_linux"), app_folder(APPS[runtime])}
    files = sorted(
        file for folder in folders for pattern in ("*.cpp", "*.hpp", "*.cmake", "CMakeLists.txt") for file in folder.glob(pattern)
    )
    library = [MACHINES[machine].wheel_digest, HEADERS[1]] if runtime == "onnxruntime" else [_llama_digest(machine)]
    facts = [machine, runtime, *library, JSON_DIGEST, *(file_digest(file) for file in files)]
    return hashlib.sha256(" ".join(facts).encode()).hexdigest()


def _llama_digest(machine: str) -> str:
    here = machine == this_machine() and llama_build.kind() not in ("missing", "crashing")
    return llama_native.installed_digest() if here else llama_build.SHA256


def built(machine: str, runtime: str = "onnxruntime") -> Path:
    """Where the runner for a processor is, or will be: a folder with `runner`, `edge` and the libraries that they need beside them."""
    return home() / "native" / f"{machine}-{identity(machine, runtime)[:16]}"


def build(machine: str, runtime: str = "onnxruntime") -> Path:
    """The folder of the runner, built when it is not there.

    Raises TargetError for a processor that the runtime has no library for, StageError with what is missing or what the compiler said.
    """
    from filelock import FileLock

    if why := runs(machine, runtime):
        raise TargetError(why, where="target: runtime")
    place = built(machine, runtime)
    if place.is_dir():
        return place
    if missing := lacking(machine, runtime):
        raise StageError(missing)
    place.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(place.with_suffix(".lock")):
        if place.is_dir():  # another process was faster
            return place
        with tempfile.TemporaryDirectory(dir=place.parent, prefix=".build-") as scratch:
            draft = Path(scratch)
            app, options = app_folder(APPS[runtime]), [f"-DJSON={json_folder(draft / 'json')}"]
            if toolchain := _toolchain(machine):
                options.append(f"-DCMAKE_TOOLCHAIN_FILE={toolchain}")
            if runtime == "onnxruntime":
                library = onnxruntime_folder(machine, draft / "onnxruntime")
                options.append(f"-DONNXRUNTIME={library}")
                beside = {"libonnxruntime.so.1": library / "lib" / LIBRARY}
            else:
                options.append(f"-DSHARED={app_folder('embedded_linux')}")
                library = _llama(machine, app, options, draft / "llama")
                options.append(f"-DLLAMA_BUILT={library}")
                beside = {file.name: file for file in (library / "lib").glob("*.so*")}
            _run(["cmake", "-S", str(app), "-B", str(draft / "build"), *options])
            _run(["cmake", "--build", str(draft / "build"), "--target", *PROGRAMS, "--parallel", "2"])
            done = draft / "done"
            done.mkdir()
            for program in PROGRAMS:
                shutil.copy2(draft / "build" / program, done / program)
            for name, file in beside.items():
                shutil.copy2(file, done / name)
            done.replace(place)  # last: its existence means that it is whole
    return place


def _llama(machine: str, app: Path, options: Sequence[str], draft: Path) -> Path:
    """`include/` and `lib/` of llama.cpp: of this machine those of our wheel, whose threads are OpenMP's; of others a static library."""
    toolchain = _toolchain(machine)
    if machine != this_machine() and toolchain:
        return llama_native.static(machine, app, toolchain, options, _run)
    folder = llama_native.installed(draft)
    openmp = Path(_said([MACHINES[machine].compiler, "-print-file-name=libgomp.so.1"]))
    if openmp.is_file():
        shutil.copyfile(openmp, folder / "lib" / openmp.name)
    return folder


def _toolchain(machine: str) -> Path | None:
    """CMake's toolchain file for a processor, where one is needed."""
    app, _, name = (MACHINES[machine].toolchain or "").partition("/")
    return app_folder(app) / name if app else None


def shipped(machine: str, runtime: str) -> dict[str, Path]:
    """What a device needs of the runner: name → file."""
    folder = build(machine, runtime)
    return {file.name: file for file in (folder / "runner", *folder.glob("*.so*"))}


def c_libraries(machine: str) -> list[Path]:
    """The loader and the C library that the runner was built with, as files of this machine. Raises StageError when the compiler has none."""
    names = (LOADERS[machine], *C_LIBRARIES)
    ask = [MACHINES[machine].compiler, *(f"-print-file-name={name}" for name in names)]
    if shutil.which(ask[0]) is None:
        raise StageError(f"{ask[0]} is missing. Run: sudo apt-get install {MACHINES[machine].package}")
    found = [Path(_said([ask[0], option])) for option in ask[1:]]
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
    assert about.wheel_platform  # `runs` was asked
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


def _said(command: Sequence[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def this_machine() -> str:
    """The name of this processor's family."""
    return platform.machine()
