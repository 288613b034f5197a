"""Stage, Artifact, Store: the content-addressed cache that every stage's result lives in.

A result stands under a key made of the stage's name and version, its params, the keys of its inputs and the versions of the packages that
can change its bytes. It is written in a draft folder and renamed into place last, so its existence means that it is complete. The draft's
name is the key too, so a killed stage finds its own checkpoints again; a file lock on the draft lets two builders race: the second waits and
then finds the first one's result.

A result that does not stand for good, as figures of a machine whose clock drifted, serves the build that made it, under a key of its own, so
that what is made of it is no later build's either: the next build makes it again.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, is_dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

from edgedistill import memory
from edgedistill.digests import canonical, file_digest
from edgedistill.errors import EdgedistillError, StageError, StoreError

RECORD = "artifact.json"


class Keyed(Protocol):
    """What a stage can read: something with a path and a key that names its content."""

    @property
    def path(self) -> Path: ...

    @property
    def key(self) -> str: ...


@dataclass(frozen=True)
class Stage:
    """A function `run(out, params, **inputs)` with the facts that make its key.

    version: raised by hand whenever the same params and inputs would give other bytes. packages: whose versions change the result.
    stands: whether what `run` wrote in a folder is found again by later builds; all of it is where nothing is said.
    grows: an input that is a set of texts. `run` is then given `earlier` too, the folders of finished results that differ in this input alone: what
    they say of a text need not be asked again.
    """

    name: str
    version: int
    run: Callable[..., None]
    packages: tuple[str, ...] = ()
    stands: Callable[[Path], bool] = lambda folder: True
    grows: str = ""


@dataclass(frozen=True)
class Artifact:
    """A finished result in the store."""

    path: Path
    key: str
    stage: str
    seconds: float
    cached: bool


class Store:
    """The cache under one folder. Safe for several builders at once."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def key(self, stage: Stage, params: Any, inputs: Mapping[str, str]) -> str:
        """The key of what `stage` would make: SHA-256 over everything that can change its bytes, 64 hex digits."""
        return hashlib.sha256(canonical(_facts(stage, params, inputs))).hexdigest()

    def find(self, stage: Stage, key: str) -> Artifact | None:
        """The finished result under `key`, or None. Raises StoreError when it was altered after it was written."""
        path = self._place(stage, key)
        if not (path / RECORD).is_file():
            return None
        record = json.loads((path / RECORD).read_text())
        _check_untouched(path, record["files"])
        return Artifact(path, key, stage.name, record["seconds"], cached=True)

    def build(self, stage: Stage, params: Any, **inputs: Keyed) -> Artifact:
        """The result of `stage`: found when it is there, else made. Raises what the stage raises; its draft stays for the next try."""
        key = self.key(stage, params, {name: source.key for name, source in inputs.items()})
        found = self.find(stage, key)
        if found:
            return found
        from filelock import FileLock

        draft = self.root / "drafts" / f"{stage.name}-{key[:16]}"
        try:
            draft.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{draft}.lock"):
                found = self.find(stage, key)  # another builder may have finished it while we waited
                return found or self._make(stage, key, params, inputs, draft)
        except OSError as problem:
            raise _no_room(problem, stage, self.root) from problem

    def _make(self, stage: Stage, key: str, params: Any, inputs: Mapping[str, Keyed], draft: Path) -> Artifact:
        draft.mkdir(exist_ok=True)
        spent = draft / "seconds.json"  # time of earlier, killed tries, so that the record tells the whole cost
        before = json.loads(spent.read_text()) if spent.is_file() else 0.0
        start = time.monotonic()
        more = {"earlier": self._earlier(stage, params, inputs)} if stage.grows else {}
        try:
            with memory.held():
                stage.run(draft, params, **{name: source.path for name, source in inputs.items()}, **more)
        except (EdgedistillError, OSError):
            raise
        except Exception as problem:
            if "os error 28" in str(problem):  # safetensors is written in Rust and wraps the system's "no space left"
                raise OSError(errno.ENOSPC, str(problem)) from problem
            raise StageError(
                f"the stage {stage.name} failed: {type(problem).__name__}: {problem}.",
                where=str(draft),
                write="What was finished before it stays in the store; --debug shows the traceback.",
            ) from problem
        finally:
            spent.write_text(json.dumps(before + time.monotonic() - start))
        seconds = json.loads(spent.read_text())
        spent.unlink()
        shutil.rmtree(draft / "checkpoints", ignore_errors=True)  # of use only until the stage is done
        if not stage.stands(draft):
            key = hashlib.sha256(f"{key} {time.time_ns()}".encode()).hexdigest()
        record = {
            **_facts(stage, params, {name: source.key for name, source in inputs.items()}),
            "key": key,
            "seconds": round(seconds, 3),
            "files": {str(file.relative_to(draft)): _stamp(file) for file in sorted(draft.rglob("*")) if file.is_file()},
        }
        (draft / RECORD).write_text(json.dumps(record, indent=1))
        place = self._place(stage, key)
        draft.replace(place)  # last, and atomic: existence means completeness
        return Artifact(place, key, stage.name, record["seconds"], cached=False)

    def _earlier(self, stage: Stage, params: Any, inputs: Mapping[str, Keyed]) -> list[Path]:
        """Finished and untouched results that only another `stage.grows` tells from this one."""
        wanted = _facts(stage, params, {name: source.key for name, source in inputs.items() if name != stage.grows})
        found = []
        for file in sorted(self.root.glob(f"{stage.name}-*/{RECORD}")):
            record = json.loads(file.read_text())
            record["inputs"].pop(stage.grows, None)
            if all(record[name] == value for name, value in wanted.items()):
                with contextlib.suppress(StoreError):  # one that was altered is no help, and no harm either
                    _check_untouched(file.parent, record["files"])
                    found.append(file.parent)
        return found

    def _place(self, stage: Stage, key: str) -> Path:
        return self.root / f"{stage.name}-{key[:16]}"

    def typical_seconds(self, stage: Stage) -> float | None:
        """Median time of the finished results of this stage, seconds; None when it never ran here."""
        times = sorted(json.loads(file.read_text())["seconds"] for file in self.root.glob(f"{stage.name}-*/{RECORD}"))
        return times[len(times) // 2] if times else None


def _facts(stage: Stage, params: Any, inputs: Mapping[str, str]) -> dict[str, Any]:
    """Everything that can change the bytes of a result. inputs: name → key."""
    return {
        "stage": stage.name,
        "version": stage.version,
        "params": plain(params),
        "inputs": dict(sorted(inputs.items())),
        "packages": {name: _version(name) for name in sorted(stage.packages)},
    }


def plain(value: Any) -> Any:
    """Params as plain JSON values: pydantic models, dataclasses, paths and tuples become dicts, strings and lists."""
    if hasattr(value, "model_dump"):
        return plain(value.model_dump(mode="json"))
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    return str(value) if isinstance(value, Path) else value


def _stamp(file: Path) -> dict[str, Any]:
    facts = file.stat()
    return {"sha256": file_digest(file), "bytes": facts.st_size, "mtime_ns": facts.st_mtime_ns}


def _check_untouched(path: Path, files: Mapping[str, Mapping[str, Any]]) -> None:
    """A file whose size and time are as recorded is taken as untouched; any other must still have its digest."""
    for name, stamp in files.items():
        file = path / name
        if file.is_file():
            facts = file.stat()
            if (facts.st_size, facts.st_mtime_ns) == (stamp["bytes"], stamp["mtime_ns"]) or file_digest(file) == stamp["sha256"]:
                continue
        raise StoreError(
            f"this result in the store was {'altered' if file.is_file() else 'removed'} after it was written.",
            where=str(file),
            write=f"Delete the folder {path} and run again: it is made anew.",
        )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def _no_room(problem: OSError, stage: Stage, root: Path) -> EdgedistillError:
    if problem.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreError(
            f"no space is left on the disk while the stage {stage.name} was writing.",
            where=str(problem.filename or root),
            write="Free some space, or set EDGEDISTILL_HOME to a folder on a larger disk, and run again: finished stages are kept.",
        )
    return StageError(f"the stage {stage.name} failed: {problem}.", where=str(problem.filename or root))
