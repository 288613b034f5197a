"""teach: make the teacher good at the task, then ask it once for its soft labels.

Two results: FINE_TUNE, the teacher with a head for the task and how good it is on held-out rows; LABEL, its logits for every text of the
transfer set. Labels are stored under the hash of the text they belong to, so no later stage can match a row with another's labels.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from edgedistill import plugins
from edgedistill.errors import StageError, TermsError
from edgedistill.progress import tick
from edgedistill.recipe import Teacher
from edgedistill.serving import writes
from edgedistill.stages.prepare import read_settings
from edgedistill.store import Stage
from edgedistill.tables import Rows, make_rows, read_rows

ANSWERS = "answers.json"
SHARD = 4096  # rows a checkpoint of the labelling

# Licences under which outputs may train another model and the result may be given away. SPDX names, lower case.
OPEN_LICENCES = frozenset(
    {
        "apache-2.0",
        "mit",
        "bsd-2-clause",
        "bsd-3-clause",
        "isc",
        "unlicense",
        "cc0-1.0",
        "cc-by-4.0",
        "cc-by-3.0",
        "cc-by-sa-4.0",
        "cc-by-sa-3.0",
        "mpl-2.0",
        "openrail++",
        "bigscience-openrail-m",
        "creativeml-openrail-m",
        "odc-by",
        "pddl",
        "0bsd",
        "zlib",
        "artistic-2.0",
        "cdla-permissive-2.0",
        "epl-2.0",
    }
)
# Terms that forbid it, or forbid shipping the result in a product.
FORBIDDING = {
    "cc-by-nc-4.0": "no commercial use",
    "cc-by-nc-sa-4.0": "no commercial use",
    "cc-by-nc-nd-4.0": "no commercial use, no derivatives",
    "cc-by-nd-4.0": "no derivatives",
    "openai-terms": "outputs may not be used to develop competing models",
    "anthropic-terms": "outputs may not be used to develop competing models",
    "llama2": "outputs may not be used to improve another language model",
}


@dataclass(frozen=True)
class FineTuneParams:
    """lowbit: as `lowbit` gives it."""

    teacher: Teacher
    task: str
    max_tokens: int
    precision: str
    seed: int
    lowbit: str = ""


@dataclass(frozen=True)
class LabelParams:
    """lowbit: as `lowbit` gives it."""

    teacher: Teacher
    task: str
    max_tokens: int
    precision: str
    lowbit: str = ""


@dataclass(frozen=True)
class EmbeddingLabelParams(LabelParams):
    """For a recipe whose losses need embeddings too; a class of its own, so that the keys of plain labels do not change."""

    embeddings: bool = True


def lowbit(teacher: Teacher) -> str:
    """The version of bitsandbytes when the teacher is loaded through it, else nothing."""
    if teacher.load == "float32":
        return ""
    try:
        return version("bitsandbytes")
    except PackageNotFoundError:
        return "absent"


def check_terms(teacher: Teacher, folder: Path, where: str, section: str = "teacher") -> dict[str, str]:
    """May a student be distilled from this teacher? The record of why goes into the bundle's lineage. section: of the recipe, for the error.

    The recipe's `teacher.license` counts; when it is left out, the licence that the model's own card states. Raises TermsError when it is
    unknown or forbids it, before the teacher is asked for anything.
    """
    kind = plugins.find("teachers", teacher.kind)
    if hasattr(kind, "terms"):  # what is said of it stands in a file of its own
        return {**kind.terms(folder, where), "model": teacher.model}
    stated = (teacher.license or "").strip().lower()
    basis = teacher.license_basis or "stated in the recipe"
    if not stated:
        stated, basis = _licence_of_card(folder), "the model's own card (README.md)"
    if not stated:
        raise TermsError(
            f"the terms of the {section} are unknown, so nobody can say whether a student may be distilled from it.",
            where=where,
            write=f'Look them up and write, for example, license = "apache-2.0" under [{section}], with license_basis = "where it is stated".',
        )
    if stated in FORBIDDING:
        raise TermsError(
            f'the terms "{stated}" do not allow it: {FORBIDDING[stated]}.', where=where, write="Take a teacher under an open licence."
        )
    if stated not in OPEN_LICENCES:
        raise TermsError(
            f'"{stated}" is no licence that edgedistill knows to allow distillation.',
            where=where,
            write=f"Write the SPDX name of an open licence ({', '.join(sorted(OPEN_LICENCES)[:6])}, …) if one applies; else take another teacher.",
        )
    return {"license": stated, "basis": basis, "model": teacher.model}


def _licence_of_card(folder: Path) -> str:
    """`license: …` in the front matter of the model's README.md."""
    card = folder / "README.md"
    if not card.is_file():
        return ""
    parts = card.read_text(encoding="utf-8", errors="replace").split("---", 2)
    for line in parts[1].splitlines() if len(parts) == 3 and not parts[0].strip() else []:
        name, _, value = line.partition(":")
        if name.strip() == "license":
            return value.strip().strip("'\"").lower()
    return ""


