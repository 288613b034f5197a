"""Losses on written answers against hand-computed values, and the objective that feeds them."""

from __future__ import annotations

import math
from collections import Counter
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from edgedistill.features import needs_of
from edgedistill.losses import forward_kl, jensen_shannon, on_policy, reverse_kl, teacher_text
from edgedistill.models import load_decoder
from edgedistill.sequences import side_by_side

# One token, a vocabulary of three. The student gives 1/2, 1/4, 1/4; of the teacher the first two tokens are known, 0.6 and 0.3, and 0.1 is the rest.
LOGITS = torch.tensor([[0.5, 0.25, 0.25]]).log() + 3  # a shift of all logits must not matter
TEACHER = [0.6, 0.3, 0.1]
STUDENT = [0.5, 0.25, 0.25]


def batch(ids: list[int] | None = None) -> dict[str, torch.Tensor]:
    known = torch.tensor([TEACHER[:2]]).log()
    return {"teacher_ids": torch.tensor([ids or [0, 1]]), "teacher_logs": known, "teacher_tail": torch.tensor([0.1]).log()}


def kl(one: list[float], other: list[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(one, other, strict=True))


def of(loss: Any, options: Any, given: dict[str, torch.Tensor] | None = None) -> float:
    return float(loss.loss(SimpleNamespace(logits=LOGITS), given or batch(), options))


def test_by_hand() -> None:
    """A KL the wrong way round, the tail thrown away, or a mixture with its shares swapped."""
    assert of(forward_kl, forward_kl.Options()) == pytest.approx(kl(TEACHER, STUDENT), rel=1e-5)
    assert of(reverse_kl, reverse_kl.Options()) == pytest.approx(kl(STUDENT, TEACHER), rel=1e-5)
    middle = [0.25 * a + 0.75 * b for a, b in zip(TEACHER, STUDENT, strict=True)]
    want = 0.25 * kl(TEACHER, middle) + 0.75 * kl(STUDENT, middle)
    assert of(jensen_shannon, jensen_shannon.Options(beta=0.25)) == pytest.approx(want, rel=1e-4)
    assert of(teacher_text, teacher_text.Options(), {"labels": torch.tensor([1])}) == pytest.approx(math.log(4), rel=1e-5)


def test_on_policy_takes_the_divergence_that_is_asked_for() -> None:
    """An option that is read and not obeyed."""
    for name, plugin in (("forward", forward_kl), ("reverse", reverse_kl), ("jensen_shannon", jensen_shannon)):
        assert of(on_policy, on_policy.Options(divergence=name)) == pytest.approx(of(plugin, plugin.Options()), rel=1e-6)


def test_a_token_that_the_student_lacks_counts_among_the_others() -> None:
    """Mass of the teacher that vanishes, or a gather at place -1, which is the last token's."""
    ours, theirs = side_by_side(LOGITS, batch([0, -1]))
    assert theirs.exp()[0].tolist() == pytest.approx([0.6, 0.0, 0.4], abs=1e-6)
    assert ours.exp()[0].tolist() == pytest.approx([0.5, 0.0, 0.5], abs=1e-6)


def test_equal_distributions_are_at_rest() -> None:
    """A loss whose least value is not where student and teacher agree."""
    student = LOGITS.clone().requires_grad_()
    given = {
        "teacher_ids": torch.tensor([[0, 1]]),
        "teacher_logs": torch.tensor([[0.5, 0.25]]).log(),
        "teacher_tail": torch.tensor([0.25]).log(),
    }
    for plugin in (forward_kl, reverse_kl, jensen_shannon):
        value = plugin.loss(SimpleNamespace(logits=student), given, plugin.Options())
        (pull,) = torch.autograd.grad(value, student)
        assert value.item() == pytest.approx(0, abs=1e-6) and float(pull.abs().max()) < 1e-6


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from tests.tiny_decoders import tiny_decoder

    return load_decoder(tiny_decoder(tmp_path_factory.mktemp("decoder")))


def test_logits_at_chosen_tokens_are_the_models_own(decoder: Any) -> None:
    """A head that is computed for other tokens than those that are learned, or for padding."""
    from edgedistill import causal

    ids, labels = causal.row_of([5, 6, 7], [8, 9, 2])
    assert ids == [5, 6, 7, 8, 9] and labels.tolist() == [-1, -1, 8, 9, 2]
    rows, mask = torch.tensor([ids, [5, 8, 2, 2, 2]]), torch.tensor([[1] * 5, [1, 1, 0, 0, 0]])
    chosen = torch.tensor([[False, False, True, True, True], [False, True, False, False, False]])
    found = causal.Trunk(decoder)(rows, mask, chosen)
    right = torch.cat([decoder(rows[:1]).logits[0, 2:], decoder(rows[1:, :2]).logits[0, 1:]])
    torch.testing.assert_close(found, right, atol=1e-5, rtol=1e-5)
    names = [name for name, _ in causal.Trunk(decoder).named_parameters()]
    assert len(names) == len(set(names)) and not any("head" in name for name in names)  # tied: the table stands in a checkpoint once


def test_what_is_written_alone_is_written_in_a_batch(decoder: Any) -> None:
    """Padding that is read: an answer that depends on which other prompts are in the batch."""
    from edgedistill import causal

    prompts = [[5, 6, 7], [9] * 11, [12, 13]]
    together = causal.write(decoder, prompts, 6)
    assert together == [causal.write(decoder, [prompt], 6)[0] for prompt in prompts]
    assert all(len(ids) <= 6 for ids in together)


def test_what_is_written_is_what_transformers_writes(decoder: Any) -> None:
    """A position that counts padding, or a memory that is not its text's own after others have ended."""
    from edgedistill import causal

    draw = np.random.default_rng(0)
    prompts = [draw.integers(3, decoder.config.vocab_size, size=size).tolist() for size in draw.integers(1, 9, size=40)]
    made = causal.write(decoder, prompts, 12, rows=16)
    with torch.no_grad():
        for prompt, ids in zip(prompts, made, strict=True):
            right = decoder.generate(
                input_ids=torch.tensor([prompt]),
                attention_mask=torch.ones(1, len(prompt)),
                max_new_tokens=12,
                eos_token_id=2,
                pad_token_id=2,
            )
            assert ids == right[0, len(prompt) :].tolist()
    assert len({len(ids) for ids in made}) > 1  # some did end before others


def test_products_are_made_of_round_numbers_of_rows(decoder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another shape at every step: oneDNN keeps the kernels of each, and a long run is out of memory."""
    from edgedistill import causal

    draw, seen = np.random.default_rng(0), set()
    prompts = [draw.integers(3, decoder.config.vocab_size, size=size).tolist() for size in draw.integers(1, 9, size=33)]
    endless = causal.write(decoder, prompts, 12, rows=33)
    stop = Counter(ids[3] for ids in endless).most_common(1)[0][0]  # so that some end early
    monkeypatch.setattr(causal, "stop_token", lambda model: stop)
    looking = decoder.get_output_embeddings().register_forward_pre_hook(lambda _, inputs: seen.add(inputs[0].shape[0]))
    made = causal.write(decoder, prompts, 12, rows=33)
    looking.remove()
    assert made == [ids[: ids.index(stop) + 1] if stop in ids else ids for ids in endless]
    assert len({len(ids) for ids in made}) > 1 and len(seen) > 1  # some did leave
    assert all(rows == 33 or rows % causal.LEAVE_TOGETHER == 0 for rows in seen)


def test_logits_are_computed_for_a_round_number_of_tokens(decoder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another number of learned tokens at every step, with the same end; or logits that belong to the filling."""
    from edgedistill import causal

    linear, seen = torch.nn.functional.linear, []
    monkeypatch.setattr(torch.nn.functional, "linear", lambda states, weight: seen.append(len(states)) or linear(states, weight))
    trunk = causal.Trunk(decoder)
    for count in (1, causal.TOKENS_AT_ONCE, causal.TOKENS_AT_ONCE + 5):
        states = torch.randn(count, decoder.config.hidden_size)
        torch.testing.assert_close(trunk.logits(states), states @ decoder.get_output_embeddings().weight.T)
    assert seen == [causal.TOKENS_AT_ONCE, causal.TOKENS_AT_ONCE, 2 * causal.TOKENS_AT_ONCE]


def test_weights_rounded_once_give_the_same_answers(decoder: Any) -> None:
    """A model that answers otherwise for having been made faster to ask."""
    import copy

    from edgedistill import causal

    prompts, rows = [[5, 6, 7], [9] * 11, [12, 13]], [([5, 6, 7], [8, 9, 2]), ([11], [3, 2])]
    with causal.arithmetic("bf16"):
        before, thought = causal.write(decoder, prompts, 6), list(causal.top(decoder, rows, 4))
        rounded = causal.settled(copy.deepcopy(decoder), "bf16")
        assert causal.write(rounded, prompts, 6) == before
        for one, other in zip(causal.top(rounded, rows, 4), thought, strict=True):
            assert all(np.array_equal(mine, theirs) for mine, theirs in zip(one, other, strict=True))


def test_the_teachers_thoughts_by_hand(decoder: Any) -> None:
    """Log-probabilities that are not those of the token they stand at, a tail that is not what the others have."""
    from edgedistill import causal

    rows = [([5, 6, 7], [8, 9, 2]), ([11], [3, 2])]
    for place, ids, logs, tail in causal.top(decoder, rows, 4):
        prompt, answer = rows[place]
        right = decoder(torch.tensor([[*prompt, *answer[:-1]]])).logits[0, len(prompt) - 1 :].log_softmax(-1).detach().numpy()
        np.testing.assert_allclose(logs, np.sort(right, axis=-1)[:, ::-1][:, :4], atol=1e-4)
        np.testing.assert_allclose(np.take_along_axis(right, ids, -1), logs, atol=1e-4)
        np.testing.assert_allclose(np.exp(logs).sum(-1) + np.exp(tail), 1, atol=1e-5)


def test_thoughts_while_writing_are_those_of_a_second_pass(decoder: Any) -> None:
    """Thoughts that stand at another text's token once a text has left the batch, or behind the token instead of before it."""
    from edgedistill import causal

    draw = np.random.default_rng(0)
    prompts = [draw.integers(3, decoder.config.vocab_size, size=size).tolist() for size in draw.integers(1, 9, size=40)]
    made = causal.write_and_think(decoder, prompts, 12, 4, rows=20)
    answers = [answer for answer, *_ in made]
    assert answers == causal.write(decoder, prompts, 12, rows=20) and len({len(answer) for answer in answers}) > 1
    for place, ids, logs, tail in causal.top(decoder, list(zip(prompts, answers, strict=True)), 4):
        _, written, log, rest = made[place]
        assert np.array_equal(written[:, 0], answers[place]) and np.array_equal(written[:, 0], ids[:, 0])
        np.testing.assert_allclose(log, logs, atol=1e-4)
        np.testing.assert_allclose(rest, tail, atol=1e-4)


def test_own_answers_are_written_scored_and_used_again(decoder: Any) -> None:
    """On-policy distillation that learns from the fixed answers after all, whose replay writes every time, or that lets a student write
    before it has learned to.

    A student that is its own teacher is at rest whatever it writes.
    """
    import copy

    from edgedistill.stages.learn_to_write import Ids, Judge, Objective
    from edgedistill.training import pad

    class Same:
        def get_vocab(self) -> dict[str, int]:
            return {str(place): place for place in range(decoder.config.vocab_size)}

    student = copy.deepcopy(decoder)
    loss = {"kind": "on_policy", "weight": 1.0, "share": 1.0, "replay": 3, "after": 0.25}
    objective = Objective([loss], student, 2, 5, Judge(decoder, Ids(Same(), Same())), 0, 8)
    objective.train()
    made = [([5, 6, 7, 8], [-1, -1, 8, 2]), ([9, 9, 9], [-1, 7, 2])]
    labels = torch.tensor([[-1, -1, 8, 2], [-1, 7, 2, -1]])
    inputs = {name: torch.from_numpy(values) for name, values in pad([ids for ids, _ in made], 2).items()}
    none = {name: torch.zeros(2, 2, 1) for name in ("teacher_ids", "teacher_logs")} | {"teacher_tail": torch.zeros(2, 2)}
    for _ in range(2):  # a quarter of eight steps
        objective(**inputs, labels=labels, **none)
    assert objective.written == 0
    for turn in range(6):
        value = objective(**inputs, labels=labels, **none)
        assert objective.written == 2 * (turn // 3 + 1)
        assert float(value.detach()) == pytest.approx(0, abs=1e-3)


def test_a_loss_looks_inside_a_decoder_that_reads_the_same_tokens(decoder: Any) -> None:
    """Padding that is learned, a teacher that is shown the student's ids as if they were its own, or a projection that is not trained."""
    import copy

    from edgedistill.stages.learn_to_write import Ids, Judge, Objective
    from edgedistill.training import pad

    count = decoder.config.vocab_size
    turned = copy.deepcopy(decoder)  # the same model, whose table stands upside down
    with torch.no_grad():
        turned.get_input_embeddings().weight.copy_(decoder.get_input_embeddings().weight.flip(0))
    ours = SimpleNamespace(get_vocab=lambda: {str(count - 1 - place): place for place in range(count)})
    theirs = SimpleNamespace(get_vocab=lambda: {str(place): place for place in range(count)})
    losses = [{"kind": "forward_kl"}, {"kind": "hidden_states", "weight": 2.0, "layers": [[1, 1], [2, 2]]}]
    judge = Judge(decoder, Ids(ours, theirs), needs_of(losses))
    inputs = {name: torch.from_numpy(values) for name, values in pad([[5, 6, 7, 8], [9, 9, 9]], 2).items()}
    none = {name: torch.zeros(2, 2, 1) for name in ("teacher_ids", "teacher_logs")} | {"teacher_tail": torch.zeros(2, 2)}
    labels = torch.tensor([[-1, -1, 8, 2], [-1, 7, 2, -1]])

    objective = Objective(losses, turned, 2, 5, judge, 0, 8)
    objective(**inputs, labels=labels, **none)
    assert objective.last()[1] == pytest.approx(0, abs=1e-6)
    with torch.no_grad():
        turned.get_input_embeddings().weight.mul_(1.5)
    real = inputs["attention_mask"].bool()
    states = [
        model.base_model(input_ids=ids, attention_mask=inputs["attention_mask"], output_hidden_states=True).hidden_states
        for model, ids in ((turned, inputs["input_ids"]), (decoder, count - 1 - inputs["input_ids"]))
    ]
    want = sum(
        float((states[0][layer] - states[1][layer])[real].detach().pow(2).mean()) for layer in (1, 2)
    )  # weight 2, mean of two layers
    objective = Objective(losses, turned, 2, 5, judge, 0, 8)
    objective(**inputs, labels=labels, **none).backward()
    assert objective.last()[1] == pytest.approx(want, rel=1e-3) and want > 1e-3
    projections = [part.grad for name, part in objective.named_parameters() if name.startswith("parts_1")]
    assert len(projections) == 2 and all(float(pull.abs().max()) > 0 for pull in projections)


def test_sampled_texts_are_drawn_from_the_models_own_distribution(decoder: Any) -> None:
    """Texts drawn with another temperature or nucleus than was asked for, or with the memory of another text of the batch after some have ended."""
    from edgedistill import causal

    torch.manual_seed(0)
    texts = causal.write(decoder, [[5]] * 600, 6, temperature=1.0)
    assert len(texts) == 600 and all(1 <= len(text) <= 6 and 2 not in text[:-1] for text in texts)
    right = decoder(torch.tensor([[5]])).logits[0, -1].softmax(-1)
    seen = torch.bincount(torch.tensor([text[0] for text in texts]), minlength=len(right)) / 600
    assert float((seen - right.detach()).abs().max()) < 0.06
    # The likeliest token alone: a greedy text, and every text the same one, beside others that have ended.
    greedy = causal.write(decoder, [[5]], 6)[0]
    assert causal.write(decoder, [[5]] * 3, 6, temperature=1.0, top_p=1e-6) == [greedy] * 3
    mixed = causal.write(decoder, [[5]] * 64, 6, temperature=1e-4)
    assert all(text == greedy for text in mixed)
    longest = max(texts, key=len)
    states = decoder(torch.tensor([[5, *longest[:-1]]])).logits[0].log_softmax(-1)
    assert all(float(states[place, token].detach()) > -20 for place, token in enumerate(longest))
