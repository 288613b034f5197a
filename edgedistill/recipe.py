"""Recipe: what the user asks for. Read from TOML; every key has a type, a default, a unit and one line of meaning."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, PrivateAttr, Tag, ValidationError, ValidationInfo, field_validator, model_validator

from edgedistill import plugins
from edgedistill.budget import Budget
from edgedistill.errors import EdgedistillError, RecipeError, nearest
from edgedistill.settings import Section, explain, read_toml

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]


Format = Literal["auto", "csv", "tsv", "jsonl", "parquet", "lines", "conll"]
CHAT_ML = "<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"


class SliceByColumn(Section):
    """The rows in which `column` holds `value`."""

    column: str
    value: str


class Traffic(Section):
    """`[data.traffic]`: unlabelled production inputs, in a file that wants to be read otherwise than the training file."""

    file: str = Field(description="csv, tsv, jsonl, parquet or text lines; a path, or a source such as pypi:… or hf:…")
    format: Format = Field("auto", description="auto goes by the file's ending")
    text: str | None = Field(None, description="column that holds the input text; else the training file's")
    pattern: str | None = Field(None, description="the file has one text a line: regular expression whose group (?P<text>…) is the text")
    only: SliceByColumn | None = Field(None, description="{column, value}: the rows to take; else all")
    split: str | None = Field(
        None,
        min_length=1,
        description="regular expression at which a text is cut into several: '(?<=[.!?])\\s+' makes sentences of reviews",
    )
    rows: int | None = Field(None, ge=1, description="so many texts at most, drawn by chance; else all")

    @field_validator("split")
    @classmethod
    def _split_compiles(cls, split: str | None) -> str | None:
        if split is not None:
            _compiled(split)
        return split

    @field_validator("pattern")
    @classmethod
    def _pattern_has_a_text(cls, pattern: str | None) -> str | None:
        if pattern is not None and "text" not in _compiled(pattern).groupindex:
            raise ValueError("the pattern needs a group called text, such as (?P<text>[^\\t]+)\\t")
        return pattern


def _how_given(traffic: object) -> str:
    return "str" if isinstance(traffic, str) else "List" if isinstance(traffic, list) else "Traffic"


Given = Annotated[
    Annotated[str, Tag("str")] | Annotated[Traffic, Tag("Traffic")] | Annotated[list[Traffic], Tag("List"), Field(min_length=1)],
    Discriminator(_how_given),
]


class Data(Section):
    """`[data]`: the rows that look like the user's traffic."""

    train: str = Field(description="csv, tsv, jsonl, parquet or text lines; a path, or a source such as pypi:… or hf:…")
    text: str = Field("text", description="column that holds the input text")
    label: str | list[str] = Field("label", description="column that holds the right answer; task score: or several such columns")
    labelled: bool = Field(True, description="false: nobody labelled the rows, and the answers of a ready-made teacher are taken for right")
    label_separator: str = Field(
        "|", min_length=1, description="task multi_label: what stands between the classes of a row (or a JSON list)"
    )
    threshold: float = Field(0.5, gt=0, lt=1, description="task multi_label: a class is given from this probability on")
    dimensions: int | None = Field(
        None,
        ge=2,
        le=4096,
        description="task embed: numbers in the student's vector; else as many as in the teacher's",
        exclude_if=lambda dimensions: dimensions is None,  # rows prepared before there was this option keep their key
    )
    prompt: str = Field(
        CHAT_ML,
        description="task generate: how a text is put to the model, {text} in its place; else ChatML, as most small chat models read it",
        exclude_if=lambda prompt: prompt == CHAT_ML,  # rows prepared before there was this option keep their key
    )
    classes: dict[str, str | list[str]] = Field(
        default_factory=dict,
        description='task classify: classes made from a column: name = value, [values] or a comparison such as "<= -0.5"; other rows are left out',
    )
    skip: int = Field(0, ge=0, description="csv and tsv: rows right behind the header that are no data (Orange .tab files have two)")
    test: str | None = Field(None, description="held-out rows; else a stratified, decontaminated split is held out of train")
    traffic: Given | None = Field(
        None,
        description="unlabelled production inputs: the transfer set grows from these. A file; or [data.traffic], several times [[data.traffic]], with "
        "file = … and how to read it",
    )
    templates: str | None = Field(None, description="a .toml file of templates with slots: texts drawn from it join the training file's")
    template_rows: int = Field(2000, gt=0, description="how many texts are drawn from the templates")
    format: Format = Field("auto", description="auto goes by the file's ending")
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

    def unlabelled(self) -> dict[str, Traffic]:
        """Each file of `traffic` under the name by which prepare takes it: traffic, traffic_2, …"""
        given = [Traffic(file=self.traffic)] if isinstance(self.traffic, str) else self.traffic or []
        files = given if isinstance(given, list) else [given]
        return {f"traffic_{number}" if number > 1 else "traffic": file for number, file in enumerate(files, 1)}

    @field_validator("pattern")
    @classmethod
    def _pattern_has_groups(cls, pattern: str | None) -> str | None:
        if pattern is not None and not _compiled(pattern).groupindex:
            raise ValueError("the pattern needs named groups, such as (?P<label>\\w+) (?P<text>.*)")
        return pattern

    @field_validator("prompt")
    @classmethod
    def _prompt_has_a_place(cls, prompt: str) -> str:
        if prompt.count("{text}") != 1:
            raise ValueError("the prompt needs the text's place, {text}, once")
        return prompt

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
    layers: int | None = Field(
        None,
        ge=1,
        description="kind causal_lm: only so many of its layers, the first ones and the last, learn the task; for a machine that cannot train all",
        exclude_if=lambda layers: layers is None,
    )
    below_floor: Literal["stop", "accept"] = Field("stop", description="what to do when TF-IDF with a linear SVM beats the teacher")
    calls: int | None = Field(
        None,
        ge=32,
        description="how many texts the teacher may label in all; they are chosen where a quick student is unsure. Else it labels every one",
        exclude_if=lambda calls: calls is None,  # a teacher made before there was this option keeps its key
    )


