"""Spoken commands for a house and the one action that each asks for, drawn from Home Assistant's own English templates.

Writes train.jsonl and test.jsonl: text, answer (one JSON object) and template. Split by template: no test command is another filling of a template
that training saw. On top of what the templates vary come politeness, casing, numbers in words and the slips of a speech recogniser.

python sample_apps/voice_commands/make_data.py            # needs: pip install 'edgedistill[voice]'
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections import defaultdict
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import hassil.expression as hassil
from hassil.numbers import get_rbnf_engine
from hassil.parse_expression import parse_sentence
from hassil.parser import ParseType, next_chunk

# Questions and timers are another app's; free text (a song, a shopping item) is no action of a house.
LEFT_OUT = re.compile(r"Timer|List|Broadcast|Respond|Nevermind|GetState|SearchAndPlay|CurrentDate|CurrentTime")
# What a house has; the templates leave these open.
AREAS = (
    "kitchen", "living room", "bedroom", "bathroom", "hallway", "office", "garage", "garden", "dining room", "basement", "attic", "nursery",
    "guest room", "laundry room", "playroom", "porch", "study", "pantry", "terrace", "workshop",
)  # fmt: skip
FLOORS = ("ground", "first", "second", "upper", "lower", "top")
NAMES = {
    "light": ("ceiling light", "bedside lamp", "desk lamp", "floor lamp", "reading light", "wall lights", "spotlight", "night light"),
    "switch": ("coffee maker", "kettle", "heater", "outlet", "sprinkler", "christmas tree", "dishwasher", "fountain"),
    "fan": ("ceiling fan", "tower fan", "extractor fan", "desk fan"),
    "climate": ("thermostat", "air conditioner", "radiator", "heat pump"),
    "cover": ("left curtain", "roller shutter", "skylight blind", "patio awning", "garage door"),
    "valve": ("water valve", "irrigation valve", "gas valve"),
    "lock": ("front door", "back door", "side gate", "cellar door"),
    "media_player": ("tv", "soundbar", "radio", "kitchen speaker", "record player", "projector"),
    "vacuum": ("robot", "vacuum cleaner", "dusty"),
    "lawn_mower": ("lawn mower", "mower", "shaun"),
    "scene": ("movie night", "party", "good night", "dinner", "sunrise"),
    "script": ("bedtime routine", "morning routine"),
    "button": ("door bell", "restart button"),
    "weather": ("home weather", "the coast"),
}
BEFORE = ("please", "could you", "can you", "hey", "ok", "would you please", "i want you to", "uh", "um", "so", "now", "quickly")
BEHIND = ("please", "thanks", "thank you", "now", "right now", "for me", "will you", "if you can")
HEARD_AS = {
    "the": "da",
    "to": "too",
    "turn": "tern",
    "for": "four",
    "in": "inn",
    "on": "an",
    "lights": "light's",
    "set": "sat",
    "of": "off",
}


class Piece(NamedTuple):
    """A part of a command. value: (slot, value) where it fills one."""

    text: str
    value: tuple[str, Any] | None = None


class Templates:
    """The package's templates, and how one is filled."""

    def __init__(self, draw: random.Random) -> None:
        raw = files("home_assistant_intents").joinpath("data/en.json").read_text(encoding="utf-8")
        self.data: dict[str, Any] = json.loads(raw)
        self.rules = {name: _parsed(text) for name, text in self.data["expansion_rules"].items()}
        self.draw = draw

    def all(self, intents: list[str]) -> list[tuple[str, dict[str, Any], str]]:
        """(intent, its block, template) of every template that needs no free text. intents: those wanted; none: all."""
        found = []
        for intent, facts in self.data["intents"].items():
            wanted = intent in intents if intents else not LEFT_OUT.search(intent)
            for block in facts["data"] if wanted else ():
                found += [(intent, block, template) for template in block["sentences"]]
        return found

    def fill(self, expression: Any, domain: str) -> list[Piece]:
        """One filling, drawn at random. domain: of which devices are named."""
        again = self.fill
        if isinstance(expression, hassil.TextChunk):
            return [Piece(expression.original_text)]
        if isinstance(expression, hassil.RuleReference):
            return again(self.rules[expression.rule_name], domain)
        if isinstance(expression, hassil.ListReference):
            return [self._value(expression.list_name, expression.slot_name, domain)]
        if isinstance(expression, hassil.Alternative):
            return again(self.draw.choice(expression.items), domain)
        items = list(expression.items)
        if isinstance(expression, hassil.Permutation):
            self.draw.shuffle(items)
            items = [part for item in items for part in (item, hassil.TextChunk(" "))]
        return [piece for item in items for piece in again(item, domain)]

    def _value(self, name: str, slot: str, domain: str) -> Piece:
        if name in ("area", "floor", "name"):
            value: Any = self.draw.choice({"area": AREAS, "floor": FLOORS, "name": NAMES[domain]}[name])
            return Piece(value, (slot, value))
        facts = self.data["lists"][name]
        if "range" in facts:
            limits = facts["range"]
            value = self.draw.randrange(limits["from"], limits["to"] + 1, limits.get("step", 1))
            words = get_rbnf_engine("en").format_number(value).text.replace("-", " ") if self.draw.random() < 0.25 else str(value)
            return Piece(words, (slot, value * limits.get("multiplier", 1)))
        chosen = self.draw.choice(facts["values"])
        text, value = (chosen["in"], chosen["out"]) if isinstance(chosen, dict) else (chosen, chosen)
        return Piece("".join(piece.text for piece in self.fill(_parsed(text), domain)), (slot, value))


