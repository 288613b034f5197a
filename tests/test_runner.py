"""The process behind a link: whatever it does, one sentence."""

from __future__ import annotations

import sys
import time

import pytest

from edgedistill.errors import StageError
from edgedistill.runner import RunnerProcess

ANSWERS = "import sys, json, os, signal, time\nfor line in sys.stdin:\n    print(json.dumps({'got': json.loads(line)}), flush=True)\n"


def runner(code: str, **options: float) -> RunnerProcess:
    return RunnerProcess([sys.executable, "-c", code], {"first": 1}, name="the runner", **options)


def test_answers_come_back() -> None:
    """A runner whose answers get mixed up, or that lives on when it is closed."""
    one = runner(ANSWERS)
    assert one.hello["got"]["first"] == 1 and one.hello["got"]["started_ns"] > 0
    assert [one.ask({"n": number})["got"]["n"] for number in range(3)] == [0, 1, 2]
    one.close()
    assert one._process.returncode == 0


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("print('Segmentation fault?')", "the runner printed what is no answer: 'Segmentation fault?'."),
        ("print('[1, 2]')", "the runner printed what is no answer: '[1, 2]'."),
        ("import sys; sys.stderr.write('no such model\\n'); sys.exit(3)", "the runner stopped: exit code 3, no such model"),
        ("pass", "the runner stopped: exit code 0, and it said nothing"),
        (
            "import os, signal; os.kill(os.getpid(), signal.SIGILL)",
            "the runner stopped: it came to an instruction that this processor does not have (SIGILL): it was built for a newer one.",
        ),
        (
            "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
            "the runner stopped: it was killed (SIGKILL), as a system does that has no memory left.",
        ),
        (
            "import sys; sys.exit(132)",
            "the runner stopped: it came to an instruction that this processor does not have (SIGILL): it was built for a newer one.",
        ),
        ('print(\'{"error": "the model is broken"}\')', "the runner: the model is broken"),
    ],
)
def test_a_bad_runner_is_one_sentence(code: str, sentence: str) -> None:
    """A traceback, or a wait without end, where a device misbehaves."""
    with pytest.raises(StageError) as error:
        runner(code)
    assert str(error.value) == sentence


def test_a_runner_that_hangs_is_stopped() -> None:
    """A build that waits all night for a board that hangs."""
    start = time.monotonic()
    with pytest.raises(StageError) as error:
        runner("import time; time.sleep(600)", seconds=2)
    assert str(error.value) == "the runner gave no answer within 2 s and was stopped: it hangs."
    assert time.monotonic() - start < 60
