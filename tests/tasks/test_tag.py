"""Tagging: words, tokens, spans and their figure, by hand and by property."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedistill.tasks import tag

BIO = {"labels": ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]}
TEXT = "Anna Maria Smith lives in New York."


def test_words_are_found_without_a_tokenizer() -> None:
    """Teacher and student that answer for different words because their tokenizers cut differently."""
    text = "O'Brien@x.de, cafe\u0301_1 東京"
    assert [text[start:end] for start, end in tag.words(text)] == [
        "O", "'", "Brien", "@", "x", ".", "de", ",", "cafe\u0301", "_", "1", "東", "京",
    ]  # fmt: skip


@given(st.text(max_size=60))
def test_words_never_overlap_and_leave_out_only_spaces(text: str) -> None:
    """A character that belongs to two words, or a letter that no word holds."""
    places = tag.words(text)
    assert all(one[1] <= other[0] for one, other in pairwise(places))
    covered = {place for start, end in places for place in range(start, end)}
    assert all(place in covered for place, char in enumerate(text) if char.isalnum())


def test_the_first_token_of_a_word_answers_for_it() -> None:
    """Labels on the wrong sub-word, on [CLS], or behind the end of a text that was cut off."""
    # [CLS] an ##na maria smi ##th [SEP]: cut off after "Smith"
    offsets = [(0, 0), (0, 2), (2, 4), (5, 10), (11, 14), (14, 16), (0, 0)]
    assert tag.positions(TEXT, offsets).tolist() == [1, 3, 4]
    target = [[0, 16, "PER"], [26, 34, "LOC"]]
    assert tag.hard(target, BIO, TEXT, offsets).tolist() == [-1, 1, -1, 2, 2, -1, -1]


def test_one_token_may_answer_for_two_words() -> None:
    """A tokenizer with tokens longer than a word, for which later words would take the next word's answer."""
    assert tag.positions("a.b c", [(0, 3), (4, 5)]).tolist() == [0, 0, 0, 1]


@pytest.mark.parametrize(
    ("tags", "spans"),
    [
        ("B-PER I-PER O B-LOC", [(0, 2, "PER"), (3, 4, "LOC")]),
        ("B-PER B-PER O O", [(0, 1, "PER"), (1, 2, "PER")]),
        ("O I-PER I-PER O", [(1, 3, "PER")]),  # an I- that continues nothing begins
        ("B-PER I-LOC O O", [(0, 1, "PER"), (1, 2, "LOC")]),
        ("S-PER B-LOC E-LOC I-LOC", [(0, 1, "PER"), (1, 3, "LOC"), (3, 4, "LOC")]),  # BIOES: E- ends it
        ("PER PER O PER", [(0, 2, "PER"), (3, 4, "PER")]),  # plain labels
    ],
)
def test_tags_become_spans(tags: str, spans: list[tuple[int, int, str]]) -> None:
    """Spans cut in two, or run together."""
    places = [(place, place + 1) for place in range(4)]
    assert [span[:3] for span in tag.merged(places, tags.split())] == spans


@given(st.lists(st.tuples(st.integers(1, 3), st.sampled_from(["", "PER", "LOC"])), max_size=6))
def test_spans_survive_labels(pieces: list[tuple[int, str]]) -> None:
    """What training reads and what the app shows: spans → label of each word → spans must be the same, next to each other too."""
    text, target = "", []
    for count, name in pieces:
        start = len(text)
        text += "word " * count
        if name:
            target.append([start, len(text) - 1, name])
    labels = tag.hard(target, BIO, text)
    assert tag.answer(np.eye(5)[labels], BIO, text)["target"] == target


def test_spans_of_the_data_are_read_and_trimmed() -> None:
    """Spans of three ways to write them that come out unequal."""
    wanted = [[0, 16, "PER"], [26, 34, "LOC"]]
    assert tag.read(json.dumps(wanted), TEXT, None) == wanted
    spans = [{"start": 25, "end": 34, "label": "LOC"}, {"start": 0, "end": 17, "label": "PER"}]
    assert tag.read(json.dumps(spans), TEXT, None) == wanted
    tags = ["B-PER", "I-PER", "I-PER", "O", "O", "B-LOC", "I-LOC"]
    assert tag.read(json.dumps(tags), "Anna Maria Smith lives in New York", None) == wanted


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        ('[[30, 99, "LOC"]]', "span 30–99 lies outside the text of 35 characters"),
        ('[[0, 16, "PER"], [5, 10, "PER"]]', "span 5–10 overlaps the one before it"),
        ('[[1, 16, "PER"]]', "span 1–16 (PER) begins or ends inside a word"),
        ('[[0, "x"]]', "a span is not {start, end, label} or [start, end, label]"),
        ('["O", "O"]', "2 tags for 7 words"),
        ('{"start": 0}', "label is no list of spans or tags"),
    ],
)
def test_bad_spans_say_why(cell: str, reason: str) -> None:
    """A span that does not fit its text silently dropped or moved."""
    with pytest.raises(ValueError) as error:
        tag.read(cell, TEXT, None)
    assert str(error.value) == reason


def test_entity_f1_equals_the_reference_by_hand() -> None:
    """A figure that counts a span with the wrong type or border. tp 1, fp 1, fn 2: F1 = 2 / (2 + 1 + 2)."""
    rows = [([[0, 4, "PER"], [5, 9, "LOC"]], [[0, 4, "PER"], [5, 9, "PER"]]), ([], [[1, 2, "PER"]])]
    gained, possible = np.sum([tag.judge(ours, theirs, BIO) for ours, theirs in rows], axis=0)
    assert gained / possible == pytest.approx(2 / 5)


def test_confidence_is_of_the_type() -> None:
    """A doubt between B- and I- sold as a doubt about the type."""
    logits = np.log(np.array([[0.1, 0.5, 0.4, 0.0001, 0.0001]]))
    (span,) = tag.answer(logits, BIO, "Anna")["spans"]
    assert span["confidence"] == pytest.approx(0.9, abs=1e-3) and span["text"] == "Anna"


def test_no_word_no_answer() -> None:
    """A blank text that crashes the app."""
    assert tag.answer(np.zeros((2, 5)), BIO, " ", [(0, 0), (0, 0)])["answer"] == []
