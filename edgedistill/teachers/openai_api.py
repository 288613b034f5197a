"""A teacher behind an API: any OpenAI-compatible endpoint. It is asked, never trained, and what it answers is all that is known of it.

`[teacher] model` names a TOML file that says how the endpoint is reached, what is asked, and under which terms (`Asked` below). Two ways to ask:

- `answers = "logprobs"`: each class has a letter, the model answers with one, and the probabilities of the letters are the soft label. Says most,
  and takes one token; not every endpoint gives log-probabilities.
- `answers = "text"`: the model names the class (task tag: lists the spans as JSON). A hard answer: it counts as sure.

An answer that names no class says nothing of its text: its soft label is even. Where most say nothing the stage stops with an example.
Sources: distillation from outputs alone, arXiv:1606.07947; letters for classes, arXiv:2210.12353.
"""

from __future__ import annotations

import datetime
import json
import re
import string
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, field_validator, model_validator

from edgedistill.api_client import Endpoint, ask
from edgedistill.digests import canonical
from edgedistill.errors import RecipeError, StageError, TermsError
from edgedistill.recipe import Teacher
from edgedistill.settings import Section, read_toml
from edgedistill.sources import home

TEACHABLE = False
RUNS_HERE = False  # there is no file of it that could be measured on a target

LETTERS = string.ascii_uppercase
MOST_LETTERS = 20  # log-probabilities are given of 20 tokens at most
SURE = 10.0  # logit of a hard answer, the others being 0
LEAST = -20.0  # log-probability of a letter that is not among those given
ENOUGH = 0.5  # share of the texts that must get an answer
TAGS, OUTSIDE = "token-classification", "O"

# What is taken out of a text before it leaves the machine, by name.
PERSONAL = {
    "email": r"[\w.+-]+@[\w-]+\.[\w.-]+",
    "url": r"https?://\S+",
    "ip": r"\b\d{1,3}(?:\.\d{1,3}){3}\b",
    "iban": r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){3,7}(?: ?[A-Z0-9]{1,3})?\b",
    "phone": r"(?<!\w)\+?\d[\d ()/.-]{6,}\d(?!\w)",
    "number": r"\b\d{4,}\b",
}


class Terms(Section):
    """`[terms]`: may a student be distilled from what this endpoint answers? Looked up by a person."""

    distillation: Literal["allowed", "forbidden"] = Field(description="what the terms say of training another model on the answers")
    basis: str = Field(min_length=1, description="the clause or the licence that says so")
    source: str = Field(min_length=1, description="where it stands: an address, a contract")
    date: datetime.date = Field(description="when it was looked up")


class Example(Section):
    """`[[examples]]`: a text with its right answer, shown to the model."""

    text: str
    label: str


class Asked(Endpoint):
    """The whole file."""

    answers: Literal["logprobs", "text"] = Field("text", description="logprobs: probabilities of classes; text: the answer alone")
    question: str = Field("Which class does the text belong to?", description="what is asked of each text")
    classes: dict[str, str] = Field(min_length=1, description="name of each class (task tag: type of span) = what it means, in words")
    examples: list[Example] = Field(default_factory=list, description="shown before each text")
    scrub: list[str] = Field(default_factory=list, description=f"taken out of texts before they leave: {', '.join(PERSONAL)}")
    terms: Terms | None = None

    @field_validator("scrub")
    @classmethod
    def _known(cls, names: list[str]) -> list[str]:
        for name in names:
            if name not in PERSONAL:
                raise ValueError(f'scrub knows no "{name}"; it knows {", ".join(PERSONAL)}')
        return names

    @model_validator(mode="after")
    def _fits(self) -> Asked:
        strange = [example.label for example in self.examples if example.label not in self.classes]
        if strange and self.answers == "logprobs":
            raise ValueError(f'an example has the label "{strange[0]}", and [classes] names none such')
        if self.answers == "logprobs" and len(self.classes) > MOST_LETTERS:
            raise ValueError(
                f'{len(self.classes)} classes are more than the {MOST_LETTERS} that logprobs tell apart; write answers = "text"'
            )
        return self


def read(model: Path) -> Asked:
    """The endpoint's file: `model` itself, or the one in an adopted folder. Raises RecipeError with all its problems."""
    return read_toml(model / "endpoint.toml" if model.is_dir() else model, Asked, RecipeError)


