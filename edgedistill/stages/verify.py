"""verify: is the bundle whole, and does it still give its golden answers on this machine's runtime? Imports no torch and no pydantic.

`python -m edgedistill.stages.verify BUNDLE` is the same as `edgedistill verify BUNDLE`, for devices that have only onnxruntime, tokenizers
and numpy beside edgedistill.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgedistill.bundle_format import Golden, Manifest, read_bundle, read_golden
from edgedistill.errors import BundleError, EdgedistillError
from edgedistill.plugins import find
from edgedistill.serving import first_line, open_for, output, writes

CHUNK = 16  # vectors that a runner is asked at a time


@dataclass(frozen=True)
class Given:
    """What was given for one golden vector's text. likeliest: of an answer that is written, the token that comes first at each place of the golden one."""

    ids: list[int]
    logits: Any
    answer: Any
    likeliest: Sequence[int] = ()


@dataclass(frozen=True)
class Result:
    """What verify saw. worst_logit: largest difference from a golden logit. near_ties: vectors without a golden answer, since rounding decides it.
    tokens: of golden answers that are written, same: how many of them come first here as they did there, each told the golden ones before it.
    wrong: what differs, a sentence each, at most one a vector."""

    name: str
    vectors: int
    worst_logit: float
    logit_bound: float
    near_ties: int = 0
    same: int = 0
    tokens: int = 0
    wrong: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        return not self.wrong


def verify(folder: Path) -> Result:
    """Check digests, then every golden vector: token ids equal, logits within the manifest's bound, answer equal.

    Raises BundleError when the bundle is not whole; wrong vectors are in the result.
    """
    manifest = read_bundle(folder)
    task, settings = find("tasks", manifest.task), manifest.task_settings()
    model = open_for(
        task,
        find("runtimes", manifest.runtime),
        folder / manifest.model,
        folder / manifest.tokenizer,
        manifest.max_tokens,
        manifest.threads,
        settings,
        manifest.target.get("kv_cache", "f16"),
    )

    def asked(golden: Golden) -> Given:
        ids, offsets = model.encode(golden.text)
        if ids != golden.ids:  # perhaps none that the model knows
            return Given(ids, [], None)
        said = output(task, model, ids)
        held = model.forced(ids, golden.written) if writes(task) else None
        answer = task.answer(said, settings, golden.text, offsets)["answer"]
        return Given(ids, held.scores, answer, held.likeliest) if held else Given(ids, said, answer)

    vectors = golden_of(folder, manifest.task)
    return held_against(manifest.name, manifest.logit_bound, ((golden, asked(golden)) for golden in vectors))


def golden_of(folder: Path, task: str) -> list[Golden]:
    """The golden vectors of a bundle of a task. Raises BundleError when there is none, or when they lack what is asked today."""
    vectors = list(read_golden(folder / "golden.jsonl"))
    if not vectors or (writes(find("tasks", task)) and not all(vector.written for vector in vectors)):
        lacks = "no vector" if not vectors else "answers without their tokens"
        raise BundleError(f"golden.jsonl holds {lacks}.", where=str(folder), write="Compile the bundle anew.")
    return vectors


