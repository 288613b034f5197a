"""Asking a model behind an OpenAI-compatible endpoint: many questions at once, each paid for once.

Every answer is kept, the moment it is there, in a journal of its own outside the stages (`EDGEDISTILL_HOME/answers/`), under the digest of the
question. So a killed run, a cut wire or a cap that was reached loses nothing, and what was asked once is never asked again. The journal holds
answers and counts; no question, no text and no key.

What an endpoint says when it is busy (429, 5xx, a time-out, half an answer) is waited for and asked again, as long as it says (Retry-After) or with
doubling pauses. A redirect to another host is refused: the key would go there. The key is read from the environment and stands in one header.
"""

from __future__ import annotations

import email.utils
import hashlib
import json
import os
import sqlite3
import threading
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from edgedistill.digests import canonical
from edgedistill.errors import InputError, StageError, missing_extra
from edgedistill.progress import tick
from edgedistill.settings import Section

LOOPBACK = ("127.0.0.1", "::1", "localhost")
MOST_REDIRECTS = 3
LONGEST_PAUSE = 120.0  # seconds; an endpoint that asks for more is asked again another day


class Cap(Section):
    """`[cap]`: where to stop. Counted over everything that was ever asked of this endpoint's model."""

    calls: int | None = Field(None, gt=0, description="answers that may be paid for, failed ones that may have cost something included")
    tokens: int | None = Field(None, gt=0, description="tokens of questions and answers together")
    money: float | None = Field(None, gt=0, description="in the currency of [price]")


class Price(Section):
    """`[price]`: what a million tokens cost, in any one currency."""

    prompt: float = Field(0.0, ge=0)
    completion: float = Field(0.0, ge=0)


class Endpoint(Section):
    """How a model is reached, and how far one may go."""

    base_url: str = Field(description="such as https://api.example.com/v1")
    model: str = Field(description="the name that the endpoint knows it by")
    key: str = Field("", description="name of the environment variable that holds the key; empty when none is needed")
    concurrency: int = Field(4, ge=1, le=256, description="questions under way at once")
    timeout_s: float = Field(60, gt=0, description="of one answer, seconds")
    attempts: int = Field(6, ge=1, le=20, description="how often one question is asked when the endpoint is busy")
    pause_s: float = Field(1.0, gt=0, description="first pause before asking again, seconds; it doubles")
    cap: Cap = Field(default_factory=Cap)
    price: Price = Field(default_factory=Price)

    @field_validator("base_url")
    @classmethod
    def _safe(cls, address: str) -> str:
        parts = urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("base_url is no address; write such as https://api.example.com/v1")
        if parts.username or parts.password:
            raise ValueError('base_url holds a password; put the key into the environment and write its name as key = "…"')
        if parts.scheme == "http" and parts.hostname not in LOOPBACK:
            raise ValueError("base_url is not encrypted, and texts and key would travel in the open; write https://…")
        return address.rstrip("/")


def ask(endpoint: Endpoint, bodies: Sequence[dict[str, Any]], journal: Path, label: str = "asking the teacher") -> list[dict[str, Any]]:
    """The answer to each body (without "model") of a chat completion: its first choice, as the endpoint gave it. Those in the journal are not asked.

    Raises StageError when a cap is reached, when the endpoint stays busy or refuses; what was answered until then is kept.
    """
    found = _Journal(journal)
    keys = [_key(endpoint, body) for body in bodies]
    said = found.read(keys)
    first: dict[str, int] = {}  # the same question twice is asked once
    for place, key in enumerate(keys):
        if key not in said:
            first.setdefault(key, place)
    if first:
        _Asking(endpoint, found, len(said), len(set(keys)), label).all([(key, bodies[place]) for key, place in first.items()])
        said = found.read(keys)
    return [said[key] for key in keys]


def spent(journal: Path) -> dict[str, int]:
    """Calls and tokens that the journal knows of: "calls", "prompt_tokens", "completion_tokens"."""
    return _Journal(journal).spent()


def _key(endpoint: Endpoint, body: dict[str, Any]) -> str:
    return hashlib.sha256(canonical({"base_url": endpoint.base_url, "model": endpoint.model, "body": body})).hexdigest()