def terms(model: Path, where: str) -> dict[str, str]:
    """The terms, for the record. Raises TermsError when they are unknown or forbid it: nothing was asked then."""
    found = read(model).terms
    if found is None:
        raise TermsError(
            "the terms of the endpoint are unknown, so nobody can say whether a student may be distilled from its answers.",
            where=f"{model}: terms",
            write='Look them up and write [terms] with distillation = "allowed", basis, source and date.',
        )
    if found.distillation == "forbidden":
        raise TermsError(
            f"the endpoint's terms do not allow it: {found.basis} ({found.source}, {found.date}).",
            where=f"{model}: terms",
            write="Take a teacher whose terms allow it.",
        )
    return {"license": "terms of the endpoint", "basis": found.basis, "source": found.source, "date": found.date.isoformat()}


def labels(model: Path, task: str) -> list[str] | None:
    """The classes of its file; for tagging O, and B- and I- of each type."""
    names = list(read(model).classes)
    return [OUTSIDE, *(f"{prefix}-{name}" for name in sorted(names) for prefix in "BI")] if task == TAGS else names


def has_head(model: Path, classes: Sequence[str], task: str) -> bool:
    """Whether its file names exactly these classes."""
    return set(labels(model, task) or []) == set(classes)


def adopt(model: Path, out: Path, classes: list[str], task: str) -> None:
    """Keep the file with the results: what was asked is what made them. Raises RecipeError for what the file and the task do not share."""
    asked = read(model)
    if task not in (TAGS, "text-classification"):
        raise RecipeError("a teacher behind an API answers tasks classify and tag.", where="teacher.kind")
    if task == TAGS and (asked.answers == "logprobs" or asked.scrub):
        raise RecipeError(
            f"{'logprobs' if asked.answers == 'logprobs' else 'scrub'} cannot be had for task tag, whose answers are places in the text.",
            where=str(model),
            write='Write answers = "text" and leave scrub out.',
        )
    out.mkdir(parents=True, exist_ok=True)
    (out / "endpoint.toml").write_bytes(model.read_bytes())


def fine_tune(model: Path, *_: Any) -> None:
    """Never: it can only be asked."""
    raise StageError(
        "a teacher behind an API can only be asked, and its file names other classes than the data has.",
        where="teacher.model",
        write="Write exactly the classes of the data under [classes].",
    )


def logits(
    model: Path,
    texts: Sequence[str],
    classes: list[str],
    task: str,
    options: Teacher,
    max_tokens: int,
    precision: str,
    positions: Callable[[str, Sequence[tuple[int, int]]], npt.NDArray[np.int64]] | None = None,
) -> Any:
    """Its answers as logits, float32 [len(texts), classes]; with `positions` a list of float32 [words, classes]."""
    asked = read(model)
    shown = [scrubbed(text, asked.scrub) for text in texts]
    bodies = [_body(asked, text, classes, task) for text in shown]
    said = ask(asked, bodies, home() / "answers" / f"{_name(asked)}.sqlite")
    if task == TAGS:
        assert positions is not None  # the stage gives them for every task that answers word by word
        rows = [_words(answer, text, classes, positions) for answer, text in zip(said, texts, strict=True)]
    elif asked.answers == "logprobs":
        rows = [_letters(answer, classes) for answer in said]
    else:
        rows = [_named(answer, classes) for answer in said]
    nothing = [place for place, row in enumerate(rows) if row is None]
    if len(nothing) > (1 - ENOUGH) * max(len(texts), 1):
        raise StageError(
            f"{len(nothing)} of {len(texts)} answers name no class. The first: {said[nothing[0]]['message']['content'][:80]!r}.",
            where=asked.base_url,
            write="Put the question otherwise (question, examples in the endpoint's file), or take a better model. The answers are kept.",
        )
    if task == TAGS:
        return [row if row is not None else _even(text, classes, positions) for row, text in zip(rows, texts, strict=True)]
    return np.stack([row if row is not None else np.zeros(len(classes), np.float32) for row in rows]).astype(np.float32)


def scrubbed(text: str, names: Sequence[str]) -> str:
    """The text with personal data of these kinds replaced by their names: "write to <email>"."""
    for name in PERSONAL:  # in their order, so that an address is gone before its digits are looked at
        if name in names:
            text = re.sub(PERSONAL[name], f"<{name}>", text)
    return text


def _name(asked: Asked) -> str:
    """The journal of an endpoint's model: the same one whatever is asked of it, so that a cap holds over all."""
    import hashlib

    return hashlib.sha256(canonical([asked.base_url, asked.model])).hexdigest()[:16]


