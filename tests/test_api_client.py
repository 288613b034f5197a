"""Asking over a wire that fails: nothing is lost, nothing is paid twice, and nothing goes where it should not. The server fails on purpose."""

from __future__ import annotations

import http.server
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgedistill import api_client
from edgedistill.api_client import Endpoint, ask, spent
from edgedistill.errors import InputError, StageError

Behave = Callable[[http.server.BaseHTTPRequestHandler, dict[str, Any], int], None]


class Server:
    """An endpoint on loopback. `behave` answers the n-th request; `seen` holds the bodies and headers that came."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.behave: Behave = answer
        self.busiest = self.busy = 0
        lock = threading.Lock()
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    server.seen.append(body)
                    server.headers.append(dict(self.headers))
                    number = len(server.seen)
                    server.busy += 1
                    server.busiest = max(server.busiest, server.busy)
                try:
                    server.behave(self, body, number)
                finally:
                    with lock:
                        server.busy -= 1

            def log_message(self, *_: Any) -> None:
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"

    def texts(self) -> list[str]:
        return [body["messages"][-1]["content"] for body in self.seen]


def reply(handler: Any, code: int, body: bytes, **headers: str) -> None:
    handler.send_response(code)
    for name, value in {"Content-Length": str(len(body)), "Content-Type": "application/json", **headers}.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


def answer(handler: Any, body: dict[str, Any], number: int) -> None:
    """What a sound endpoint does: here the text in capitals."""
    message = {"role": "assistant", "content": body["messages"][-1]["content"].upper()}
    whole = {"choices": [{"index": 0, "message": message}], "usage": {"prompt_tokens": 10, "completion_tokens": 2}}
    reply(handler, 200, json.dumps(whole).encode())


@pytest.fixture
def server() -> Iterator[Server]:
    one = Server()
    yield one
    one.http.shutdown()
    one.http.server_close()


def endpoint(server: Server, **more: Any) -> Endpoint:
    return Endpoint(**{"base_url": server.url, "model": "m", "pause_s": 0.01, "timeout_s": 2.0, **more})


def bodies(*texts: str) -> list[dict[str, Any]]:
    return [{"messages": [{"role": "user", "content": text}], "max_tokens": 4, "temperature": 0} for text in texts]


def said(answers: list[dict[str, Any]]) -> list[str]:
    return [one["message"]["content"] for one in answers]


def test_answers_in_order_and_only_once(server: Server, tmp_path: Path) -> None:
    """Answers that go to the wrong text; a question that is paid for again in the next run, or twice in one."""
    texts = [f"text {number % 30}" for number in range(40)]
    assert said(ask(endpoint(server), bodies(*texts), tmp_path / "a.sqlite")) == [text.upper() for text in texts]
    assert len(server.seen) == 30 and server.seen[0]["model"] == "m"
    assert said(ask(endpoint(server), bodies(*texts), tmp_path / "a.sqlite")) == [text.upper() for text in texts]
    assert len(server.seen) == 30
    assert spent(tmp_path / "a.sqlite") == {"calls": 30, "prompt_tokens": 300, "completion_tokens": 60}


def test_another_model_is_another_question(server: Server, tmp_path: Path) -> None:
    """One model's answers taken for another's."""
    ask(endpoint(server), bodies("a"), tmp_path / "a.sqlite")
    ask(endpoint(server, model="n"), bodies("a"), tmp_path / "a.sqlite")
    assert [body["model"] for body in server.seen] == ["m", "n"]


def busy(handler: Any, body: dict[str, Any], number: int) -> None:
    """Each of the ways to fail, one after the other, then an answer."""
    if number == 1:
        reply(handler, 429, b"{}", Retry_After="0.2")
    elif number == 2:
        reply(handler, 503, b"busy")
    elif number == 3:  # half an answer: the wire is cut
        handler.send_response(200)
        handler.send_header("Content-Length", "500")
        handler.end_headers()
        handler.wfile.write(b'{"choices": [')
        handler.wfile.flush()
        handler.close_connection = True
    elif number == 4:
        reply(handler, 200, b'{"choices": [{"message": {"content": null}}]}')
    elif number == 5:
        reply(handler, 200, b"<html>sorry</html>")
    elif number == 6:
        time.sleep(1.0)
        reply(handler, 200, b"{}")
    else:
        answer(handler, body, number)


def test_every_way_to_be_busy(server: Server, tmp_path: Path) -> None:
    """A night's labelling that ends at the first 429, time-out or half answer; an endpoint that is not left alone as long as it asks."""
    server.behave = busy
    began = time.monotonic()
    assert said(ask(endpoint(server, attempts=8, timeout_s=0.5), bodies("a"), tmp_path / "a.sqlite")) == ["A"]
    assert len(server.seen) == 7 and time.monotonic() - began > 0.2
    # Four of these may have cost something: the cut one, the two without an answer, the one that came too late. So may the answer.
    assert spent(tmp_path / "a.sqlite")["calls"] == 5