def fine_tune(out: Path, params: FineTuneParams, *, prepared: Path, model: Path) -> None:
    """Writes `model/` (a float32 model folder) and `facts.json` (held-out accuracy or its like, the TF-IDF floor, what was done).

    Of a teacher that does not run here also `answers.json`, what it says of the test rows: benchmark cannot ask it.
    """
    kind = plugins.find("teachers", params.teacher.kind)
    task, settings = plugins.find("tasks", params.task), read_settings(prepared)
    hub_task, classes = task.HUB_TASK, settings["labels"]
    train, test = read_rows(prepared / "train.parquet"), read_rows(prepared / "test.parquet")
    wanted = params.teacher.fine_tune
    ready = kind.has_head(model, classes, hub_task)
    if wanted == "never" and not ready:
        raise StageError(
            "the teacher has no head for these classes, and the recipe forbids to fine-tune it.",
            where="teacher.fine_tune",
            write='Write fine_tune = "auto", or take a teacher whose id2label holds exactly the classes of the data.',
        )
    tuned = wanted == "always" or not ready
    if tuned:
        kind.fine_tune(
            model,
            out / "model",
            train.texts,
            lambda row, offsets: task.hard(train.target(row), settings, train.texts[row], offsets),
            task.hard_kind(settings),
            classes,
            hub_task,
            params.teacher,
            params.max_tokens,
            params.precision,
            params.seed,
            out / "checkpoints",
        )
    else:
        kind.adopt(model, out / "model", classes, hub_task)
    facts: dict[str, Any] = {"fine_tuned": tuned, "test_rows": len(test.texts), "metric": task.metric(settings)}
    away = not getattr(kind, "RUNS_HERE", True)
    if away or any(target is not None for target in test.targets):
        positions = [task.positions] if hasattr(task, "positions") else []
        logits = kind.logits(out / "model", test.texts, classes, hub_task, params.teacher, params.max_tokens, "float32", *positions)
        if away:  # benchmark cannot ask it: these are its answers there
            said = [task.answer(row, settings, text) for row, text in zip(logits, test.texts, strict=True)]
            (out / ANSWERS).write_text(json.dumps([{name: one[name] for name in ("target", "confidence") if name in one} for one in said]))
    if any(target is not None for target in test.targets):
        facts["accuracy"] = quality(task, settings, test, logits)
        facts["floor"] = floor_accuracy(train, test) if (test.labels >= 0).all() else None
    (out / "facts.json").write_text(json.dumps(facts, indent=1))


def quality(task: ModuleType, settings: dict[str, Any], rows: Rows, logits: Sequence[Any] | npt.NDArray[Any]) -> float:
    """The task's metric of these answers on labelled rows."""
    judged = [
        task.judge(task.answer(logits[row], settings, text)["target"], rows.target(row), settings)
        for row, text in enumerate(rows.texts)
        if rows.targets[row] is not None
    ]
    gained, possible = np.sum(judged, axis=0)
    return float(gained / possible) if possible else 0.0


