"""A teacher that runs here: any transformers encoder with a classification head, in float32 or in 8 or 4 bits.

8 and 4 bits come from bitsandbytes (LLM.int8(), arXiv:2208.07339; NF4, arXiv:2305.14314). They save memory, not time: they are how a teacher
that does not fit is fitted. A quantized teacher is fine-tuned through LoRA adapters (arXiv:2106.09685), since its own weights stand still.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgedistill.errors import StageError, missing_extra
from edgedistill.features import EMBEDDING, Observer
from edgedistill.models import SENTENCES, check_folder, check_ids, load_model, load_tokenizer, save, sizes_of
from edgedistill.recipe import Teacher
from edgedistill.training import Schedule, label_loss, pad, quiet, stacked, train

TEACHABLE = True
TOKENS_A_BATCH = 4096  # padded tokens: large enough to keep the CPU busy, small enough for its cache


Positions = Callable[[str, Sequence[tuple[int, int]]], npt.NDArray[np.int64]]
HEADS = {"text-classification": "ForSequenceClassification", "token-classification": "ForTokenClassification"}


def labels(model: Path, task: str) -> list[str] | None:
    """The names of the model's outputs when it has a head for the task."""
    config = check_folder(model)
    if task == SENTENCES:
        # Any encoder gives vectors. One that went through here has its dimensions for labels; those of others are as many as it is wide.
        own = config.get("id2label") if config.get("architectures") == ["SentenceEncoder"] else None
        return [str(place) for place in range(len(own) if own else sizes_of(model)["width"])]
    names: dict[str, str] = config.get("id2label") or {}
    headed = any(name.endswith(HEADS[task]) for name in config.get("architectures") or [])
    return [names[place] for place in sorted(names, key=int)] if headed and names else None


def has_head(model: Path, classes: Sequence[str], task: str) -> bool:
    """Whether the model does the task already, with exactly these classes."""
    return task == SENTENCES or set(labels(model, task) or []) == set(classes)


def adopt(model: Path, out: Path, classes: list[str], task: str) -> None:
    """Take the teacher as it is. Its outputs are put into the order of `classes`, so that column i means class i everywhere."""
    import torch

    if task == SENTENCES:
        save(load_model(model, task, labels(model, task) or []), load_tokenizer(model), out)
        return
    theirs = {name: int(place) for place, name in check_folder(model)["id2label"].items()}
    order = torch.tensor([theirs[name] for name in classes])
    adopted = load_model(model, task, classes)
    head = [module for module in adopted.modules() if isinstance(module, torch.nn.Linear) and module.out_features == len(classes)][-1]
    with torch.no_grad():
        head.weight.copy_(head.weight[order].clone())
        if head.bias is not None:
            head.bias.copy_(head.bias[order].clone())
    save(adopted, load_tokenizer(model), out)


