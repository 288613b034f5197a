"""Another machine at the end of a command: what is sent there once, and what it says of itself. Links that reach one (ssh, adb) share this.

`There` is how the link runs a shell command there: (command, standard input) -> the finished process.
"""

from __future__ import annotations

import hashlib
import io
import shlex
import subprocess
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path

from edgedistill.digests import file_digest

There = Callable[[str, bytes], subprocess.CompletedProcess[bytes]]


class NotSentError(Exception):
    """What the other side said instead of taking the files."""


def sent(there: There, folder: str, what: str, files: Mapping[str, Path]) -> str:
    """The folder there, `folder`/`what`-DIGEST, that holds `files`. They are sent when it is not there yet, and it appears when it is whole."""
    digest = hashlib.sha256(" ".join(f"{name} {file_digest(file)}" for name, file in sorted(files.items())).encode()).hexdigest()[:16]
    place = f"{folder}/{what}-{digest}"
    quoted = shlex.quote(place)
    if there(f"test -d {quoted}", b"").returncode == 0:
        return place
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name, file in files.items():
            tar.add(file.resolve(), name)
    command = f"rm -rf {quoted}.part && mkdir -p {quoted}.part && tar -x -f - -C {quoted}.part && mv {quoted}.part {quoted}"
    done = there(command, archive.getvalue())
    if done.returncode:
        raise NotSentError(done.stderr.decode(errors="replace") or done.stdout.decode(errors="replace"))
    return place


def last_line(said: str, otherwise: str) -> str:
    """The last line that says something, without its stop."""
    return next((line for line in reversed(said.strip().splitlines()) if line.strip()), otherwise).strip().rstrip(".")
