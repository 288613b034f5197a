"""Quantizers: float graph in, smaller graph out. One file a scheme; the file's name is the scheme's name in targets/*.toml.

A quantizer is a module with

- `FORMAT`: the format it reads and writes ("onnx");
- `ABOUT`: one line for people;
- `quantize(graphs: Path, out: Path, calibration: Sequence[Batch], keep_float: frozenset[str]) -> None`:
  reads what the exporter of its format wrote (`graphs/model.onnx`, fused; `graphs/products.onnx`, every product and table apart), writes
  `out/model.onnx` and `out/facts.json` (at least `scheme`, `bytes`, `float_bytes`, `kept_float`, `saturation_free`), and nothing else.
  `calibration`: real rows, each batch {"input_ids": int64 [B, T], "attention_mask": int64 [B, T]}; of a
  decoder a row of token ids will do. Nodes named in `keep_float` stay in float
  (per-layer sensitivity chooses them). The same inputs give the same bytes; nothing is printed. Raises StageError when the graph would answer
  differently on an x86 CPU without VNNI (int8_safety.py);
- `ARITHMETIC: fake_quant.Arithmetic`, when a student can learn through it: the grids that it stores and how its runtime rounds;
- `STAND_IN: str`, when it takes minutes: the scheme of about the same size and speed that is measured in its place before the student is trained;
- `layers(graphs: Path) -> list[str]`: the nodes it would quantize, the candidates for `keep_float`.

gguf.py is a family: one file that makes a scheme of every type of llama.cpp (plugins.FAMILIES).

The smallest, and the tutorial: onnx_int8_dynamic.py.
"""
