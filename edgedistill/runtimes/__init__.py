"""Runtimes: what runs a binary. One file a runtime, free of torch and pydantic, since it also runs on devices.

A runtime is a module with

- `FORMAT`, `ABOUT`;
- `open_model(model, tokenizer, max_tokens, threads) -> Model`: `encode(text, tokens=None) -> (ids, offsets)`, `logits(ids)`;
- `open_writer(model, tokenizer, max_tokens, threads, settings, kv_cache) -> Writer`, where it runs decoders: `encode`, `write(ids, constrained=True)`,
  `forced(ids, answer)`;
- a `__main__` part, the runner: JSON lines in, JSON lines out.

The runner's lines. First in: {"model", "tokenizer", "max_tokens", "threads", "task", "settings", "first_text", "started_ns"}, and "kv_cache" where it
is not "f16" (`llama.load`); out: {"load_ms", "cold_start_ms", "baseline_bytes", "peak_bytes"}. Then in: {"texts": […], "tokens": n or absent (cut or
repeat each text to n tokens), "wants": [] or any of "answers", "logits", "ids"}; out: {"tokenize_ns", "model_ns", "decode_ns": […], "peak_bytes"} and
a list of each that was wanted, answers as the task gives them. Where answers are written: in also "constrained" (false: without the grammar), out
also {"prompt_tokens", "answer_tokens", "first_ns": […]}, "logits" are the log-probabilities of the tokens written, and "written", of this runner, their
ids. In: {"loop": n}; out:
{"loop_ns": […]}, n times the same arithmetic of a few milliseconds (`steady.py`). Of decoders in also {"forced": [{"ids", "answer"}, …]}, prompts and
given answers; out: {"forced": [{"likeliest", "scores"}, …]}, at each place of an answer the token that comes first without the grammar, and the
log-probability of the given one. End of input ends the runner. A failure is {"error": "…"}.
"""
