"""Exporters: a torch model in, a float graph out. One file a format.

An exporter is a module with

- `FORMAT`: the ending of the file it makes ("onnx");
- `export(model_dir: Path, out: Path, texts: Sequence[str], max_tokens: int) -> dict[str, float]`: writes the float graph(s) and
  `tokenizer.json` under `out`, checks them against torch on `texts`, and gives the facts of the check. Raises ParityError on a difference.
"""
