"""The error tree. Every error says what is wrong, where, and what to write instead.

The exit code is part of the error: 2 the user's input is wrong, 4 a stage failed. Codes 1 (a budget is missed) and 3 (undecided)
are results, not errors; `cli.py` gives them from the report.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class EdgedistillError(Exception):
    """One paragraph for the user.

    what: what is wrong, in one sentence. where: file, key or row. write: what to write or run instead.
    """

    exit_code = 4

    def __init__(self, what: str, *, where: str = "", write: str = "") -> None:
        self.what, self.where, self.write = what, where, write
        super().__init__(self.paragraph())

    def paragraph(self) -> str:
        place = f"{self.where}: " if self.where else ""
        advice = f" {self.write}" if self.write else ""
        return f"{place}{self.what}{advice}"


class InputError(EdgedistillError):
    """The user's input is wrong: a recipe, a data file, a target, a bundle."""

    exit_code = 2


class RecipeError(InputError):
    """A recipe that cannot be read or does not fit together."""


class TargetError(InputError):
    """A target file that cannot be read, or a target nobody knows."""


class DataError(InputError):
    """A data file or a row in it that cannot be used."""


class SourceError(InputError):
    """A model or data source that cannot be had, or is not what its checksum says."""


class TermsError(InputError):
    """A teacher whose terms do not allow a student to be distilled from it, or are unknown."""


class BundleError(InputError):
    """A bundle that is not whole: a changed byte, a missing file, a path that leads outside."""


class MissingExtraError(InputError):
    """A package that this verb needs is not installed."""


class StageError(EdgedistillError):
    """A stage could not finish. What was finished before it stays in the store."""


class SearchError(EdgedistillError):
    """No student can meet the budget: a budget is missed, and nothing is wrong with the recipe."""

    exit_code = 1


class DeviceMemoryError(StageError):
    """A binary has no room in the memory that the device gives it."""


class ParityError(StageError):
    """Two forms of one model give different answers. Nothing is built on such a model."""


class StoreError(EdgedistillError):
    """The store is damaged, or cannot be written."""


def nearest(name: str, known: Iterable[str]) -> str:
    """A sentence that offers the nearest known name: `Did you mean "soft_target"?` or the whole list."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if close:
        return f'Did you mean "{close[0]}"?'
    return f"Known: {', '.join(names)}." if names else ""


def missing_extra(error: ModuleNotFoundError, who: str, extra: str = "compile") -> MissingExtraError:
    """The one error for a package that is not installed: says who needs it and the command that installs it."""
    return MissingExtraError(
        f"{who} needs the package {error.name}, which is not installed.", write=f"Run: pip install 'edgedistill[{extra}]'"
    )
