"""write: the teacher of answers that are written. It is unpacked, taught, and asked what it writes and what it thinks of each token.

What it thinks is kept small: of each token of an answer the k likeliest tokens (ids in 2 bytes where the vocabulary allows, log-probabilities as
float16) and the mass of all others, some 260 bytes a token where the whole distribution takes 200,000. Rows that have an answer in the data keep it;
the teacher writes one where nobody did, for texts that were held out, and for every row when the recipe learns from the teacher's text.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgedistill import plugins
from edgedistill.errors import RecipeError
from edgedistill.prompts import open_prompts
from edgedistill.stages.prepare import read_settings
from edgedistill.stages.teach import FineTuneParams, LabelParams
from edgedistill.store import Stage
from edgedistill.tables import make_rows, read_rows

TOP = 64  # tokens whose log-probability is kept
ASKED = 128  # test rows that tell whether the teacher learned anything; benchmark asks it all of them
SHARD = 1024  # rows a checkpoint of the labelling
MOST_BYTES = 400  # a token


@dataclass(frozen=True)
class UnpackParams:
    """kind: in teachers/. layers: how many of its layers stay, the first ones and the last; None: all."""

    kind: str
    task: str
    layers: int | None


@dataclass(frozen=True)
class WriteParams(LabelParams):
    """every: the teacher writes an answer to every row, labelled or not."""

    every: bool = False


def unpack(out: Path, params: UnpackParams, *, model: Path) -> None:
    """Writes the teacher as a transformers folder, config.json first among its files."""
    kind = plugins.find("teachers", params.kind)
    if params.layers is None:
        kind.adopt(model, out, [], plugins.find("tasks", params.task).HUB_TASK)
        return
    from edgedistill.decoder_cut import cut_decoder

    whole = out / "checkpoints" / "whole"
    kind.adopt(model, whole, [], plugins.find("tasks", params.task).HUB_TASK)
    before = json.loads((whole / "config.json").read_text(encoding="utf-8"))["num_hidden_layers"]
    if params.layers > before:
        raise RecipeError(
            f"teacher.layers = {params.layers}, but the teacher has {before}.", write=f"Write 1 to {before}, or leave it out."
        )
    # The first ones stay in their order, so that each still reads what it was trained on; the last one knows how to speak.
    cut_decoder(whole, out, layers=[*range(params.layers - 1), before - 1])


def fine_tune(out: Path, params: FineTuneParams, *, prepared: Path, model: Path) -> None:
    """Writes `model/` (a float32 model folder) and `facts.json` (exact match on some test rows, what was done)."""
    kind = plugins.find("teachers", params.teacher.kind)
    task, settings = plugins.find("tasks", params.task), read_settings(prepared)
    train, test = read_rows(prepared / "train.parquet"), read_rows(prepared / "test.parquet")
    prompts = open_prompts(model / "tokenizer.json", settings, params.max_tokens)
    stop = stop_id(model)
    kind.fine_tune(
        model,
        out / "model",
        [prompts.encode(text)[0] for text in train.texts],
        lambda row, _: [*prompts.answer(task.hard(train.target(row), settings)), stop][: params.max_tokens // 2],
        task.hard_kind(settings),
        [],
        task.HUB_TASK,
        params.teacher,
        params.max_tokens,
        params.precision,
        params.seed,
        out / "checkpoints",
    )
    asked = range(0, len(test), max(1, len(test) // ASKED))
    said = _written(kind, out / "model", prompts, [test.texts[row] for row in asked], params)
    right = [task.judge(task.answer(one, settings)["target"], test.target(row), settings)[0] for row, one in zip(asked, said, strict=True)]
    facts = {"fine_tuned": True, "test_rows": len(right), "metric": task.metric(settings), "accuracy": float(np.mean(right)), "floor": None}
    (out / "facts.json").write_text(json.dumps(facts, indent=1))


def label(out: Path, params: WriteParams, *, prepared: Path, teacher: Path, transfer: Path) -> None:
    """Writes `labels.parquet`: key, written (the answer), ids (of its tokens, the stop token last), and as bytes top, logs and tail;
    `tokenizer.json`, whose ids these are; `facts.json`.

    A killed run goes on with the next shard.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    kind, folder = plugins.find("teachers", params.teacher.kind), teacher / "model"
    task, settings = plugins.find("tasks", params.task), read_settings(prepared)
    prompts, stop = open_prompts(folder / "tokenizer.json", settings, params.max_tokens), stop_id(folder)
    rows = read_rows(transfer / "transfer.parquet")
    given = [None if params.every else task.hard(rows.target(row), settings) for row in range(len(rows))]
    if (transfer / "held_out.parquet").is_file():
        held = read_rows(transfer / "held_out.parquet").texts
        rows, given = make_rows([*rows.texts, *held]), [*given, *[None] * len(held)]
    small = np.uint16 if len(prompts.tokenizer.get_vocab()) < 1 << 16 else np.uint32
    checkpoints = out / "checkpoints"
    checkpoints.mkdir(exist_ok=True)
    order = sorted(range(len(rows.texts)), key=lambda row: (len(rows.texts[row]), rows.keys[row]))
    files = []
    for begin in range(0, len(order), SHARD):
        places = order[begin : begin + SHARD]
        file = checkpoints / f"{begin:09d}.parquet"
        if not file.is_file():
            asked = [prompts.encode(rows.texts[place])[0] for place in places]
            answers = [None if given[place] is None else [*prompts.answer(given[place] or ""), stop] for place in places]
            silent = [number for number, answer in enumerate(answers) if answer is None]
            most, kept = params.max_tokens // 2, {}
            made = kind.write_and_think(folder, [asked[number] for number in silent], most, TOP, params.precision)
            for number, (ids, *thought) in zip(silent, made, strict=True):
                answers[number], kept[number] = ids, _packed(small, *thought)
            cut = [list(answer or [stop])[:most] for answer in answers]
            told = [number for number in range(len(places)) if number not in kept]
            for number, *thought in kind.top(folder, [(asked[number], cut[number]) for number in told], TOP, params.precision):
                kept[told[number]] = _packed(small, *thought)
            columns = {
                "key": [rows.keys[place] for place in places],
                "written": [text_of(prompts, ids, stop) for ids in cut],
                "ids": cut,
                **{name: [kept[number][name] for number in range(len(places))] for name in ("top", "logs", "tail")},
            }
            pq.write_table(pa.table(columns), file.with_suffix(".part"))
            file.with_suffix(".part").replace(file)  # existence means completeness
        files.append(file)
    whole = pa.concat_tables([pq.read_table(file) for file in files])
    pq.write_table(whole, out / "labels.parquet", compression="zstd")
    shutil.copyfile(folder / "tokenizer.json", out / "tokenizer.json")  # what the ids mean
    size = sum(whole[name].nbytes for name in ("top", "logs", "tail"))
    tokens = sum(map(len, whole["ids"].to_pylist()))
    facts = {"rows": len(order), "tokens": tokens, "bytes_a_token": size / max(1, tokens), "k": TOP}
    facts["bytes_a_token_on_disk"] = (out / "labels.parquet").stat().st_size / max(1, tokens)
    (out / "facts.json").write_text(json.dumps(facts, indent=1))


