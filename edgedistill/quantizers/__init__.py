"""Quantizers: float graph in, smaller graph out. One file a scheme; the file's name is the scheme's name in targets/*.toml.

A quantizer is a module with

- `FORMAT`: the format it reads and writes ("onnx");
- `ABOUT`: one line for people;
- `quantize(graphs: Path, out: Path, calibration: Calibration, keep_float: frozenset[str]) -> None`:
  reads `graphs/model.onnx` (fused) or `graphs/unfused.onnx`, writes `out/model.onnx`. `calibration` holds real inputs as arrays; nodes
  named in `keep_float` stay in float (per-layer sensitivity chooses them);
- `layers(graphs: Path) -> list[str]`: the nodes it would quantize, the candidates for `keep_float`.
"""
