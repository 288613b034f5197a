"""Generation of structured answers: a request in, one JSON object out, such as the action that a spoken command asks for.

The model is a decoder: it reads the prompt and writes the answer token by token (greedy) until the stop token. What it writes takes the place of
logits everywhere else: "the logits of a text" of this task are what was written. Judged is what the app gets, the parsed object: exact match, and beside
it slot F1 (of the key and value pairs) and validity (it parses, and has the keys and kinds of values that the training answers have).

Answers are written in one form, so that there is one right string for an object: the first key as it stands in the data, the others sorted,
`", "` and `": "` between. From the training answers follows a grammar (GBNF, llama.cpp's notation) in which only such answers can be written: the
first key's value names the kind of answer when it is always a string; each kind has its keys, in order, those that are not always there
optional; a value is a string, a number, true or false as seen. Constrained decoding: arXiv:2307.09702.

A target is the object.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgedistill.tasks.classify import divergence as divergence

HUB_TASK = "text-generation"
EXACT = True
LOGIT_BOUND = 0.5  # of a token's log-probability; a quantized decoder's differ more between processors than a classifier's few logits
FEWEST_SAMPLES = 200  # answers take as long as dozens of classifications

OTHER = "answer"  # the kind of all answers where no key names one


def about(settings: dict[str, Any]) -> str:
    """For the model card."""
    kinds = settings["labels"]
    return (
        f"Answers a request with one JSON object of {len(kinds)} kind{'s' * (len(kinds) != 1)} "
        f"({', '.join(kinds[:20])}{', …' if len(kinds) > 20 else ''})."
    )


def metric(settings: dict[str, Any]) -> str:
    return "exact match"


def soft(options: Any) -> str:
    return "forward_kl"


def hard_kind(settings: dict[str, Any]) -> str:
    return "classes"


# --- targets ----------------------------------------------------------------------------------------------------------------------------


def read(label: str, text: str, options: Any) -> dict[str, Any]:
    """The object of a cell. Raises ValueError for what is no JSON object of plain values."""
    try:
        found = json.loads(label)
    except ValueError:
        raise ValueError("answer is no JSON") from None
    if not isinstance(found, dict) or not found:
        raise ValueError("answer is no JSON object")
    if any(not isinstance(value, str | int | float | bool) for value in found.values()):
        raise ValueError("answer holds a list, an object or null; its values must be strings, numbers, true or false")
    first, *others = found
    return {name: found[name] for name in (first, *sorted(others))}


def settings(targets: Sequence[Any], options: Any, labels: Sequence[str] | None = None) -> dict[str, Any]:
    """The kinds of answers, what each is made of, the grammar, and how a text is put to the model."""
    first = next(iter(targets[0])) if targets else ""
    named = bool(first) and all(next(iter(target)) == first and isinstance(target[first], str) for target in targets)
    shapes: dict[str, dict[str, dict[str, Any]]] = {}
    counts: dict[str, int] = {}
    for target in targets:
        kind = target[first] if named else OTHER
        counts[kind] = counts.get(kind, 0) + 1
        for name, value in target.items():
            seen = shapes.setdefault(kind, {}).setdefault(name, {"types": [], "rows": 0})
            seen["rows"] += 1
            if _type(value) not in seen["types"]:
                seen["types"].append(_type(value))
    kinds = {
        kind: {
            name: {"types": sorted(seen["types"]), "always": seen["rows"] == counts[kind]}
            for name, seen in sorted(keys.items(), key=lambda entry: (entry[0] != first, entry[0]))
        }
        for kind, keys in sorted(shapes.items())
    }
    before, _, behind = options.prompt.partition("{text}")
    found = {"labels": list(kinds), "kind_key": first if named else None, "kinds": kinds, "prompt": [before, behind]}
    return {**found, "grammar": grammar(found)}


def _type(value: Any) -> str:
    return (
        "boolean" if isinstance(value, bool) else "string" if isinstance(value, str) else "integer" if isinstance(value, int) else "number"
    )


def stratum(target: Any) -> str | None:
    return None


def classes(settings: dict[str, Any]) -> list[str]:
    return list(settings.get("labels", ()))


def names(target: Any, settings: dict[str, Any]) -> list[str]:
    """The kind of an answer, where a key names it."""
    value = next(iter(target.values()))
    return [value] if isinstance(value, str) and (not settings or settings.get("kind_key")) else [OTHER] if settings else []


def number(target: Any, settings: dict[str, Any]) -> dict[str, Any]:
    return dict(target)


def written(target: Any) -> str:
    """An answer as it is to be written."""
    return json.dumps(target, ensure_ascii=False)


def hard(target: Any, settings: dict[str, Any], text: str = "", offsets: Sequence[tuple[int, int]] | None = None) -> Any:
    """The string to be written; None where nobody said."""
    return None if target is None else written(target)


# --- answers ----------------------------------------------------------------------------------------------------------------------------


def answer(logits: Any, settings: dict[str, Any], text: str = "", offsets: Sequence[tuple[int, int]] | None = None) -> dict[str, Any]:
    """The object that was written. logits: what was written, a string or a `writer.Answer`.

    "answer" and "target" are None where it is not valid; "confidence": the probability of the whole answer, where it is known.
    """
    said = logits if isinstance(logits, str) else logits.text
    try:
        found = json.loads(said)
    except (ValueError, RecursionError):
        found = None
    found = found if valid(found, settings) else None
    more = {} if isinstance(logits, str) else {"confidence": float(np.exp(sum(logits.scores)))}
    return {"answer": found, "target": found, "written": said, **more}


def valid(found: Any, settings: dict[str, Any]) -> bool:
    """Whether an object has the keys of its kind, and the kinds of values that these have."""
    if not isinstance(found, dict):
        return False
    key = settings["kind_key"]
    kind = found.get(key) if key else OTHER
    keys = settings["kinds"].get(kind) if isinstance(kind, str) else None
    return (
        keys is not None
        and all(name in keys and _type(value) in keys[name]["types"] for name, value in found.items())
        and all(name in found for name, rule in keys.items() if rule["always"])
    )


def judge(predicted: Any, target: Any, settings: dict[str, Any]) -> tuple[float, float]:
    """Exact match of the object, in whatever order its keys stand. As JSON, in which 1 is not true."""
    return float(json.dumps(predicted, sort_keys=True) == json.dumps(target, sort_keys=True)), 1.0


def further(predicted: Any, target: Any, settings: dict[str, Any]) -> dict[str, tuple[float, float]]:
    """Of one row, beside the metric: (gained, possible) of slot F1 and of validity."""
    ours = {(name, json.dumps(value)) for name, value in (predicted or {}).items()}
    theirs = {(name, json.dumps(value)) for name, value in target.items()}
    return {"slot F1": (2.0 * len(ours & theirs), float(len(ours) + len(theirs))), "valid": (float(predicted is not None), 1.0)}


def probabilities(logits: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Softmax over the last axis."""
    from edgedistill.tasks.classify import probabilities as softmax

    return softmax(logits)


