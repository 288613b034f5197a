"""Templates: texts drawn from patterns with slots, for traffic that nobody may collect, such as messages with card numbers in them.

A templates file is TOML: `texts` are the patterns, `[slots]` what may stand in their places.

    texts = ["Hi, {first} {last} here, call {phone}", "ship it to {street} {0-9*2}"]
    [slots]
    first = ["Anna", "José"]
    phone = ["({0-9*3}) {0-9*3}-{0-9*4}", "+44 20 {0-9*4} {0-9*4}"]

A slot's values may hold slots again. `{0-9*3}` is three characters between 0 and 9, `{A-Z}` one capital letter. `{{` and `}}` are braces.
Checklists of such templates test language models for what they must be able to do (CheckList, arXiv:2005.04118, §3); here the teacher
answers them and the student learns its answers.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import Field

from edgedistill.errors import DataError, nearest
from edgedistill.settings import Section, read_toml

HOLE = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
CHARACTERS = re.compile(r"(.)-(.)(?:\*(\d{1,3}))?")
TRIES = 20  # draws for each wanted text; after that the templates have no more to give


class Templates(Section):
    """A templates file."""

    texts: list[str] = Field(min_length=1, description="patterns with {slots}")
    slots: dict[str, list[str]] = Field(default_factory=dict, description="what may stand in a slot; each as likely as the others")


def read_templates(path: Path, where: str) -> Templates:
    """Read and check a templates file. Raises DataError for a slot that is not there, an empty one, or one that holds itself."""
    templates = read_toml(path, Templates, DataError)
    for name, values in templates.slots.items():
        if not values:
            raise DataError(f'the slot "{name}" has no values.', where=where, write=f'Write {name} = ["…", "…"] under [slots].')
        for value in values:
            _check(value, templates.slots, (name,), f"slots.{name}", where)
    for place, text in enumerate(templates.texts):
        _check(text, templates.slots, (), f"texts[{place}]", where)
    return templates


def _check(text: str, slots: Mapping[str, Sequence[str]], inside: tuple[str, ...], key: str, where: str) -> None:
    for hole in HOLE.finditer(text):
        name = hole[1]
        if name is None:
            if hole[0] in "{}":
                raise DataError(f"{key}: a single brace in {text[:60]!r}.", where=where, write="Write {{ or }} for a brace that is text.")
            continue
        if CHARACTERS.fullmatch(name):
            continue
        if name not in slots:
            raise DataError(f'{key}: there is no slot "{name}".', where=where, write=nearest(name, slots) or "Write it under [slots].")
        if name in inside:
            raise DataError(f'{key}: the slot "{name}" holds itself.', where=where, write="Take it out of its own values.")
        for value in slots[name]:
            _check(value, slots, (*inside, name), key, where)


def draw_texts(templates: Templates, count: int, seed: int) -> list[str]:
    """Up to `count` different texts; each template as often as the others."""
    draw = random.Random(seed)  # noqa: S311  # a sample, not a secret
    found: dict[str, None] = {}
    for number in range(count * TRIES):
        if len(found) == count:
            break
        found[_filled(templates.texts[number % len(templates.texts)], templates.slots, draw)] = None
    return list(found)


def _filled(text: str, slots: Mapping[str, Sequence[str]], draw: random.Random) -> str:
    def one(hole: re.Match[str]) -> str:
        name = hole[1]
        if name is None:
            return hole[0][0]
        characters = CHARACTERS.fullmatch(name)
        if characters:
            first, last = sorted((ord(characters[1]), ord(characters[2])))
            return "".join(chr(draw.randint(first, last)) for _ in range(int(characters[3] or 1)))
        return _filled(draw.choice(list(slots[name])), slots, draw)

    return HOLE.sub(one, text)