class _Journal:
    """Answers in an SQLite file: a commit for each, so that each is there or not."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.lock = threading.Lock()
        self.base = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=60)
        self.base.execute("PRAGMA journal_mode=WAL")
        self.base.execute("CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, answer TEXT NOT NULL)")
        self.base.execute("CREATE TABLE IF NOT EXISTS spent (calls INTEGER, prompt_tokens INTEGER, completion_tokens INTEGER)")

    def read(self, keys: Sequence[str]) -> dict[str, dict[str, Any]]:
        found = {}
        with self.lock:
            for key in set(keys):
                row = self.base.execute("SELECT answer FROM answers WHERE key = ?", (key,)).fetchone()
                if row:
                    found[key] = json.loads(row[0])
        return found

    def keep(self, key: str | None, answer: dict[str, Any] | None, prompt_tokens: int, completion_tokens: int) -> None:
        """One call that was paid, and its answer, if it gave one."""
        with self.lock:
            self.base.execute("BEGIN IMMEDIATE")
            self.base.execute("INSERT INTO spent VALUES (1, ?, ?)", (prompt_tokens, completion_tokens))
            if answer is not None:
                self.base.execute("INSERT OR REPLACE INTO answers VALUES (?, ?)", (key, json.dumps(answer)))
            self.base.execute("COMMIT")

    def spent(self) -> dict[str, int]:
        with self.lock:
            row = self.base.execute("SELECT COUNT(*), SUM(prompt_tokens), SUM(completion_tokens) FROM spent").fetchone()
        return dict(zip(("calls", "prompt_tokens", "completion_tokens"), (value or 0 for value in row), strict=True))


class _Again(Exception):  # noqa: N818  # never leaves this file
    """Busy, or cut off. pause: how long the endpoint asks to wait, seconds. paid: whether the call may have cost something."""

    def __init__(self, why: str, pause: float | None = None, paid: bool = False) -> None:
        super().__init__(why)
        self.why, self.pause, self.paid = why, pause, paid


class _Asking:
    """One run of questions: the workers, and the purse they share."""

    def __init__(self, endpoint: Endpoint, journal: _Journal, done: int, total: int, label: str) -> None:
        try:
            import httpx
            import tenacity  # noqa: F401
        except ModuleNotFoundError as error:
            raise missing_extra(error, "a teacher behind an API", "api") from error
        self.endpoint, self.journal, self.done, self.total, self.label = endpoint, journal, done, total, label
        self.stopped = threading.Event()
        self.purse = threading.Lock()
        self.promised = [0, 0, 0]  # calls, prompt tokens, completion tokens under way
        self.key = _key_of(endpoint)
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        limits = httpx.Limits(max_connections=endpoint.concurrency, max_keepalive_connections=endpoint.concurrency)
        # No netrc: only the key that the endpoint's file names may go out. A proxy of the environment is the user's will, but not for this machine.
        local = urlsplit(endpoint.base_url).hostname in LOOPBACK
        self.client = httpx.Client(
            headers=headers, timeout=endpoint.timeout_s, limits=limits, follow_redirects=False, trust_env=not local, auth=_no_netrc
        )

    def all(self, questions: list[tuple[str, dict[str, Any]]]) -> None:
        """Ask them all; at the first that fails for good no new one is begun, and those under way are still kept."""
        failure: BaseException | None = None
        left = iter(questions)
        under_way: set[Future[None]] = set()
        with ThreadPoolExecutor(self.endpoint.concurrency) as workers:
            try:
                while True:
                    while failure is None and len(under_way) < self.endpoint.concurrency:
                        question = next(left, None)
                        if question is None:
                            break
                        under_way.add(workers.submit(self.one, *question))
                    if not under_way:
                        break
                    over, under_way = wait(under_way, return_when=FIRST_COMPLETED)
                    for future in over:
                        if future.exception() is not None:
                            failure = failure or future.exception()
                            self.stopped.set()
                        else:
                            self.done += 1
                            tick(self.label, self.done, self.total)
            finally:
                self.stopped.set()
        self.client.close()
        if failure is not None:
            raise failure

    def one(self, key: str, body: dict[str, Any]) -> None:
        """One question until it is answered and kept."""
        import tenacity

        def pause(state: tenacity.RetryCallState) -> float:
            problem = state.outcome.exception() if state.outcome else None
            if isinstance(problem, _Again) and problem.pause is not None:
                return problem.pause
            longest = self.endpoint.pause_s * 2 ** (state.attempt_number - 1)
            return float(min(longest, LONGEST_PAUSE) * (0.5 + 0.5 * (hash((key, state.attempt_number)) % 1000) / 1000))

        def nap(seconds: float) -> None:
            if self.stopped.wait(seconds):  # another question failed for good: this one is not worth another try
                raise StageError("the run was stopped.", where=self.endpoint.base_url)

        again = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(self.endpoint.attempts),
            wait=pause,
            retry=tenacity.retry_if_exception_type(_Again),
            sleep=nap,
            reraise=True,
        )
        try:
            again(self.attempt, key, body)
        except _Again as problem:
            raise StageError(
                f"the endpoint did not answer after {self.endpoint.attempts} attempts: {problem.why}.",
                where=self.endpoint.base_url,
                write="What was answered is kept: run again when it is up, or lower concurrency.",
            ) from None

    def attempt(self, key: str, body: dict[str, Any]) -> None:
        # Four characters a token is what English has; an estimate for the purse until the endpoint says what it was.
        guess = (1, sum(len(str(message.get("content"))) for message in body["messages"]) // 4 + 8, int(body.get("max_tokens", 16)))
        self.promise(guess)
        used = (0, 0)
        answer = None
        paid = True
        try:
            reply = self.send(body)
            answer = reply["choices"][0]
            usage = reply.get("usage") or {}
            used = (int(usage.get("prompt_tokens", guess[1])), int(usage.get("completion_tokens", guess[2])))
        except _Again as problem:
            paid, used = problem.paid, guess[1:]
            raise
        except StageError:
            paid = False
            raise
        finally:
            if paid:
                self.journal.keep(key, answer, *used)
            with self.purse:
                self.promised = [have - one for have, one in zip(self.promised, guess, strict=True)]

    def promise(self, guess: tuple[int, int, int]) -> None:
        """Take the call out of what may still be spent. Raises StageError when a cap is reached."""
        cap, price = self.endpoint.cap, self.endpoint.price
        with self.purse:
            have = self.journal.spent()
            calls, prompt, completion = (
                paid + under_way + one for paid, under_way, one in zip(have.values(), self.promised, guess, strict=True)
            )
            money = (prompt * price.prompt + completion * price.completion) / 1e6
            for name, value, allowed in (
                ("calls", calls, cap.calls),
                ("tokens", prompt + completion, cap.tokens),
                ("money", money, cap.money),
            ):
                if allowed is not None and value > allowed:
                    raise StageError(
                        f"the cap of {allowed:g} {name} is reached: {have['calls']} calls and {have['prompt_tokens'] + have['completion_tokens']} "
                        f"tokens were spent, and {self.total - self.done} of {self.total} answers are missing.",
                        where=f"cap.{name}",
                        write="What was answered is kept. Raise the cap and run again: nothing is paid twice.",
                    )
            self.promised = [have_ + one for have_, one in zip(self.promised, guess, strict=True)]

    def send(self, body: dict[str, Any]) -> dict[str, Any]:
        """One request over the wire. Raises _Again for what passes, StageError for what does not."""
        import httpx

        address = f"{self.endpoint.base_url}/chat/completions"
        for _ in range(MOST_REDIRECTS):
            try:
                response = self.client.post(address, json={"model": self.endpoint.model, **body})
            except httpx.TimeoutException:
                raise _Again(f"no answer within {self.endpoint.timeout_s:g} s", paid=True) from None
            except httpx.ConnectError:
                raise _Again("nobody listens there") from None
            except httpx.HTTPError as problem:
                raise _Again(f"the wire was cut ({type(problem).__name__})", paid=True) from None
            if not response.is_redirect:
                break
            address = self.same_host(str(response.next_request.url if response.next_request else ""))
        return self.understood(response)

    def same_host(self, target: str) -> str:
        here, there = urlsplit(self.endpoint.base_url), urlsplit(target)
        if (here.scheme, here.hostname, here.port) != (there.scheme, there.hostname, there.port):
            raise StageError(
                f"the endpoint redirects to another host, {there.hostname}, and the key and the texts would go there.",
                where=self.endpoint.base_url,
                write="Write that host's address as base_url if it is what you want.",
            )
        return target

    def understood(self, response: Any) -> dict[str, Any]:
        code = response.status_code
        if code in (408, 409, 425, 429) or code >= 500:
            pause = _retry_after(response.headers.get("Retry-After"))
            if pause is not None and pause > LONGEST_PAUSE:
                raise StageError(
                    f"the endpoint wants a pause of {pause:.0f} s (status {code}).",
                    where=self.endpoint.base_url,
                    write="What was answered is kept: run again then.",
                )
            raise _Again(f"it says {code}", pause)
        if code in (401, 403):
            raise StageError(
                f"the endpoint refuses the key (status {code}).",
                where=self.endpoint.base_url,
                write=f"Put a valid one into the environment variable {self.endpoint.key}."
                if self.endpoint.key
                else 'Name its variable: key = "…".',
            )
        if code >= 300:
            raise StageError(
                f"the endpoint refuses the request (status {code}): {self.without_key(response.text)}", where=self.endpoint.base_url
            )
        try:
            reply = response.json()
            message = reply["choices"][0]["message"]
            if not isinstance(message.get("content"), str):
                raise TypeError
        except (ValueError, LookupError, TypeError, AttributeError):
            raise _Again("what came is no whole answer", paid=True) from None
        return dict(reply)

    def without_key(self, text: str) -> str:
        short = " ".join(text.split())[:200]
        return short.replace(self.key, "…") if self.key else short


def _no_netrc(request: Any) -> Any:
    return request


def _key_of(endpoint: Endpoint) -> str:
    key = os.environ.get(endpoint.key, "") if endpoint.key else ""
    if endpoint.key and not key:
        raise InputError(
            f"the environment variable {endpoint.key}, which holds the key, is not set.",
            where=endpoint.base_url,
            write=f'Set it ({endpoint.key}=…) and run again, or write key = "" when the endpoint wants none.',
        )
    return key


def _retry_after(value: str | None) -> float | None:
    """Seconds, from a number or a date."""
    if not value:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None


__all__ = ["Cap", "Endpoint", "Price", "ask", "spent"]