def _body(asked: Asked, text: str, classes: list[str], task: str) -> dict[str, Any]:
    """The chat that is sent for one text."""
    if task == TAGS:
        known = "\n".join(f"{name}: {meaning}" for name, meaning in asked.classes.items())
        form = '[{"text": "…", "label": "…"}]'
        system = f"{asked.question}\nList every span of these types:\n{known}\nAnswer with a JSON list such as {form}, and no word more."
        return _chat(asked, system, text, {"max_tokens": 32 + len(text)}, lambda label: label)
    if asked.answers == "logprobs":
        letter = dict(zip(classes, LETTERS, strict=False))
        known = "\n".join(f"{letter[name]}: {asked.classes[name]}" for name in classes)
        system = f"{asked.question}\n{known}\nAnswer with one letter."
        return _chat(asked, system, text, {"max_tokens": 1, "logprobs": True, "top_logprobs": MOST_LETTERS}, lambda label: letter[label])
    known = "\n".join(f"{name}: {asked.classes[name]}" for name in classes)
    system = f"{asked.question}\n{known}\nAnswer with the name of one class, and no word more."
    return _chat(asked, system, text, {"max_tokens": 16}, lambda label: label)


def _chat(asked: Asked, system: str, text: str, options: dict[str, Any], shown: Callable[[str], str]) -> dict[str, Any]:
    messages = [{"role": "system", "content": system}]
    for example in asked.examples:
        messages += [{"role": "user", "content": example.text}, {"role": "assistant", "content": shown(example.label)}]
    return {"messages": [*messages, {"role": "user", "content": text}], "temperature": 0, **options}


def _letters(answer: dict[str, Any], classes: list[str]) -> npt.NDArray[np.float32] | None:
    """Log-probabilities of the classes' letters. A letter may come as several tokens ("A", " A"): their probabilities add up."""
    try:
        first = answer["logprobs"]["content"][0]["top_logprobs"]
    except (KeyError, IndexError, TypeError):
        raise StageError(
            "the endpoint gives no log-probabilities.", where="teacher.model", write='Write answers = "text" in the endpoint\'s file.'
        ) from None
    found = np.full(len(classes), -np.inf)
    for entry in first:
        letter = str(entry["token"]).strip()
        if len(letter) == 1 and letter in LETTERS[: len(classes)]:
            place = LETTERS.index(letter)
            found[place] = np.logaddexp(found[place], float(entry["logprob"]))
    return None if np.isinf(found).all() else np.maximum(found, LEAST).astype(np.float32)


def _named(answer: dict[str, Any], classes: list[str]) -> npt.NDArray[np.float32] | None:
    """A sure logit for the one class that the answer names."""
    said = answer["message"]["content"].strip().strip("\"'`.*").casefold()
    exact = [place for place, name in enumerate(classes) if name.casefold() == said]
    inside = [place for place, name in enumerate(classes) if re.search(rf"(?<!\w){re.escape(name.casefold())}(?!\w)", said)]
    places = exact or inside
    if len(places) != 1:
        return None
    row = np.zeros(len(classes), np.float32)
    row[places[0]] = SURE
    return row


Positions = Callable[[str, Sequence[tuple[int, int]]], npt.NDArray[np.int64]]


def _even(text: str, classes: list[str], positions: Positions | None) -> npt.NDArray[np.float32]:
    assert positions is not None
    return np.zeros((len(_starts(text, positions)), len(classes)), np.float32)


def _starts(text: str, positions: Positions) -> npt.NDArray[np.int64]:
    """Where each word begins: were each character a token, the one that answers for the word."""
    return positions(text, [(place, place + 1) for place in range(len(text))])


def _words(answer: dict[str, Any], text: str, classes: list[str], positions: Positions) -> npt.NDArray[np.float32] | None:
    """A sure label for each word, from the spans that the answer lists, each found in the text behind the one before it."""
    content = answer["message"]["content"]
    try:
        spans = json.loads(content[content.index("[") : content.rindex("]") + 1])
        listed = [(str(span["text"]), str(span["label"])) for span in spans]
    except (ValueError, LookupError, TypeError):
        return None
    starts, tags, behind = _starts(text, positions), np.full(len(_starts(text, positions)), classes.index(OUTSIDE)), 0
    for words, name in listed:
        at = text.find(words, behind)
        if at < 0 or not words or f"B-{name}" not in classes:
            continue
        behind = at + len(words)
        inside = np.flatnonzero((starts >= at) & (starts < behind))
        tags[inside] = classes.index(f"I-{name}")
        tags[inside[:1]] = classes.index(f"B-{name}")
    row = np.zeros((len(starts), len(classes)), np.float32)
    row[np.arange(len(starts)), tags] = SURE
    return row