class Member(Teacher):
    """A teacher among several."""

    weight: float = Field(1.0, gt=0, description="how much its answers count among several teachers")


Rule = Literal["weighted", "confidence"]


class Teachers(Member):
    """`[teacher]`, and `[[teacher.also]]` for more of them: their soft labels are combined into one set."""

    also: list[Member] = Field(
        default_factory=list, description="further teachers, each with model, license and weight; the first one leads"
    )
    combine: Rule = Field("weighted", description="several teachers: by weight alone, or also by how sure each is of the row")

    def members(self) -> list[tuple[str, Member]]:
        """Every teacher with its key in the recipe."""
        return [("teacher", self), *((f"teacher.also[{place}]", member) for place, member in enumerate(self.also))]


def alone(member: Teacher, calls: int | None = None) -> Teacher:
    """A member without what concerns the others, so that its own results do not depend on them. A budget of calls makes no other teacher."""
    return Teacher(**{name: getattr(member, name) for name in Teacher.model_fields} | {"calls": calls})


Method = Literal["delete", "replace", "similar", "reword", "recombine", "typo", "case"]


def _default_methods() -> dict[Method, float]:
    return {"similar": 0.4, "replace": 0.24, "recombine": 0.18, "delete": 0.12, "typo": 0.036, "case": 0.024}


class Writer(Section):
    """`[transfer.writer]`: a small language model that is taught the training texts and writes new ones of their kind."""

    model: str = Field(description="a decoder: a transformers folder or its GGUF, as a path, hf:… or pypi:…")
    license: str | None = Field(
        None, description="SPDX name of the terms under which its texts may be learned from; unknown stops the build"
    )
    license_basis: str | None = Field(None, description="where the licence is stated, for the record")
    growth: float = Field(
        4, gt=0, le=100, description="how many texts it writes, in multiples of the training rows; they count into transfer.growth"
    )
    epochs: float = Field(2, gt=0, description="passes over the texts; more, and it repeats them")
    learning_rate: float = Field(3e-4, gt=0, description="peak learning rate of AdamW")
    batch_size: int = Field(32, gt=0, description="texts a step")
    temperature: float = Field(1.0, gt=0, description="at which it writes: higher is more varied")
    top_p: float = Field(0.95, gt=0, le=1, description="only the likeliest tokens that together have this probability are drawn")


class Transfer(Section):
    """`[transfer]`: the unlabelled texts that the teacher labels for the student."""

    growth: float = Field(8, ge=1, le=100, description="size of the transfer set, in multiples of the training rows")
    methods: dict[Method, float] = Field(
        default_factory=_default_methods,
        description="label-free augmentation and the share of each",
    )
    quotas: dict[str, Annotated[float, Field(gt=0, le=1)]] = Field(
        default_factory=dict,
        description="least share of the transfer set that a slice gets: a built-in one, or a regular expression of data.slices",
    )
    held_out: float | None = Field(
        None,
        ge=0,
        le=0.5,
        description="share of the real texts (of the traffic, else of the training rows; 1,000 at most) that no student learns from: they foretell "
        "which inputs the student will get wrong, and a search judges its candidates on them; else 0.05, and 0.1 for a search",
    )
    pool: float | None = Field(
        None, ge=1, le=1000, description="with teacher.calls: texts to choose from, in multiples of the training rows; else growth"
    )
    choose: Literal["active", "random"] = Field(
        "active", description="with teacher.calls: where a quick student is unsure, or at random, which is what active must beat"
    )
    writer: Writer | None = Field(
        None, description="a language model that writes further texts; else they are grown alone", exclude_if=lambda writer: writer is None
    )