def fine_tune(
    model: Path,
    out: Path,
    texts: Sequence[str],
    label: Callable[[int, Sequence[tuple[int, int]]], npt.NDArray[Any]],
    kind: str,
    classes: list[str],
    task: str,
    options: Teacher,
    max_tokens: int,
    precision: str,
    seed: int,
    checkpoints: Path,
) -> None:
    """Teach the model the task on the labels alone; writes a float32 model folder under `out`."""
    import torch

    torch.manual_seed(seed)  # the new head starts the same way each time
    learner = load_model(model, task, classes, **_loading(options))
    if options.load != "float32":
        learner = _with_adapters(learner, task)
    tokenizer = load_tokenizer(model, max_tokens)
    encodings = tokenizer.encode_batch(list(texts))
    found = [label(row, encoding.offsets) for row, encoding in enumerate(encodings)]
    steps = options.epochs * -(-len(texts) // options.batch_size)
    learner.train()
    train(
        learner,
        [encoding.ids for encoding in encodings],
        {"labels": stacked(found)},
        lambda outputs, batch: label_loss(outputs.logits, batch["labels"], kind),
        Schedule(steps, options.learning_rate, options.batch_size, precision, seed),
        pad_id=learner.config.pad_token_id or 0,
        checkpoints=checkpoints,
        label="fine-tuning the teacher",
    )
    if options.load != "float32":
        with quiet():
            learner = learner.merge_and_unload().dequantize().float()
            if hasattr(learner.config, "quantization_config"):
                del learner.config.quantization_config
    save(learner, load_tokenizer(model), out)


def logits(
    model: Path,
    texts: Sequence[str],
    classes: list[str],
    task: str,
    options: Teacher,
    max_tokens: int,
    precision: str,
    positions: Positions | None = None,
) -> Any:
    """The teacher's logits, float32 [len(texts), classes]; with `positions`, those of each text's words, a list of float32 [words, classes].

    Texts of like length share a batch, so little is spent on padding.
    """
    return _ask(model, texts, classes, task, options, max_tokens, precision, frozenset(), positions)[0]


def logits_and_embeddings(
    model: Path, texts: Sequence[str], classes: list[str], task: str, options: Teacher, max_tokens: int, precision: str
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """The same logits, and of each text the vector that the teacher's head reads, float32 [len(texts), width]."""
    return _ask(model, texts, classes, task, options, max_tokens, precision, frozenset({EMBEDDING}))


def _ask(
    model: Path,
    texts: Sequence[str],
    classes: list[str],
    task: str,
    options: Teacher,
    max_tokens: int,
    precision: str,
    needs: frozenset[str],
    positions: Positions | None = None,
) -> tuple[Any, npt.NDArray[np.float32]]:
    import torch

    # Of vectors the teacher has its own number, however narrow the student is.
    own = (labels(model, task) or []) if task == SENTENCES else classes
    loaded = _cached_model(str(model), task, tuple(own), options.load)
    tokenizer = load_tokenizer(model, max_tokens)
    encodings = tokenizer.encode_batch(list(texts))
    tokens = [encoding.ids for encoding in encodings]
    check_ids(loaded, tokens, str(model))
    out: list[Any] = [None] * len(texts)
    embeddings = np.empty((len(texts), 0), dtype=np.float32)
    watched = Observer(loaded, needs, "teacher")
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
        for places in batches_by_length([len(row) for row in tokens]):
            batch = {
                name: torch.from_numpy(values) for name, values in pad([tokens[p] for p in places], loaded.config.pad_token_id or 0).items()
            }
            seen = watched(**batch)
            for place, row in zip(places, seen.logits.float().numpy(), strict=True):
                out[place] = row[positions(texts[place], encodings[place].offsets)] if positions else row.copy()
            if needs:
                if not embeddings.shape[1]:
                    embeddings = np.empty((len(texts), seen.embedding.shape[-1]), dtype=np.float32)
                embeddings[places] = seen.embedding.float().numpy()
    watched.close()
    return out if positions else np.stack(out) if out else np.zeros((0, len(classes)), np.float32), embeddings


def batches_by_length(lengths: Sequence[int], tokens_a_batch: int = TOKENS_A_BATCH) -> list[list[int]]:
    """Row numbers in batches of like length: sorted by length, as many rows a batch as fit `tokens_a_batch` after padding."""
    batches: list[list[int]] = []
    for place in sorted(range(len(lengths)), key=lambda row: (-lengths[row], row)):
        if not batches or (len(batches[-1]) + 1) * lengths[batches[-1][0]] > tokens_a_batch:
            batches.append([])
        batches[-1].append(place)
    return batches


_last_model: dict[tuple[Any, ...], Any] = {}


def _cached_model(model: str, task: str, classes: tuple[str, ...], load: str) -> Any:
    """The model that was asked last stays loaded: labelling asks shard by shard."""
    key = (model, task, classes, load)
    if key not in _last_model:
        _last_model.clear()
        _last_model[key] = load_model(Path(model), task, list(classes), **_loading(Teacher(model=model, load=load)))  # type: ignore[arg-type]
    return _last_model[key]


def _loading(options: Teacher) -> dict[str, Any]:
    """What from_pretrained needs for the wanted precision. The head stays in float: it is small and decides."""
    if options.load == "float32":
        return {"dtype": "float32"}
    try:
        import bitsandbytes  # noqa: F401
    except ModuleNotFoundError as error:
        raise missing_extra(error, f'teacher.load = "{options.load}"', "lowbit") from error
    import torch
    from transformers import BitsAndBytesConfig

    keep = ["classifier", "pooler", "score", "pre_classifier"]
    if options.load == "8bit":
        wanted = BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=keep)
    else:
        wanted = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32, llm_int8_skip_modules=keep
        )
    return {"quantization_config": wanted, "device_map": {"": "cpu"}}


def _with_adapters(model: Any, task: str) -> Any:
    """LoRA on every linear layer of the encoder; the head learns in full."""
    try:
        from peft import LoraConfig, TaskType, get_peft_model
    except ModuleNotFoundError as error:
        raise missing_extra(error, "fine-tuning a teacher in 8 or 4 bits", "lowbit") from error
    kind = TaskType.TOKEN_CLS if task == "token-classification" else TaskType.SEQ_CLS
    with quiet():
        adapted = get_peft_model(model, LoraConfig(task_type=kind, r=16, lora_alpha=32, target_modules="all-linear"))
    if not any(parameter.requires_grad for parameter in adapted.parameters()):
        raise StageError("no layer of the teacher takes an adapter.", write='Write load = "float32" under [teacher].')
    return adapted
