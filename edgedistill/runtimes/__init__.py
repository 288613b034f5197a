"""Runtimes: what runs a binary. One file a runtime, free of torch and pydantic, since it also runs on devices.

A runtime is a module with

- `FORMAT`, `ABOUT`;
- `open_model(model, tokenizer, max_tokens, threads) -> Model`: `encode(text, tokens=None) -> (ids, offsets)`, `logits(ids)`;
- `open_writer(model, tokenizer, max_tokens, threads, settings, kv_cache) -> Writer`, where it runs decoders: `encode`, `write(ids, constrained=True)`;
- a `__main__` part, the runner: JSON lines in, JSON lines out.

The runner's lines. First in: {"model", "tokenizer", "max_tokens", "threads", "task", "settings", "first_text", "started_ns"}, and "kv_cache" where it
is not "f16" (`llama.load`); out: {"load_ms", "cold_start_ms", "baseline_bytes", "peak_bytes"}. Then in: {"texts": […], "tokens": n or absent (cut or
repeat each text to n tokens), "wants": [] or any of "answers", "logits", "ids"}; out: {"tokenize_ns", "model_ns", "decode_ns": […], "peak_bytes"} and
a list of each that was wanted, answers as the task gives them. Where answers are written: in also "constrained" (false: without the grammar), out
also {"prompt_tokens", "answer_tokens", "first_ns": […]}, and "logits" are the log-probabilities of the tokens written. In: {"loop": n}; out:
{"loop_ns": […]}, n times the same arithmetic of a few milliseconds (`steady.py`). The JavaScript runners of decoders also take {"forced": {"ids",
"answer"}}: out {"forced": […]}, the likeliest token at each place of a given answer. End of input ends the runner. A failure is {"error": "…"}.
"""
