"""Say a command, get the action. Needs a bundle and llama-cpp-python; nothing else.

python sample_apps/voice_commands/ask.py "turn the kitchen lights to 40 percent"
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from llama_cpp import Llama, LlamaGrammar

KV_TYPES = {"q4_0": 2, "q4_1": 3, "q5_0": 6, "q5_1": 7, "q8_0": 8}  # ggml_type of ggml.h


class Commands:
    """The bundle, loaded once."""

    def __init__(self, bundle: Path) -> None:
        self.manifest: dict[str, Any] = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
        most, settings = self.manifest["max_tokens"], self.manifest["settings"]
        threads = self.manifest["threads"]
        kept = self.manifest["target"].get("kv_cache", "f16")  # quantized memory is read by flash attention alone
        memory = {"type_k": KV_TYPES[kept], "type_v": KV_TYPES[kept], "flash_attn": True} if kept != "f16" else {}
        self.model = Llama(
            str(bundle / self.manifest["model"]), n_ctx=most, n_threads=threads, n_threads_batch=threads, verbose=False, **memory
        )
        self.grammar = LlamaGrammar.from_string(settings["grammar"], verbose=False)
        self.around = [self.ids(part, special=True) for part in settings["prompt"]]
        self.most_answer = self.manifest["extra"]["stop"]["most_tokens"]

    def ids(self, text: str, special: bool = False) -> list[int]:
        """Token ids. A command that spells a special token is text: nobody ends the prompt by saying so."""
        return list(self.model.tokenize(text.encode(), add_bos=False, special=special))

    def ask(self, command: str) -> Any:
        """The action, as the object that the model writes."""
        before, behind = self.around
        room = self.manifest["max_tokens"] - self.most_answer - len(before) - len(behind)
        self.model.reset()
        said = self.model.create_completion(
            [*before, *self.ids(command)[:room], *behind], max_tokens=self.most_answer, temperature=0.0, grammar=self.grammar
        )
        return json.loads(said["choices"][0]["text"])


def main() -> None:
    parser = argparse.ArgumentParser(description="Which action does a spoken command ask for?")
    parser.add_argument("command", nargs="*", help="a command; without any, one a line is read from standard input")
    parser.add_argument("--bundle", type=Path, default=Path("out/voice-commands/laptop-x86-llama/bundle"))
    options = parser.parse_args()
    if not (options.bundle / "manifest.json").is_file():
        parser.error(f"there is no bundle at {options.bundle}: make one with `make demo-generate`, or give its folder with --bundle")
    commands = Commands(options.bundle)
    for command in options.command or (line.rstrip("\n") for line in sys.stdin):
        start = time.perf_counter()
        action = commands.ask(command)
        print(f"{command}\n  {json.dumps(action, ensure_ascii=False)} ({1000 * (time.perf_counter() - start):.0f} ms)")


if __name__ == "__main__":
    main()
