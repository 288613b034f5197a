"""What this machine is, in the words of a report."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any


def this_machine() -> dict[str, Any]:
    """Processor, cores, memory and system: part of a benchmark's key and of every report."""
    cpu, flags = platform.processor() or platform.machine(), ""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        facts = dict(line.split("\t", 1) for line in info.read_text().splitlines() if "\t" in line)
        named = {name.strip(): value.strip(" :\t") for name, value in facts.items()}
        cpu, flags = named.get("model name", cpu), named.get("flags", named.get("Features", ""))
    wanted = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
    return {
        "cpu": cpu,
        "isa": [flag for flag in wanted if flag in flags.split()],
        "cores": os.cpu_count(),
        "memory_gb": round(memory / 1e9),
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
    }
