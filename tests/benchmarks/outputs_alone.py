"""A student from outputs alone: TREC-6 without its labels, a chat model behind an API as teacher: `python -m tests.benchmarks.outputs_alone [ROWS]`.

The teacher is the real SmolLM2-135M-Instruct behind llama-cpp-python's server, shown a dozen examples and asked for the name of a class; nothing else
of it is seen. It is small and often wrong, so two things are told apart: how often the student's binary answers as its teacher (on questions that it
never saw), and how often each of them is right by the labels, which only this file reads, after all is done.
"""

from __future__ import annotations

import os
import random
import sys
import tempfile
from pathlib import Path

import numpy as np

from edgedistill.digests import text_key
from edgedistill.pipeline import compile
from edgedistill.recipe import read_recipe
from edgedistill.report import Figure, mean_figure
from edgedistill.sources import home, resolve
from edgedistill.stages.verify import verify
from edgedistill.store import Store
from edgedistill.tables import read_table
from tests.benchmarks.common import RECIPE
from tests.real_server import KEY, real_server

PORT = 35653  # always the same: answers are kept by address, and a second run asks nothing again
CLASSES = {
    "abbreviation": ("ABBR", "what an abbreviation stands for", ["What does NASA stand for ?"]),
    "description": (
        "DESC",
        "a definition, a reason or an explanation",
        ["Why do leaves turn red in autumn ?", "How does a compass work ?"],
    ),
    "thing": (
        "ENTY",
        "an animal, a colour, a food, a product, a word",
        ["What is the largest animal ?", "What sport do the Lakers play ?"],
    ),
    "person": ("HUM", "a person or a group", ["Who painted the Mona Lisa ?", "What company makes the Walkman ?"]),
    "place": ("LOC", "a city, a country, another place", ["What is the capital of France ?", "Where is the Eiffel Tower ?"]),
    "number": ("NUM", "a count, a date, a price", ["How many legs has a spider ?", "When did the war end ?", "How far is the moon ?"]),
}
ENDPOINT = """
base_url = "{url}"
model    = "smollm2"
key      = "LOOPBACK_KEY"
answers  = "text"
question = "What does the question ask for?"
concurrency = 2
timeout_s = 600
[terms]
distillation = "allowed"
basis  = "Apache-2.0"
source = "model card of SmolLM2"
date   = 2026-11-24
[classes]
"""
STUDENT = """
name = "questions-from-outputs"
task = "classify"
[data]
train    = "questions.txt"
format   = "lines"
pattern  = "(?P<text>.*)"
labelled = false
[teacher]
kind  = "openai_api"
model = "endpoint.toml"
[transfer]
growth   = 1
held_out = 0
[student]
family = "transformer"
start  = "{start}"
layers = [0, 2, 5]
[distill]
steps         = 600
control       = false
batch_size    = 32
learning_rate = 2e-4
[compile]
targets = ["laptop-x86"]
[budget]
accuracy_drop = 0.99
p90_ms = 1000
"""


def main() -> None:
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 800
    os.environ["LOOPBACK_KEY"] = KEY
    demo = read_recipe(RECIPE)
    file = resolve(demo.data.train, folder=RECIPE.parent, cache=home() / "sources").path
    table = read_table(file, format=demo.data.format, encoding=demo.data.encoding, pattern=demo.data.pattern)
    gold = {text: label for text, label in zip(table.columns["text"], table.columns["label"], strict=True) if text}
    shown = [(text, name) for name, (_, _, texts) in CLASSES.items() for text in texts]
    draw = random.Random(0)  # a sample, not a secret
    draw.shuffle(shown)
    texts = draw.sample(sorted(set(gold) - {text for text, _ in shown}), rows)
    with tempfile.TemporaryDirectory() as scratch, real_server(Path(scratch), context=1024, port=PORT) as url:
        folder = Path(scratch)
        lines = [ENDPOINT.format(url=url), *(f'{name} = "{means}"' for name, (_, means, _) in CLASSES.items())]
        lines += [f'[[examples]]\ntext = "{text}"\nlabel = "{name}"' for text, name in shown]
        (folder / "endpoint.toml").write_text("\n".join(lines))
        (folder / "questions.txt").write_text("\n".join(texts), encoding="utf-8")
        (folder / "recipe.toml").write_text(STUDENT.format(start=demo.teacher.model))
        (made,) = compile(read_recipe(folder / "recipe.toml"), out=folder / "out", store=Store(home() / "store"))
        assert made.bundle is not None and verify(made.bundle).good, made.choice.reasons
    report, student = made.report, made.report.variant(made.choice.chosen)
    by_key = {text_key(text): label for text, label in gold.items()}
    right = np.array([by_key[key] for key in report.keys])
    said = {
        name: np.array([CLASSES[report.classes[place]][0] for place in one.predicted])
        for name, one in (("teacher", report.teacher), ("student", student))
    }
    print(f"{rows} questions without labels, {len(report.keys)} of them to judge by; {student.name}, {student.size_bytes / 1e6:.2f} MB")
    print(f"student answers as its teacher:  {_percent(mean_figure((said['student'] == said['teacher']).astype(float)))}")
    largest = max((said["teacher"] == name).mean() for name in set(said["teacher"]))
    print(f"  (always the teacher's most frequent answer: {100 * largest:.1f} %)")
    for name, answers in said.items():
        print(f"{name} right by the labels:     {_percent(mean_figure((answers == right).astype(float)))}")
    difference = mean_figure((said["student"] == right).astype(float) - (said["teacher"] == right))
    print(
        f"student less teacher:            {100 * difference.value:+.1f} points [{100 * difference.low:+.1f} to {100 * difference.high:+.1f}]"
    )


def _percent(figure: Figure) -> str:
    return f"{100 * figure.value:.1f} % [{100 * figure.low:.1f} to {100 * figure.high:.1f}]"


if __name__ == "__main__":
    main()
