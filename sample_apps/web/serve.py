"""Serves this folder on http://localhost:8000, with the two headers that isolate the page from other origins. Python's standard library alone."""

from __future__ import annotations

import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Handler(SimpleHTTPRequestHandler):
    def end_headers(self) -> None:
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        super().end_headers()


if __name__ == "__main__":
    # Python's table follows the system's, and some systems know neither.
    Handler.extensions_map |= {".mjs": "text/javascript", ".wasm": "application/wasm"}
    server = ThreadingHTTPServer(("127.0.0.1", int((sys.argv[1:] or ["8000"])[0])), partial(Handler, directory=str(Path(__file__).parent)))
    print(f"http://localhost:{server.server_address[1]}", flush=True)
    server.serve_forever()