def _parsed(template: str) -> Any:
    chunk = next_chunk(template)
    whole = chunk is not None and chunk.parse_type is ParseType.WORD and chunk.end_index == len(template)
    return hassil.TextChunk(template) if whole else parse_sentence(template).expression


def command(templates: Templates, intent: str, block: dict[str, Any], template: str) -> tuple[str, dict[str, Any]]:
    """(text, answer) of one filling of a template."""
    draw = templates.draw
    domains = block.get("requires_context", {}).get("domain") or [block.get("slots", {}).get("domain", "light")]
    known = [name for name in domains if name in NAMES]
    pieces = templates.fill(_parsed(template), draw.choice(known or ["light"]))
    slots = {**block.get("slots", {}), **dict(piece.value for piece in pieces if piece.value)}
    text = re.sub(r"\s+", " ", "".join(piece.text for piece in pieces)).strip()
    values = {word for piece in pieces if piece.value for word in piece.text.split()}
    return spoken(text, values, draw), {"intent": intent, **dict(sorted(slots.items()))}


def spoken(text: str, values: set[str], draw: random.Random) -> str:
    """As people say it and a recogniser writes it. values: the words of slots, which stay as they are."""
    words = text.split()
    if draw.random() < 0.15:
        place = draw.randrange(len(words))
        word = words[place]
        if word not in values:
            cut = draw.randrange(len(word))
            words[place] = HEARD_AS.get(word) or (word[:cut] + word[cut + 1 :] if len(word) > 3 else word)
    text = " ".join(words)
    text = f"{draw.choice(BEFORE)} {text}" if draw.random() < 0.25 else text
    text = f"{text} {draw.choice(BEHIND)}" if draw.random() < 0.15 else text
    shape = draw.random()
    return text.lower() if shape < 0.7 else f"{text[0].upper()}{text[1:]}." if shape < 0.9 else text.upper() if shape > 0.97 else text


def rows(templates: Templates, count: int, chosen: list[tuple[str, dict[str, Any], str]]) -> list[dict[str, str]]:
    """About `count` different commands, as many of each template as it has fillings for."""
    found: dict[str, dict[str, str]] = {}
    templates.draw.shuffle(chosen)  # few rows are then of all kinds
    for _ in range(4):
        for intent, block, template in chosen:
            for _ in range(max(1, round(count / len(chosen) / 2))):
                text, answer = command(templates, intent, block, template)
                if len(found) < count:
                    found.setdefault(text, {"text": text, "answer": json.dumps(answer), "template": template})
    return list(found.values())


def split(every: list[tuple[str, dict[str, Any], str]], share: float, draw: random.Random) -> tuple[list[Any], list[Any]]:
    """Templates of training and of the test; an intent with a single template stays in training."""
    groups = defaultdict(list)
    for entry in every:
        groups[entry[0]].append(entry)
    train, test = [], []
    for group in groups.values():
        draw.shuffle(group)
        held = min(len(group) - 1, max(1, round(share * len(group))))
        test += group[:held]
        train += group[held:]
    seen = {template for *_, template in train}
    return train, [entry for entry in test if entry[2] not in seen]


def main() -> None:
    parser = argparse.ArgumentParser(description="Write train.jsonl and test.jsonl of voice commands.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "data")
    parser.add_argument("--rows", type=int, default=8000, help="training commands")
    parser.add_argument("--test-rows", type=int, default=400, help="test commands, of templates that no training command is of")
    parser.add_argument(
        "--intents", nargs="*", default=[], help="only these, such as HassTurnOn HassTurnOff; else all but questions and timers"
    )
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draw = random.Random(options.seed)  # noqa: S311  # a sample, not a secret
    templates = Templates(draw)
    train, test = split(templates.all(options.intents), 0.15, draw)
    options.out.mkdir(parents=True, exist_ok=True)
    for name, count, chosen in (("train", options.rows, train), ("test", options.test_rows, test)):
        found = rows(templates, count, chosen)
        draw.shuffle(found)
        (options.out / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found), encoding="utf-8")
        print(f"{options.out / name}.jsonl: {len(found)} commands of {len(chosen)} templates")


if __name__ == "__main__":
    main()
