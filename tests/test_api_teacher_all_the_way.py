"""From outputs alone: unlabelled rows, a teacher behind an API, a bundle at the end."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgedistill.pipeline import compile
from edgedistill.recipe import read_recipe
from edgedistill.stages.verify import verify
from edgedistill.store import Store
from tests.conftest import QUEUES, tickets
from tests.test_api_client import Server, reply, server  # noqa: F401  # the fixture

ENDPOINT = """
base_url = "{url}"
model    = "m"
[classes]
billing  = "money"
delivery = "parcels"
account  = "logging in"
[terms]
distillation = "allowed"
basis  = "ours"
source = "tests"
date   = 2026-11-24
"""


def knows_queues(handler: Any, body: dict[str, Any], number: int) -> None:
    """An endpoint that is right: it counts the words of each queue."""
    words = body["messages"][-1]["content"].split()
    counts = {queue: sum(word in named for word in words) for queue, named in QUEUES.items()}
    message = {"role": "assistant", "content": max(counts, key=lambda queue: counts[queue])}
    reply(handler, 200, json.dumps({"choices": [{"message": message}], "usage": {"prompt_tokens": 20, "completion_tokens": 1}}).encode())


def test_compile(
    server: Server,  # noqa: F811
    recipe_file: Callable[..., Path],
    tiny_teacher: Path,
    tmp_path: Path,
) -> None:
    """A teacher that can only be asked, and a pipeline that wants to export, to time or to cut it; a second build that pays again."""
    server.behave = knows_queues
    (tmp_path / "endpoint.toml").write_text(ENDPOINT.format(url=server.url))
    (tmp_path / "rows.txt").write_text("\n".join(text for text, _ in tickets()))
    file = recipe_file(
        ('train = "tickets.csv"', 'train = "rows.txt"\nlabelled = false\nformat = "lines"\npattern = "(?P<body>.*)"'),
        ('label = "queue"\n', ""),
        (f'model         = "{tiny_teacher}"\nlicense       = "mit"', 'kind = "openai_api"\nmodel = "endpoint.toml"'),
        ('family     = "transformer"\nlayers     = 2', f'family = "static"\nstart = "{tiny_teacher}"'),
        ("steps         = 60", "steps         = 300"),
        ("learning_rate = 1e-3\n[compile]", "learning_rate = 1e-2\n[compile]"),
    )
    store = Store(tmp_path / "store")
    outcome = compile(read_recipe(file), out=tmp_path / "out", store=store)[0]
    assert outcome.bundle is not None and verify(outcome.bundle).good
    teacher = outcome.report.teacher
    assert (teacher.scheme, teacher.size_bytes, teacher.timings) == ("behind its API", 0, {})
    assert outcome.report.against == "teacher" and teacher.predicted == outcome.report.expected
    chosen = outcome.report.variant(outcome.choice.chosen)
    right = sum(one == other for one, other in zip(chosen.predicted, outcome.report.expected, strict=True))
    assert right > 0.8 * len(outcome.report.expected)
    lineage = json.loads((outcome.bundle / "manifest.json").read_text())["lineage"]["teacher"]
    assert lineage["basis"] == "ours" and lineage["date"] == "2026-11-24"
    asked = len(server.seen)
    assert len(set(server.texts())) == asked, "no text is paid for twice"
    compile(read_recipe(file), out=tmp_path / "out", store=Store(tmp_path / "another store"))
    assert len(server.seen) == asked, "a new store asks nothing again"
