"""A teacher that writes: any decoder of transformers, or a GGUF of one read back to torch, taught the task on its training answers.

For this kind of teacher `texts` are the token ids of prompts, a label the ids of the answer with its stop token, and `logits` what it writes (ids). What
it thinks of each token of an answer comes from `top`. It is trained in full: a step with LoRA (arXiv:2106.09685) takes two thirds of the time, but
which of the two teaches more in the same time was not compared (DECISIONS.md).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from edgedistill.errors import SourceError, StageError
from edgedistill.models import check_folder, load_decoder
from edgedistill.progress import tick
from edgedistill.recipe import Teacher

TEACHABLE = True
WRITES = True
AT_ONCE = 256  # answers that it writes side by side: its weights are read once for all of them


def labels(model: Path, task: str) -> list[str] | None:
    """None: what a decoder can say has no list."""
    return None


def has_head(model: Path, classes: Sequence[str], task: str) -> bool:
    """Never: it can write, but knows nothing of the task's answers before it is taught."""
    return False


def adopt(model: Path, out: Path, classes: list[str], task: str) -> None:
    """A transformers folder of it: as it is, or read back from the one GGUF that `model` is or holds. Raises SourceError for neither."""
    if (model / "config.json").is_file():
        config = check_folder(model)
        if not any(name.endswith("ForCausalLM") for name in config.get("architectures") or []):
            raise SourceError(
                f"this is no decoder: its architecture is {', '.join(config.get('architectures') or ['not named'])}.",
                where=str(model),
                write="Take a model whose architecture ends in ForCausalLM.",
            )
        shutil.copytree(model, out, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.bin", "*.pt", "*.py", "*.gguf", "*.onnx"))
        return
    files = [model] if model.suffix == ".gguf" else sorted(model.glob("*.gguf"))
    if len(files) != 1:
        raise SourceError(
            f"a decoder is a transformers folder or one GGUF; here {'stand ' + str(len(files)) if files else 'is none'}.",
            where=str(model),
            write="Give the folder that holds config.json, or the .gguf file itself.",
        )
    from edgedistill.gguf_decoder import read_decoder

    read_decoder(files[0], out)


def fine_tune(
    model: Path,
    out: Path,
    texts: Sequence[Sequence[int]],
    label: Callable[[int, Sequence[tuple[int, int]]], Any],
    kind: str,
    classes: list[str],
    task: str,
    options: Teacher,
    max_tokens: int,
    precision: str,
    seed: int,
    checkpoints: Path,
) -> None:
    """Teach it to write the answers; writes a float32 model folder under `out`."""
    import torch

    from edgedistill import causal
    from edgedistill.training import Schedule, train

    torch.manual_seed(seed)
    learner = load_decoder(model)
    rows = [causal.row_of(prompt, label(place, ())) for place, prompt in enumerate(texts)]
    objective = causal.Answers(learner)
    objective.train()
    train(
        objective,
        [ids for ids, _ in rows],
        {"labels": [labels for _, labels in rows]},
        None,
        Schedule(
            options.epochs * -(-len(rows) // options.batch_size),
            options.learning_rate,
            options.batch_size,
            precision,
            seed,
            plain_attention=True,
        ),
        pad_id=causal.stop_token(learner),
        checkpoints=checkpoints,
        label="fine-tuning the teacher",
    )
    causal.save(learner.eval(), model, out)


def logits(
    model: Path,
    texts: Sequence[Sequence[int]],
    classes: list[str],
    task: str,
    options: Teacher,
    max_tokens: int,
    precision: str,
    positions: Any = None,
) -> list[list[int]]:
    """The ids that it writes behind each prompt, half of max_tokens at most."""
    from edgedistill import causal

    with causal.arithmetic(precision):
        return causal.write(
            _opened(model, precision), texts, max_tokens // 2, rows=AT_ONCE, told=lambda done: tick("the teacher writes", done, len(texts))
        )


def top(model: Path, rows: Sequence[tuple[Sequence[int], Sequence[int]]], k: int, precision: str) -> Iterator[Any]:
    """What it thinks of each token of given answers: `causal.top`. Raises StageError when it thinks in numbers that are not finite."""
    from edgedistill import causal

    with causal.arithmetic(precision):
        for place, ids, logs, tail in causal.top(
            _opened(model, precision), rows, k, told=lambda done: tick("labelling with the teacher", done, len(rows))
        ):
            _check(logs, model)
            yield place, ids, logs, tail


def write_and_think(model: Path, texts: Sequence[Sequence[int]], most: int, k: int, precision: str) -> list[Any]:
    """What it writes behind each prompt and thinks of each token of it: `causal.write_and_think`. Raises StageError as `top` does."""
    from edgedistill import causal

    with causal.arithmetic(precision):
        found = causal.write_and_think(
            _opened(model, precision), texts, most, k, rows=AT_ONCE, told=lambda done: tick("the teacher writes", done, len(texts))
        )
    for _, _, logs, _ in found:
        _check(logs, model)
    return found


def _check(logs: Any, model: Path) -> None:
    import numpy as np

    if not np.isfinite(logs).all():
        raise StageError("the teacher gives logits that are not finite numbers.", where=str(model), write="Take another teacher.")


_last: dict[tuple[Path, str], Any] = {}


def _opened(model: Path, precision: str) -> Any:
    """The model that was asked last stays loaded."""
    from edgedistill import causal

    if (model, precision) not in _last:
        _last.clear()
        _last[model, precision] = causal.settled(load_decoder(model), precision)
    return _last[model, precision]