def check_floor(facts: dict[str, Any], teacher: Teacher, where: str) -> None:
    """A teacher that a linear model over TF-IDF beats has nothing to teach. Raises StageError unless the recipe accepts it."""
    if facts.get("floor") is not None and facts["accuracy"] < facts["floor"] and teacher.below_floor == "stop":
        raise StageError(
            f"the teacher is right on {facts['accuracy']:.1%} of {facts['test_rows']} held-out rows; TF-IDF with a linear SVM reaches "
            f"{facts['floor']:.1%}, so there is nothing to distill.",
            where=where,
            write='Train it longer (teacher.epochs, teacher.learning_rate), take a better one, or write below_floor = "accept" under [teacher].',
        )


def floor_accuracy(train: Any, test: Any) -> float:
    """Held-out accuracy of TF-IDF (words and pairs) with a linear SVM: what needs no teacher at all."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_pipeline
    from sklearn.svm import LinearSVC

    words = r"\S+"
    floor = make_pipeline(TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=words), LinearSVC(random_state=0))
    try:
        floor.fit(train.texts, train.labels)
    except ValueError:  # an empty vocabulary: no text has a word
        return 0.0
    return float(floor.score(test.texts, test.labels))


def label(out: Path, params: LabelParams, *, prepared: Path, teacher: Path, transfer: Path, earlier: Sequence[Path] = ()) -> None:
    """Writes `labels.parquet`: key (of the text), logits (float32 list), of the transfer set and of what was held out of it.

    Of a task that answers word by word the logits are those of its words, one after the other. A killed run goes on with the next shard.
    earlier: labels of other transfer sets by the same teacher. Only texts that stand in none of them are asked.

    With EmbeddingLabelParams also `embedding`, the vector that the teacher's head reads (float16 list), had in the same pass.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    kind = plugins.find("teachers", params.teacher.kind)
    task, classes = plugins.find("tasks", params.task), read_settings(prepared)["labels"]
    positions = [task.positions] if hasattr(task, "positions") else []
    rows = read_rows(transfer / "transfer.parquet")
    if (transfer / "held_out.parquet").is_file():
        rows = make_rows([*rows.texts, *read_rows(transfer / "held_out.parquet").texts])
    embeddings = isinstance(params, EmbeddingLabelParams)
    if embeddings and not hasattr(kind, "logits_and_embeddings"):
        raise StageError(
            f"a loss needs the teacher's embeddings, and a teacher of kind {params.teacher.kind} gives none.",
            where="distill.losses",
            write='Take losses of answers, such as "soft_target" or "hard_answer".',
        )
    checkpoints = out / "checkpoints"
    checkpoints.mkdir(exist_ok=True)
    shards = sorted(checkpoints.glob("*.parquet"))  # of a run that was killed
    known, there = _only([pq.read_table(file) for file in (*(folder / "labels.parquet" for folder in earlier), *shards)], set(rows.keys))
    # Like lengths side by side before cutting into shards, so that each shard pads little.
    order = sorted((row for row, key in enumerate(rows.keys) if key not in there), key=lambda row: (len(rows.texts[row]), rows.keys[row]))
    for begin in range(0, len(order), SHARD):
        places = order[begin : begin + SHARD]
        texts = [rows.texts[place] for place in places]
        asked = (teacher / "model", texts, classes, task.HUB_TASK, params.teacher, params.max_tokens, params.precision)
        logits, vectors = kind.logits_and_embeddings(*asked) if embeddings else (kind.logits(*asked, *positions), None)
        if not all(np.isfinite(row).all() for row in logits):
            raise StageError("the teacher gives logits that are not finite numbers.", where=str(teacher), write="Take another teacher.")
        table = pa.table({"key": [rows.keys[place] for place in places], "logits": [row.ravel() for row in logits]})
        if vectors is not None:
            table = table.append_column("embedding", pa.array(list(vectors.astype(np.float16))))
        part = checkpoints / f"{len(shards) + begin // SHARD:06d}.part"
        pq.write_table(table, part)
        part.replace(part.with_suffix(".parquet"))  # existence means completeness
        known.append(table)
        tick("labelling with the teacher", len(there) + min(begin + SHARD, len(order)), len(rows.texts))
    pq.write_table(pa.concat_tables(known), out / "labels.parquet")


