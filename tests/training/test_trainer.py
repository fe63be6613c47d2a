from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from tiny_training import CONTEXT, DROPOUT, LLAMA, MIXTURE, VOCABULARY, trainer
from torch.testing import assert_close

from luthier.data.batches import Batch
from luthier.training.loop import NonFiniteError


def weights(subject) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in subject.model.named_parameters()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class Given:
    """Batches from a list."""

    batches_per_epoch = 1

    def __init__(self, batches: list[Batch]) -> None:
        self.batches, self.given = batches, 0

    @property
    def epoch(self) -> float:
        return float(self.given)

    def next_batch(self) -> Batch:
        self.given += 1
        return self.batches[self.given - 1]

    def state(self) -> dict[str, int]:
        return {"batches": self.given}

    def restore(self, state: dict[str, int]) -> None:
        self.given = state["batches"]


def joined(batches: list[Batch]) -> Batch:
    valid = None if batches[0].valid is None else torch.cat([batch.valid for batch in batches])
    return Batch(torch.cat([b.inputs for b in batches]), torch.cat([b.targets for b in batches]), valid)


@pytest.mark.parametrize("kind", ["random", "documents"])
def test_accumulated_batches_are_one_large_batch(kind):
    parts = trainer(kind=kind, gradient_accumulation_steps=3, max_grad_norm=0.0)
    batches = [parts.batches.next_batch() for _ in range(3)]
    counts = [int((batch.targets >= 0).sum()) for batch in batches]
    assert kind == "random" or len(set(counts)) > 1  # rows with more padding must not weigh more
    parts.batches = Given(batches)
    whole = trainer(max_grad_norm=0.0)
    whole.batches = Given([joined(batches)])
    a, b = parts.train_step(), whole.train_step()
    assert a.tokens == b.tokens == sum(counts)
    assert a.loss == pytest.approx(b.loss, rel=1e-5)
    assert a.gradient_norm == pytest.approx(b.gradient_norm, rel=1e-4)
    moments = [list(subject.optimizers[0].state.values()) for subject in (parts, whole)]
    for mine, theirs in zip(*moments, strict=True):  # the first moment is the gradient, scaled
        assert_close(mine["exp_avg"], theirs["exp_avg"], atol=1e-6, rtol=1e-3)


def test_training_learns():
    subject = trainer(steps=120, batch_size=8)
    losses = [subject.train_step().loss for _ in range(120)]
    assert sum(losses[-5:]) / 5 < 1.6 < 2.5 < losses[0]  # the noise alone is log 3 = 1.10
    assert subject.tokens == 120 * 8 * CONTEXT


@pytest.mark.parametrize("config", [LLAMA, DROPOUT, MIXTURE], ids=["llama", "dropout", "mixture"])
def test_the_same_seed_gives_the_same_run_bit_for_bit_whatever_the_global_generator_does(config):
    runs = []
    for noise in (0, 1):
        torch.manual_seed(noise)
        before = torch.get_rng_state()
        subject = trainer(config)
        runs.append(([subject.train_step().loss for _ in range(4)], weights(subject)))
        assert torch.equal(before, torch.get_rng_state())
    assert runs[0][0] == runs[1][0]
    assert same(runs[0][1], runs[1][1])
    other = trainer(config, seed=4)
    assert [other.train_step().loss for _ in range(4)] != runs[0][0]


def test_dropout_changes_from_step_to_step_and_is_off_in_evaluation():
    subject = trainer(DROPOUT)
    batch = subject.batches.next_batch()
    subject.batches = Given([batch] * 3)
    subject.optimizers = []  # the weights stay, only dropout changes
    losses = [subject.train_step().loss for _ in range(3)]
    assert len(set(losses)) == 3
    assert subject.evaluate([batch]) == subject.evaluate([batch])


def test_padding_never_contributes():
    losses, gradients = [], []
    for pad in (1, 9):
        subject = trainer(kind="documents")
        subject.batches.pad_id = pad
        batch = subject.batches.next_batch()
        assert (batch.inputs == pad).any()
        subject.model.train()
        loss = subject.loss(batch).sum
        loss.backward()
        losses.append(loss.item())
        gradients.append(torch.cat([weight.grad.flatten() for weight in subject.model.parameters()]))
    assert losses[0] == losses[1]
    assert torch.equal(*gradients)


