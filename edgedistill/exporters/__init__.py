"""Exporters: a torch model in, float graphs out. One file a format.

An exporter is a module with

- `FORMAT`: the ending of the file it makes ("onnx");
- `export(model_dir: Path, out: Path, texts: Sequence[str], max_tokens: int, task: str) -> dict[str, float]`: writes the float graph(s) and
  `tokenizer.json` (no padding, truncation at `max_tokens`) under `out`, checks them against torch on `texts`, and gives the facts of the check.
  Raises ParityError on a difference. The same model gives the same bytes.

The graph that ships in float, and that others are compared with, is `model.<FORMAT>`. What stands beside it is between the exporter and the
quantizers of its format: `onnx` writes `products.onnx`, the same answers with every weight product and table an operator of its own.
"""
