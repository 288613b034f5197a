"""What every step of a build needs: the way to a stage's result, the recipe, and its sources, each resolved once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from edgedistill.errors import missing_extra
from edgedistill.recipe import Recipe
from edgedistill.sources import Source, resolve
from edgedistill.store import Artifact, Keyed, Stage


class Make(Protocol):
    """Gives the result of a stage: by building it, or by only looking where it would be."""

    def __call__(self, stage: Stage, params: Any, /, **inputs: Keyed) -> Artifact: ...


@dataclass(frozen=True)
class Making:
    """source: (spec, key of the recipe, for errors) → what it resolves to. Resolving reads every byte for the digest: it is done once."""

    make: Make
    recipe: Recipe
    source: Callable[[str, str], Source]

    @property
    def precision(self) -> str:
        """Asked of torch when it is first needed: what only prepares data does without."""
        try:
            from edgedistill.training import best_precision

            return best_precision()
        except ModuleNotFoundError as error:
            raise missing_extra(error, "compile") from error


FORMAT_PACKAGES = {"onnx": (), "gguf": ("gguf", "llama-cpp-python")}


def of_format(stage: Stage, format: str) -> Stage:
    """A stage whose result depends on the format, keyed by the packages of that format too."""
    return replace(stage, packages=(*stage.packages, *FORMAT_PACKAGES[format]))


def making(make: Make, recipe: Recipe, folder: Path) -> Making:
    """folder: where fetched sources are kept."""

    @cache
    def source(spec: str, where: str) -> Source:
        return resolve(spec, folder=recipe.folder, cache=folder / "sources", where=where)

    return Making(make, recipe, source)
