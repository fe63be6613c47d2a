from __future__ import annotations

import pytest
import torch
from tiny_training import LLAMA, trainer

from luthier.architectures import registry
from luthier.training.objective import LanguageModeling, Loss


class Doubled(LanguageModeling):
    """Twice the loss, with a figure of its own."""

    def __call__(self, model, batch):
        loss = super().__call__(model, batch)
        return Loss(2 * loss.sum, loss.count, {"plain": loss.sum})


def test_a_trainer_minimises_the_objective_that_it_is_given():
    plain, doubled = trainer(max_grad_norm=0.0), trainer(max_grad_norm=0.0, objective=Doubled())
    a, b = plain.train_step(), doubled.train_step()
    assert b.loss == 2 * a.loss
    assert b.gradient_norm == pytest.approx(2 * a.gradient_norm, rel=1e-6)


@pytest.mark.parametrize("kind", ["random", "documents"])
def test_figures_are_means_over_trained_tokens_of_all_batches_of_a_step_and_of_an_evaluation(kind):
    subject = trainer(kind=kind, gradient_accumulation_steps=3, objective=Doubled())
    result = subject.train_step()
    assert result.figures == {"plain": pytest.approx(result.loss / 2, rel=1e-6)}
    batches = [subject.batches.next_batch() for _ in range(2)]
    measured = subject.measure(batches)
    assert measured["loss"] == subject.evaluate(batches)
    assert measured["plain"] == pytest.approx(measured["loss"] / 2, rel=1e-6)


def test_language_modeling_is_the_cross_entropy_of_the_targets():
    subject = trainer(kind="documents")
    batch = subject.batches.next_batch()
    model = registry.build(LLAMA, seed=1)
    loss = LanguageModeling()(model, batch)
    logits = model(batch.inputs, valid=batch.valid)
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), reduction="sum")
    assert loss.sum.item() == pytest.approx(expected.item(), rel=1e-5)
    assert loss.count == (batch.targets >= 0).sum() < batch.targets.numel()
    assert loss.figures == {}
