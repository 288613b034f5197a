"""distill, for answers that are written: the student learns what the teacher thinks of each token of an answer.

Three runs, as in `distill.py`: "distilled" learns the recipe's losses; the control "labels" learns the answers of the data alone; with a loss on the
student's own text also "off_policy", the same losses on the fixed answers, with as many steps from the same weights.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgedistill import causal, plugins
from edgedistill.errors import RecipeError, StageError
from edgedistill.features import HIDDEN, TOKEN_LEVEL, Observer, Seen, needs_of
from edgedistill.models import load_decoder, load_tokenizer
from edgedistill.objective import Term, attach, balance
from edgedistill.progress import tick
from edgedistill.prompts import Prompts, open_prompts
from edgedistill.sequences import OWN_TEXT, TEACHER_TOP
from edgedistill.stages.distill import PROGRESS, Params, sample, schedule
from edgedistill.stages.prepare import read_settings
from edgedistill.stages.write import TOP, Said, read_said, read_written, text_of
from edgedistill.store import Stage
from edgedistill.tables import read_rows
from edgedistill.training import Column, pad, train

HELD_OUT = 200  # rows on which the finished student is judged here


def run(out: Path, params: Params, *, prepared: Path, transfer: Path, labels: Path, start: Path, teacher: Path | None = None) -> None:
    """Writes `model/` (a Hugging Face folder), `facts.json` and `held_out.json`. teacher: given when a loss asks it about the student's own text."""
    task, settings = plugins.find("tasks", params.task), read_settings(prepared)
    rows = read_rows(transfer / "transfer.parquet")
    torch.manual_seed(params.seed)
    student = load_decoder(start / "model")
    prompts = open_prompts(start / "model" / "tokenizer.json", settings, params.student.max_tokens)
    stop, most = causal.stop_token(student), params.student.max_tokens // 2
    losses: list[dict[str, Any]] = (
        [{"kind": "hard_label", "weight": 1.0, "of": "classes"}] if params.run == "labels" else params.distill.losses
    )
    if params.run == "off_policy":
        losses = [loss | ({"share": 0.0} if loss["kind"] == "on_policy" else {}) for loss in losses]
    steps = params.distill.steps or max(1, round(params.distill.epochs * len(rows.texts) / params.distill.batch_size))
    said = read_said(labels / "labels.parquet", rows.keys)
    places = [place for place in range(len(rows)) if params.run != "labels" or rows.targets[place] is not None]
    answers: list[list[int]] = []
    for place in places:
        text = task.hard(rows.target(place), settings) if params.run == "labels" else said[place].written
        answers.append([*prompts.answer(text), stop])
    ours = Ids(load_tokenizer(start / "model"), load_tokenizer(labels))  # the labels hold the teacher's tokenizer
    # Where the student spells an answer in other tokens than the teacher did, token stands against no token: such a row is left out. The teacher's
    # text alone can be learned in any tokens.
    by_token = params.run != "labels" and TEACHER_TOP in needs_of(losses)
    fits = [
        number
        for number, place in enumerate(places)
        if len(answers[number]) <= most and (not by_token or answers[number] == ours.of(said[place].ids))
    ]
    if not fits:
        raise StageError("no answer of the teacher has the same tokens for the student.", where="student.vocabulary", write='Write "full".')
    made = [causal.row_of(prompts.encode(rows.texts[places[number]])[0], answers[number]) for number in fits]
    columns: dict[str, Column] = {"labels": [labelled for _, labelled in made]}
    if by_token:
        columns |= columns_of([said[places[number]] for number in fits], ours)
    own = OWN_TEXT in needs_of(losses) and any(loss.get("share", 0) > 0 for loss in losses)
    inside = needs_of(losses) & TOKEN_LEVEL
    judge = None
    if (own or inside) and teacher is not None:
        if not ours.shared:
            raise RecipeError(
                "a loss shows the teacher what the student reads and writes, and the student has tokens that the teacher lacks.",
                where="distill.losses",
                write='Take losses on the teacher\'s answers, such as "teacher_text", or a student that is cut from the teacher.',
            )
        judge = Judge(causal.settled(load_decoder(teacher / "model"), params.precision), ours, inside)
    steps = max(1, round(params.share * steps))
    tokens = [ids for ids, _ in made]
    with causal.arithmetic(params.precision):
        objective = Objective(losses, student, stop, most, judge, params.seed, steps)
        objective.eval()  # nothing is written before the first step
        terms, warnings = balance(
            objective.terms, objective.values, objective.trunk, sample(tokens, columns, params.distill.batch_size, stop)
        )
    objective.train()
    train(
        objective,
        tokens,
        columns,
        None,
        schedule(params, start, steps),
        pad_id=stop,
        checkpoints=out / "checkpoints",
        label=PROGRESS[params.run],
    )
    student.eval()
    causal.save(student, start / "model", out / "model")
    (out / "model" / "chat_template.jinja").write_text(chat_template(settings), encoding="utf-8")
    facts = json.loads((start / "facts.json").read_text())
    facts |= {"run": params.run, "steps": steps, "batch_size": params.distill.batch_size, "rows": len(fits), "losses": losses}
    facts |= {"terms": [term | {"last": last} for term, last in zip(terms, objective.last(), strict=True)], "warnings": warnings}
    facts |= {"left_out": len(places) - len(fits), "own_answers": objective.written}
    (out / "facts.json").write_text(json.dumps(facts, indent=1))
    _answer_held_out(out / "held_out.json", student, prompts, transfer, labels, task, settings, most)


