"""Digests: the names that content goes by. SHA-256 for files, folders and values; a short BLAKE2 key for a text."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any


def text_key(text: str) -> str:
    """The key of one text, 32 hex digits. Soft labels are stored under it, so that a row can never be matched with another's labels."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def canonical(value: Any) -> bytes:
    """The one JSON text of a value: sorted keys, no spaces, UTF-8."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def file_digest(path: Path) -> str:
    """SHA-256 of a file, 64 hex digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def tree_digest(path: Path) -> str:
    """SHA-256 of a file, or of a folder: over the lines `digest  relative/path` of its files, sorted by path."""
    if path.is_file():
        return file_digest(path)
    files = sorted((file.relative_to(path).as_posix(), file) for file in path.rglob("*") if file.is_file())
    return hashlib.sha256("".join(f"{file_digest(file)}  {name}\n" for name, file in files).encode()).hexdigest()
