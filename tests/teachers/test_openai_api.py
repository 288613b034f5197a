"""A teacher behind an API: what is asked, how answers are read, and what stops before anything is asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgedistill.errors import RecipeError, StageError, TermsError
from edgedistill.recipe import Teacher
from edgedistill.stages.teach import check_terms
from edgedistill.tasks import tag
from edgedistill.teachers import openai_api
from tests.test_api_client import Server, reply, server  # noqa: F401  # the fixture

FILE = """
base_url = "{url}"
model    = "m"
answers  = "{answers}"
question = "Which queue does the ticket belong to?"
{more}
[classes]
billing  = "money and invoices"
delivery = "parcels on their way"
[[examples]]
text  = "my refund"
label = "billing"
[terms]
distillation = "allowed"
basis  = "clause 4"
source = "https://example.com/terms"
date   = 2026-11-24
"""
CLASSES = ["billing", "delivery"]
TASK = "text-classification"


def write(tmp_path: Path, url: str = "http://127.0.0.1:1/v1", answers: str = "text", more: str = "", without: str = "") -> Path:
    text = FILE.format(url=url, answers=answers, more=more)
    (tmp_path / "endpoint.toml").write_text(text.partition(without)[0] if without else text)
    return tmp_path / "endpoint.toml"


def told(content: str, top: dict[str, float] | None = None) -> Any:
    """A server that always says this; top: log-probabilities of its first token."""

    def behave(handler: Any, body: dict[str, Any], number: int) -> None:
        choice: dict[str, Any] = {"message": {"role": "assistant", "content": content}}
        if top:
            choice["logprobs"] = {"content": [{"top_logprobs": [{"token": token, "logprob": value} for token, value in top.items()]}]}
        reply(handler, 200, json.dumps({"choices": [choice]}).encode())

    return behave


def logits(file: Path, texts: list[str], task: str = TASK, classes: list[str] = CLASSES) -> Any:
    options = Teacher(model=str(file), kind="openai_api")
    positions = [tag.positions] if task == "token-classification" else []
    return openai_api.logits(file, texts, classes, task, options, 64, "float32", *positions)


def test_hard_answers(server: Server, tmp_path: Path) -> None:  # noqa: F811
    """An answer read as another class than it names."""
    server.behave = told("  'Delivery'. ")
    assert logits(write(tmp_path, server.url), ["where is it"]).tolist() == [[0, 10]]
    messages = server.seen[0]["messages"]
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "user"]
    assert "delivery: parcels on their way" in messages[0]["content"] and messages[2]["content"] == "billing"
    assert server.seen[0]["temperature"] == 0


def test_label_probabilities(server: Server, tmp_path: Path) -> None:  # noqa: F811
    """Two spellings of a letter counted as one of them; a class that is not among the tokens given taken for impossible, or for likely."""
    server.behave = told("A", {"A": np.log(0.5), " A": np.log(0.2), "B": np.log(0.1), "The": np.log(0.1)})
    found = logits(write(tmp_path, server.url, "logprobs"), ["a text"])
    assert np.exp(found) == pytest.approx(np.array([[0.7, 0.1]]))
    assert server.seen[0]["max_tokens"] == 1 and server.seen[0]["logprobs"] is True and server.seen[0]["messages"][2]["content"] == "A"
    server.behave = told("B", {"B": 0.0})
    assert logits(tmp_path / "endpoint.toml", ["another"]).tolist() == [[openai_api.LEAST, 0.0]]


def test_an_endpoint_without_log_probabilities(server: Server, tmp_path: Path) -> None:  # noqa: F811
    """A traceback where one word in a file is to be changed."""
    server.behave = told("A")
    with pytest.raises(StageError) as error:
        logits(write(tmp_path, server.url, "logprobs"), ["a text"])
    assert str(error.value) == ('teacher.model: the endpoint gives no log-probabilities. Write answers = "text" in the endpoint\'s file.')


def test_answers_that_name_no_class(server: Server, tmp_path: Path) -> None:  # noqa: F811
    """A student taught that every text is of the first class, since the model chats."""
    server.behave = told("I think it could be billing or delivery!")
    with pytest.raises(StageError) as error:
        logits(write(tmp_path, server.url), ["one", "two"])
    assert str(error.value) == (
        f"{server.url}: 2 of 2 answers name no class. The first: 'I think it could be billing or delivery!'. "
        "Put the question otherwise (question, examples in the endpoint's file), or take a better model. The answers are kept."
    )


def test_spans(server: Server, tmp_path: Path) -> None:  # noqa: F811
    """Spans put onto other words than they are made of; a type that nobody asked for."""
    spans = [{"text": "New York", "label": "delivery"}, {"text": "Rome", "label": "planet"}, {"text": "York", "label": "billing"}]
    server.behave = told(f"Sure! {json.dumps(spans)}")
    file = write(tmp_path, server.url)
    classes = openai_api.labels(file, "token-classification")
    assert classes == ["O", "B-billing", "I-billing", "B-delivery", "I-delivery"]
    text = "From New York, by Rome, to York."
    rows = logits(file, [text], "token-classification", classes)
    assert tag.answer(rows[0], {"labels": classes}, text)["answer"] == [[5, 13, "delivery"], [27, 31, "billing"]]
    assert rows[0].shape == (len(tag.words(text)), 5)


def test_scrub() -> None:
    """Personal data that leaves the machine though it was asked not to."""
    text = "I'm jo.x+1@mail.example.org, +49 (0)30 901820, IBAN DE44 5001 0517 5407 3249 31, 10.0.0.7, see https://a.b/c?d, order 448812, room 12"
    assert openai_api.scrubbed(text, list(openai_api.PERSONAL)) == (
        "I'm <email>, <phone>, IBAN <iban>, <ip>, see <url> order <number>, room 12"
    )
    assert openai_api.scrubbed(text, []) == text


def test_scrubbed_texts_are_what_is_sent(server: Server, tmp_path: Path) -> None:  # noqa: F811
    """A scrub that is asked for and stands behind the sending."""
    server.behave = told("billing")
    logits(write(tmp_path, server.url, more='scrub = ["email"]'), ["refund a@b.example please"])
    assert server.texts() == ["refund <email> please"]


@pytest.mark.parametrize(
    ("without", "said"),
    [
        ("[terms]", "the terms of the endpoint are unknown, so nobody can say whether a student may be distilled from its answers."),
    ],
)
def test_unknown_terms(tmp_path: Path, without: str, said: str) -> None:
    """A student from answers that nobody was allowed to train on."""
    file = write(tmp_path, without=without)
    with pytest.raises(TermsError) as error:
        check_terms(Teacher(model=str(file), kind="openai_api"), file, "teacher.license")
    assert str(error.value) == (
        f'{file}: terms: {said} Look them up and write [terms] with distillation = "allowed", basis, source and date.'
    )


def test_terms_are_on_record(tmp_path: Path) -> None:
    """A bundle that cannot say why its student was allowed; terms that forbid and are not read."""
    file = write(tmp_path)
    found = check_terms(Teacher(model=str(file), kind="openai_api"), file, "teacher.license")
    assert (found["basis"], found["source"], found["date"]) == ("clause 4", "https://example.com/terms", "2026-11-24")
    file.write_text(file.read_text().replace('"allowed"', '"forbidden"'))
    with pytest.raises(TermsError, match="the endpoint's terms do not allow it: clause 4"):
        check_terms(Teacher(model=str(file), kind="openai_api"), file, "teacher.license")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('label = "billing"', 'label = "biling"', 'an example has the label "biling", and [classes] names none such'),
        ("question =", 'scrub = ["emails"]\nquestion =', 'scrub knows no "emails"; it knows email, url, ip, iban, phone, number'),
        ("model    =", "modle    =", 'modle: unknown key. Did you mean "model"?'),
    ],
)
def test_a_wrong_file(tmp_path: Path, old: str, new: str, said: str) -> None:
    """A mistake that is found after the first thousand calls."""
    file = write(tmp_path, answers="logprobs")
    file.write_text(file.read_text().replace(old, new))
    with pytest.raises(RecipeError) as error:
        openai_api.read(file)
    assert said in str(error.value)


def test_tag_asks_for_text(tmp_path: Path) -> None:
    """Log-probabilities of letters where spans are wanted."""
    with pytest.raises(RecipeError, match="logprobs cannot be had for task tag"):
        openai_api.adopt(write(tmp_path, answers="logprobs"), tmp_path / "out", ["O"], "token-classification")
