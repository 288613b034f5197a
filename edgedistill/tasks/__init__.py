"""Tasks: what kind of question the model answers. One file a task.

A task is a module, free of torch when imported, with

- `HUB_TASK`: the name that optimum's TasksManager gives it, from which the torch model class follows;
- `answer(logits, labels) -> dict`: logits of one input, float [classes], to what the app shows; holds at least "answer" and "confidence";
- `probabilities(logits) -> array`: logits [rows, classes] to probabilities of the same shape.
"""