def _packed(small: Any, ids: npt.NDArray[np.int64], logs: npt.NDArray[np.float32], tail: npt.NDArray[np.float32]) -> dict[str, bytes]:
    """What the teacher thinks of an answer's tokens, as a row of the table holds it. small: the type of an id."""
    return {"top": ids.astype(small).tobytes(), "logs": logs.astype(np.float16).tobytes(), "tail": tail.astype(np.float16).tobytes()}


def stop_id(folder: Path) -> int:
    """The token that ends an answer, by config.json."""
    stop = json.loads((folder / "config.json").read_text(encoding="utf-8"))["eos_token_id"]
    return int(stop[0] if isinstance(stop, list) else stop)


def text_of(prompts: Any, ids: Sequence[int], stop: int) -> str:
    """An answer's text, without its stop token."""
    return str(prompts.tokenizer.decode([token for token in ids if token != stop], skip_special_tokens=False))


def _written(kind: Any, folder: Path, prompts: Any, texts: Sequence[str], params: FineTuneParams) -> list[str]:
    asked = [prompts.encode(text)[0] for text in texts]
    made = kind.logits(folder, asked, [], "", params.teacher, params.max_tokens, params.precision)
    return [text_of(prompts, ids, stop_id(folder)) for ids in made]


@dataclass(frozen=True)
class Said:
    """What the teacher said to one text: the answer, its ids with the stop token, and of each token the k likeliest, their log-probabilities,
    and that of the rest."""

    written: str
    ids: list[int]
    top: npt.NDArray[np.int64]
    logs: npt.NDArray[np.float32]
    tail: npt.NDArray[np.float32]


def read_written(path: Path, keys: Sequence[str]) -> list[str]:
    """What the teacher wrote to the texts with these keys. What it thought, nearly the whole of the file, is not read."""
    import pyarrow.parquet as pq

    table = pq.read_table(path, columns=["key", "written"])
    written = dict(zip(table["key"].to_pylist(), table["written"].to_pylist(), strict=True))
    return [written[key] for key in keys]


def read_said(path: Path, keys: Sequence[str]) -> list[Said]:
    """What the teacher said to the texts with these keys."""
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    place = {key: row for row, key in enumerate(table["key"].to_pylist())}
    columns = {name: table[name].to_pylist() for name in ("written", "ids", "top", "logs", "tail")}
    found = []
    for row in (place[key] for key in keys):
        ids = columns["ids"][row]
        tail = np.frombuffer(columns["tail"][row], np.float16).astype(np.float32)
        logs = np.frombuffer(columns["logs"][row], np.float16).astype(np.float32).reshape(len(ids), -1)
        kind = np.uint16 if len(columns["top"][row]) == 2 * logs.size else np.uint32
        top = np.frombuffer(columns["top"][row], kind).astype(np.int64).reshape(len(ids), -1)
        found.append(Said(columns["written"][row], ids, top, logs, tail))
    return found


_PACKAGES = ("torch", "transformers", "tokenizers")
UNPACK = Stage("unpack", 1, unpack, ("transformers", "gguf"))
TEACH = Stage("teacher", 3, fine_tune, _PACKAGES)
LABEL = Stage("label", 4, label, _PACKAGES)
