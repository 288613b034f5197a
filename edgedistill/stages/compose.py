"""compose: a small language model reads the training texts and writes new ones of the same kind; the teacher labels them like all others.

Augmentation exchanges words that the texts already have. A language model brings what it knows of the world: names, places and turns that no training
row holds and that the next user will type. It is taught the texts alone, no label, and asked for as many as are wanted, sampled; what it repeats is
dropped, and so is later whatever resembles a test or held-out text. Source: "Natural Language Generation for Effective Knowledge Distillation"
(Tang, Lu, Lin 2019, D19-6122); "Generate, Annotate, and Learn", arXiv:2106.06168. Nucleus sampling: arXiv:1904.09751.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgedistill.errors import StageError
from edgedistill.models import load_decoder, load_tokenizer
from edgedistill.progress import tick
from edgedistill.recipe import Writer
from edgedistill.stages.transfer import real_texts
from edgedistill.store import Stage
from edgedistill.tables import make_rows, write_rows

AT_ONCE = 256  # texts that are written side by side: the weights are read once for all of them
FEWEST_NEW = 0.05  # of what is written; below that the model only repeats itself


@dataclass(frozen=True)
class Params:
    """held_out: share of the real texts that nothing may learn from, as the transfer set holds them out. max_tokens: of a text."""

    writer: Writer
    held_out: float
    max_tokens: int
    precision: str
    seed: int


def run(out: Path, params: Params, *, prepared: Path, model: Path) -> None:
    """Writes `written.parquet` (new texts without labels) and `facts.json`. model: a decoder as a transformers folder.

    Raises StageError when the model writes nothing new.
    """
    import torch

    from edgedistill import causal
    from edgedistill.training import Schedule, train

    train_rows, traffic, _ = real_texts(prepared, params.held_out, params.seed)
    texts = [*train_rows.texts, *traffic]
    torch.manual_seed(params.seed)
    writer, tokenizer = load_decoder(model), load_tokenizer(model)
    stop = causal.stop_token(writer)
    begin = writer.config.bos_token_id if isinstance(writer.config.bos_token_id, int) else stop
    ids = [encoding.ids[: params.max_tokens] for encoding in tokenizer.encode_batch(texts, add_special_tokens=False)]
    rows = [causal.row_of([begin], [*one, stop]) for one in ids]
    objective = causal.Answers(writer)
    objective.train()
    options = params.writer
    train(
        objective,
        [row for row, _ in rows],
        {"labels": [labels for _, labels in rows]},
        None,
        Schedule(
            max(1, round(options.epochs * len(rows) / options.batch_size)),
            options.learning_rate,
            options.batch_size,
            params.precision,
            params.seed,
        ),
        pad_id=stop,
        checkpoints=out / "checkpoints",
        label="teaching the writer",
    )
    if params.precision == "bf16":
        writer.to(torch.bfloat16)  # weights that are only read: half the bytes a token
    writer.eval()
    wanted = round(options.growth * len(train_rows))
    longest = max(map(len, ids)) + 1
    torch.manual_seed(params.seed + 1)

    def some() -> list[str]:
        made = causal.write(writer, [[begin]] * AT_ONCE, longest, temperature=options.temperature, top_p=options.top_p, rows=AT_ONCE)
        whole: list[str] = tokenizer.decode_batch([one[:-1] for one in made if one and one[-1] == stop])  # one that found no end is no text
        return whole

    found = collect(some, wanted, texts)
    write_rows(out / "written.parquet", make_rows(found.texts))
    facts = {"wanted": wanted, "written": found.asked, "new": len(found.texts), "taught": len(texts), "examples": found.texts[:20]}
    (out / "facts.json").write_text(json.dumps(facts, indent=1, ensure_ascii=False), encoding="utf-8")


@dataclass(frozen=True)
class Found:
    """texts: new ones, each once. asked: how many were written for that."""

    texts: list[str]
    asked: int


def collect(some: Callable[[], list[str]], wanted: int, known: Sequence[str]) -> Found:
    """Ask `some` until there are `wanted` texts that are neither known nor there already, or hardly any is new. Raises StageError for none.

    White space does not tell texts apart.
    """
    seen, texts, asked = {" ".join(text.split()) for text in known}, dict[str, None](), 0
    while len(texts) < wanted:
        before = len(texts)
        given = [" ".join(text.split()) for text in some()]
        asked += len(given)
        texts |= {text: None for text in given if text and text not in seen}
        tick("the writer writes", min(len(texts), wanted), wanted)
        if len(texts) - before < FEWEST_NEW * AT_ONCE:
            if not texts:
                raise StageError(
                    f"of {asked} texts that the writer wrote none is new.",
                    where="transfer.writer",
                    write="Teach it less (fewer epochs, a lower learning_rate) or sample it warmer (temperature = 1.2).",
                )
            break
    return Found(list(texts)[:wanted], asked)


COMPOSE = Stage("compose", 3, run, ("torch", "transformers", "tokenizers"))