class Student(Section):
    """`[student]`: what the student can be. May be left out."""

    family: str = Field(
        "auto", description="a file in students/; auto searches all families and sizes for the cheapest that keeps the answers"
    )
    start: str | None = Field(None, description="source of another encoder to cut; else the student is cut from the teacher")
    layers: int | list[int] | None = Field(None, description="how many layers to keep, or which (from 0); else as the family thinks best")
    ffn: int | None = Field(None, ge=8, description="width of the feed-forward part of each layer, pruned by importance; else as it was")
    width: int | None = Field(
        None,
        ge=16,
        le=4096,
        description="transformer: width of the layers, projected; conv, static: width of the token table; else as usual",
    )
    heads: int | None = Field(None, ge=1, description="transformer: attention heads of each layer, pruned by importance; else as it was")
    channels: int | None = Field(None, ge=16, le=4096, description="conv: features that each convolution gives; else 256")
    kernel: int | None = Field(None, ge=1, le=15, description="conv: tokens that a convolution looks at, odd; else 3")
    ngrams: int | None = Field(
        None, ge=0, le=1_000_000, description="static: rows of the table of hashed pairs of tokens; 0 for none; else 16384"
    )
    head: int | None = Field(None, ge=0, le=4096, description="conv, static: hidden width of the classifier; 0 for a linear one")
    vocabulary: Literal["task", "full"] | Annotated[int, Field(ge=256)] = Field(
        "task",
        description="task keeps the tokens that the data can produce; a number keeps that many, the most frequent of them, and where they are fewer "
        "the commonest words of the language beside; full keeps all",
    )
    max_tokens: int = Field(128, ge=8, le=8192, description="longer inputs are cut off, tokens")


