"""One file a plugin: what stands in `edgedistill/<folder>/`, and what outside packages register as `edgedistill.<folder>`.

A plugin is a module. What it must hold is said in the docstring of the folder's `__init__.py`; one parametrized test per folder holds every
file to it.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType

from edgedistill.errors import RecipeError, missing_extra, nearest

FOLDERS = ("tasks", "teachers", "students", "losses", "exporters", "quantizers", "runtimes", "links")


def names(folder: str) -> list[str]:
    """The names of all plugins of a folder, ours and registered ones, sorted. Imports none of them."""
    return sorted({*_own(folder), *_registered(folder)})


def find(folder: str, name: str, *, where: str = "") -> ModuleType:
    """The plugin module called `name`.

    Raises RecipeError with the nearest name when there is none, MissingExtraError when the package it stands on is not installed.
    """
    try:
        if name in _own(folder):
            return importlib.import_module(f"edgedistill.{folder}.{name}")
        registered = _registered(folder)
        if name in registered:
            return registered[name].load()  # type: ignore[no-any-return]  # entry points are untyped
    except ModuleNotFoundError as error:
        raise missing_extra(error, f"{folder}/{name}") from error
    raise RecipeError(f'there is no {_singular(folder)} called "{name}".', where=where, write=nearest(name, names(folder)))


def _singular(folder: str) -> str:
    return {"losses": "loss"}.get(folder, folder.removesuffix("s"))


@cache
def _own(folder: str) -> tuple[str, ...]:
    package = importlib.import_module(f"edgedistill.{folder}")
    return tuple(info.name for info in pkgutil.iter_modules(package.__path__))


@cache
def _registered(folder: str) -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=f"edgedistill.{folder}")}
