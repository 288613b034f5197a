"""speculate: the chosen student as draft of its own teacher, beside the teacher alone (`speculative.py`).

On this machine, whatever the target: where the teacher runs it is a server's or a laptop's. The same test rows, answer by answer in turns, without the
grammar, which would be asked once a token either way. The larger share of the guesses the teacher takes, the fewer passes it needs.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgedistill import speculative
from edgedistill.progress import tick
from edgedistill.report import Drafting
from edgedistill.stages.benchmark import Entry
from edgedistill.stages.prepare import read_settings
from edgedistill.stages.select import read_choice
from edgedistill.store import Stage
from edgedistill.tables import read_rows
from edgedistill.target import Target
from edgedistill.writer import Answer, Writer, open_writer

ANSWERS = 64
WARM_UP = 2


@dataclass(frozen=True)
class Params:
    """ahead: tokens guessed at a time. entries, machine: as benchmark's."""

    target: dict[str, Any]
    max_tokens: int
    entries: tuple[Entry, ...]
    machine: dict[str, Any]
    ahead: int
    seed: int


def run(out: Path, params: Params, *, prepared: Path, selected: Path, **files: Path) -> None:
    """Writes `drafting.json`, a `report.Drafting`. files: as benchmark's. The teacher is its smallest form that there is."""
    target, settings = Target(**params.target), read_settings(prepared)
    teacher = [entry for entry in params.entries if entry.role == "teacher"][-1]
    draft = next(entry for entry in params.entries if entry.name == read_choice(selected / "choice.json").chosen)

    def opened(entry: Entry) -> Writer:
        model, tokenizer = files[f"{entry.id}_model"] / target.model_file, files[f"{entry.id}_graphs"] / "tokenizer.json"
        return open_writer(model, tokenizer, params.max_tokens, target.threads, settings)

    large, small, alone = opened(teacher), opened(draft), opened(teacher)
    texts = read_rows(prepared / "test.parquet").texts[:ANSWERS]
    draw = random.Random(params.seed)  # noqa: S311  # whose turn is first, not a secret
    plain: list[Answer] = []
    drafted: list[speculative.Drafted] = []
    for place, text in enumerate([*texts[:WARM_UP], *texts]):
        for whose in draw.sample(("alone", "drafted"), 2):
            if whose == "alone":
                plain.append(alone.write(alone.encode(text)[0], constrained=False))
            else:
                drafted.append(speculative.write(large, small, text, params.ahead))
        tick("the student guesses ahead", place + 1, len(texts) + WARM_UP)
    plain, drafted = plain[WARM_UP:], drafted[WARM_UP:]
    found = Drafting(
        teacher=teacher.name,
        draft=draft.name,
        ahead=params.ahead,
        alone_ns=[one.first_ns + one.rest_ns for one in plain],
        drafted_ns=[one.nanoseconds for one in drafted],
        tokens=[len(one.ids) for one in drafted],
        proposed=[one.proposed for one in drafted],
        accepted=[one.accepted for one in drafted],
        passes=[one.passes for one in drafted],
        same=[one.ids == other.ids for one, other in zip(plain, drafted, strict=True)],
    )
    (out / "drafting.json").write_text(found.model_dump_json() + "\n", encoding="utf-8")


SPECULATE = Stage("speculate", 1, run, ("llama-cpp-python", "tokenizers", "numpy"))
