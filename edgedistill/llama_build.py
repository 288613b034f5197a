"""llama-cpp-python, built by us: `python -m edgedistill.llama_build` builds it once, keeps the wheel, and installs it beside edgedistill.

It comes as source alone. Its default build compiles for the very processor that it is built on; with gcc 12 on a machine with AMX such a build dies
of a segmentation fault on every quantized model. Ours names its instructions instead: x86-64-v3 (AVX2, FMA, F16C, BMI2), what every x86 laptop
since 2015 has, so that one wheel runs, and gives the same figures, on all of them. On other processors these flags mean nothing and the compiler's
plain target is taken. pip would keep its own wheel of this package and hand it out whatever flags are asked for; so ours lie in a folder of
our own, named by everything that goes into them.

The source is pinned by version and SHA-256. What a build of another make was compiled for it says itself (`llama_print_system_info`): `doctor` reads it.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from edgedistill.digests import canonical
from edgedistill.errors import MissingExtraError, StageError
from edgedistill.sources import home

VERSION = "0.3.36"
SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
FLAGS = (
    "GGML_NATIVE=OFF",
    "GGML_AVX=ON",
    "GGML_AVX2=ON",
    "GGML_FMA=ON",
    "GGML_F16C=ON",
    "GGML_BMI2=ON",
    "LLAVA_BUILD=OFF",  # pictures
)
COMMAND = "python -m edgedistill.llama_build"

# Words of llama_print_system_info that a build of ours never says.
CRASHES = "AMX_INT8 = 1"
BEYOND = ("AVX512 = 1", "AVX_VNNI = 1", CRASHES)


def wheel() -> Path:
    """Our wheel; builds it when it is not there (about ten CPU-minutes; needs cmake's build tools and a C++ compiler). Raises StageError."""
    place = folder()
    if not place.is_dir():
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent, prefix=".build-") as scratch:
            draft = Path(scratch) / "wheels"
            _build(draft, Path(scratch))
            try:
                draft.replace(place)  # last: its existence means that the build is complete
            except OSError:
                if not place.is_dir():  # another process was faster
                    raise
    return next(place.glob("*.whl"))


def folder() -> Path:
    """Where our wheel lies, by everything that goes into it."""
    facts = {"version": VERSION, "sha256": SHA256, "flags": FLAGS, "platform": os.uname().machine}
    return home() / "llama-cpp-python" / f"{VERSION}-{hashlib.sha256(canonical(facts)).hexdigest()[:16]}"


def _build(out: Path, scratch: Path) -> None:
    wanted = scratch / "requirements.txt"
    wanted.write_text(f"llama-cpp-python=={VERSION} --hash=sha256:{SHA256}\n")
    command = [sys.executable, "-m", "pip", "wheel", "--disable-pip-version-check", "--no-cache-dir", "--no-deps", "--require-hashes"]
    command += ["--no-binary", "llama-cpp-python", "--wheel-dir", str(out), "--requirement", str(wanted)]
    flags = " ".join(f"-D{flag}" for flag in FLAGS)
    jobs = os.environ.get("CMAKE_BUILD_PARALLEL_LEVEL", str(os.cpu_count() or 1))
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | {"CMAKE_ARGS": flags, "CMAKE_BUILD_PARALLEL_LEVEL": jobs}
    )
    if done.returncode or not list(out.glob("*.whl")):
        said = [line.strip() for line in (done.stdout + done.stderr).splitlines() if "error" in line.casefold()]
        raise StageError(
            f"llama-cpp-python {VERSION} could not be built: {said[0].removeprefix('ERROR: ').rstrip('.') if said else 'pip said nothing'}.",
            where=COMMAND,
            write="It needs a C++ compiler (Debian: apt-get install g++) and a package index in reach.",
        )


def install() -> str:
    """Install our wheel into this Python, unless it is what is installed. Says in one sentence what was done."""
    state = kind()
    mark = _mark()
    if state == "ours" and mark is not None and mark.read_text() == folder().name:
        return f"llama-cpp-python {VERSION} of our build is installed."
    built = wheel()
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run([*command, "--force-reinstall", "--no-deps", str(built)], capture_output=True, text=True, check=False)
    # What it needs itself; whatever of it is installed stays as it is.
    done = done if done.returncode else subprocess.run([*command, str(built)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise StageError(f"our build of llama-cpp-python could not be installed: {done.stderr.strip().splitlines()[-1]}", where=COMMAND)
    place = _place()
    assert place is not None  # it was just installed
    (place / "EDGEDISTILL").write_text(folder().name)
    return f"llama-cpp-python {VERSION} of our build was installed."


def kind() -> str:
    """Which build is installed: "missing", "ours", "another", "native" (for the processor it was built on), or "crashing"."""
    if _place() is None:
        return "missing"
    info = system_info()
    if CRASHES in info:
        return "crashing"
    if _mark() is not None:
        return "ours"
    return "native" if any(word in info for word in BEYOND) else "another"


def described() -> str:
    """One line for `doctor`."""
    found = kind()
    if found == "missing":
        return f"missing: {COMMAND} builds and installs it (ten CPU-minutes, once)"
    said = {
        "ours": "our build: x86-64-v3 and no more" if "AVX2 = 1" in system_info() else "our build",
        "another": f"not our build: its figures may differ from machine to machine; {COMMAND} installs ours",
        "native": f"built for the processor of one machine: it stops on others; {COMMAND} installs ours",
        "crashing": f"built with AMX: it crashes on every quantized model; {COMMAND} installs ours",
    }
    return f"{version('llama-cpp-python')} ({said[found]})"


def require() -> None:
    """Raises MissingExtraError when llama-cpp-python is missing or is the build that crashes. For the door of whatever runs a GGUF."""
    found = kind()
    if found == "missing":
        raise MissingExtraError(
            "the runtime llama_cpp needs the package llama-cpp-python, which is not installed.", write=f"Run: {COMMAND}"
        )
    if found == "crashing":
        raise MissingExtraError(
            "the installed llama-cpp-python was built with AMX instructions, and such a build crashes on every quantized model.",
            write=f"Run: {COMMAND}",
        )


def system_info() -> str:
    """What the installed build was compiled for, in its own words."""
    import llama_cpp

    llama_cpp.llama_backend_init()
    said: bytes = llama_cpp.llama_print_system_info()
    return said.decode()


def _place() -> Path | None:
    """The folder of the installed package's facts."""
    from importlib.metadata import distribution

    try:
        return Path(str(distribution("llama-cpp-python").locate_file(f"llama_cpp_python-{version('llama-cpp-python')}.dist-info")))
    except PackageNotFoundError:
        return None


def _mark() -> Path | None:
    """The file that says which build of ours is installed; pip removes it with the package."""
    place = _place()
    mark = place / "EDGEDISTILL" if place else None
    return mark if mark and mark.is_file() else None


if __name__ == "__main__":
    from edgedistill.errors import EdgedistillError

    try:
        sys.stdout.write(install() + "\n")
    except EdgedistillError as error:
        sys.stderr.write(error.paragraph() + "\n")
        sys.exit(error.exit_code)
