"""Tasks: what kind of question the model answers. One file a task.

A task is a module that needs numpy alone (devices import it; nothing of torch or pydantic), and owns everything that depends on what an answer
is. `settings` is what prepare found out about this task on this data, plain JSON in `task.json` and in a bundle's manifest; it always holds
"labels", the names of the model's outputs in order, and what else the task put there. A *target* is the right answer to a row as plain
JSON, kept as a string in the column `target` of prepared rows; None where nobody said.

- `HUB_TASK`: the name that optimum's TasksManager gives it, from which the torch model class follows;
- `LISTS`, when it is True: a cell of the label column may be a list, which `read` gets as JSON;
- `EXACT`: whether two machines must give equal answers (classes, spans) or close logits are all there is to ask (numbers);
- `about(settings) -> str`: one sentence for the model card;
- `metric(settings) -> str`: what the quality figure is called in tables;
- `read(label: str, text: str, options) -> target`: the target that a cell of the label column means; options: `[data]` of the recipe. Raises
  ValueError whose text is the reason why the row is bad;
- `settings(targets, options, labels) -> dict`: made from the training rows' targets. labels: the teacher's own, when they rule;
- `stratum(target) -> str | None`: by what a held-out split is stratified; None when it is not;
- `classes(settings) -> list[str]`: what the data card counts, and `names(target, settings) -> list[str]`: those that a target holds;
- `number(target, settings) -> target`: the target as the report and training use it (a class by its index);
- `answer(logits, settings, text="", offsets=None) -> dict`: from the logits of one text to what the app shows. Holds "answer", JSON, the same on
  every machine when EXACT; "target", that answer in the form of targets; and "confidence" where there is one. logits: float [outputs];
- `judge(predicted, target, settings) -> (gained, possible)`: of one row. The metric is Σ gained / Σ possible over rows;
- `probabilities(logits) -> array`, of the shape of the logits; a task of numbers has none;
- `divergence(reference, logits, settings) -> array`: of each row, ≥ 0 and 0 for equal logits; what quantize looks at where shares jump;
- `hard(target, settings, text="", offsets=None) -> array`: the label that training reads; missing is -1 (integers) or NaN (floats);
- `hard_kind(settings) -> str`: which loss that is for, of those that `training.label_loss` knows, and `soft(options) -> str`: the loss in
  losses/ that takes the teacher's logits when the recipe names none.

A task that answers word by word (tag) also has `positions(text, offsets) -> array`: for each word of the text the place of the token that
answers for it, up to where tokens end. Graphs then give logits [tokens, outputs]; outside of runtimes and training, "the logits of a
text" are those of its words, [words, outputs], whatever tokenizer they come from. That is what makes teacher and student comparable.
offsets: (start, end) in characters of each token; None for logits that are already one a word.

A task whose answer is written (generate) has `written(target) -> str`, the one right string of a target. "The logits of a text" are then what was
written: a string or, from a runtime, an object with text, ids and scores (log-probabilities); `hard` gives the string to be learned, and `settings`
also holds "prompt" ([what stands before a text, behind it]) and "grammar" (GBNF, or ""). It may have `further(predicted, target, settings)`: of one
row, name → (gained, possible) of figures beside the metric; and `FEWEST_SAMPLES`, how many timed answers its benchmark takes.

A task whose answer means something only beside those of other texts (embed) also has `together(targets, settings) -> targets`: of each text's own
target in a set of texts (its vector) the one that is judged and reported (which texts are nearest to it). It may have `notes(targets, right, settings)
-> list[str]`, further figures for the report; and `UNLABELLED = True` when only the teacher knows what is right.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any


def together(task: ModuleType, targets: list[Any], settings: dict[str, Any]) -> list[Any]:
    """The targets of a set of texts as they are judged: of most tasks each text's own."""
    found: list[Any] = task.together(targets, settings) if hasattr(task, "together") else targets
    return found