def chat_template(settings: dict[str, Any]) -> str:
    """Jinja, as GGUF and transformers carry it: an app that chats with the student asks it as it was taught, and not as its teacher was."""
    before, behind = map(json.dumps, settings["prompt"])
    said = f"{{{{ {before} + message['content'] + {behind} }}}}"
    return f"{{% for message in messages %}}{{% if message['role'] == 'user' %}}{said}{{% endif %}}{{% endfor %}}"


def _answer_held_out(
    file: Path, student: Any, prompts: Prompts, transfer: Path, labels: Path, task: Any, settings: dict[str, Any], most: int
) -> None:
    """How often the student writes what the teacher writes, on texts that it never saw."""
    held = read_rows(transfer / "held_out.parquet") if (transfer / "held_out.parquet").is_file() else None
    if held is None or not len(held):
        return
    texts, keys = held.texts[:HELD_OUT], held.keys[:HELD_OUT]
    made = causal.write(
        student,
        [prompts.encode(text)[0] for text in texts],
        most,
        told=lambda done: tick("the student writes", done, len(texts)),
    )
    right = [task.answer(one, settings)["target"] for one in read_written(labels / "labels.parquet", keys)]
    ours = [task.answer(text_of(prompts, ids, causal.stop_token(student)), settings)["target"] for ids in made]
    judged = [task.judge(one, other, settings) for one, other in zip(ours, right, strict=True)]
    file.write_text(json.dumps({"gained": [gained for gained, _ in judged], "possible": [possible for _, possible in judged]}))


# --- tokens of one and of the other ------------------------------------------------------------------------------------------------------


class Ids:
    """The student's id of each of the teacher's tokens, and the other way round: tokens with the same spelling."""

    def __init__(self, student: Any, teacher: Any) -> None:
        ours, theirs = student.get_vocab(), teacher.get_vocab()
        self.to_student = np.full(max(theirs.values()) + 1, -1, np.int64)
        self.to_teacher = np.zeros(max(ours.values()) + 1, np.int64)
        self.shared = ours.keys() <= theirs.keys()  # whether the teacher can read all that the student reads
        for token, place in ours.items():
            if token in theirs:
                self.to_student[theirs[token]] = place
                self.to_teacher[place] = theirs[token]

    def of(self, ids: Sequence[int]) -> list[int]:
        """The student's ids of the teacher's; -1 where it has none."""
        return [int(self.to_student[token]) for token in ids]


def columns_of(said: Sequence[Said], ids: Ids) -> dict[str, Column]:
    """What the teacher said, in the student's tokens: one entry a row, one line a token of its answer."""
    return {
        "teacher_ids": [ids.to_student[one.top] for one in said],
        "teacher_logs": [one.logs for one in said],
        "teacher_tail": [one.tail for one in said],
    }


# --- the objective -----------------------------------------------------------------------------------------------------------------------


class Judge:
    """The frozen teacher, asked about answers that the student wrote, and looked into. needs: what is looked at."""

    def __init__(self, teacher: Any, ids: Ids, needs: frozenset[str] = frozenset()) -> None:
        self.trunk, self.ids = causal.Trunk(teacher).eval().requires_grad_(False), ids
        self.watched = Observer(self.trunk.base, needs, "teacher")

    def columns(self, input_ids: Any, attention_mask: Any, chosen: Any) -> dict[str, Any]:
        with torch.no_grad():
            top, logs, tail = causal.likeliest(self.trunk(self._theirs(input_ids), attention_mask, chosen), TOP)
        return {"teacher_ids": torch.from_numpy(self.ids.to_student)[top], "teacher_logs": logs, "teacher_tail": tail}

    def shown(self, input_ids: Any, attention_mask: Any) -> dict[str, Any]:
        """What is seen inside it while it reads the student's tokens."""
        with torch.no_grad():
            seen = self.watched(self._theirs(input_ids), attention_mask)
        return {HIDDEN: seen.hidden}

    def _theirs(self, input_ids: Any) -> Any:
        return torch.from_numpy(self.ids.to_teacher)[input_ids]


