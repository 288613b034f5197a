"""TOML in, a checked pydantic model out; all problems at once, each with file, key and the nearest right name."""

from __future__ import annotations

import tomllib
import typing
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from edgedistill.errors import InputError, nearest

Model = TypeVar("Model", bound=BaseModel)


class Section(BaseModel):
    """A table of a recipe or a target. Unknown keys are errors, and nothing changes after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def read_toml(path: Path, model: type[Model], error: type[InputError]) -> Model:
    """Read `path` into `model`. Raises `error`, whose text names every problem of the file, one a line."""
    return check(parse_toml(path, error), model, path, error)


def parse_toml(path: Path, error: type[InputError]) -> dict[str, Any]:
    """The bare tables of a TOML file."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise error("there is no such file.", where=str(path)) from None
    except IsADirectoryError:
        raise error("this is a folder; a TOML file is expected.", where=str(path)) from None
    except UnicodeDecodeError as problem:
        raise error(f"the file is not UTF-8 (byte {problem.start}).", where=str(path), write="Save it as UTF-8.") from None
    except tomllib.TOMLDecodeError as problem:
        raise error(f"the file is not valid TOML: {problem}.", where=str(path)) from None


def check(tables: dict[str, Any], model: type[Model], path: Path, error: type[InputError]) -> Model:
    """Check tables that were already parsed; the same errors as `read_toml`."""
    try:
        return model.model_validate(tables)
    except ValidationError as problems:
        lines = explain(problems, model)
        raise error("\n  ".join(["", *lines]).rstrip() if len(lines) > 1 else lines[0], where=str(path)) from None


def explain(problems: ValidationError, model: type[BaseModel]) -> list[str]:
    """One line for each problem."""
    return [_explain(problem, model) for problem in problems.errors()]


def _explain(problem: Any, model: type[BaseModel]) -> str:
    """One line for one pydantic problem: the key as the user wrote it, what is wrong, what to write."""
    place = [part for part in problem["loc"] if not _is_type_tag(part)]
    key = _dotted(place)
    if problem["type"] == "extra_forbidden":
        known = _fields_at(model, place[:-1])
        return f"{key}: unknown key. {nearest(str(place[-1]), known)}"
    if problem["type"] == "missing":
        return f"{key}: missing. Write {place[-1]} = …"
    message = problem["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    given = problem.get("input")
    shown = "" if isinstance(given, (dict, list, BaseModel)) or problem["type"] == "value_error" else f", got {given!r}"
    return f"{key or 'file'}: {message}{shown}".rstrip(".") + ("" if message.endswith("?") else ".")


def _is_type_tag(part: object) -> bool:
    """Pydantic puts the branch of a union into the location (`str`, `SliceByColumn`, …); the user never wrote that."""
    return isinstance(part, str) and (
        part in {"str", "int", "float", "bool"} or part[:1].isupper() or part.startswith(("list[", "literal["))
    )


def _dotted(place: list[Any]) -> str:
    key = ""
    for part in place:
        key += f"[{part}]" if isinstance(part, int) else f".{part}" if key else str(part)
    return key


def _fields_at(model: type[BaseModel], place: list[Any]) -> list[str]:
    """The keys that the table at `place` may have."""
    current: Any = model
    for part in place:
        if isinstance(part, int) or not (isinstance(current, type) and issubclass(current, BaseModel)):
            return []
        field = current.model_fields.get(str(part))
        current = _inner_model(field.annotation) if field else None
    return list(current.model_fields) if isinstance(current, type) and issubclass(current, BaseModel) else []


def _inner_model(annotation: Any) -> Any:
    """`Optional[Budget]` → Budget."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((inner for inner in map(_inner_model, typing.get_args(annotation)) if inner), None)
