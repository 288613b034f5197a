"""What stands for an Android phone: adb's transport protocol on a TCP port, the shell of this machine behind it. The client is the real `adb`.

It speaks as much as `adb connect` and `adb shell -T` ask for. Source: AOSP, packages/modules/adb: protocol.txt, shell_protocol.h.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO

HEADER = struct.Struct("<4s5I")  # command, two arguments, length of the data, its checksum, the command inverted
STDIN, STDOUT, STDERR, EXIT, CLOSE_STDIN = range(5)
Send = Callable[..., None]  # command, two arguments, data


class Phone:
    """A phone at `serial`, until `close`. folder: what it knows as its own; programs in `bin` there stand before the system's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._server = socket.create_server(("127.0.0.1", 0))
        self.serial = f"127.0.0.1:{self._server.getsockname()[1]}"
        self._wires: list[socket.socket] = []
        threading.Thread(target=self._listen, daemon=True).start()

    def close(self) -> None:
        """As when the cable is pulled."""
        for wire in (self._server, *self._wires):
            with contextlib.suppress(OSError):
                wire.shutdown(socket.SHUT_RDWR)
            wire.close()

    def _listen(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                wire, _ = self._server.accept()
                self._wires.append(wire)
                threading.Thread(target=self._serve, args=(wire,), daemon=True).start()

    def _serve(self, wire: socket.socket) -> None:
        streams: dict[int, _Shell] = {}
        lock = threading.Lock()

        def send(command: bytes, one: int, two: int, data: bytes = b"") -> None:
            (number,) = struct.unpack("<I", command)
            with lock, contextlib.suppress(OSError):
                wire.sendall(HEADER.pack(command, one, two, len(data), sum(data) & 0xFFFFFFFF, number ^ 0xFFFFFFFF) + data)

        with contextlib.suppress(OSError, EOFError):
            while True:
                command, one, two, size, _, _ = HEADER.unpack(_exactly(wire, HEADER.size))
                data = _exactly(wire, size)
                if command == b"CNXN":
                    send(b"CNXN", 0x01000001, 1 << 18, b"device::ro.product.name=test;ro.product.model=test;features=shell_v2,cmd")
                elif command == b"OPEN" and data.startswith(b"shell,v2"):
                    streams[one] = _Shell(self.folder, data.split(b":", 1)[1].rstrip(b"\0").decode(), one, send)
                elif command == b"OPEN":
                    send(b"CLSE", 0, one)
                elif command == b"WRTE":
                    send(b"OKAY", one, two) if two not in streams else streams[two].given(data)
                    send(b"OKAY", two, one)
                elif command == b"OKAY" and two in streams:
                    streams[two].taken.release()
                elif command == b"CLSE" and two in streams:
                    streams.pop(two).end()


class _Shell:
    """One command on the phone. Both sides of a stream have a number; we take theirs for ours too."""

    def __init__(self, folder: Path, command: str, number: int, send: Send) -> None:
        self.number, self.send = number, send
        self.taken = threading.Semaphore(0)  # the client takes one packet at a time
        self._buffer = b""
        path = f"{folder / 'bin'}:{os.environ['PATH']}"
        self._process = subprocess.Popen(
            ["sh", "-c", command], cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={"PATH": path}
        )
        assert self._process.stdin and self._process.stdout and self._process.stderr  # pipes
        self._stdin, self._said = self._process.stdin, {STDOUT: self._process.stdout, STDERR: self._process.stderr}
        send(b"OKAY", number, number)
        threading.Thread(target=self._run, daemon=True).start()

    def given(self, data: bytes) -> None:
        self._buffer += data
        while len(self._buffer) >= 5:
            kind, size = struct.unpack_from("<BI", self._buffer)
            if len(self._buffer) < 5 + size:
                return
            content, self._buffer = self._buffer[5 : 5 + size], self._buffer[5 + size :]
            with contextlib.suppress(BrokenPipeError, ValueError):
                if kind == STDIN:
                    self._stdin.write(content)
                    self._stdin.flush()
                elif kind == CLOSE_STDIN:
                    self._stdin.close()

    def end(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._stdin.close()

    def _run(self) -> None:
        turn = threading.Lock()

        def say(kind: int, data: bytes) -> None:
            with turn:
                self.send(b"WRTE", self.number, self.number, struct.pack("<BI", kind, len(data)) + data)
                self.taken.acquire()

        def tell(kind: int, stream: IO[bytes]) -> None:
            while data := os.read(stream.fileno(), 16_384):
                say(kind, data)

        both = [threading.Thread(target=tell, args=each) for each in self._said.items()]
        for thread in both:
            thread.start()
        for thread in both:
            thread.join()
        say(EXIT, bytes([self._process.wait() & 0xFF]))
        self.send(b"CLSE", self.number, self.number)


def _exactly(wire: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = wire.recv(size - len(data))
        if not part:
            raise EOFError
        data += part
    return data
