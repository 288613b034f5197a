"""A Linux board over ssh: the C++ runner, the model and the tokenizer are copied there once, and the runner answers there, on the board's own clock.

    [link]
    kind    = "ssh"
    host    = "pi@192.168.1.7"      # as you would write it after `ssh`; a name in ~/.ssh/config does too
    machine = "aarch64"             # or x86_64
    # port = 22, key = "~/.ssh/board", known_hosts = "…", folder = ".cache/edgedistill" on the board

Nothing is asked and nothing is trusted on the way: the board's host key has to be known already, and the login has to work by key. What lies on the board
under its digest is not sent again. The cold start counts from the moment the runner reads its first line, since two machines share no clock.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from edgedistill import native
from edgedistill.errors import StageError, TargetError
from edgedistill.limits import NONE, OF_A_PROCESS, Limits, shell
from edgedistill.native import refuses
from edgedistill.remote import NotSentError, last_line, sent
from edgedistill.runner import RunnerProcess
from edgedistill.target import Link

HOW = "measured"
ABOUT = "a Linux board over ssh: bundle and runner are copied there and run there"
HOLDS_LIMITS = OF_A_PROCESS

SECONDS = 10  # to connect
NO_HOST = 'a target file names the board: [link] host = "user@board"'
# What ssh says → what it means. {host}: as the target names it.
SAID = {
    "REMOTE HOST IDENTIFICATION HAS CHANGED": "the host key of {host} is not the one that is known: another machine may be answering. If the board was "
    "set up anew, remove the old key (ssh-keygen -R) and connect once by hand",
    "Host key verification failed": "{host} is not known yet: connect once by hand, and compare the key that it shows with the board's own",
    "Permission denied": "{host} does not let us in without a password: put your key there (ssh-copy-id {host})",
    "Could not resolve": "there is no host called {host}",
}


def ready(link: Link) -> str | None:
    """None when the board answers and lets us in, else what is wrong."""
    if shutil.which("ssh") is None:
        return "ssh is missing. Run: sudo apt-get install openssh-client"
    if not link.option("host"):
        return NO_HOST
    done = _there(link, "true")
    return _meaning(link, done.stderr.decode(errors="replace")) if done.returncode else native.lacking(_machine(link))


def identity(link: Link, runtime: str = "onnxruntime") -> str:
    """What answers: the board and the runner's digest."""
    return f"{_host(link)}, runner {native.identity(_machine(link), runtime)[:8]}"


def machine(link: Link) -> dict[str, str]:
    """The board's processor and system, as it names them."""
    return dict(_facts(link.model_dump_json()))


def open_runner(link: Link, runtime: str, request: dict[str, Any], limits: Limits = NONE) -> RunnerProcess:
    """The C++ runner on the board. Raises StageError when something cannot be sent, TargetError for a target that cannot be."""
    program = _sent(link, "runner", native.shipped(_machine(link), runtime))
    file = f"model{Path(request['model']).suffix}"  # by which a runtime tells formats apart
    model = _sent(link, "model", {file: Path(request["model"]), "tokenizer.json": Path(request["tokenizer"])})
    return RunnerProcess(
        [*_ssh(link), _host(link), f"{shell(limits)}{shlex.quote(program)}/runner"],
        request | {"model": f"{model}/{file}", "tokenizer": f"{model}/tokenizer.json"},
        name=f"the runner on {_host(link)}",
        seconds=300,
        seconds_a_text=5,
        same_clock=False,
        explain=lambda code, said: _end(link, code, said),
        limits=limits,
        held="there",
    )


def _host(link: Link) -> str:
    host = link.option("host")
    # ssh would take what begins with a dash for an option, and options can run commands.
    if not re.fullmatch(r"[A-Za-z0-9_][\w.@:%-]*", host):
        raise TargetError(
            f"{host!r} is no host." if host else NO_HOST, where="target: link.host", write='Write such as host = "pi@192.168.1.7".'
        )
    return host


def _machine(link: Link) -> str:
    return native.known(link.option("machine", "aarch64"))


def _ssh(link: Link) -> list[str]:
    options = ["BatchMode=yes", "StrictHostKeyChecking=yes", f"ConnectTimeout={SECONDS}", "ServerAliveInterval=15"]
    if known := link.option("known_hosts"):
        options.append(f"UserKnownHostsFile={Path(known).expanduser()}")
    command = ["ssh", "-p", str(int(link.option("port", "22")))]
    if key := link.option("key"):
        command += ["-i", str(Path(key).expanduser()), "-o", "IdentitiesOnly=yes"]
    return command + [part for option in options for part in ("-o", option)]


def _there(link: Link, command: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([*_ssh(link), _host(link), command], input=given, capture_output=True, check=False)


def _meaning(link: Link, said: str) -> str:
    """What ssh said, in a sentence without its stop."""
    host = _host(link)
    known = next((meaning for words, meaning in SAID.items() if words in said), "")
    return known.format(host=host) if known else f"{host} cannot be reached: {last_line(said, 'ssh said nothing')}"


def _end(link: Link, code: int, said: str) -> str | None:
    """Why the runner is gone, where ssh or the board's shell know it."""
    if code in (126, 127):
        return f"the board cannot start it. Is its processor {_machine(link)}, and its system a Linux with glibc? It said: {said}"
    return f"{_meaning(link, said)}." if code == 255 else None


def _sent(link: Link, what: str, files: Mapping[str, Path]) -> str:
    try:
        return sent(lambda command, given: _there(link, command, given), link.option("folder", ".cache/edgedistill"), what, files)
    except NotSentError as problem:
        raise StageError(f"{what} could not be sent: {_meaning(link, str(problem))}.", where=_host(link)) from None


@cache
def _facts(link: str) -> tuple[tuple[str, str], ...]:
    asked = "cat /proc/device-tree/model 2>/dev/null || sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1; echo; uname -s -r -m"
    there = Link.model_validate_json(link)
    said = [line.strip("\0 ") for line in _there(there, asked).stdout.decode(errors="replace").splitlines() if line.strip("\0 ")]
    return (("cpu", said[0] if len(said) > 1 else "processor unknown"), ("system", said[-1] if said else "system unknown"))


__all__ = ["ABOUT", "HOW", "identity", "machine", "open_runner", "ready", "refuses"]
