"""Losses: what the student is pulled towards. One file a loss; a recipe adds several with weights.

A loss is a module, free of torch when imported, with

- `Options`: a `settings.Section` with at least `weight: float`;
- `NEEDS`: what it reads beside the student's logits. Columns of the batch: "teacher_logits", "labels", "teacher_embedding" (the vector
  that the teacher's head reads, cached beside its logits), and what the frozen teacher shows when it runs on the very batch:
  "teacher_hidden", "teacher_attention". Asking for one of the last three makes the student show its own;
- `loss(outputs, batch, options) -> Tensor`: a scalar. `outputs` is a `features.Seen` of the student (`.logits` is [rows, classes], or
  [rows, tokens, classes] with `batch["mask"]` saying which tokens count), `batch` holds the columns as tensors, `attention_mask` and what
  the teacher showed, in the same form as in `Seen`. The weight is applied by the caller.

It may have

- `attach(student: Sizes, teacher: Sizes, options) -> parts`: called once before training; raises RecipeError when the loss does not fit the
  two models. `loss` then gets what it gives as its fourth argument: any value, such as which layers to compare. When that is a torch Module
  (projections), it is trained with the student, stands in its checkpoints, and is thrown away at the end;
- `constant(columns, options) -> Tensor`: the best logits [classes] that ignore the input, had from the teacher's answers to all rows. A
  student that a quarter of the way does no better has learned nothing, and the run is stopped.

By what they compare: *response* losses (soft_target, binary_target, score_target, top_k_target, hard_answer, hard_label) the answers;
*feature* losses (hidden_states, embedding_layer, attention_scores, attention_relations) what goes on inside, token by token; *relational*
losses (distance_angle, similarity_preserving, in_batch_ranking) the distances between texts. Losses on *written answers* (forward_kl, reverse_kl,
jensen_shannon, teacher_text, on_policy; hard_label too) get `outputs.logits` [tokens, vocabulary] of the answers' tokens alone and the teacher's k
likeliest tokens (`sequences.side_by_side`); what they ask for in NEEDS: "teacher_top", "teacher_text" (the teacher writes an answer to every row),
"own_text" (the student writes, and the teacher judges that).
"""
