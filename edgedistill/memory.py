"""What a stage frees stays at hand until it ends.

glibc gives every block of more than 32 MB back to the system when it is freed. A step of training makes and frees dozens of them, such as the logits of
a vocabulary, and the system clears each page anew: a tenth of a decoder's step (tests/benchmarks/memory.py). Parameters: mallopt(3).
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator

TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4  # malloc.h
# What glibc comes to by itself where large blocks are freed; once told anything, it adjusts nothing any more.
USUAL = {TRIM_THRESHOLD: 64 << 20, MMAP_THRESHOLD: 32 << 20, MMAP_MAX: 65_536}
HELD = {TRIM_THRESHOLD: 2**31 - 1, MMAP_MAX: 0}


@contextlib.contextmanager
def held() -> Iterator[None]:
    """Freed memory is used again instead of given back, and all of it is given back at the end. Without glibc (musl, macOS, Windows) nothing happens."""
    library = _glibc()
    if library is None:
        yield
        return
    for name, value in HELD.items():
        library.mallopt(name, value)
    try:
        yield
    finally:
        for name, value in USUAL.items():
            library.mallopt(name, value)
        library.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL("libc.so.6")
        return library if all(hasattr(library, name) for name in ("gnu_get_libc_version", "mallopt", "malloc_trim")) else None
    except OSError:
        return None
