"""A board over ssh: a real OpenSSH server on this machine's loopback stands for it, with keys of its own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgedistill import native
from edgedistill.bundle_format import read_golden
from edgedistill.errors import DeviceMemoryError, StageError, TargetError
from edgedistill.limits import Limits
from edgedistill.links import ssh
from edgedistill.stages.bench import bench
from edgedistill.stages.verify import on_runner
from edgedistill.target import Link
from tests.links.test_browser import request
from tests.test_pipeline import edgedistill

SSHD = "/usr/sbin/sshd"
TARGET = """
name    = "board"
about   = "this machine, over ssh"
isa     = "x86-64-v3"
runtime = "onnxruntime"
schemes = ["onnx_int8_dynamic"]
[budget]
p90_ms = 200
[link]
kind        = "ssh"
host        = "{user}@127.0.0.1"
machine     = "{machine}"
port        = {port}
key         = "{folder}/user"
known_hosts = "{folder}/known_hosts"
folder      = "{folder}/board"
"""


def key(file: Path) -> str:
    """A new key pair; the public half."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(file)], check=True)
    return " ".join(file.with_suffix(".pub").read_text().split()[:2])


class Board:
    """The server and the folder with everybody's keys."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.host_key = key(folder / "host")
        (folder / "authorized").write_text(key(folder / "user") + "\n")
        self.known(self.host_key)
        settings = [f"Port {self.port}", "ListenAddress 127.0.0.1", f"HostKey {folder}/host", f"AuthorizedKeysFile {folder}/authorized"]
        settings += ["PasswordAuthentication no", "KbdInteractiveAuthentication no", "StrictModes no", "UsePAM no", f"PidFile {folder}/pid"]
        (folder / "sshd_config").write_text("\n".join(settings) + "\n")
        Path("/run/sshd").mkdir(exist_ok=True)
        self.server = subprocess.Popen([SSHD, "-D", "-e", "-f", str(folder / "sshd_config")], stderr=subprocess.DEVNULL)
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    break
            time.sleep(0.1)

    def known(self, host_key: str) -> None:
        (self.folder / "known_hosts").write_text(f"[127.0.0.1]:{self.port} {host_key}\n" if host_key else "")

    def target(self, **changes: str) -> Path:
        facts = {
            "user": os.environ.get("USER", "root"),
            "machine": native.this_machine(),
            "port": str(self.port),
            "folder": str(self.folder),
        }
        file = self.folder / "board.toml"
        file.write_text(TARGET.format(**facts | changes))
        return file

    def link(self, **changes: str) -> Link:
        from edgedistill.target import find_target

        return find_target(str(self.target(**changes))).link


@pytest.fixture
def board(tmp_path: Path, native_home: Path) -> Iterator[Board]:
    lacking = [] if Path(SSHD).is_file() and shutil.which("ssh-keygen") and os.getuid() == 0 else ["an OpenSSH server that we may start"]
    lacking += [missing] if (missing := native.lacking(native.this_machine())) else []
    if lacking:
        if os.environ.get("CI"):
            pytest.fail(str(lacking))
        pytest.skip(str(lacking))
    folder = tmp_path / "ssh"
    folder.mkdir()
    running = Board(folder)
    yield running
    running.server.terminate()
    running.server.wait(timeout=30)


def test_a_bundle_is_measured_on_the_board(board: Board, tiny_bundle: Path) -> None:
    """Answers of this machine that pass for the board's; a bundle that is sent anew each time; a half-sent one that is run."""
    done = edgedistill("bench", tiny_bundle, "-t", board.target(), "--budget-only", home=Path(os.environ["EDGEDISTILL_HOME"]), check=0)
    vectors = len(list(read_golden(tiny_bundle / "golden.jsonl")))
    assert done.stdout.startswith(f"PASS tiny for board, measured: tiny: {vectors} golden vectors equal")
    sent = {path: path.stat().st_mtime_ns for path in (board.folder / "board").rglob("*")}
    assert sorted(path.name for path in sent if path.is_file()) == ["libonnxruntime.so.1", "model.onnx", "runner", "tokenizer.json"]
    result = bench(tiny_bundle, str(board.target()))
    assert len(result.timings.model_ns) >= 1000 and result.cold_start_ms is not None and 0 < result.cold_start_ms < 60_000
    assert {path: path.stat().st_mtime_ns for path in (board.folder / "board").rglob("*")} == sent
    facts = ssh.machine(board.link())
    assert facts["system"].startswith("Linux ") and facts["cpu"] != "processor unknown"


