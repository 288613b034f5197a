"""Recipe: what the user asks for. Read from TOML; every key has a type, a default, a unit and one line of meaning."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PrivateAttr, ValidationError, field_validator

from edgedistill import plugins
from edgedistill.budget import Budget
from edgedistill.errors import EdgedistillError, RecipeError
from edgedistill.settings import Section, explain, read_toml

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]


class SliceByColumn(Section):
    """The rows in which `column` holds `value`."""

    column: str
    value: str


class Data(Section):
    """`[data]`: the rows that look like the user's traffic."""

    train: str = Field(description="csv, tsv, jsonl, parquet or text lines; a path, or a source such as pypi:… or hf:…")
    text: str = Field("text", description="column that holds the input text")
    label: str = Field("label", description="column that holds the class")
    labelled: bool = Field(True, description="false: nobody labelled the rows, and the answers of a ready-made teacher are taken for right")
    multi_label: bool = Field(False, description="task classify: a text may have several classes, or none")
    test: str | None = Field(None, description="held-out rows; else a stratified, decontaminated split is held out of train")
    traffic: str | None = Field(None, description="unlabelled production inputs: the transfer set grows from these")
    format: Literal["auto", "csv", "tsv", "jsonl", "parquet", "lines"] = Field("auto", description="auto goes by the file's ending")
    encoding: str = Field("utf-8", description="text encoding of the file")
    delimiter: str | None = Field(None, min_length=1, max_length=1, description="column separator of a csv; else it is detected")
    pattern: str | None = Field(None, description="format = lines: regular expression whose named groups are the columns")
    test_share: float = Field(0.2, gt=0, lt=0.9, description="share of the rows that is held out when there is no test file")
    near_duplicate: float = Field(
        0.9, gt=0, le=1, description="texts this alike (Jaccard of character 5-grams) are one; 1 keeps all but exact"
    )
    bad_rows: Literal["stop", "drop"] = Field("stop", description="rows without text or label, or too long: stop, or drop and count them")
    max_chars: int = Field(100_000, gt=0, description="a longer text is a bad row, characters")
    slices: dict[str, str | SliceByColumn] = Field(
        default_factory=dict, description="named subsets of the test rows: a regular expression, or {column, value}"
    )

    @field_validator("pattern")
    @classmethod
    def _pattern_has_groups(cls, pattern: str | None) -> str | None:
        if pattern is not None and not _compiled(pattern).groupindex:
            raise ValueError("the pattern needs named groups, such as (?P<label>\\w+) (?P<text>.*)")
        return pattern

    @field_validator("slices")
    @classmethod
    def _slices_compile(cls, slices: dict[str, str | SliceByColumn]) -> dict[str, str | SliceByColumn]:
        for rule in slices.values():
            if isinstance(rule, str):
                _compiled(rule)
        return slices


class Teacher(Section):
    """`[teacher]`: the model that is right but too big."""

    model: str = Field(description="hf:owner/name[@revision], a folder, or pypi:PACKAGE==VERSION:FOLDER")
    license: str | None = Field(None, description="SPDX name of the terms the student may be distilled under; unknown stops the build")
    license_basis: str | None = Field(None, description="where the licence is stated (model card, contract), for the record")
    kind: str = Field("transformers", description="a file in teachers/")
    load: Literal["float32", "8bit", "4bit"] = Field("float32", description="8bit and 4bit (bitsandbytes) fit a big teacher into memory")
    fine_tune: Literal["auto", "always", "never"] = Field("auto", description="auto: when the model has no head for these classes")
    epochs: int = Field(8, gt=0, description="passes over the training rows")
    learning_rate: float = Field(2e-4, gt=0, description="peak learning rate of AdamW")
    batch_size: int = Field(32, gt=0, description="rows a step")
    below_floor: Literal["stop", "accept"] = Field("stop", description="what to do when TF-IDF with a linear SVM beats the teacher")


Method = Literal["delete", "replace", "similar", "recombine", "typo", "case"]


def _default_methods() -> dict[Method, float]:
    return {"similar": 0.4, "replace": 0.24, "recombine": 0.18, "delete": 0.12, "typo": 0.036, "case": 0.024}


class Transfer(Section):
    """`[transfer]`: the unlabelled texts that the teacher labels for the student."""

    growth: float = Field(8, ge=1, le=100, description="size of the transfer set, in multiples of the training rows")
    methods: dict[Method, float] = Field(
        default_factory=_default_methods,
        description="label-free augmentation and the share of each",
    )


