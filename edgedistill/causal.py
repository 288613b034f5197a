"""Decoders in torch: loaded and saved, trained on answers, asked for answers and for what they think of each token of one.

An answer's row is the prompt, the answer and the stop token; only tokens of the answer are learned. The head of a decoder, tens of thousands of
outputs a token, is computed for those tokens alone: half of the work of a small decoder is its head.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from edgedistill.training import pad, quiet

ROWS_A_BATCH = 32
# For each number of rows that a bfloat16 product meets, oneDNN makes kernels of up to megabytes and keeps them for good: a student that learns to write
# grew by ten megabytes a step (DECISIONS.md, 2026-11-28). So products are made of round numbers of rows.
TOKENS_AT_ONCE = 64
LEAVE_TOGETHER = 8
IN_CACHE = 16  # tokens whose logits over a large vocabulary stay near the processor: a third of the time for hundreds at once
LIKELIEST = 256  # tokens that a sampled text is drawn from
BESIDE = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")  # what a decoder's folder has beside config and weights


def save(model: Any, source: Path, out: Path) -> None:
    """Write the model, and what stands beside it in `source`."""
    with quiet():
        model.save_pretrained(out, safe_serialization=True)
    for name in BESIDE:
        if (source / name).is_file():
            shutil.copyfile(source / name, out / name)


def stop_token(model: Any) -> int:
    """The token that ends an answer."""
    stop = model.config.eos_token_id
    return int(stop[0] if isinstance(stop, list) else stop)


def arithmetic(precision: str) -> Any:
    """As training computes: in bfloat16 where this CPU multiplies it in hardware."""
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16")


def settled(model: Any, precision: str) -> Any:
    """The same model for asking alone: in bfloat16 its products' weights are rounded once, and not at every token anew. No answer changes by it."""
    for part in model.modules() if precision == "bf16" else ():
        if isinstance(part, torch.nn.Linear):
            part.weight = torch.nn.Parameter(part.weight.detach().to(torch.bfloat16), requires_grad=False)
    return model


class Trunk(torch.nn.Module):
    """A decoder as something to train: its weights once each, and logits at chosen tokens alone.

    A head that shares the token table is not registered a second time: checkpoints of safetensors hold no weight twice.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.base = model.base_model
        self.tied = bool(model.config.tie_word_embeddings)
        if not self.tied:
            self.head = model.get_output_embeddings()

    def forward(self, input_ids: Any, attention_mask: Any, chosen: Any) -> Any:
        """Logits at the tokens that `chosen` (bool [rows, tokens]) names, float [tokens chosen, vocabulary], row by row."""
        return self.logits(self.base(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state[chosen])

    def logits(self, states: Any) -> Any:
        """Of last hidden states, float [tokens, width]: float [tokens, vocabulary]."""
        weight = self.base.get_input_embeddings().weight if self.tied else self.head.weight
        filled_up = torch.nn.functional.pad(states, (0, 0, 0, -len(states) % TOKENS_AT_ONCE))
        return torch.nn.functional.linear(filled_up, weight)[: len(states)]


class Answers(torch.nn.Module):
    """Cross-entropy of right answers, as a function of a batch."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.trunk = Trunk(model)

    def forward(self, input_ids: Any, attention_mask: Any, labels: Any) -> Any:
        """labels: int64 [rows, tokens], the token that follows where an answer's token follows, else -1."""
        chosen = labels >= 0
        return torch.nn.functional.cross_entropy(self.trunk(input_ids, attention_mask, chosen).float(), labels[chosen])


def row_of(prompt: Sequence[int], answer: Sequence[int]) -> tuple[list[int], npt.NDArray[np.int64]]:
    """(ids, labels) of a prompt and its answer with the stop token. The last id is left out: nothing follows it."""
    ids = [*prompt, *answer]
    labels = np.full(len(ids) - 1, -1, np.int64)
    labels[len(prompt) - 1 :] = answer
    return ids[:-1], labels


