"""Students: what a student can be, and how it starts from the teacher. One file a family.

A family is a module, free of torch when imported, with

- `ABOUT`: one line for people;
- `OPTIONS`: the names in `recipe.Student` that it knows, beside `family`, `start` and `max_tokens`; any other is refused;
- `TASKS` (may be left out): the names in tasks/ that it can answer, where that is not all of them;
- `start(source: Path, out: Path, options: recipe.Student, texts, classes, task, seed) -> dict`: writes an untrained student as a
  Hugging Face folder (config.json, model.safetensors, tokenizer.json) under `out` and gives its facts (layers, parameters, vocabulary).
  `source` is the folder of the model it starts from;
- `learning_rate(facts: Mapping) -> float`: peak learning rate of AdamW that suits this student, where the recipe says none. `facts`: what `start` gave;
- `sizes(options: recipe.Student, teacher: Mapping) -> list[recipe.Student]`: candidates from the cheapest to the dearest, each complete; what `options`
  fixes stays fixed. `teacher`: `layers`, `width`, `heads`, `ffn` of the model they start from.

and, where a larger student holds smaller ones, `within(small, large, available: int) -> recipe.Student | None`: `small` as a cut out of `large`.

The smallest, and the tutorial: static.py.
"""