def test_the_loss_is_the_mean_over_targets_in_evaluation_too():
    subject = trainer(kind="documents")
    batches = [subject.batches.next_batch() for _ in range(3)]
    expected, count = 0.0, 0
    for batch in batches:
        logits = subject.model(batch.inputs, valid=batch.valid)
        losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), reduction="none")
        expected += losses.sum().item()
        count += int((batch.targets >= 0).sum())
    assert subject.evaluate(batches) == pytest.approx(expected / count, rel=1e-5)


@pytest.mark.parametrize("accumulation", [1, 3])
def test_a_loss_that_is_no_number_leaves_all_as_it_was_and_names_step_and_batch(accumulation):
    subject = trainer(replace(DROPOUT, tie_embeddings=False), gradient_accumulation_steps=accumulation)
    subject.train_step()
    subject.model.embedding.weight.data[7] = float("nan")
    good = subject.batches
    batches = [good.next_batch() for _ in range(accumulation)]
    for batch in batches:
        batch.inputs[batch.inputs == 7] = 8
    batches[-1].inputs[0, 0] = 7
    subject.batches = Given([*batches, *batches])
    before, (tensors, record) = weights(subject), subject.state()
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    with pytest.raises(NonFiniteError, match=f"^step 2: the loss of batch {accumulation} is nan: lower"):
        subject.train_step()
    after = weights(subject)
    for state in (before, after):
        state["embedding.weight"][7] = 0  # nan is not equal to itself
    assert same(before, after)
    assert all(weight.grad is None for weight in subject.model.parameters())
    tensors_after, record_after = subject.state()
    assert same(tensors, tensors_after)
    assert record == record_after


def test_a_gradient_that_is_no_number_is_found_though_the_loss_is_finite():
    subject = trainer(gradient_accumulation_steps=2)
    subject.model.blocks[0].attention_norm.weight.register_hook(lambda gradient: gradient * float("inf"))
    before = weights(subject)
    with pytest.raises(NonFiniteError, match=r"step 1: the norm of the gradient of batches 1 to 2 is (inf|nan)"):
        subject.train_step()
    assert same(before, weights(subject))


def test_a_batch_without_any_target_changes_nothing_but_decay():
    subject = trainer(weight_decay=0.0)
    inputs = torch.zeros(2, CONTEXT, dtype=torch.int64)
    subject.batches = Given([Batch(inputs, torch.full_like(inputs, -100))])
    before = weights(subject)
    result = subject.train_step()
    assert (result.loss, result.gradient_norm, result.tokens) == (0, 0, 0)
    assert same(before, weights(subject))


def test_the_learning_rate_that_is_reported_is_the_one_that_was_used():
    subject = trainer(steps=10, warmup=4, schedule="linear", final_lr_fraction=0.0)
    rates = []
    for _ in range(10):
        rates.append(subject.train_step().learning_rate)
        assert subject.optimizers[0].param_groups[0]["lr"] == rates[-1]
    assert rates[3] == 1e-2
    assert all(a > b for a, b in pairwise(rates[4:]))
    assert rates[-1] == 0


def test_in_bfloat16_the_weights_and_their_gradients_stay_float32():
    exact, low = trainer(), trainer()
    low.dtype = torch.bfloat16
    a, b = exact.train_step(), low.train_step()
    assert a.loss != b.loss
    assert b.loss == pytest.approx(a.loss, rel=0.02)
    assert {weight.dtype for weight in low.model.parameters()} == {torch.float32}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning", "ignore:The .grad attribute")  # the compiler's own
def test_compiled_training_gives_the_same_losses():
    plain, compiled = trainer(steps=4), trainer(steps=4)
    torch.compiler.reset()
    compiled.compile()
    expected = [plain.train_step().loss for _ in range(3)]
    assert [compiled.train_step().loss for _ in range(3)] == pytest.approx(expected, rel=1e-4)


def test_ids_of_the_text_are_in_the_vocabulary():
    batch = trainer().batches.next_batch()
    assert batch.inputs.max() < VOCABULARY
