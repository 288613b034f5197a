"""Teachers: what can be asked for soft labels. One file a kind.

A teacher is a module, free of torch when imported, with

- `TEACHABLE`: whether it can be fine-tuned, or only be used as it is;
- `WRITES`, where it is True: its answers are written, token by token;
- `RUNS_HERE`, where it is False: there is no file of it to measure; `terms(model, where) -> dict`, where its terms stand in a file of its own;
- `labels(model: Path, task) -> list[str] | None`: the names of its outputs when it has a head for the task, in its own order;
- `has_head(model: Path, classes, task) -> bool`: can it answer the task's classes as it is;
- `adopt(model: Path, out: Path, classes, task) -> None`: take it as it is: the same model, its outputs in the order of `classes`;
- `fine_tune(model: Path, out: Path, texts, label, kind, classes, task, options: recipe.Teacher, max_tokens, precision, seed, checkpoints)`:
  teach it the task; writes a model folder under `out`. label: (row, offsets of its tokens) → the label array; kind: of `training.label_loss`;
- `logits(model: Path, texts, classes, task, options, max_tokens, precision, positions=None) -> array`: float32 [len(texts), classes]. With
  `positions` ((text, offsets of its tokens) → which tokens answer for its words) a list of float32 [words, classes], one a text.

A teacher that writes (causal_lm) is adopted first and taught then; its `texts` are token ids of prompts, a label the ids of the answer with the stop
token, `logits` the ids that it writes. It also has `top(model, rows, k, precision)`: what it thinks of each token of given answers (`causal.top`), and
`write_and_think(model, texts, most, k, precision)`: what it writes, with what it thinks of each token of it (`causal.write_and_think`).

`task` is the name that optimum's TasksManager gives it.
"""
