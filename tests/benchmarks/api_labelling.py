"""Labelling through an API against the server's own throughput: `python -m tests.benchmarks.api_labelling`.

The server is llama-cpp-python's, with the real SmolLM2, on one core; the questions are TREC's. A bare client that only posts and reads finds the
concurrency at which the server is fastest; then it and `api_client.ask`, which also journals every answer and holds the purse, label the same questions in
turns. Wanted: at least 0.90 of the bare client's throughput.
"""

from __future__ import annotations

import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx

from edgedistill.api_client import Endpoint, ask
from tests.benchmarks.common import demo, in_turns, say
from tests.real_server import KEY, real_server

QUESTIONS = 24
ROUNDS = 5


def body(text: str) -> dict[str, Any]:
    system = "What does the question ask for?\nperson: a person\nplace: a place\nnumber: a number\nAnswer with the name of one class, and no word more."
    return {"messages": [{"role": "system", "content": system}, {"role": "user", "content": text}], "temperature": 0, "max_tokens": 4}


def main() -> None:
    os.environ["LOOPBACK_KEY"] = KEY
    _, _, texts = demo()
    bodies = [body(text) for text in texts[:: len(texts) // QUESTIONS][:QUESTIONS]]
    with tempfile.TemporaryDirectory() as scratch, real_server(Path(scratch)) as url:

        def bare(concurrency: int) -> None:
            headers = {"Authorization": f"Bearer {KEY}"}
            with httpx.Client(headers=headers, timeout=600, trust_env=False) as client, ThreadPoolExecutor(concurrency) as workers:
                for answer in workers.map(
                    lambda one: client.post(f"{url}/chat/completions", json={"model": "smollm2", **one}), bodies, chunksize=1
                ):
                    answer.raise_for_status()

        rates = {}
        bare(1)
        for concurrency in (1, 2, 4):
            start = time.perf_counter()
            bare(concurrency)
            rates[concurrency] = len(bodies) / (time.perf_counter() - start)
        best = max(rates, key=lambda concurrency: rates[concurrency])
        print("the server's own answers a second by concurrency: " + ", ".join(f"{count}: {rate:.2f}" for count, rate in rates.items()))
        endpoint = Endpoint(base_url=url, model="smollm2", key="LOOPBACK_KEY", concurrency=best, timeout_s=600)
        number = iter(range(1000))

        def ours() -> None:
            ask(endpoint, bodies, Path(scratch) / f"{next(number)}.sqlite")

        bare_seconds, our_seconds, ratios = in_turns(lambda: bare(best), ours, ROUNDS)
        print(f"{len(bodies)} questions, {best} at a time: bare client {bare_seconds:.2f} s, ask {our_seconds:.2f} s")
        say("throughput of ask / bare client", ratios, "≥ 0.90")


if __name__ == "__main__":
    main()