def held_against(name: str, logit_bound: float, pairs: Iterable[tuple[Golden, Given]]) -> Result:
    """Each golden vector beside what was given for its text: ids equal, logits within the bound, answers equal.

    Of answers that are written it is counted how many of their tokens come first here too; that alone makes no vector wrong, since every token's
    probability lies within the bound and every answer that rounding does not decide is the golden one.
    """
    worst, wrong, count, ties, same, tokens = 0.0, [], 0, 0, 0, 0
    for count, (golden, given) in enumerate(pairs, 1):
        ties += golden.answer is None
        tokens += len(golden.written)
        if given.ids != golden.ids:
            wrong.append(f"vector {count}, {golden.text[:40]!r}: token ids {_short(given.ids)} instead of {_short(golden.ids)}")
            continue
        same += sum(one == other for one, other in zip(given.likeliest, golden.likeliest, strict=True))
        ours, theirs = np.asarray(given.logits, np.float32), np.asarray(golden.logits, np.float32)
        difference = float(np.abs(ours - theirs).max()) if ours.shape == theirs.shape else float("inf")
        worst = max(worst, difference)
        if not difference <= logit_bound:  # written so that a NaN is wrong too
            wrong.append(f"vector {count}, {golden.text[:40]!r}: a logit differs by {difference:.4f}, allowed {logit_bound}")
        elif golden.answer is not None and given.answer != golden.answer:
            wrong.append(f"vector {count}, {golden.text[:40]!r}: answer {json.dumps(given.answer)} instead of {json.dumps(golden.answer)}")
    ties = ties if ties < count else 0  # a task of numbers has no golden answer at all
    return Result(name, count, worst, logit_bound, ties, same, tokens, wrong)


def hello(folder: Path, manifest: Manifest, first_text: str, threads: int, kv_cache: str = "f16") -> dict[str, Any]:
    """A runner's first line for a bundle (`runtimes/`). threads, kv_cache: the target's."""
    model, tokenizer, settings = folder / manifest.model, folder / manifest.tokenizer, manifest.task_settings()
    return first_line(model, tokenizer, manifest.max_tokens, manifest.task, settings, first_text, threads=threads, kv_cache=kv_cache)


def on_runner(name: str, logit_bound: float, vectors: list[Golden], runner: Any) -> Result:
    """The golden vectors as a runner answers them, wherever it runs (links/)."""
    pairs: list[tuple[Golden, Given]] = []
    for begin in range(0, len(vectors), CHUNK):
        chunk = vectors[begin : begin + CHUNK]
        said = runner.ask({"texts": [golden.text for golden in chunk], "wants": ["ids", "logits", "answers"]})
        answers = [one["answer"] for one in said["answers"]]
        if not chunk[0].written:
            pairs += zip(chunk, map(Given, said["ids"], said["logits"], answers), strict=True)
            continue
        held = runner.ask({"forced": [{"ids": golden.ids, "answer": golden.written} for golden in chunk]})["forced"]
        scores, likeliest = ([one[name] for one in held] for name in ("scores", "likeliest"))
        pairs += zip(chunk, map(Given, said["ids"], scores, answers, likeliest), strict=True)
    return held_against(name, logit_bound, pairs)


def summary(result: Result) -> str:
    """One line for people."""
    if result.good:
        ties = f"; near ties, whose answer rounding decides: {result.near_ties}" if result.near_ties else ""
        tokens = f"; {result.same} of {result.tokens} tokens are the likeliest here too" if result.tokens else ""
        return (
            f"{result.name}: {result.vectors} golden vectors equal, logits within {result.worst_logit:.2g} "
            f"(allowed {result.logit_bound:g}){tokens}{ties}"
        )
    return f"{result.name}: {len(result.wrong)} of {result.vectors} golden vectors differ. First: {result.wrong[0]}"


def describe(manifest: Manifest) -> str:
    """One line on what the bundle is."""
    return f"{manifest.name}: {manifest.task}, {len(manifest.labels)} labels, {manifest.scheme}, for {manifest.target.get('name')}"


def _short(ids: list[int]) -> str:
    return f"[{', '.join(map(str, ids[:8]))}{', …' if len(ids) > 8 else ''}] ({len(ids)})"


def main() -> int:
    """The torch-free command: exit code 0 equal, 1 a vector is wrong, 2 the bundle is not whole."""
    try:
        result = verify(Path(sys.argv[1]))
    except IndexError:
        sys.stderr.write("usage: python -m edgedistill.stages.verify BUNDLE\n")
        return 2
    except EdgedistillError as error:
        sys.stderr.write(error.paragraph() + "\n")
        return error.exit_code
    sys.stdout.write(summary(result) + "\n")
    return 0 if result.good else 1


if __name__ == "__main__":
    sys.exit(main())
