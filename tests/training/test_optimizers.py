from __future__ import annotations

import pytest
import torch
from tiny_training import DROPOUT, LLAMA, MIXTURE, trainer
from torch.testing import assert_close

from luthier.training.optimizers import clip_gradients, gradient_norm, set_learning_rate


def owners(subject) -> dict[int, list[dict]]:
    """The groups that each weight is in."""
    found: dict[int, list[dict]] = {id(weight): [] for weight in subject.model.parameters()}
    for optimizer in subject.optimizers:
        for group in optimizer.param_groups:
            for weight in group["params"]:
                found[id(weight)].append(group)
    return found


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("config", [LLAMA, DROPOUT, MIXTURE], ids=["llama", "gpt2", "llama4"])
def test_every_weight_is_in_one_group_and_only_matrices_decay(config, optimizer):
    subject = trainer(config, optimizer=optimizer, weight_decay=0.3)
    groups = owners(subject)
    for name, weight in subject.model.named_parameters():
        [group] = groups[id(weight)]
        assert group["weight_decay"] == (0.3 if weight.ndim > 1 else 0), name
    tied = subject.model.output.weight
    assert config is not LLAMA or tied is subject.model.embedding.weight


def test_muon_takes_the_hidden_matrices_and_nothing_else():
    subject = trainer(MIXTURE, optimizer="muon", muon_learning_rate=0.02)
    adamw, muon = subject.optimizers
    assert isinstance(muon, torch.optim.Muon)
    taken = {id(weight) for weight in muon.param_groups[0]["params"]}
    for name, weight in subject.model.named_parameters():
        inside = name.startswith("blocks.") and weight.ndim == 2
        assert (id(weight) in taken) == inside, name
    assert muon.param_groups[0]["lr"] == 0.02
    assert {group["lr"] for group in adamw.param_groups} == {1e-2}


def test_one_step_of_adamw_is_its_formula():
    subject = trainer(
        learning_rate=0.01, weight_decay=0.2, beta1=0.8, beta2=0.9, warmup=0, max_grad_norm=0.0, schedule="constant"
    )
    before = {name: weight.detach().clone() for name, weight in subject.model.named_parameters()}
    place = subject.batches.state()
    tokens = subject.settings.batch_size * LLAMA.context_length
    (subject.loss(subject.batches.next_batch()).sum / tokens).backward()
    gradients = {name: weight.grad.clone() for name, weight in subject.model.named_parameters()}
    subject.model.zero_grad()
    subject.batches.restore(place)
    subject.train_step()
    for name, weight in subject.model.named_parameters():
        g, old = gradients[name], before[name]
        m, v = 0.2 * g / (1 - 0.8), 0.1 * g * g / (1 - 0.9)  # the first step, bias corrected
        decay = 1 - 0.01 * (0.2 if old.ndim > 1 else 0)
        assert_close(weight.detach(), decay * old - 0.01 * m / (v.sqrt() + 1e-8), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("largest", "expected"), [(0.1, 0.1), (1e6, None)])
def test_gradients_are_scaled_to_the_largest_norm_or_left_alone(largest, expected):
    subject = trainer()
    subject.loss(subject.batches.next_batch()).sum.backward()
    norm = gradient_norm(subject.model)
    manual = torch.stack([weight.grad.square().sum() for weight in subject.model.parameters()]).sum().sqrt()
    assert_close(norm, manual)
    before = subject.model.embedding.weight.grad.clone()
    clip_gradients(subject.model, norm, largest)
    assert gradient_norm(subject.model).item() == pytest.approx(expected or norm.item(), rel=1e-4)
    after = subject.model.embedding.weight.grad
    assert_close(after / after.norm(), before / before.norm())


def test_both_optimizers_follow_the_schedule_from_their_own_peaks():
    subject = trainer(optimizer="muon", learning_rate=0.004, muon_learning_rate=0.02)
    for factor in (0.5, 0.25):  # twice: a factor must not act on what the last one left
        set_learning_rate(subject.optimizers, factor)
    rates = [group["lr"] for optimizer in subject.optimizers for group in optimizer.param_groups]
    assert rates == [0.001, 0.001, 0.005]
