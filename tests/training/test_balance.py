from __future__ import annotations

import pytest
import torch
from tiny_training import MIXTURE, trainer
from torch.testing import assert_close

from luthier.architectures import deepseek
from luthier.training.balance import load_imbalance


def with_loads(subject, loads: list[int]) -> None:
    for layer in subject.balancer.layers:
        layer.load.copy_(torch.tensor(loads))
        layer.input_sum.copy_(sum(loads) * torch.linspace(-1, 2, len(layer.input_sum)))


def test_the_logits_rise_for_the_idle_and_fall_for_the_busy_and_no_more():
    subject = trainer(MIXTURE, balance_rate=0.01)
    before = [layer.router.weight.clone() for layer in subject.balancer.layers]
    with_loads(subject, [10, 1, 4, 5])  # a mean of 5
    shares = subject.balancer.update()
    assert shares == [pytest.approx([0.5, 0.05, 0.2, 0.25])] * 2
    for layer, old in zip(subject.balancer.layers, before, strict=True):
        mean = torch.linspace(-1, 2, len(layer.input_sum))
        moved = (layer.router.weight - old).detach()
        assert_close(moved @ mean, 0.01 * (torch.tensor([-1.0, 1.0, 1.0, 0.0]) - 0.25))
        across = torch.randn(len(mean), generator=torch.Generator().manual_seed(0))
        across -= mean * (across @ mean) / mean.square().sum()
        assert_close(moved @ across, torch.zeros(4), atol=1e-6, rtol=0)  # an input unlike the mean is judged as before
        assert not layer.load.any()
        assert not layer.input_sum.any()


def test_a_router_with_a_bias_on_the_choice_keeps_it_there():
    config = deepseek.Config(
        61, 16, 32, 16, 48, 2, 4, latent_rank=16, nope_dim=8, rope_dim=4, value_dim=8, n_experts=4, sigmoid=True,
        experts_per_token=1, n_dense_layers=None,
    )  # fmt: skip
    subject = trainer(config, balance_rate=0.01)
    before = [layer.router.weight.clone() for layer in subject.balancer.layers]
    with_loads(subject, [10, 1, 4, 5])
    subject.balancer.update()
    for layer, old in zip(subject.balancer.layers, before, strict=True):
        assert_close(layer.router.balance.detach(), 0.01 * (torch.tensor([-1.0, 1.0, 1.0, 0.0]) - 0.25))
        assert torch.equal(layer.router.weight, old)


@pytest.mark.parametrize("balance", ["auxiliary", "none"])
def test_the_router_is_left_alone_by_the_other_ways(balance):
    subject = trainer(MIXTURE, balance=balance)
    before = [layer.router.weight.clone() for layer in subject.balancer.layers]
    with_loads(subject, [10, 1, 4, 5])
    subject.balancer.update()
    assert all(
        torch.equal(layer.router.weight, old) for layer, old in zip(subject.balancer.layers, before, strict=True)
    )


def test_a_real_run_writes_shares_down():
    subject = trainer(MIXTURE, steps=8, balance_rate=0.02)
    for _ in range(8):
        result = subject.train_step()
        assert len(result.loads) == 2
        assert all(sum(layer) == pytest.approx(1) and len(layer) == 4 for layer in result.loads)


def test_the_experts_chosen_in_training_are_those_chosen_afterwards():
    subject = trainer(MIXTURE, steps=8, balance_rate=0.5)
    for _ in range(8):
        subject.train_step()
    tokens = torch.arange(12).view(1, 12) % MIXTURE.vocab_size
    assert_close(subject.model.train()(tokens), subject.model.eval()(tokens))


@pytest.mark.parametrize("balance", ["bias", "auxiliary"])
def test_balancing_mends_a_router_that_has_a_favorite(balance):
    def busiest(**changes) -> float:
        subject = trainer(MIXTURE, steps=1000, batch_size=16, learning_rate=1e-3, **changes)
        for layer in subject.balancer.layers:  # what passes through has mean 0, so lift one row along the stream's mean
            layer.router.weight.data.mul_(0.05)
            layer.register_forward_pre_hook(lambda _, inputs: (inputs[0] + 1,))
            layer.router.weight.data[2] += 0.02
        late = [subject.train_step() for _ in range(40)][20:]
        mean = torch.tensor([result.loads for result in late]).mean(0)  # over steps: the sign of an error swings
        return max(load_imbalance(layer) for layer in mean.tolist())

    free, held = busiest(balance="none"), busiest(balance=balance, balance_rate=0.01 if balance == "bias" else 3.0)
    assert free > 2.5
    assert held < free - 0.8


def test_the_auxiliary_loss_bends_the_gradient_of_the_router_and_the_bias_does_not():
    gradients = {}
    for balance in ("none", "bias", "auxiliary"):
        subject = trainer(MIXTURE, balance=balance, balance_rate=1.0)
        subject.model.train()
        subject.loss(subject.batches.next_batch()).sum.backward()
        gradients[balance] = subject.balancer.layers[0].router.weight.grad
    assert_close(gradients["bias"], gradients["none"])
    assert not torch.allclose(gradients["auxiliary"], gradients["none"], atol=1e-3)


def test_the_auxiliary_loss_weighs_the_same_however_a_step_is_cut():
    subject = trainer(MIXTURE, balance="auxiliary", balance_rate=0.4, gradient_accumulation_steps=4)
    assert [layer.auxiliary_weight for layer in subject.balancer.layers] == [0.1, 0.1]


def test_evaluation_counts_no_loads():
    subject = trainer(MIXTURE)
    subject.evaluate([subject.batches.next_batch()])
    assert not any(layer.load.any() for layer in subject.balancer.layers)


def test_imbalance_is_1_when_even_and_the_number_of_experts_when_one_has_all():
    assert load_imbalance([0.25] * 4) == 1
    assert load_imbalance([0.0, 1.0, 0.0, 0.0]) == 4
