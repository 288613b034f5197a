"""Token vectors for a narrow student: what the teacher knows of each token, in as few numbers as asked for.

A small student has no layers to work a token's meaning out; it must find it in the table. So a row is made of three views of the token: its row in
the teacher's own table, and the state in the middle and at the end of the teacher when the token is read alone. Each view is centred and brought to
one length, the views stand side by side, and the principal components with the most variance are kept. Tokens weigh in by the square root of how
often the task's texts use them: by the bare count, a handful of stop words would take the components.

One convolution on TREC-6 (1,500 steps, one seed, teacher 0.952): fresh vectors of the same spread 0.882, the table alone 0.915, the last state alone
0.919, all three 0.928. Between the last three the seed may decide; KL from the teacher falls in the same order (0.263, 0.164, 0.158, 0.148).

Sources: model2vec (a static table from each token's output, then principal components; https://github.com/MinishLab/model2vec);
weights by frequency, "All-but-the-Top" (arXiv:1702.01417) and SIF (Arora et al. 2017). Figures of the choice: DECISIONS.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

BATCH = 512
SPREAD = 0.3  # standard deviation of a component: where training with a peak rate of 1e-3 to 4e-3 begins well


def counts(tokenizer: Any, texts: Sequence[str]) -> Any:
    """How often each token stands in `texts`: float [tokens]."""
    import torch

    ids = [token for encoding in tokenizer.encode_batch(list(texts)) for token in encoding.ids]
    return torch.bincount(torch.tensor(ids, dtype=torch.int64), minlength=tokenizer.get_vocab_size()).float()


def token_vectors(model: Any, tokenizer: Any, kept: Sequence[int], weight: Any, width: int) -> Any:
    """Vectors of the tokens `kept`, float32 [len(kept), width].

    model: the encoder or classifier to start from. tokenizer: its own, uncut. weight: float [len(kept)], how much each token counts in the components.
    """
    import torch

    views = [_levelled(view) for view in _views(model, tokenizer, torch.tensor(list(kept)))]
    found = principal(torch.cat(views, dim=1), weight, width)
    found *= SPREAD * width**0.5 / found.norm(dim=1).mean().clamp(min=1e-9)
    if found.shape[1] < width:  # more than there are components: the rest begins as noise
        draw = torch.Generator().manual_seed(0)
        rest = torch.randn(len(found), width - found.shape[1], generator=draw) * SPREAD
        found = torch.cat([found, rest], dim=1)
    return found


def principal(rows: Any, weight: Any, width: int) -> Any:
    """The first `width` weighted principal components of `rows`, float32 [rows, ≤ width]; the sign of each is fixed, so machines agree."""
    import torch

    rows, share = rows.double(), weight.double() / weight.double().sum()
    centred = rows - share @ rows
    _, axes = torch.linalg.eigh((centred * share[:, None]).T @ centred)  # ascending
    axes = axes[:, -width:].flip(1)
    largest = axes.gather(0, axes.abs().argmax(dim=0, keepdim=True))
    return (centred @ (axes * largest.sign())).float()


def _views(model: Any, tokenizer: Any, kept: Any) -> list[Any]:
    import torch

    table = model.get_input_embeddings().weight.detach()
    frame = tokenizer.encode("").ids  # what stands before and behind any text, such as [CLS] and [SEP]
    before, behind = frame[: (len(frame) + 1) // 2], frame[(len(frame) + 1) // 2 :]
    middles, ends = [], []
    with torch.inference_mode():
        for begin in range(0, len(kept), BATCH):
            part = kept[begin : begin + BATCH]
            ids = torch.stack(
                [torch.full_like(part, token) for token in before] + [part] + [torch.full_like(part, token) for token in behind], 1
            )
            states = model.base_model(input_ids=ids, attention_mask=torch.ones_like(ids), output_hidden_states=True).hidden_states
            middles.append(states[len(states) // 2][:, len(before)])
            ends.append(states[-1][:, len(before)])
    return [table[kept], torch.cat(middles), torch.cat(ends)]


def _levelled(rows: Any) -> Any:
    centred = rows.float() - rows.float().mean(dim=0)
    return centred / centred.norm(dim=1).mean().clamp(min=1e-9)
