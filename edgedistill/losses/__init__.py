"""Losses: what the student is pulled towards. One file a loss; a recipe adds several with weights.

A loss is a module, free of torch when imported, with

- `Options`: a `settings.Section` with at least `weight: float`;
- `NEEDS`: columns of the batch it reads ("teacher_logits", "labels");
- `loss(outputs, batch, options) -> Tensor`: a scalar. `outputs` is the student's output (`.logits` is [rows, classes]), `batch` holds the
  columns as tensors. The weight is applied by the caller.
"""