class Objective(torch.nn.Module):
    """The weighted losses as a function of a batch of answers. judge: the teacher, when the student's own answers count or a loss looks inside
    it. steps: of the whole run.

    written: how many answers the student wrote.
    """

    def __init__(
        self, losses: Sequence[Mapping[str, Any]], student: Any, stop: int, most: int, judge: Judge | None, seed: int, steps: int
    ) -> None:
        super().__init__()
        self.trunk = causal.Trunk(student)
        self.terms = [Term(loss) for loss in losses]
        self._watched = Observer(self.trunk.base, needs_of(losses) & TOKEN_LEVEL, "student")
        if judge is not None and self._watched.needs:
            attach(self, self.terms, *(replace(one.sizes(), decoder=True) for one in (self._watched, judge.watched)))
        # In a list torch does not look: neither the whole student a second time nor the teacher belong into checkpoints.
        self._out_of_sight = [student, judge]
        self._stop, self._most, self._draw = stop, most, np.random.default_rng(seed)
        self._kept: list[tuple[int, dict[str, Any]]] = []
        self._steps: Any
        self.register_buffer("_steps", torch.zeros((), dtype=torch.int64))  # checkpoints hold it: a killed run goes on where it was
        self._all, self._last, self.written = steps, [0.0] * len(self.terms), 0

    def forward(self, input_ids: Any, attention_mask: Any, labels: Any, **columns: Any) -> Any:
        """The scalar. labels: int64 [rows, tokens], -1 outside of answers; columns: [rows, tokens of the longest answer, …]."""
        fixed = {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels, **columns}
        seen, values = None, []
        for term in self.terms:
            share = getattr(term.options, "share", 0.0)
            may = self.training and share and self._out_of_sight[1] is not None and int(self._steps) >= term.options.after * self._all
            if may and self._draw.random() < share:
                batch, own = self._own(fixed, term.options)
                values.append(value_of(term, self._see(**batch), own))
            else:
                seen = seen or self._fixed(**fixed)
                values.append(value_of(term, *seen))
        self._steps += 1
        now = [float(value.detach()) for value in values]
        for term, value in zip(self.terms, now, strict=True):
            if not np.isfinite(value):
                raise StageError(
                    f"the loss {term.kind} is no finite number any more at step {int(self._steps)}.",
                    where="distill",
                    write="Lower distill.learning_rate, or the weight of this loss.",
                )
        self._last = [0.95 * old + 0.05 * new if int(self._steps) > 1 else new for old, new in zip(self._last, now, strict=True)]
        return sum(values)

    def values(self, batch: dict[str, Any]) -> list[Any]:
        """The weighted loss of each term on answers that are given."""
        seen = self._fixed(**batch)
        return [value_of(term, *seen) for term in self.terms]

    def _fixed(self, input_ids: Any, attention_mask: Any, labels: Any, **columns: Any) -> tuple[Seen, dict[str, Any]]:
        """(what the student shows on a batch of answers, what its losses hold against it)."""
        chosen = labels >= 0
        counts = chosen.sum(1)
        inside = torch.arange(int(counts.max())) < counts[:, None]
        given = {"labels": labels[chosen], "attention_mask": attention_mask, **{name: values[inside] for name, values in columns.items()}}
        if self._watched.needs:
            given |= self._out_of_sight[1].shown(input_ids, attention_mask)
        return self._see(input_ids, attention_mask, chosen), given

    def _see(self, input_ids: Any, attention_mask: Any, chosen: Any) -> Seen:
        """The student's logits at the tokens that are learned, and what its losses look at inside it."""
        seen = self._watched(input_ids, attention_mask)
        return replace(seen, logits=self.trunk.logits(seen.logits[chosen]))

    def _own(self, fixed: Mapping[str, Any], options: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """(batch, what the teacher thinks) of answers that the student wrote: to this batch's prompts, or earlier ones that are used again."""
        if self._kept and self._kept[0][0] > 0:
            left, kept = self._kept[0]
            self._kept[0] = (left - 1, kept)
            return kept["batch"], kept["own"]
        student, judge = self._out_of_sight
        prompts = []
        for ids, row, mask in zip(fixed["input_ids"], fixed["labels"], fixed["attention_mask"], strict=True):
            first = int((row >= 0).int().argmax())
            prompts.append(ids[: first + 1][mask[: first + 1] > 0].tolist())
        answers = causal.write(student, prompts, self._most, temperature=options.temperature, rows=len(prompts))
        self.written += len(answers)
        made = [causal.row_of(prompt, answer or [self._stop]) for prompt, answer in zip(prompts, answers, strict=True)]
        arrays = pad([ids for ids, _ in made], self._stop)
        batch = {name: torch.from_numpy(values) for name, values in arrays.items()}
        chosen = torch.zeros(batch["input_ids"].shape, dtype=torch.bool)
        for row, (_, labelled) in enumerate(made):
            chosen[row, : len(labelled)] = torch.from_numpy(labelled >= 0)
        own = judge.columns(**batch, chosen=chosen)
        batch["chosen"] = chosen
        self._kept = [(options.replay - 1, {"batch": batch, "own": own})]
        return batch, own

    def last(self) -> list[float]:
        """The running mean of each weighted term at the end."""
        return [float(f"{value:.4g}") for value in self._last]


def value_of(term: Term, seen: Seen, given: dict[str, Any]) -> Any:
    """The weighted loss, in float32 even where the models run in bfloat16: it is a sum of small differences."""
    with torch.autocast("cpu", enabled=False):
        return term.value(seen, given)


LEARN_TO_WRITE = Stage("distill", 5, run, ("torch", "transformers", "tokenizers"))