# --- the grammar ------------------------------------------------------------------------------------------------------------------------

_RULES = {
    "string": r'"\"" ([^"\\\x00-\x1f] | "\\" ["\\/bfnrt]){0,64} "\""',  # a value ends: 64 characters
    "integer": '"-"? [0-9]{1,9}',
    "number": '"-"? [0-9]{1,9} ("." [0-9]{1,6})?',
    "boolean": '("true" | "false")',
}


def grammar(settings: dict[str, Any]) -> str:
    """GBNF in which exactly the valid answers in their one form can be written, strings up to a length."""
    names = {kind: f"kind{place}" for place, kind in enumerate(settings["kinds"])}
    lines = [f"root ::= {' | '.join(names.values()) or _quoted('{}')}"]
    for kind, keys in settings["kinds"].items():
        parts = []
        for place, (name, rule) in enumerate(keys.items()):
            value = _quoted(json.dumps(kind)) if name == settings["kind_key"] else f"({' | '.join(rule['types'])})"
            part = f"{_quoted((', ' if place else '') + json.dumps(name, ensure_ascii=False) + ': ')} {value}"
            # The first key's comma stands before the second: where no key names the kind, the first is taken for one that is always there.
            parts.append(part if rule["always"] or not place else f"({part})?")
        lines.append(f"{names[kind]} ::= {_quoted('{')} {' '.join(parts)} {_quoted('}')}")
    return "\n".join([*lines, *(f"{name} ::= {rule}" for name, rule in _RULES.items())]) + "\n"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