class Student(Section):
    """`[student]`: what the student can be. May be left out."""

    family: str = Field("auto", description="a file in students/, or auto")
    start: str | None = Field(None, description="source of another encoder to cut; else the student is cut from the teacher")
    layers: int | list[int] | None = Field(None, description="how many layers to keep, or which (from 0); else as the family thinks best")
    ffn: int | None = Field(None, ge=8, description="width of the feed-forward part of each layer, pruned by importance; else as it was")
    vocabulary: Literal["task", "full"] = Field("task", description="task keeps the tokens that the data can produce")
    max_tokens: int = Field(128, ge=8, le=8192, description="longer inputs are cut off, tokens")


class Distill(Section):
    """`[distill]`: how the student learns."""

    losses: list[dict[str, Any]] = Field(
        default_factory=lambda: [{"kind": "soft_target"}],
        validate_default=True,
        min_length=1,
        description="files in losses/, each with weight and its own options",
    )
    steps: int | None = Field(None, gt=0, description="optimizer steps; else `epochs` over the transfer set")
    epochs: float = Field(3, gt=0, description="passes over the transfer set")
    learning_rate: float = Field(5e-4, gt=0, description="peak learning rate of AdamW")
    batch_size: int = Field(64, gt=0, description="rows a step and process")
    real_rows: int = Field(1, ge=1, le=50, description="how often a training or traffic row stands in a pass, a grown text standing once")
    dropout: bool = Field(True, description="keep the dropout of the model that the student is cut from")
    average: float = Field(
        0.995, ge=0, lt=1, description="the running average of the weights is kept, with this decay a step; 0 keeps the last ones"
    )
    control: bool = Field(True, description="train the control students that prove the gain")
    processes: int = Field(1, gt=0, description="training processes on this machine")

    @field_validator("losses")
    @classmethod
    def _losses_exist(cls, losses: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [_checked_loss(loss) for loss in losses]


class Compile(Section):
    """`[compile]`: for which devices, and what to prefer among the binaries that meet the budget."""

    targets: list[str] = Field(min_length=1, description="names in targets/, or paths of target files")
    prefer: Literal["smallest", "fastest"] = Field("smallest", description="which of the binaries that meet every budget ships")


class Recipe(Section):
    """A whole recipe."""

    name: Name = Field(description="name of the product; names the bundle")
    task: str = Field(description="a file in tasks/")
    seed: int = Field(0, ge=0, description="seed of every random choice")
    data: Data
    teacher: Teacher
    transfer: Transfer = Field(default_factory=Transfer)
    student: Student = Field(default_factory=Student)
    distill: Distill = Field(default_factory=Distill)
    compile: Compile
    budget: Budget = Field(default_factory=Budget, description="over the target's own")

    _folder: Path = PrivateAttr(default=Path())

    @property
    def folder(self) -> Path:
        """Where relative paths of the recipe start."""
        return self._folder

    @field_validator("task")
    @classmethod
    def _task_exists(cls, task: str) -> str:
        return _existing("tasks", task)

    @field_validator("teacher")
    @classmethod
    def _teacher_exists(cls, teacher: Teacher) -> Teacher:
        _existing("teachers", teacher.kind)
        return teacher

    @field_validator("student")
    @classmethod
    def _family_exists(cls, student: Student) -> Student:
        if student.family != "auto":
            _existing("students", student.family)
        return student


def read_recipe(path: Path) -> Recipe:
    """Read a recipe. Raises RecipeError with all problems at once."""
    recipe = read_toml(path, Recipe, RecipeError)
    recipe._folder = path.parent
    return recipe


def _existing(folder: str, name: str) -> str:
    try:
        plugins.find(folder, name)
    except EdgedistillError as error:
        raise ValueError(error.paragraph()) from None
    return name


def _checked_loss(loss: dict[str, Any]) -> dict[str, Any]:
    kind = loss.get("kind")
    if not isinstance(kind, str):
        raise ValueError('each loss needs its kind, such as kind = "soft_target"')
    _existing("losses", kind)
    options = plugins.find("losses", kind).Options
    given = {key: value for key, value in loss.items() if key != "kind"}
    # The plugin's own model checks its options, and fills in the defaults, so that they are part of every store key.
    try:
        return {"kind": kind, **options.model_validate(given).model_dump()}
    except ValidationError as problems:
        raise ValueError(f"{kind}: {' '.join(explain(problems, options))}") from None


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as problem:
        raise ValueError(f"not a regular expression: {problem}") from None