def test_stays_busy(server: Server, tmp_path: Path) -> None:
    """Waiting for ever; or losing what was answered before."""
    server.behave = lambda handler, body, number: answer(handler, body, number) if number <= 3 else reply(handler, 500, b"")
    with pytest.raises(StageError) as error:
        ask(endpoint(server, attempts=3, concurrency=1), bodies(*"abcdef"), tmp_path / "a.sqlite")
    assert str(error.value) == (
        f"{server.url}: the endpoint did not answer after 3 attempts: it says 500. "
        "What was answered is kept: run again when it is up, or lower concurrency."
    )
    server.behave = answer
    assert said(ask(endpoint(server), bodies(*"abcdef"), tmp_path / "a.sqlite")) == list("ABCDEF")
    assert sorted(server.texts()) == sorted([*"abc", *"ddd", *"def"])


def test_a_long_pause_is_said_and_not_slept(server: Server, tmp_path: Path) -> None:
    """A run that sleeps for a day."""
    server.behave = lambda handler, body, number: reply(handler, 429, b"", Retry_After="86400")
    with pytest.raises(StageError, match="the endpoint wants a pause of 86400 s"):
        ask(endpoint(server), bodies("a"), tmp_path / "a.sqlite")


@pytest.mark.parametrize(
    ("cap", "price", "answered", "name"),
    [
        ({"calls": 5}, {}, 5, "calls"),
        ({"tokens": 62}, {}, 5, "tokens"),  # 12 each; the next is guessed at 8 + 4
        ({"money": 100.0}, {"prompt": 2e6, "completion": 0.0}, 5, "money"),  # 20 each, guessed at 16: after four the fifth still fits
    ],
)
def test_caps_stop_cleanly(server: Server, tmp_path: Path, cap: dict[str, Any], price: dict[str, float], answered: int, name: str) -> None:
    """A bill larger than was allowed; or a cap after which all must be paid again."""
    texts = [f"t{number}" for number in range(9)]
    with pytest.raises(StageError) as error:
        ask(endpoint(server, cap=cap, price=price, concurrency=3), bodies(*texts), tmp_path / "a.sqlite")
    assert f"cap.{name}: the cap of {cap[name]:g} {name} is reached: " in str(error.value)
    assert str(error.value).endswith("What was answered is kept. Raise the cap and run again: nothing is paid twice.")
    assert answered - 3 < len(server.seen) <= answered
    used = spent(tmp_path / "a.sqlite")
    bill = {"calls": used["calls"], "tokens": used["prompt_tokens"] + used["completion_tokens"], "money": used["prompt_tokens"] * 2e6 / 1e6}
    assert bill[name] <= cap[name]
    ask(endpoint(server), bodies(*texts), tmp_path / "a.sqlite")
    assert sorted(server.texts()) == sorted(texts)


def test_concurrency(server: Server, tmp_path: Path) -> None:
    """One question at a time where the endpoint could take eight; or more than was asked for."""

    def slow(handler: Any, body: dict[str, Any], number: int) -> None:
        time.sleep(0.05)
        answer(handler, body, number)

    server.behave = slow
    began = time.monotonic()
    ask(endpoint(server, concurrency=8), bodies(*(str(number) for number in range(48))), tmp_path / "a.sqlite")
    assert server.busiest == 8 and time.monotonic() - began < 48 * 0.05 / 2


KILLED = """
import sys
from pathlib import Path
from edgedistill.api_client import Endpoint, ask
bodies = [{"messages": [{"role": "user", "content": f"t{n}"}], "max_tokens": 4, "temperature": 0} for n in range(60)]
ask(Endpoint(base_url=sys.argv[1], model="m", concurrency=2), bodies, Path(sys.argv[2]))
"""


