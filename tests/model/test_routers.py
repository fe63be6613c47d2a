"""Mixtures of experts whose router is not Llama 4's, and the grouped back end of the experts."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

from luthier.errors import UsageError
from luthier.model.experts import Experts, grouped, grouped_supports, loop
from luthier.model.moe import MoE
from luthier.model.router import GroupedSigmoidRouter, Router, SigmoidRouter, SoftmaxRouter

C, HIDDEN, E, N = 8, 6, 8, 40


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def lively(module: torch.nn.Module) -> torch.nn.Module:
    with torch.no_grad():
        for number, weight in enumerate(module.parameters()):
            weight.copy_(0.6 * draw(number, *weight.shape))
    return module


ROUTERS = {
    "sigmoid": lambda: SigmoidRouter(C, E, 2),
    "softmax over the chosen": lambda: SoftmaxRouter(C, E, 3, bias=True),
    "softmax over all": lambda: SoftmaxRouter(C, E, 3, over="all"),
    "groups": lambda: GroupedSigmoidRouter(C, E, 2, n_groups=4, groups_per_token=2, scale=2.5),
}


@pytest.mark.parametrize("weights_on", ["input", "output"])
@pytest.mark.parametrize("name", ROUTERS)
def test_a_mixture_is_the_weighted_sum_of_the_chosen_experts(name: str, weights_on: str) -> None:
    router: Router = lively(ROUTERS[name]())
    moe = MoE(router, lively(Experts(E, C, HIDDEN)), weights_on=weights_on).eval()
    x = draw(50, 2, 5, C)
    routing = router(x.flatten(0, 1))
    expected = torch.zeros(10, C)
    for token in range(10):
        for expert, weight in zip(routing.chosen[token], routing.weights[token], strict=True):
            row = x.flatten(0, 1)[token] * (weight if weights_on == "input" else 1)
            gate, up = (row @ moe.experts.gate_up[expert]).chunk(2)
            expected[token] += (F.silu(gate) * up @ moe.experts.down[expert]) * (1 if weights_on == "input" else weight)
    assert_close(moe(x).flatten(0, 1), expected, atol=1e-5, rtol=1e-4)


def test_weights_of_the_chosen_sum_to_one_where_they_should() -> None:
    x = draw(1, N, C)
    over_chosen = lively(SoftmaxRouter(C, E, 3))(x).weights
    assert_close(over_chosen.sum(-1), torch.ones(N))
    over_all = lively(SoftmaxRouter(C, E, 3, over="all"))(x).weights
    assert (over_all.sum(-1) < 1).all()
    assert_close(over_all / over_all.sum(-1, keepdim=True), over_chosen)
    scaled = lively(GroupedSigmoidRouter(C, E, 2, n_groups=2, scale=2.5))(x).weights
    assert_close(scaled.sum(-1), torch.full((N,), 2.5))


def test_experts_are_chosen_in_the_best_groups_and_the_balance_moves_the_choice_only() -> None:
    router = GroupedSigmoidRouter(C, E, 2, n_groups=4, groups_per_token=1, normalize=False)
    lively(router).balance.data.zero_()
    x = draw(1, N, C)
    plain = router(x)
    assert (plain.chosen // 2 == plain.chosen[:, :1] // 2).all()
    router.balance.data[5] = 10.0
    moved = router(x)
    assert (moved.chosen == 5).any(-1).all()
    assert_close(moved.weights, moved.logits.gather(1, moved.chosen).sigmoid())


def test_groups_that_cannot_be_are_errors() -> None:
    with pytest.raises(UsageError, match="n_experts 8 is not a multiple of n_groups 3"):
        GroupedSigmoidRouter(C, 8, 2, n_groups=3)
    with pytest.raises(UsageError, match="groups_per_token 3 must lie between 1 and n_groups 2"):
        GroupedSigmoidRouter(C, 8, 2, n_groups=2, groups_per_token=3)
    with pytest.raises(UsageError, match="experts_per_token 4 are more than the experts of 1 groups"):
        GroupedSigmoidRouter(C, 8, 4, n_groups=4, groups_per_token=1)


def test_a_hook_can_send_tokens_to_other_experts() -> None:
    moe = MoE(lively(SoftmaxRouter(C, E, 1)), lively(Experts(E, C, HIDDEN))).eval()
    moe.routing.register_forward_hook(lambda _, inputs, routing: routing._replace(chosen=routing.chosen * 0 + 3))
    x = draw(1, 1, 4, C)
    gate, up = (x[0] @ moe.experts.gate_up[3]).chunk(2, -1)
    assert_close(moe(x)[0], F.silu(gate) * up @ moe.experts.down[3], atol=1e-5, rtol=1e-4)


def test_grouped_experts_compute_what_the_loop_does() -> None:
    """In bfloat16, for which the grouped kernel is made; values and gradients."""
    experts, counts = lively(Experts(E, 16, 24)), torch.tensor([3, 0, 40, 1, 0, 7, 9, 20])
    x = draw(9, 80, 16).bfloat16().requires_grad_()
    found = []
    for way in (loop, grouped):
        out = way(x, counts, experts.gate_up, experts.down)
        found.append([out, *torch.autograd.grad(out.float().sum(), (x, experts.gate_up, experts.down))])
    for ours, theirs in zip(*found, strict=True):
        assert (ours - theirs).float().norm() / theirs.float().norm() < 0.01


def test_the_grouped_back_end_says_what_it_does_not_support() -> None:
    experts = Experts(E, 16, 24)
    assert grouped_supports(experts, "cuda", torch.bfloat16) is None
    assert grouped_supports(experts, "cpu", torch.bfloat16) == "on cpu a loop is faster"
    assert "bfloat16" in str(grouped_supports(experts, "cuda", torch.float32))
    assert "16 bytes" in str(grouped_supports(Experts(E, 12, 24), "cuda", torch.bfloat16))
    experts.choose_backend("cuda", torch.bfloat16)
    assert experts.backend is grouped
    experts.choose_backend("cpu", torch.bfloat16)
    assert experts.backend is loop