def _only(tables: Sequence[Any], keys: set[str]) -> tuple[list[Any], set[str]]:
    """(of each table the rows with these keys, short of those that one before it has, the keys that were found)."""
    left, kept = set(keys), []
    for table in tables:
        mine = [key in left for key in table["key"].to_pylist()]
        kept.append(table.filter(mine))
        left -= set(kept[-1]["key"].to_pylist())
    return kept, keys - left


def read_labels(path: Path, keys: list[str]) -> npt.NDArray[np.float32]:
    """The teacher's logits of the texts with these keys, float32 [len(keys), classes]. Raises StageError when one has none."""
    return _read(path, keys, "logits")


def read_embeddings(path: Path, keys: list[str]) -> npt.NDArray[np.float32]:
    """The teacher's embeddings of the texts with these keys, float32 [len(keys), width]."""
    return _read(path, keys, "embedding")


def _read(path: Path, keys: list[str], column: str) -> npt.NDArray[np.float32]:
    import pyarrow.parquet as pq

    table = pq.read_table(path, columns=["key", column])
    place = {key: row for row, key in enumerate(table["key"].to_pylist())}
    _all_there(keys, place, path)
    values = np.stack(table[column].to_numpy(zero_copy_only=False)).astype(np.float32)
    return np.asarray(values[[place[key] for key in keys]])


def _all_there(keys: list[str], place: Collection[str], path: Path) -> None:
    missing = [key for key in keys if key not in place]
    if missing:
        raise StageError(f"{len(missing)} texts of the transfer set have no soft label (first key {missing[0]}).", where=str(path))


def read_word_labels(path: Path, keys: list[str], outputs: int) -> list[npt.NDArray[np.float32]]:
    """The same for a task that answers word by word: float32 [words, outputs] of each text."""
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    place = {key: row for row, key in enumerate(table["key"].to_pylist())}
    _all_there(keys, place, path)
    logits = table["logits"].to_numpy(zero_copy_only=False)
    return [logits[place[key]].astype(np.float32).reshape(-1, outputs) for key in keys]


def read_written(path: Path, keys: list[str]) -> list[str]:
    """The teacher's answers to the texts with these keys, where answers are written."""
    import pyarrow.parquet as pq

    table = pq.read_table(path, columns=["key", "written"])
    said = dict(zip(table["key"].to_pylist(), table["written"].to_pylist(), strict=True))
    _all_there(keys, said, path)
    return [said[key] for key in keys]


def teacher_logits(path: Path, keys: list[str], task: ModuleType, settings: dict[str, Any]) -> Any:
    """What the teacher said of the texts with these keys, as the task has it: an array [texts, outputs], a list of [words, outputs], or strings."""
    if writes(task):
        return read_written(path, keys)
    return read_word_labels(path, keys, len(settings["labels"])) if hasattr(task, "positions") else read_labels(path, keys)


# Not bitsandbytes: it is installed for other reasons too, and must not change the key of a teacher that does not use it. `lowbit` in the params does.
_PACKAGES = ("torch", "transformers", "tokenizers")
FINE_TUNE = Stage("teacher", 2, fine_tune, (*_PACKAGES, "scikit-learn"))
LABEL = Stage("label", 2, label, _PACKAGES, grows="transfer")
