"""Labelling throughput against a bare batched forward loop over the same rows: `python -m tests.benchmarks.labelling`.

Both use the same model, precision, batches of like length; the loop holds the token ids ready and writes nothing, while `label` also tokenizes, hashes,
checkpoints and writes. Wanted: at least 0.90 of the loop's throughput.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import torch

from edgedistill.models import load_model, load_tokenizer
from edgedistill.stages.teach import LabelParams, label
from edgedistill.tables import make_rows, write_rows
from edgedistill.teachers.transformers import batches_by_length, logits
from edgedistill.training import best_precision, pad
from tests.benchmarks.common import demo, in_turns, say

CLASSES = ["ABBR", "DESC", "ENTY", "HUM", "LOC", "NUM"]


def main() -> None:
    recipe, folder, texts = demo()
    precision = best_precision()
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        (root / "prepared").mkdir()
        (root / "prepared" / "classes.json").write_text(json.dumps(CLASSES))
        (root / "transfer").mkdir()
        write_rows(root / "transfer" / "transfer.parquet", make_rows(texts))
        (root / "teacher").mkdir()
        (root / "teacher" / "model").symlink_to(folder)
        model = load_model(folder, "text-classification", CLASSES)
        tokens = [encoding.ids for encoding in load_tokenizer(folder, 128).encode_batch(texts)]
        ready = [pad([tokens[place] for place in places], 0) for places in batches_by_length([len(row) for row in tokens])]

        def bare() -> None:
            with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
                for batch in ready:
                    model(**{name: torch.from_numpy(values) for name, values in batch.items()}).logits.float().numpy()

        number = iter(range(1000))

        def ours() -> None:
            out = root / f"out{next(number)}"
            out.mkdir()
            params = LabelParams(recipe.teacher, recipe.task, 128, precision)
            label(out, params, prepared=root / "prepared", teacher=root / "teacher", transfer=root / "transfer")

        logits(folder, texts[:8], CLASSES, "text-classification", recipe.teacher, 128, precision)  # loaded once, as in a real run
        bare_seconds, our_seconds, ratios = in_turns(bare, ours, rounds=5)
        print(
            f"{len(texts)} rows, {precision}: bare loop {len(texts) / bare_seconds:.0f} rows/s, label {len(texts) / our_seconds:.0f} rows/s"
        )
        say("throughput of label / bare loop", ratios, "≥ 0.90")


if __name__ == "__main__":
    main()
