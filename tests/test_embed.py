"""Sentence embeddings: what is judged, by hand and against references; what a recipe may say; how a ready encoder is read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from edgedistill import pipeline
from edgedistill.errors import RecipeError, SourceError
from edgedistill.recipe import read_recipe
from edgedistill.tasks import embed, together

LINE = [[np.cos(a), np.sin(a)] for a in (0.0, 0.1, 0.3, 1.5)]


def test_neighbours_and_recall_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """A text found as its own neighbour, or recall over the wrong count."""
    monkeypatch.setattr(embed, "NEAREST", 2)
    assert together(embed, LINE, {}) == [[1, 2], [0, 2], [1, 0], [2, 1]]
    assert embed.judge([1, 2], [1, 3], {}) == (1.0, 2.0)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each chunk of rows taking the wrong row for itself."""
    points = np.random.default_rng(0).normal(size=(37, 8))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    whole = embed.together(points, {})
    monkeypatch.setattr(embed, "CHUNK", 5)
    assert embed.together(points, {}) == whole
    assert all(len(row) == 10 and place not in row for place, row in enumerate(whole))


def test_spearman_leaves_out_the_text_itself_and_texts_without_an_order() -> None:
    """A figure raised by each text's likeness to itself, or one that is NaN because of a single text."""
    from scipy.stats import spearmanr

    draw = np.random.default_rng(0)
    ours, theirs = (draw.integers(0, 3, size=(20, width)).astype(float) for width in (4, 6))
    ours[3] = 0.0  # equally near to all: has no order, and must not make the whole figure NaN
    varied = [row for row in range(20) if ours[row].any() and theirs[row].any()]
    rows = [spearmanr(np.delete(ours @ ours[row], row), np.delete(theirs @ theirs[row], row))[0] for row in varied]
    assert embed.spearman(ours, theirs) == pytest.approx(np.mean(rows))
    assert embed.spearman(ours, ours) == pytest.approx(1.0)


def test_more_dimensions_than_the_teacher_has() -> None:
    """A student wider than its teacher, silently cut to it."""
    with pytest.raises(RecipeError) as error:
        embed.settings([], SimpleNamespace(dimensions=64), ["0", "1", "2"])
    assert str(error.value) == "data.dimensions = 64, but the teacher's vectors have 3. Write 2 to 3, or leave it out."


def test_pooling_is_read_from_beside_the_model(tmp_path: Path) -> None:
    """A cls encoder pooled by mean, or a layer behind the pooling left out without a word."""
    from edgedistill.models import pooling

    assert pooling(tmp_path) == "mean"
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}))
    assert pooling(tmp_path) == "cls"
    kinds = ("Transformer", "Pooling", "Dense", "Normalize")
    (tmp_path / "modules.json").write_text(json.dumps([{"type": f"sentence_transformers.models.{kind}"} for kind in kinds]))
    with pytest.raises(SourceError) as error:
        pooling(tmp_path)
    assert str(error.value) == (
        f"{tmp_path / 'modules.json'}: the sentence encoder ends in Dense, which edgedistill does not compute. "
        "Take an encoder that pools by mean, cls or max, with nothing behind that but Normalize."
    )


def test_sentence_vector_by_hand() -> None:
    """A length that counts, or a narrower student that cannot be compared."""
    import torch

    from edgedistill.features import EMBEDDING, Seen, Sizes
    from edgedistill.losses import sentence_vector

    options = sentence_vector.Options()
    same = sentence_vector.attach(Sizes(embedding=2), Sizes(embedding=2), options)
    seen = Seen(None, embedding=torch.tensor([[3.0, 4.0], [0.0, 2.0]]))
    teacher = {EMBEDDING: torch.tensor([[1.0, 0.0], [0.0, 1.0]])}
    assert sentence_vector.loss(seen, teacher, options, same).item() == pytest.approx((0.4 + 0.0) / 2)
    assert sentence_vector.attach(Sizes(embedding=2), Sizes(embedding=6), options).weight.shape == (6, 2)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (
            "below_floor   =",
            "calls = 64\nbelow_floor   =",
            "reads the teacher's vectors, and a call under teacher.calls gives logits alone.",
        ),
        ("steps         = 60", "steps = 60\nrounds = 2", 'not there for task "embed", whose answers are vectors.'),
        (
            "[transfer]",
            '[[teacher.also]]\nmodel = "{teacher}"\nlicense = "mit"\n[transfer]',
            'not there for task "embed", whose answers are vectors.',
        ),
        (
            "below_floor   =",
            'fine_tune = "always"\nbelow_floor   =',
            'teacher.fine_tune = "always" needs labels, and task "embed" has none',
        ),
        ('text  = "body"', 'text  = "body"\nlabelled = true', 'for task "embed" only the teacher knows what is right; leave it out'),
    ],
)
def test_what_vectors_cannot_have_is_said(old: str, new: str, words: str, recipe_file: Callable[..., Path], tiny_teacher: Path) -> None:
    """An option that is ignored, or that ends in a traceback after the teacher was asked."""
    changes = (
        ('task = "classify"', 'task = "embed"'),
        ('label = "queue"', "dimensions = 16"),
        (old, new.replace("{teacher}", str(tiny_teacher))),
    )
    with pytest.raises(RecipeError) as error:
        pipeline.plan(read_recipe(recipe_file(*changes)))
    assert words in str(error.value)
