"""Links: how this machine reaches the device. One file a way.

A link is a module with

- `HOW`: what its latency figures are worth: "measured", "emulated" or "not measured"; `how(link) -> str` where that depends on the link's options;
- `ABOUT`: one line for people; `about(link) -> str` where the link's options say more;
- `ready(link: target.Link) -> str | None`: None when it works from this machine, else what is missing and how to install it;
- `open_runner(link: target.Link, runtime: str, request: dict, limits: Limits) -> Runner`: starts the runtime's runner with one model loaded;
- `HOLDS_LIMITS`, the names of a target's limits that it holds the runner to, where it holds any;
- `KV_TYPES`, in which its runner of llama.cpp can remember, where not in all of them (a target's `kv_cache`);
- `identity(link, runtime) -> str`, where another program than our own Python answers: what it is, so that answers of an older one are not taken for its;
- `instructions(link, request, texts, runtime) -> list[int]`, where the device is emulated: how many of its instructions the model takes for each text;
- `footprint(link, request, limits) -> Size`, where the device has no system: the bytes of `flash` and `ram` that the program takes;
- `FAMILIES`, the student families that run there, where not all do;
- `condition(link) -> {"temperatures": [°C], "mhz": [of each core]}`, where the device tells: `bench` asks before a run and after;
- `machine(link) -> {"cpu", "system"}`, where the device is another machine: how it names them;
- `refuses(task: str, tokenizer: Path, runtime: str) -> str | None`, where that program does not answer everything: why not, or None.

A `Runner` has `hello` (the runner's first answer), `ask(request) -> dict` and `close()`. What runners say to each other is in `runtimes/`.
"""

from __future__ import annotations

from typing import Any, Protocol

from edgedistill import plugins
from edgedistill.limits import Limits
from edgedistill.target import Link, Target


class Runner(Protocol):
    """A process on the device that has one model loaded."""

    hello: dict[str, Any]

    def ask(self, request: dict[str, Any]) -> dict[str, Any]: ...

    def close(self) -> None: ...


def how(link: Link) -> str:
    """What figures through this link are worth."""
    module = plugins.find("links", link.kind)
    return str(module.how(link) if hasattr(module, "how") else module.HOW)


def reached(link: Link) -> str:
    """How a device is reached from this machine, or what is missing."""
    module = plugins.find("links", link.kind)
    about = module.about(link) if hasattr(module, "about") else module.ABOUT
    return str(module.ready(link) or f"{how(link)}: {about}")


def told(target: Target) -> str:
    """The same of a target, and what its latency is estimated from where it is not measured."""
    module = plugins.find("links", target.link.kind)
    at_hand = module.ready(target.link) is None and how(target.link) == "measured"
    calibrated = f"; latency estimated by a calibration of {target.calibration.machine}" if target.calibration and not at_hand else ""
    return reached(target.link) + calibrated


def stood_in(target: Target) -> Target:
    """The target as it is, or, where it cannot be reached and has a calibration, with this machine for its answers: its latency is estimated then."""
    if target.calibration is None or plugins.find("links", target.link.kind).ready(target.link) is None:
        return target
    return target.model_copy(update={"link": Link(kind="build_only"), "limits": Limits()})
