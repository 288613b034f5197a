"""Templates: what is drawn fits them, the same each time, and mistakes are named."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from edgedistill.errors import DataError
from edgedistill.templates import Templates, draw_texts, read_templates


def test_slots_are_filled_inside_out() -> None:
    """A slot left open, characters out of range, or braces lost."""
    templates = Templates(texts=["{{{name}}} at {code}"], slots={"name": ["{first} X"], "first": ["A", "B"], "code": ["{0-9*3}-{A-C}"]})
    texts = draw_texts(templates, 200, 0)
    assert len(texts) == len(set(texts)) == 200
    assert all(re.fullmatch(r"\{[AB] X\} at \d{3}-[A-C]", text) for text in texts)
    assert texts == draw_texts(templates, 200, 0) != draw_texts(templates, 200, 1)


def test_few_templates_end() -> None:
    """An endless search for a text that the templates cannot give."""
    assert sorted(draw_texts(Templates(texts=["{x}"], slots={"x": ["a", "b"]}), 50, 0)) == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('texts = ["{frist}"]\n[slots]\nfirst = ["A"]', 't.toml: texts[0]: there is no slot "frist". Did you mean "first"?'),
        (
            'texts = ["{a}"]\n[slots]\na = ["{b}"]\nb = ["{a}"]',
            't.toml: slots.a: the slot "a" holds itself. Take it out of its own values.',
        ),
        ('texts = ["{a}"]\n[slots]\na = []', 't.toml: the slot "a" has no values. Write a = ["…", "…"] under [slots].'),
        ('texts = ["a { b"]', "t.toml: texts[0]: a single brace in 'a { b'. Write {{ or }} for a brace that is text."),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, message: str) -> None:
    """An endless recursion, or a text with a hole in it that the teacher is asked about."""
    (tmp_path / "t.toml").write_text(text)
    with pytest.raises(DataError) as error:
        read_templates(tmp_path / "t.toml", "t.toml")
    assert str(error.value) == message
