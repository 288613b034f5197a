"""Teachers: what can be asked for soft labels. One file a kind.

A teacher is a module, free of torch when imported, with

- `has_head(model: Path, classes) -> bool`: can it answer the task's classes as it is;
- `adopt(model: Path, out: Path, classes, task) -> None`: take it as it is: the same model, its outputs in the order of `classes`;
- `fine_tune(model: Path, out: Path, texts, labels, classes, task, options: recipe.Teacher, max_tokens, precision, seed, checkpoints)`:
  teach it the task; writes a model folder under `out`;
- `logits(model: Path, texts, classes, task, options, max_tokens, precision) -> array`: float32 [len(texts), classes].
"""
