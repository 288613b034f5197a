"""Every task from recipe to verified bundle, on tiny real models: what one stage writes, the next must be able to read."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgedistill import pipeline
from edgedistill.bundle_format import read_golden
from edgedistill.recipe import read_recipe
from edgedistill.report import Report
from edgedistill.stages.verify import verify
from edgedistill.tasks import tag
from sample_apps.pii_redaction.redact import Redactor
from tests.conftest import QUEUES, RECIPE, tickets

SMALL = (
    ("epochs        = 6", "epochs = 10"),
    ("steps         = 60", "steps = 90\ncontrol = false"),
    ('targets = ["laptop-x86"]', 'targets = ["small.toml"]'),
    ("accuracy_drop = 0.5", "accuracy_drop = 0.9"),
)
TARGET = 'name = "small"\nabout = "t"\nisa = "x86-64-v3"\nruntime = "onnxruntime"\nschemes = ["onnx_int8_dynamic"]\nthreads = 1\n[link]\nkind = "local"\n'
WORDS = {word: queue for queue, words in QUEUES.items() for word in words}


def compiled(folder: Path, teacher: Path, rows: list[dict[str, object]], *changes: tuple[str, str]) -> tuple[Report, Path]:
    """The report and the bundle of a recipe over `rows`."""
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "small.toml").write_text(TARGET)
    text = RECIPE.format(teacher=teacher)
    for old, new in (("tickets.csv", "rows.jsonl"), *SMALL, *changes):
        assert old in text, old
        text = text.replace(old, new)
    (folder / "recipe.toml").write_text(text)
    (outcome,) = pipeline.compile(read_recipe(folder / "recipe.toml"), out=folder / "out")
    assert outcome.bundle is not None, outcome.choice
    assert verify(outcome.bundle).good
    assert outcome.page.is_file()
    return outcome.report, outcome.bundle


def test_tag(tmp_path: Path, tiny_teacher: Path) -> None:
    """Spans lost between teacher, student, quantizer and bundle."""
    rows = []
    for text, _ in tickets(200):
        spans = [[start, end, WORDS[text[start:end]]] for start, end in tag.words(text) if text[start:end] in WORDS]
        rows.append({"body": text, "queue": spans})
    report, bundle = compiled(tmp_path, tiny_teacher, rows, ('task = "classify"', 'task = "tag"'))
    assert report.metric == "entity F1" and report.against == "labels"
    gained, possible = report.gains(report.teacher)
    assert gained.sum() / possible.sum() > 0.8, "the teacher did not learn"
    golden = next(vector for vector in read_golden(bundle / "golden.jsonl") if vector.answer)
    assert np.shape(golden.logits) == (len(golden.ids), 7)
    start, end, name = golden.answer[0]
    assert golden.text[start:end] and name in QUEUES
    app = Redactor(bundle)  # the app has its own few lines for spans: they must say what the task says
    golden = [vector for vector in read_golden(bundle / "golden.jsonl") if vector.answer is not None]
    assert golden and all([[*span] for span in app.spans(vector.text)] == vector.answer for vector in golden)
    assert app.redact("please refund the parcel") == app.redact("please refund the parcel ").rstrip()


def test_multi_label(tmp_path: Path, tiny_teacher: Path) -> None:
    """Several classes a text cut down to one on the way."""
    draw, rows = random.Random(0), []
    for text, _ in tickets(240):
        words = [*text.split(), *draw.sample(list(WORDS), draw.randint(0, 2))]
        rows.append({"body": " ".join(words), "queue": "|".join(sorted({WORDS[word] for word in words if word in WORDS}))})
    report, _ = compiled(tmp_path, tiny_teacher, rows, ('task = "classify"', 'task = "multi_label"'))
    assert report.metric == "micro F1" and any(len(answer) > 1 for answer in report.teacher.predicted)
    gained, possible = report.gains(report.teacher)
    assert gained.sum() / possible.sum() > 0.75


def test_score(tmp_path: Path, tiny_teacher: Path) -> None:
    """Numbers that come out in another unit than they went in."""
    value = {"billing": 10.0, "delivery": 20.0, "account": 40.0}
    rows = [{"body": text, "queue": value[queue]} for text, queue in tickets(240)]
    report, bundle = compiled(tmp_path, tiny_teacher, rows, ('task = "classify"', 'task = "score"'))
    assert report.metric == "R²" and 5 < np.mean(report.teacher.predicted) < 45
    gained, possible = report.gains(report.teacher)
    assert gained.sum() / possible.sum() > 0.5
    assert all(vector.answer is None for vector in read_golden(bundle / "golden.jsonl"))


@pytest.mark.parametrize("kind", ["transformers"])
def test_without_labels_the_teacher_is_right(tmp_path: Path, tiny_teacher: Path, kind: str, recipe_file: Callable[..., Path]) -> None:
    """Rows nobody labelled refused, or an agreement sold as an accuracy."""
    import torch

    from edgedistill.models import load_model, load_tokenizer, save

    torch.manual_seed(0)
    headed = tmp_path / "headed"
    save(load_model(tiny_teacher, "text-classification", ["no", "yes"]), load_tokenizer(tiny_teacher), headed)
    rows: list[dict[str, object]] = [{"body": text} for text, _ in tickets(200)]
    changes = ((str(tiny_teacher), str(headed)), ('label = "queue"', "labelled = false"))
    report, _ = compiled(tmp_path, tiny_teacher, rows, *changes)
    assert report.against == "teacher" and report.expected == report.teacher.predicted and report.classes == ["no", "yes"]


@pytest.mark.parametrize("student", ['family = "conv"\nwidth = 32\nchannels = 64', 'family = "transformer"\nlayers = 1'])
def test_embed(tmp_path: Path, tiny_teacher: Path, student: str) -> None:
    """Vectors lost between stages, or a cut of the teacher that has lost its neighbours."""
    rows: list[dict[str, object]] = [{"body": text} for text, _ in tickets(200)]
    changes = (
        ('task = "classify"', 'task = "embed"'),
        ('label = "queue"', "dimensions = 16"),
        ('family     = "transformer"\nlayers     = 2', student),
        # The tiny teacher's vectors all point nearly the same way; their cosines alone teach a fresh student little, their order more.
        ("[compile]", '[[distill.losses]]\nkind = "sentence_vector"\n[[distill.losses]]\nkind = "in_batch_ranking"\n[compile]'),
    )
    report, bundle = compiled(tmp_path, tiny_teacher, rows, *changes)
    assert report.metric == "recall@10" and report.against == "teacher"
    assert report.gains(report.teacher)[0].sum() == report.gains(report.teacher)[1].sum() == 10 * len(report.keys)
    found, possible = report.gains(report.students[0])
    if (
        "transformer" in student
    ):  # what is cut from the teacher must still have its neighbours; that a fresh student learns is the next test
        assert found.sum() / possible.sum() > 2 * 10 / len(report.keys), "no better than chance"
    assert report.students[0].notes[-1].startswith("Spearman of similarities with the teacher's: 0.")
    vectors = np.array([vector.logits for vector in read_golden(bundle / "golden.jsonl")])
    assert vectors.shape[1] == 16 and all(vector.answer is None for vector in read_golden(bundle / "golden.jsonl"))
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-3)

    (tmp_path / "lines.txt").write_text("\n".join(str(row["body"]) for row in rows[:20]))
    app = Path(__file__).parents[1] / "sample_apps" / "sentence_search" / "search.py"
    asked = [sys.executable, str(app), str(tmp_path / "lines.txt"), str(rows[7]["body"]), "--bundle", str(bundle), "--top", "1"]
    said = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.splitlines()
    assert said[1] == f"  1.000  {rows[7]['body']}", "the app does not find the very line that it is asked for"


def test_a_fresh_student_learns_to_embed(tmp_path: Path, tiny_teacher: Path) -> None:
    """A training that leaves the student where it began: on texts that it never saw it must come nearer to the teacher's order of texts."""
    import torch

    from edgedistill.models import SENTENCES, load_model, load_tokenizer
    from edgedistill.tasks.embed import spearman
    from edgedistill.training import pad

    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"body": text}) + "\n" for text, _ in tickets(200)))
    text = RECIPE.format(teacher=tiny_teacher)
    for old, new in (
        ("tickets.csv", "rows.jsonl"),
        ('task = "classify"', 'task = "embed"'),
        ('label = "queue"', "dimensions = 16"),
        ('family     = "transformer"\nlayers     = 2', 'family = "conv"\nwidth = 32\nchannels = 64'),
        ("steps         = 60", "steps = 1000\ncontrol = false"),
        # The tiny teacher's vectors all point nearly the same way: the order of texts teaches a fresh student, their cosines alone hardly.
        ("[compile]", '[[distill.losses]]\nkind = "in_batch_ranking"\n[compile]'),
    ):
        assert old in text, old
        text = text.replace(old, new)
    (tmp_path / "recipe.toml").write_text(text)
    pipeline.compile(read_recipe(tmp_path / "recipe.toml"), until="distill")
    texts = [row for row, _ in tickets(400, 99)][:150]

    def vectors(folder: Path, width: int) -> np.ndarray:
        model, tokenizer = load_model(folder, SENTENCES, [str(place) for place in range(width)]), load_tokenizer(folder, 32)
        with torch.inference_mode():
            ids = [encoding.ids for encoding in tokenizer.encode_batch(texts)]
            return model(**{name: torch.from_numpy(value) for name, value in pad(ids, 0).items()}).logits.numpy()

    (teacher,), (start,), (finished,) = (
        list((tmp_path / "home" / "store").glob(f"{stage}-*/model")) for stage in ("teacher", "start", "distill")
    )
    wanted = vectors(teacher, 64)
    before, after = spearman(vectors(start, 16), wanted), spearman(vectors(finished, 16), wanted)
    assert after > before + 0.1, f"Spearman {before:.3f} untrained, {after:.3f} trained"
