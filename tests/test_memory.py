"""Memory that a stage frees: at hand while it runs, given back when it ends."""

from __future__ import annotations

import platform
import resource
import subprocess
import sys

import pytest

from edgedistill import memory

MB = 1_000_000
ONE_AFTER_THE_OTHER = """
import resource
from edgedistill import memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        b"x" * 64_000_000  # numpy would ask for huge pages
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

usual = faults()
with memory.held():
    faults()
    held, inside = faults(), resident()
print(usual, held, inside, resident(), faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="no glibc here")
def test_freed_memory_is_used_again_and_given_back() -> None:
    """Blocks that the system clears anew each time; and a stage whose memory stays with the process for good."""
    said = subprocess.run([sys.executable, "-c", ONE_AFTER_THE_OTHER], capture_output=True, text=True, check=True).stdout
    usual, held, inside, outside, again = map(int, said.split())
    pages = 64 * MB // resource.getpagesize()
    assert usual > 9 * pages, "the premise: a large block is cleared each time"
    assert held < pages / 10
    assert inside - outside > 60 * MB
    assert again > 9 * pages


def test_nothing_happens_without_glibc(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stage that stops on macOS or Alpine."""

    def missing(name: str) -> None:
        raise OSError(f"{name}: no such file")

    monkeypatch.setattr("ctypes.CDLL", missing)
    entered = False
    with memory.held():
        entered = True
    assert entered