def test_a_decoder_writes_on_the_board(board: Board, gguf_bundles: dict[str, Path]) -> None:
    """llama.cpp's libraries that stay here, so that the runner does not start there."""
    bundle = gguf_bundles["llama"]
    if missing := native.lacking(native.this_machine(), "llama_cpp"):
        pytest.skip(missing)
    runner = ssh.open_runner(board.link(), "llama_cpp", request(bundle))
    try:
        result = on_runner("tiny", 0.001, list(read_golden(bundle / "golden.jsonl"))[:8], runner)
    finally:
        runner.close()
    assert result.good and result.vectors == 8, result.wrong
    assert "libllama.so.0" in {path.name for path in (board.folder / "board").rglob("*")}


def test_the_board_is_held_to_its_limits(board: Board, tiny_bundle: Path) -> None:
    """A limit that holds on this machine alone."""
    runner = ssh.open_runner(board.link(), "onnxruntime", request(tiny_bundle), Limits(memory_mb=64, cores=1))
    assert len(runner.ask({"texts": ["a"], "wants": ["answers"]})["answers"]) == 1
    runner.close()
    with pytest.raises(DeviceMemoryError) as error:
        ssh.open_runner(board.link(), "onnxruntime", request(tiny_bundle), Limits(memory_mb=6))
    assert "ran out of memory: the device gives it 6 MB (limits.memory_mb)" in str(error.value)


def test_what_goes_wrong_on_the_way_is_one_sentence(board: Board, tiny_bundle: Path) -> None:
    """A stack of ssh's own words, a password prompt in CI, or a stranger's machine that is believed."""
    link = board.link()
    assert ssh.ready(link) is None
    host = f"{os.environ.get('USER', 'root')}@127.0.0.1"
    board.known(board.host_key[:-8] + "AAAAAAAA")
    changed = ssh.ready(link)
    assert changed is not None and changed.startswith(
        f"the host key of {host} is not the one that is known: another machine may be answering."
    )
    board.known("")
    assert ssh.ready(link) == f"{host} is not known yet: connect once by hand, and compare the key that it shows with the board's own"
    board.known(board.host_key)
    (board.folder / "authorized").write_text("")
    assert ssh.ready(link) == f"{host} does not let us in without a password: put your key there (ssh-copy-id {host})"
    board.server.terminate()
    board.server.wait(timeout=30)
    gone = ssh.ready(link)
    assert gone is not None and gone.startswith(f"{host} cannot be reached: ") and gone.endswith("Connection refused")
    with pytest.raises(TargetError) as error:
        bench(tiny_bundle, str(board.target()))
    assert str(error.value).startswith(f"board: {host} cannot be reached: ")


def test_another_processor(board: Board, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A runner for another processor, which the board cannot even start."""
    other = board.folder / "other"
    other.mkdir()
    (other / "runner").write_bytes(b"\x7fELF" + bytes(60))
    (other / "runner").chmod(0o755)
    (other / "libonnxruntime.so.1").write_bytes(b"")
    monkeypatch.setattr(native, "build", lambda machine, runtime: other)
    with pytest.raises(StageError) as error:
        bench(tiny_bundle, str(board.target()))
    assert f"stopped: the board cannot start it. Is its processor {native.this_machine()}, and its system a Linux with glibc?" in str(
        error.value
    )


@pytest.mark.parametrize("host", ["-oProxyCommand=id", "a b", "a;b"])
def test_a_host_that_is_none(host: str) -> None:
    """A target file that makes ssh run a command here."""
    with pytest.raises(TargetError) as error:
        ssh.identity(Link(kind="ssh", host=host))
    assert str(error.value) == f'target: link.host: {host!r} is no host. Write such as host = "pi@192.168.1.7".'
    assert ssh.ready(Link(kind="ssh")) == 'a target file names the board: [link] host = "user@board"'