def test_a_killed_run_repeats_no_answered_call(server: Server, tmp_path: Path) -> None:
    """Answers that were paid and lie in the memory of a process that is gone."""

    def slow(handler: Any, body: dict[str, Any], number: int) -> None:
        time.sleep(0.03)
        answer(handler, body, number)

    server.behave = slow
    journal = tmp_path / "a.sqlite"
    process = subprocess.Popen([sys.executable, "-c", KILLED, server.url, str(journal)])
    while len(server.seen) < 20:
        time.sleep(0.01)
    process.kill()
    process.wait()
    time.sleep(0.2)
    kept = spent(journal)["calls"]
    before = len(server.seen)
    assert kept >= before - 4  # two were under way, and two may have been on their way to the disk
    ask(endpoint(server), bodies(*(f"t{number}" for number in range(60))), journal)
    assert len(server.seen) == before + 60 - kept


def test_redirect_to_another_host(server: Server, tmp_path: Path) -> None:
    """The key and the texts, sent to whoever the answer names."""
    server.behave = lambda handler, body, number: reply(handler, 307, b"", Location="https://elsewhere.example/v1/chat/completions")
    with pytest.raises(StageError) as error:
        ask(endpoint(server), bodies("a"), tmp_path / "a.sqlite")
    assert str(error.value) == (
        f"{server.url}: the endpoint redirects to another host, elsewhere.example, and the key and the texts would go there. "
        "Write that host's address as base_url if it is what you want."
    )


def test_redirect_on_the_same_host(server: Server, tmp_path: Path) -> None:
    """An endpoint that moved one path further."""

    def moved(handler: Any, body: dict[str, Any], number: int) -> None:
        if handler.path == "/v1/chat/completions":
            reply(handler, 308, b"", Location="/v2/chat/completions")
        else:
            answer(handler, body, number)

    server.behave = moved
    assert said(ask(endpoint(server), bodies("a"), tmp_path / "a.sqlite")) == ["A"]


def test_the_key(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key in a file, in a journal, in an error's text; a run that begins without one."""
    monkeypatch.delenv("MY_KEY", raising=False)
    with pytest.raises(InputError) as missing:
        ask(endpoint(server, key="MY_KEY"), bodies("a"), tmp_path / "a.sqlite")
    assert str(missing.value) == (
        f"{server.url}: the environment variable MY_KEY, which holds the key, is not set. "
        'Set it (MY_KEY=…) and run again, or write key = "" when the endpoint wants none.'
    )
    monkeypatch.setenv("MY_KEY", "sk-secret-123")
    ask(endpoint(server, key="MY_KEY"), bodies("a"), tmp_path / "a.sqlite")
    assert server.headers[-1]["Authorization"] == "Bearer sk-secret-123"
    server.behave = lambda handler, body, number: reply(handler, 400, b"no such model for key sk-secret-123")
    with pytest.raises(StageError) as refused:
        ask(endpoint(server, key="MY_KEY"), bodies("b"), tmp_path / "a.sqlite")
    assert "status 400" in str(refused.value) and "sk-secret-123" not in str(refused.value)
    server.behave = lambda handler, body, number: reply(handler, 401, b"")
    with pytest.raises(StageError, match="Put a valid one into the environment variable MY_KEY"):
        ask(endpoint(server, key="MY_KEY"), bodies("b"), tmp_path / "a.sqlite")
    assert all(b"sk-secret" not in file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("http://api.example.com/v1", "base_url is not encrypted, and texts and key would travel in the open; write https://…"),
        ("https://me:secret@api.example.com/v1", "base_url holds a password"),
        ("api.example.com", "base_url is no address"),
    ],
)
def test_unsafe_addresses(address: str, said: str) -> None:
    """Texts and key in the open."""
    with pytest.raises(ValueError, match=said):
        Endpoint(base_url=address, model="m")


def test_retry_after_as_a_date() -> None:
    """A date read as nothing, so that the endpoint is asked again at once."""
    assert api_client._retry_after("soon") is None
    assert api_client._retry_after("1.5") == 1.5
    later = api_client._retry_after(time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 30)))
    assert later is not None and 25 < later <= 30
