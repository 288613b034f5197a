"""What a device gives the process that answers, held for real where we run for it: memory, cores and processor time. Linux alone can.

    [limits]
    memory_mb = 64       # data of the process: heap, stacks, everything it may write to (RLIMIT_DATA); file-backed code is not counted
    cores     = 1        # it runs on so many of this machine's cores
    cpu_quota = 0.5      # and gets so many cores' worth of time, in slices of 10 ms (a cgroup)
    flash_mb  = 1        # of a board without a system: code and tables; memory_mb is its RAM then, and the linker holds both

A binary that passes on the host and has no room on the device is found here.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from pathlib import Path

from pydantic import Field

from edgedistill.errors import StageError
from edgedistill.settings import Section

PERIOD_US = 10_000
CGROUPS = Path("/sys/fs/cgroup")
# What a program says, or how it ends, when it gets no memory.
SIGNS = (
    *("bad_alloc", "bad allocation", "MemoryError", "llocate memory", "emory allocation", "failed to allocate", "ailed to map"),
    *("out of memory", "SIGKILL", "SIGSEGV", "SIGABRT"),
)


class Limits(Section):
    """`[limits]`: what the device gives the process that answers. One left out is not held."""

    memory_mb: float | None = Field(None, gt=0, description="data memory of the process that answers, megabytes (10^6 bytes)")
    cores: int | None = Field(None, ge=1, le=1024, description="processor cores that it may run on")
    cpu_quota: float | None = Field(None, gt=0, le=1024, description="processor time that it gets, in cores: 0.5 is half of one")
    flash_mb: float | None = Field(None, gt=0, description="of a board without a system: flash for code and tables, megabytes (10^6 bytes)")

    @property
    def any(self) -> bool:
        return bool(self.model_dump(exclude_none=True))


NONE = Limits()
OF_A_PROCESS = frozenset({"memory_mb", "cores", "cpu_quota"})  # that a system can hold a process to
OF_A_BOARD = frozenset({"memory_mb", "flash_mb"})  # that a linker can hold a program to


def hold(pid: int, limits: Limits, own_bytes: int = 0) -> Path | None:
    """Hold a process that has just been started to `limits`. own_bytes: of an emulator around it, which the device does not have.

    Gives the cgroup's folder, to be removed by `release` when the process is gone. Raises StageError where this machine cannot.
    """
    if not limits.any:
        return None
    if not sys.platform.startswith("linux"):
        raise StageError("limits of a target can be held on Linux alone.", where="target: limits")
    import resource

    if limits.memory_mb is not None:
        size = own_bytes + int(limits.memory_mb * 1e6)
        resource.prlimit(pid, resource.RLIMIT_DATA, (size, size))
    if limits.cores is not None:
        os.sched_setaffinity(pid, sorted(os.sched_getaffinity(0))[: limits.cores])
    return _quota(pid, limits.cpu_quota) if limits.cpu_quota is not None else None


def release(group: Path | None) -> None:
    """Remove what `hold` made."""
    if group is not None:
        with contextlib.suppress(OSError):  # gone already, or the process is still on its way out
            group.rmdir()


def ran_out(limits: Limits, said: str) -> bool:
    """Whether a process that is held to a memory limit ended for want of memory, by what it said or how it ended."""
    return limits.memory_mb is not None and any(sign in said for sign in SIGNS)


def settled_bytes(pid: int, seconds: float = 60) -> int:
    """Data memory of a process once it waits for its input: bytes. What an emulator and an idle runner take."""
    before: tuple[str, ...] = ()
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
        spent = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[11]  # its processor time
        now = (status["State"].split()[0], status.get("VmData", ""), spent)
        if now == before and now[0] == "S":
            return int(now[1].split()[0]) * 1024
        before = now
        time.sleep(0.2)
    raise StageError("the emulator does not come to rest.")


def shell(limits: Limits) -> str:
    """The same limits in a shell's words, for a machine at the end of a link. Raises StageError for a quota, which needs a cgroup there."""
    if limits.cpu_quota is not None:
        raise StageError("a processor quota is held on this machine alone.", where="target: limits.cpu_quota", write="Leave it out.")
    memory = f"ulimit -d {int(limits.memory_mb * 1e6) // 1024} && " if limits.memory_mb is not None else ""
    cores = f"taskset {(1 << limits.cores) - 1:x} " if limits.cores is not None else ""  # a mask: toybox knows nothing else
    return f"{memory}exec {cores}"


def _quota(pid: int, cores: float) -> Path:
    """A cgroup with the process in it: version 1 where there is a `cpu` hierarchy, else version 2."""
    quota = int(cores * PERIOD_US)
    old = CGROUPS / "cpu"
    group = (old if old.is_dir() else CGROUPS) / f"edgedistill-{pid}"
    try:
        group.mkdir()
        if group.parent == old:
            (group / "cpu.cfs_period_us").write_text(str(PERIOD_US))
            (group / "cpu.cfs_quota_us").write_text(str(max(quota, 1000)))
        else:
            (group / "cpu.max").write_text(f"{max(quota, 1000)} {PERIOD_US}")
        (group / "cgroup.procs").write_text(str(pid))
    except OSError as problem:
        release(group)
        raise StageError(
            f"no cgroup can be made here ({problem.strerror}), and limits.cpu_quota needs one.",
            where="target: limits.cpu_quota",
            write="Leave it out, or run as root.",
        ) from None
    return group
