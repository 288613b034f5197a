"""One file a plugin: what stands in `edgedistill/<folder>/`, and what outside packages register as `edgedistill.<folder>`.

A plugin is a module. What it must hold is said in the docstring of the folder's `__init__.py`; one parametrized test per folder holds every
file to it. A file of FAMILIES makes many plugins that differ in a name alone: its `NAMES`, each given by its `named(name)`.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType

from edgedistill.errors import RecipeError, missing_extra, nearest

FOLDERS = ("tasks", "teachers", "students", "losses", "exporters", "quantizers", "runtimes", "links")

FAMILIES = {"quantizers": ("gguf",)}


def names(folder: str) -> list[str]:
    """The names of all plugins of a folder, ours and registered ones, sorted. Imports none of them but families."""
    return sorted({*_own(folder), *_made(folder), *_registered(folder)})


def made_by_a_family(folder: str, name: str) -> bool:
    """Whether a plugin is one of the many that one file makes."""
    return name in _made(folder)


def find(folder: str, name: str, *, where: str = "") -> ModuleType:
    """The plugin module called `name`.

    Raises RecipeError with the nearest name when there is none, MissingExtraError when the package it stands on is not installed.
    """
    try:
        if name in _own(folder):
            return importlib.import_module(f"edgedistill.{folder}.{name}")
        if name in _made(folder):
            made: ModuleType = _made(folder)[name].named(name)  # what stands for a module
            return made
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
    return tuple(info.name for info in pkgutil.iter_modules(package.__path__) if info.name not in FAMILIES.get(folder, ()))


@cache
def _made(folder: str) -> dict[str, ModuleType]:
    """The name of each plugin that a family makes → the family."""
    families = [importlib.import_module(f"edgedistill.{folder}.{family}") for family in FAMILIES.get(folder, ())]
    return {name: family for family in families for name in family.NAMES}


@cache
def _registered(folder: str) -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=f"edgedistill.{folder}")}
