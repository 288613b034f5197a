"""How far a stage is. Stages tell; only `cli.py` listens and prints.

A stage calls `tick("label", done, total)`. Without a listener (tests, library use) that costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Listener = Callable[[str, int, int], None]

_listener: Listener | None = None


def tick(label: str, done: int, total: int) -> None:
    """Tell the listener that `done` of `total` units of the work called `label` are finished."""
    if _listener is not None:
        _listener(label, done, total)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Send every `tick` inside the block to `listener`."""
    global _listener
    before, _listener = _listener, listener
    try:
        yield
    finally:
        _listener = before
