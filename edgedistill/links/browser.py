"""A page in headless Chromium: ONNX Runtime's WebAssembly build or wllama runs the bundle, driven by playwright-core through Node.

    [link]
    kind     = "browser"
    # browser  = "/usr/bin/chromium"      # else the first that is found
    # slowed   = 4                        # the page's processor slowed four times (Chrome DevTools' CPU throttling)

On this machine the browser's latency is measured. Slowed, it stands for a weaker device and is not measured: the throttling takes turns of the page's
main thread away, and knows nothing of another processor's caches or instructions (https://developer.chrome.com/docs/devtools/settings/throttling).
The cold start counts from the opening of the page, and memory is that of the page's process, the browser's own part included.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from edgedistill import javascript, npm
from edgedistill.errors import StageError, TargetError
from edgedistill.javascript import refuses
from edgedistill.limits import NONE, Limits
from edgedistill.runner import RunnerProcess
from edgedistill.target import Link

HOW = "measured"
ABOUT = "a page in headless Chromium on this machine"
BROWSERS = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
SECONDS, SECONDS_A_TEXT = 120, 2
GRACE = 30  # the driver closes a page that hangs; we end the driver when even that hangs


def how(link: Link) -> str:
    """Slowed, the clock is no device's."""
    return "measured" if _slowed(link) == 1 else "not measured"


def about(link: Link) -> str:
    """Whether it is slowed."""
    return f"{ABOUT}, slowed {_slowed(link):g} times" if _slowed(link) != 1 else ABOUT


def ready(link: Link) -> str | None:
    """None, or what to install."""
    missing = [
        package
        for there, package in ((_browser(link), "chromium"), (shutil.which("node"), "nodejs"), (shutil.which("npm"), "npm"))
        if not there
    ]
    if missing:
        what = "Chromium is" if missing[0] == "chromium" else "Node is" if missing[0] == "nodejs" else "npm is"
        return f"{what} missing. Run: sudo apt-get install {' '.join(missing)}"
    return None if sys.platform.startswith("linux") else "the memory of a page is read from /proc, which Linux alone has"


def identity(link: Link, runtime: str = "onnxruntime") -> str:
    """What answers: the browser's version and the runner's digest."""
    said = subprocess.run([str(_browser(link)), "--version"], capture_output=True, text=True, check=False).stdout
    slowed = f", slowed {_slowed(link):g} times" if _slowed(link) != 1 else ""
    return f"{' '.join(said.split()[:2]) or 'a browser'}{slowed}, runner {javascript.identity(javascript.web_packages(runtime))[:8]}"


def open_runner(link: Link, runtime: str, request: dict[str, Any], limits: Limits = NONE) -> RunnerProcess:
    """The runner in a page. Raises TargetError for options that cannot be, StageError when something is to be installed."""
    if runtime not in javascript.TASKS:
        raise TargetError(f"the link browser runs {' and '.join(javascript.TASKS)}, not {runtime}.", where="target: runtime")
    slowed = _slowed(link)
    if slowed != 1 and request["threads"] > 1:
        raise TargetError("a browser slows the page's own thread alone.", where="target: link.slowed", write="Write threads = 1.")
    if missing := ready(link):
        raise StageError(missing)
    facts: dict[str, Any] = {"playwright": str(npm.kept(javascript.PLAYWRIGHT).resolve()), "chromium": _browser(link), "slowed": slowed}
    facts |= {"files": javascript.page_files(runtime), "seconds": SECONDS, "seconds_a_text": SECONDS_A_TEXT}
    return RunnerProcess(
        ["node", str(javascript.FOLDER / "drive.mjs"), json.dumps(facts)],
        request,
        name="the runner in the browser",
        seconds=SECONDS + GRACE,
        seconds_a_text=SECONDS_A_TEXT,
    )


def _browser(link: Link) -> str | None:
    asked = (link.model_extra or {}).get("browser")
    if asked is not None and not Path(str(asked)).is_file():
        raise TargetError(
            f"there is no browser at {asked}.", where="target: link.browser", write="Leave it out to take Chromium or Chrome."
        )
    return str(asked) if asked else next(filter(None, map(shutil.which, BROWSERS)), None)


def _slowed(link: Link) -> float:
    slowed = (link.model_extra or {}).get("slowed", 1)
    if not isinstance(slowed, (int, float)) or isinstance(slowed, bool) or not 1 <= slowed <= 100:
        raise TargetError(f"{slowed!r} is no factor.", where="target: link.slowed", write="Write a number from 1 to 100, such as 4.")
    return float(slowed)


__all__ = ["ABOUT", "HOW", "about", "how", "identity", "open_runner", "ready", "refuses"]
