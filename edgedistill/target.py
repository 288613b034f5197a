"""Target: what the device is. Read from targets/*.toml; facts that differ by device live there and nowhere else."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, field_validator, model_validator

from edgedistill import plugins
from edgedistill.budget import Budget
from edgedistill.errors import EdgedistillError, TargetError, nearest
from edgedistill.latency_model import Calibration
from edgedistill.limits import Limits
from edgedistill.settings import Section, read_toml

# In a checkout the targets stand beside the package; an installed package carries them inside.
_FOLDERS = (Path(__file__).parent.parent / "targets", Path(__file__).parent / "target_files")


class Link(Section):
    """`[link]`: how this machine reaches the device. `kind` is a file in links/; its own options stand beside it."""

    model_config = ConfigDict(extra="allow")

    kind: str

    def option(self, name: str, default: str = "") -> str:
        """One of the link's own options, as text."""
        return str((self.model_extra or {}).get(name, default))


class Target(Section):
    """A device or a class of devices."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
    about: str = Field(description="maker, model, processor, memory, system")
    isa: str = Field(description="instruction set the binary may use, such as x86-64-v3 or armv8-a")
    runtime: str = Field(description="a file in runtimes/")
    runtime_version: str | None = Field(
        None,
        pattern=r"^[0-9]+(\.[0-9]+){1,2}$",
        description="release of the runtime on the device, where it may be older than the one here",
    )
    format: Literal["onnx", "gguf"] = Field("onnx", description="format of the binary")
    schemes: list[str] = Field(min_length=1, description="files in quantizers/ that make sense on this device")
    threads: int = Field(1, ge=1, le=256, description="threads of the runtime")
    kv_cache: Literal["f16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"] = Field(
        "f16", description="type in which llama.cpp remembers what a decoder has read; a smaller one saves memory where the context is long"
    )
    link: Link
    budget: Budget = Field(default_factory=Budget)
    limits: Limits = Field(default_factory=Limits)
    calibration: Calibration | None = Field(None, description="what a device of this kind took once, for estimates without one")

    @field_validator("runtime")
    @classmethod
    def _runtime_exists(cls, runtime: str) -> str:
        return _existing("runtimes", runtime)

    @field_validator("schemes")
    @classmethod
    def _schemes_exist(cls, schemes: list[str]) -> list[str]:
        return [_existing("quantizers", scheme) for scheme in schemes]

    @model_validator(mode="after")
    def _one_format(self) -> Target:
        for folder, name in (("runtimes", self.runtime), *(("quantizers", scheme) for scheme in self.schemes)):
            theirs = plugins.find(folder, name).FORMAT
            if theirs != self.format:
                raise ValueError(f'{folder}/{name} is for format "{theirs}", and the target\'s is "{self.format}"')
        if self.kv_cache != "f16" and self.format != "gguf":
            raise ValueError(f'kv_cache = "{self.kv_cache}" is of llama.cpp, and the target\'s format is "{self.format}"; leave it out')
        known = getattr(plugins.find("links", self.link.kind), "KV_TYPES", None)
        if known and self.kv_cache not in known:
            raise ValueError(f'kv_cache = "{self.kv_cache}" is not had over the link "{self.link.kind}", which knows {", ".join(known)}')
        return self

    @model_validator(mode="after")
    def _limits_are_held(self) -> Target:
        stated = set(self.limits.model_dump(exclude_none=True))
        if beyond := sorted(stated - _held(self.link.kind)):
            able = [name for name in plugins.names("links") if set(beyond) <= _held(name)]
            none = "none" if not _held(self.link.kind) else f"no {' and no '.join(beyond)}"
            raise ValueError(f'limits: the link "{self.link.kind}" holds {none}; these do: {", ".join(able)}')
        return self

    @property
    def model_file(self) -> str:
        """What the binary is called."""
        return f"model.{self.format}"

    @property
    def engine(self) -> str:
        """The package that runs the binary."""
        return {"onnx": "onnxruntime", "gguf": "llama-cpp-python"}[self.format]

    @field_validator("link")
    @classmethod
    def _link_exists(cls, link: Link) -> Link:
        _existing("links", link.kind)
        return link


def _held(link: str) -> frozenset[str]:
    """The limits that a link holds."""
    held: frozenset[str] = getattr(plugins.find("links", link), "HOLDS_LIMITS", frozenset())
    return held


def target_names() -> list[str]:
    """The names of all targets that come with edgedistill."""
    return sorted(file.stem for folder in _FOLDERS for file in folder.glob("*.toml"))


def find_target(name: str, *, folder: Path = Path(), where: str = "") -> Target:
    """A target by name, or by the path of a file that ends in .toml (relative to `folder`).

    Raises TargetError with the nearest name, or with all problems of the file.
    """
    if name.endswith(".toml"):
        return read_toml(folder / name, Target, TargetError)
    for place in _FOLDERS:
        if (place / f"{name}.toml").is_file():
            return read_toml(place / f"{name}.toml", Target, TargetError)
    raise TargetError(f'there is no target called "{name}".', where=where, write=nearest(name, target_names()))


def _existing(folder: str, name: str) -> str:
    if name not in plugins.names(folder):
        try:
            plugins.find(folder, name)
        except EdgedistillError as error:
            raise ValueError(error.paragraph()) from None
    return name
