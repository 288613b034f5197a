"""Writes docs/verbs.md from the verbs' own --help, and docs/*.schema.json. `--check` only says whether they are up to date."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

from edgedistill import cli, plugins
from edgedistill.recipe import Recipe
from edgedistill.target import Target, find_target, target_names

DOCS = Path(__file__).parent.parent / "docs"


def verbs() -> list[str]:
    """All that the command line has, in the order in which it lists them."""
    return [command.name or command.callback.__name__ for command in cli.app.registered_commands if command.callback]


def documents() -> dict[str, str]:
    """File name → content, as of the code."""
    wide = os.environ | {"COLUMNS": "120", "TERM": "dumb", "NO_COLOR": "1", "TERMINAL_WIDTH": "120"}
    parts = ["# The verbs", "", "Made by `make docs` from `--help`; do not edit.", ""]
    for verb in verbs():
        done = subprocess.run(
            [sys.executable, "-m", "edgedistill.cli", verb, "--help"], capture_output=True, text=True, env=wide, check=True
        )
        text = "\n".join(line.rstrip() for line in done.stdout.strip().splitlines()).replace("python -m edgedistill.cli", "edgedistill")
        parts += [f"## {verb}", "", "```", text, "```", ""]
    parts += ["# The plugins", ""]
    for folder in plugins.FOLDERS:
        for family in plugins.FAMILIES.get(folder, ()):
            made = importlib.import_module(f"edgedistill.{folder}.{family}")
            parts.append(f"- {(made.__doc__ or '').strip().splitlines()[0]} {', '.join(f'`{folder}/{name}`' for name in made.NAMES)}")
        for name in plugins.names(folder):
            if plugins.made_by_a_family(folder, name):
                continue
            first = (plugins.find(folder, name).__doc__ or "").strip().splitlines()[0]
            parts.append(f"- `{folder}/{name}`: {first}")
    parts += ["", "# The targets", ""]
    parts += [f"- `{name}`: {find_target(name).about}" for name in target_names()]
    return {
        "verbs.md": "\n".join(parts) + "\n",
        "recipe.schema.json": json.dumps(Recipe.model_json_schema(), indent=1) + "\n",
        "target.schema.json": json.dumps(Target.model_json_schema(), indent=1) + "\n",
    }


def main() -> int:
    stale = [name for name, text in documents().items() if not (DOCS / name).is_file() or (DOCS / name).read_text() != text]
    if "--check" in sys.argv:
        if stale:
            sys.stderr.write(f"out of date: {', '.join(stale)}. Run: make docs\n")
        return 1 if stale else 0
    DOCS.mkdir(exist_ok=True)
    for name, text in documents().items():
        (DOCS / name).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