class Search(Section):
    """`[search]`: where student.family = "auto" looks. May be left out."""

    families: list[str] = Field(default_factory=list, description="files in students/ to look into; else all of them")
    students: list[Student] = Field(default_factory=list, description="the candidates themselves, instead of each family's own sizes")

    @field_validator("families")
    @classmethod
    def _families_exist(cls, families: list[str]) -> list[str]:
        return [_existing("students", family) for family in families]

    @field_validator("students")
    @classmethod
    def _candidates_are_whole(cls, students: list[Student]) -> list[Student]:
        for student in students:
            if student.family == "auto":
                raise ValueError('a candidate needs its family, such as family = "transformer"')
            _existing("students", student.family)
            if unknown := unknown_options(student, student.family):
                raise ValueError(unknown)
        return students


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
    learning_rate: float | None = Field(
        None,
        gt=0,
        description="peak learning rate of AdamW; else the family's own: transformer 0.0005, with all layers of its source 0.0002; conv and static 0.002",
    )
    batch_size: int = Field(64, gt=0, description="rows a step and process")
    real_rows: int = Field(1, ge=1, le=50, description="how often a training or traffic row stands in a pass, a grown text standing once")
    dropout: bool = Field(True, description="keep the dropout of the model that the student is cut from")
    average: float = Field(
        0.995, ge=0, lt=1, description="the running average of the weights is kept, with this decay a step; 0 keeps the last ones"
    )
    rounds: int = Field(1, ge=1, le=10, description="self-distillation: in each further round the last student teaches the next")
    round_teacher: Literal["average", "student"] = Field(
        "average", description="who teaches a further round: teacher and last student, averaged, or the last student alone"
    )
    through_quantizer: Literal["when_needed", "always", "never"] = Field(
        "when_needed",
        description="quantization-aware training: when a quantized binary loses more than its part of the budget, always, or never",
    )
    control: bool | Literal["labels"] = Field(
        True, description="train the control students that prove the gain; labels: only the one of the labels alone"
    )
    processes: int = Field(1, gt=0, description="training processes on this machine")

    @field_validator("losses")
    @classmethod
    def _losses_exist(cls, losses: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [_checked_loss(loss) for loss in losses]


class Compile(Section):
    """`[compile]`: for which devices, and what to prefer among the binaries that meet the budget."""

    targets: list[str] = Field(min_length=1, description="names in targets/, or paths of target files")
    prefer: Literal["smallest", "fastest"] = Field(
        "smallest", description="which of the binaries that meet every budget ships; where two cost as much, the one nearer to its float"
    )
    draft_tokens: int = Field(
        0,
        ge=0,
        le=16,
        description="task generate: tokens that the student guesses ahead as its teacher's draft, measured beside the teacher alone; 0: not measured",
    )


class Recipe(Section):
    """A whole recipe."""

    name: Name = Field(description="name of the product; names the bundle")
    task: str = Field(description="a file in tasks/")
    seed: int = Field(0, ge=0, description="seed of every random choice")
    data: Data
    teacher: Teachers
    transfer: Transfer = Field(default_factory=Transfer)
    student: Student = Field(default_factory=Student)
    search: Search = Field(default_factory=Search)
    distill: Distill = Field(default_factory=Distill)
    compile: Compile
    budget: Budget = Field(default_factory=Budget, description="over the target's own")

    _folder: Path = PrivateAttr(default=Path())

    @property
    def folder(self) -> Path:
        """Where relative paths of the recipe start."""
        return self._folder

    @model_validator(mode="before")
    @classmethod
    def _loss_of_the_task(cls, tables: Any) -> Any:
        """Soft targets are what the task's logits are: without losses in the recipe, those of the task are taken."""
        if not isinstance(tables, dict) or not isinstance(tables.get("task"), str) or tables["task"] not in plugins.names("tasks"):
            return tables
        distill = tables.get("distill", {})
        if not isinstance(distill, dict) or "losses" in distill:
            return tables
        kind = plugins.find("tasks", tables["task"]).soft(tables.get("data"))
        return {**tables, "distill": {**distill, "losses": [{"kind": kind}]}}

    @model_validator(mode="before")
    @classmethod
    def _nobody_labels(cls, tables: Any) -> Any:
        """Where only the teacher knows what is right, no label column is looked for."""
        known = isinstance(tables, dict) and isinstance(tables.get("data"), dict) and tables.get("task") in plugins.names("tasks")
        if known and getattr(plugins.find("tasks", tables["task"]), "UNLABELLED", False):
            return {**tables, "data": {"labelled": False, **tables["data"]}}
        return tables

    @model_validator(mode="after")
    def _options_fit_the_task(self) -> Recipe:
        if self.data.dimensions is not None and self.task != "embed":
            raise ValueError(f'data.dimensions is the width of a vector, which is for task = "embed", not "{self.task}"; leave it out')
        if getattr(plugins.find("tasks", self.task), "UNLABELLED", False):
            if self.data.labelled:
                raise ValueError(f'data.labelled = true, but for task "{self.task}" only the teacher knows what is right; leave it out')
            if self.teacher.fine_tune == "always":
                raise ValueError(f'teacher.fine_tune = "always" needs labels, and task "{self.task}" has none; leave it out')
        if self.data.templates and self.data.labelled:
            raise ValueError("data.templates gives texts without labels; write labelled = false under [data]")
        if self.data.classes and self.task != "classify":
            raise ValueError(f'data.classes makes one class a row, which is for task = "classify", not "{self.task}"')
        if isinstance(self.data.label, list) and self.task != "score":
            raise ValueError(f'several label columns are for task = "score", not "{self.task}"; name one with data.label')
        return self

    @model_validator(mode="after")
    def _what_writes_goes_together(self) -> Recipe:
        writes = hasattr(plugins.find("tasks", self.task), "written")
        for where, member in self.teacher.members():
            if getattr(plugins.find("teachers", member.kind), "WRITES", False) != writes:
                raise ValueError(
                    f'task "{self.task}" needs a teacher that writes, and kind "{member.kind}" does not; write {where}.kind = "causal_lm"'
                    if writes
                    else f'a teacher of kind "{member.kind}" writes its answers, which is for task = "generate", not "{self.task}"'
                )
            if member.layers is not None and not writes:
                raise ValueError(f'{where}.layers cuts a teacher that writes, which is for task = "generate", not "{self.task}"')
            if writes and (member.load != "float32" or member.fine_tune == "never"):
                option = f'load = "{member.load}"' if member.load != "float32" else 'fine_tune = "never"'
                raise ValueError(f'{where}.{option} is not there for kind "{member.kind}": it is taught, in float32; leave it out')
        if self.compile.draft_tokens and not writes:
            raise ValueError(f'compile.draft_tokens is for a student that writes, task = "generate", not "{self.task}"; leave it out')
        if writes and self.student.family == "auto":
            raise ValueError(f'a search is not there for task "{self.task}"; write family = "decoder" and its layers under [student]')
        known = {"labels", "teacher_top", "teacher_text", "own_text", "teacher_hidden"}
        for loss in self.distill.losses if writes else ():
            if not known >= plugins.find("losses", loss["kind"]).NEEDS:
                raise ValueError(f'the loss {loss["kind"]} is not for answers that are written; write kind = "forward_kl", or "on_policy"')
        return self

    @model_validator(mode="after")
    def _families_serve_the_task(self) -> Recipe:
        asked = [self.student.family, *self.search.families, *(student.family for student in self.search.students)]
        wrong = [name for name in asked if name != "auto" and not serves(name, self.task)]
        if wrong:
            others = " or ".join(f'"{name}"' for name in plugins.names("students") if serves(name, self.task))
            raise ValueError(f'a student of the family "{wrong[0]}" has no answer to the task "{self.task}"; write {others}')
        return self

    @field_validator("task")
    @classmethod
    def _task_exists(cls, task: str) -> str:
        return _existing("tasks", task)

    @field_validator("teacher")
    @classmethod
    def _teacher_exists(cls, teacher: Teachers) -> Teachers:
        for _, member in teacher.members():
            _existing("teachers", member.kind)
        if teacher.also and any(member.calls is not None for _, member in teacher.members()):
            raise ValueError("a budget of calls is spent on one teacher. Leave calls out, or the teachers in also.")
        return teacher

    @field_validator("student")
    @classmethod
    def _family_exists(cls, student: Student) -> Student:
        if student.family != "auto":
            _existing("students", student.family)
            unknown = unknown_options(student, student.family)
            if unknown:
                raise ValueError(unknown)
        elif sized := sorted(student.model_fields_set - ANY_FAMILY - {"vocabulary"}):
            raise ValueError(
                f'{" and ".join(sized)} fix a size, so the family must be said too: write family = "transformer" under [student]'
            )
        return student

    @field_validator("transfer")
    @classmethod
    def _transfer_fits(cls, transfer: Transfer, info: ValidationInfo) -> Transfer:
        data, teacher = info.data.get("data"), info.data.get("teacher")
        if data is not None:
            _check_quotas(transfer.quotas, data.slices)
        if transfer.pool is not None and teacher is not None and teacher.calls is None:
            raise ValueError(
                "pool says what to choose from, and nothing says how many to choose. Write calls = … under [teacher], or leave pool out."
            )
        return transfer

    @field_validator("distill")
    @classmethod
    def _labels_that_calls_give(cls, distill: Distill, info: ValidationInfo) -> Distill:
        teacher = info.data.get("teacher")
        blind = [loss["kind"] for loss in distill.losses if "teacher_embedding" in plugins.find("losses", loss["kind"]).NEEDS]
        if blind and teacher is not None and teacher.calls is not None:
            raise ValueError(
                f"the loss {blind[0]} reads the teacher's vectors, and a call under teacher.calls gives logits alone. "
                "Leave calls out, or this loss."
            )
        return distill


def serves(family: str, task: str) -> bool:
    """Whether a family of students can answer a task."""
    tasks = getattr(plugins.find("students", family), "TASKS", None)
    return tasks is None or task in tasks


ANY_FAMILY = frozenset({"family", "start", "max_tokens"})  # what every family of students takes


def unknown_options(student: Student, family: str) -> str:
    """What is wrong with options that `family` does not know, and what to write instead; nothing when it knows them all."""
    known = getattr(plugins.find("students", family), "OPTIONS", None)
    given = [name for name, value in student if value != Student.model_fields[name].default and name not in ANY_FAMILY]
    unknown = [name for name in given if known is not None and name not in known]
    if not unknown:
        return ""
    others = [name for name in plugins.names("students") if unknown[0] in getattr(plugins.find("students", name), "OPTIONS", ())]
    return (
        f'student.{unknown[0]} is no option of the family "{family}", which has {", ".join(sorted(known or ()))}. '
        f'Leave it out, or write family = "{others[0]}".'
    )


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


def _check_quotas(quotas: dict[str, float], slices: dict[str, str | SliceByColumn]) -> None:
    from edgedistill.slices import BUILT_IN  # here, because it brings numpy

    known = {*BUILT_IN, *slices}
    for name in quotas:
        if name not in known:
            raise ValueError(f'there is no slice "{name}" to give a quota to. {nearest(name, known)}')
        if isinstance(slices.get(name), SliceByColumn):
            raise ValueError(
                f'the slice "{name}" goes by a column, which grown texts do not have. Write a regular expression for it under [data.slices].'
            )
    if sum(quotas.values()) > 1:
        raise ValueError(f"the quotas add up to {sum(quotas.values()):g}. Write shares that add up to 1 at most.")


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