def write(
    model: Any,
    prompts: Sequence[Sequence[int]],
    most: int,
    *,
    temperature: float = 0.0,
    top_p: float = 1.0,
    rows: int = ROWS_A_BATCH,
    told: Callable[[int], None] = lambda done: None,
    seen: Callable[[list[int], Any], None] = lambda places, logits: None,
) -> list[list[int]]:
    """What the model writes behind each prompt, at most `most` tokens; the stop token is the last where it came to one.

    temperature: 0 takes the likeliest token, else texts are sampled: from the likeliest tokens that together have the probability top_p, LIKELIEST of
    them at most. (To sort tens of thousands of tokens a text, as generate() of transformers does, takes four times as long as the model.) rows: a
    batch, which texts leave when they have ended, LEAVE_TOGETHER at a time. seen: is shown which prompts go on and the logits of their next tokens,
    [prompts, vocabulary].
    """
    stop = stop_token(model)
    order = sorted(range(len(prompts)), key=lambda place: len(prompts[place]))
    found: list[list[int]] = [[] for _ in prompts]
    was = model.training
    model.eval()
    with torch.inference_mode():
        for begin in range(0, len(order), rows):
            places = order[begin : begin + rows]
            longest = max(len(prompts[place]) for place in places)
            ids = torch.full((len(places), longest), stop)
            mask = torch.zeros_like(ids)
            for row, place in enumerate(places):  # padded on the left, so that all go on at the same place
                ids[row, longest - len(prompts[place]) :] = torch.tensor(prompts[place])
                mask[row, longest - len(prompts[place]) :] = 1
            positions, cache = (mask.cumsum(-1) - 1).clamp(min=0), None
            ended = torch.zeros(len(places), dtype=torch.bool)
            for _ in range(most):
                out = model(
                    input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True, logits_to_keep=1
                )
                cache = out.past_key_values
                going_on = (~ended).nonzero()[:, 0].tolist()
                seen([places[row] for row in going_on], out.logits[going_on, -1])
                ids = _next(out.logits[:, -1], temperature, top_p)
                tokens = ids[:, 0].tolist()
                for row in going_on:
                    found[places[row]].append(tokens[row])
                ended |= ids[:, 0] == stop
                if ended.all():
                    break
                most_rows = -(-int((~ended).sum()) // LEAVE_TOGETHER) * LEAVE_TOGETHER
                staying = ended.argsort(stable=True)[:most_rows]  # those that go on stand first
                if len(staying) < len(ids):
                    ids, mask, positions, ended = ids[staying], mask[staying], positions[staying], ended[staying]
                    places = [places[row] for row in staying.tolist()]
                    cache.batch_select_indices(staying)
                mask, positions = torch.nn.functional.pad(mask, (0, 1), value=1), positions[:, -1:] + 1
            told(min(begin + rows, len(order)))
    model.train(was)
    return found


def _next(logits: Any, temperature: float, top_p: float) -> Any:
    """One token for each text, int64 [texts, 1], by its logits [texts, vocabulary]."""
    if not temperature:
        return logits.argmax(-1, keepdim=True)
    logits = logits.float() / temperature
    best = logits.topk(min(LIKELIEST, logits.shape[-1]))
    shares = (best.values - logits.logsumexp(-1, keepdim=True)).exp()
    shares[shares.cumsum(-1) - shares >= top_p] = 0  # the first token that passes top_p still counts
    return best.indices.gather(1, torch.multinomial(shares, 1))


def top(
    model: Any, rows: Sequence[tuple[Sequence[int], Sequence[int]]], k: int, told: Callable[[int], None] = lambda done: None
) -> Iterator[tuple[int, npt.NDArray[np.int64], npt.NDArray[np.float32], npt.NDArray[np.float32]]]:
    """What the model thinks at each token of given answers: (row, ids [tokens, k], log-probabilities [tokens, k], the rest's [tokens]).

    rows: (prompt, answer with the stop token). Rows come in another order: those of like length share a batch.
    """
    trunk = Trunk(model).eval()
    order = sorted(range(len(rows)), key=lambda place: len(rows[place][0]) + len(rows[place][1]))
    with torch.inference_mode():
        for begin in range(0, len(order), ROWS_A_BATCH):
            places = order[begin : begin + ROWS_A_BATCH]
            made = [row_of(*rows[place]) for place in places]
            batch = {name: torch.from_numpy(values) for name, values in pad([ids for ids, _ in made], stop_token(model)).items()}
            chosen = torch.zeros(batch["input_ids"].shape, dtype=torch.bool)
            for row, (_, labels) in enumerate(made):
                chosen[row, : len(labels)] = torch.from_numpy(labels >= 0)
            ids, logs, tail = likeliest(trunk(**batch, chosen=chosen), k)
            counts = [len(rows[place][1]) for place in places]
            for place, *parts in zip(places, *(part.split(counts) for part in (ids, logs, tail)), strict=True):
                yield place, parts[0].numpy(), parts[1].numpy(), parts[2].numpy()
            told(begin + len(places))


def write_and_think(
    model: Any, prompts: Sequence[Sequence[int]], most: int, k: int, *, rows: int, told: Callable[[int], None] = lambda done: None
) -> list[tuple[list[int], npt.NDArray[np.int64], npt.NDArray[np.float32], npt.NDArray[np.float32]]]:
    """What the model writes behind each prompt, greedily, and what it thinks of each token that it writes: (answer, and as of `top` ids,
    log-probabilities and the rest's). `top` of these answers says the same, in another pass over them."""
    thought: list[list[Any]] = [[] for _ in prompts]

    def keep(places: list[int], logits: Any) -> None:
        for place, *token in zip(places, *likeliest(logits, k), strict=True):
            thought[place].append(token)

    answers = write(model, prompts, most, rows=rows, told=told, seen=keep)
    return [
        (answer, *(torch.stack(part).numpy() for part in zip(*tokens, strict=True)))  # type: ignore[misc]
        for answer, tokens in zip(answers, thought, strict=True)
    ]


def likeliest(logits: Any, k: int) -> tuple[Any, Any, Any]:
    """(ids, log-probabilities) of the k likeliest tokens, [tokens, k], and the log-probability of all others together, [tokens]."""
    parts = [_likeliest(some, k) for some in logits.split(IN_CACHE)]
    ids, logs, tail = (torch.cat(part) for part in zip(*parts, strict=True))
    return ids, logs, tail


def _likeliest(logits: Any, k: int) -> tuple[Any, Any, Any]:
    logits = logits.float()
    whole = logits.logsumexp(-1, keepdim=True)
    found = logits.topk(min(k, logits.shape[-1]), dim=-1)
    logs = found.values - whole
    # Not a sum over the others: that would walk over the whole vocabulary once more. What is lost is below the noise of the losses.
    return found.indices, logs, torch.log1p(-logs.exp().sum(-1).clamp(max=1 - 1e-7))
