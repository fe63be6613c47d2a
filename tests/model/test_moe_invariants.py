"""The mixture of experts beside its dense formula, where every expert works on every token."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from luthier.errors import UsageError
from luthier.model.experts import ROW_MULTIPLE, Experts, pad_groups
from luthier.model.feed_forward import SwiGLU
from luthier.model.moe import AddAuxiliaryLoss, MoE, load_balancing_loss, sort_by_expert
from luthier.model.router import SigmoidRouter

property_test = settings(max_examples=25, deadline=None, derandomize=True, database=None)
C, HIDDEN, E = 6, 5, 4


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def mixture(n_experts: int, experts_per_token: int) -> MoE:
    """Llama 4's."""
    router = SigmoidRouter(C, n_experts, experts_per_token)
    return MoE(router, Experts(n_experts, C, HIDDEN), SwiGLU(C, HIDDEN), weights_on="input")


def lively(experts_per_token: int, n_experts: int = E, seed: int = 0) -> MoE:
    moe = mixture(n_experts, experts_per_token).eval()
    with torch.no_grad():
        for number, weight in enumerate(moe.parameters()):
            weight.copy_(0.6 * draw(seed + number, *weight.shape))
    return moe


def dense(moe: MoE, x: Tensor, chosen: Tensor | None = None) -> Tensor:
    """shared(x) + sum over all experts of expert(score * x), the score of those not chosen being 0.

    chosen (N, k): instead of the k largest of the router.
    """
    logits = x @ moe.router.weight.T  # (..., E)
    if chosen is None:
        chosen = logits.topk(moe.experts_per_token, dim=-1).indices
    picked = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, chosen.view(*x.shape[:-1], -1), True)
    scores = logits.sigmoid() * picked
    out = F.silu(x @ moe.shared.gate.weight.T) * (x @ moe.shared.up.weight.T) @ moe.shared.down.weight.T
    for expert in range(moe.n_experts):
        gate, up = (x * scores[..., expert, None] @ moe.experts.gate_up[expert]).chunk(2, dim=-1)
        out = out + F.silu(gate) * up @ moe.experts.down[expert]  # nothing where the score is 0
    return out


def gradients(moe: MoE, out: Tensor, x: Tensor) -> dict[str, Tensor]:
    names, weights = zip(*moe.named_parameters(), strict=True)
    loss = (out * draw(99, *out.shape).to(out.dtype)).sum()
    found = torch.autograd.grad(loss, (x, *weights), materialize_grads=True)
    return dict(zip(("x", *names), found, strict=True))


@property_test
@given(st.integers(0, 2**31), st.integers(1, 3), st.integers(1, 40), st.integers(1, E))
def test_dispatch_equals_the_dense_formula(seed: int, batch: int, length: int, experts_per_token: int) -> None:
    """Forwards and backwards, with few tokens for many experts too, where some get none."""
    moe = lively(experts_per_token, seed=seed).double()
    x = draw(seed + 50, batch, length, C).double().requires_grad_()
    out, expected = moe(x), dense(moe, x)
    assert_close(out, expected, atol=1e-5, rtol=1e-5)  # the scores are in float32
    found, right = gradients(moe, out, x), gradients(moe, expected, x)
    for name, gradient in right.items():
        assert_close(found[name], gradient, atol=1e-4, rtol=1e-4, msg=name)


@property_test
@given(st.lists(st.integers(0, 3 * ROW_MULTIPLE), min_size=1, max_size=8))
def test_each_experts_rows_are_filled_up_to_one_of_few_sizes(counts: list[int]) -> None:
    places, room = pad_groups(torch.tensor(counts))
    assert all(
        size % ROW_MULTIPLE == 0 and 0 <= size - count < ROW_MULTIPLE
        for size, count in zip(room.tolist(), counts, strict=True)
    )
    starts = [sum(room.tolist()[:expert]) for expert in range(len(counts))]
    assert places.tolist() == [start + row for start, count in zip(starts, counts, strict=True) for row in range(count)]


def test_the_experts_matter() -> None:
    """A guard on the test above: it would not see a mistake in something that adds nothing."""
    moe, x = lively(1), draw(50, 3, 7, C)
    assert (moe(x) - moe.shared(x)).abs().max() > 0.1
    assert (moe(x) - dense(moe, x, chosen=torch.zeros(21, 1, dtype=torch.long))).abs().max() > 0.1


def test_an_expert_without_tokens_gets_no_gradient_and_breaks_nothing() -> None:
    moe, x = lively(2), draw(50, 2, 8, C).abs().requires_grad_()
    with torch.no_grad():
        moe.router.weight[1] = -50
    out = moe(x)
    assert_close(out, dense(moe, x), atol=1e-5, rtol=1e-5)
    found = gradients(moe, out, x)
    assert not found["experts.gate_up"][1].any()
    assert not found["experts.down"][1].any()
    assert not found["router.weight"][1].any()
    assert all(found["experts.down"][expert].any() for expert in (0, 2, 3))


def test_gradients_of_the_experts_are_those_of_differences() -> None:
    experts, counts = Experts(3, C, HIDDEN).double(), torch.tensor([2, 0, 3])
    weights = (draw(1, 3, C, 2 * HIDDEN).double().requires_grad_(), draw(2, 3, HIDDEN, C).double().requires_grad_())

    def run(x: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
        out: Tensor = torch.func.functional_call(experts, {"gate_up": gate_up, "down": down}, (x, counts))
        return out

    assert torch.autograd.gradcheck(run, (draw(3, 5, C).double().requires_grad_(), *weights))


def test_gradients_of_the_whole_are_those_of_differences() -> None:
    moe = lively(2).double()
    # steps of 1e-3, since the router's scores are in float32; no token is that near to another choice of experts
    x = draw(50, 1, 3, C).double().requires_grad_()
    assert torch.autograd.gradcheck(moe, (x,), eps=1e-3, atol=2e-3, rtol=2e-3)


@property_test
@given(st.lists(st.integers(0, 6), min_size=2, max_size=20).filter(lambda ids: len(ids) % 2 == 0))
def test_slots_are_grouped_by_expert_in_their_order(ids: list[int]) -> None:
    order, counts = sort_by_expert(torch.tensor(ids).view(-1, 2), 7)
    assert order.tolist() == sorted(range(len(ids)), key=lambda slot: ids[slot])
    assert counts.tolist() == [ids.count(expert) for expert in range(7)]


def test_only_chosen_tokens_reach_an_expert(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = []
    run = Experts.forward
    monkeypatch.setattr(Experts, "forward", lambda self, x, counts: rows.append(x.shape[0]) or run(self, x, counts))
    lively(1)(draw(1, 2, 8, C))
    lively(2)(draw(1, 2, 8, C))
    assert rows == [16, 32]  # and not 16 tokens for each of 4 experts


def test_loads_are_counted_in_training_only_and_add_up() -> None:
    moe, x = lively(2).train(), draw(50, 4, 100, C)
    moe(x)
    counts = sort_by_expert(moe.router(x.flatten(0, 1)).chosen, E)[1]
    assert counts.sum() == 800
    assert torch.equal(moe.load, counts)
    moe(x)
    moe.eval()(x)
    assert torch.equal(moe.load, 2 * counts)


def test_loads_do_not_stop_at_the_last_integer_of_bfloat16() -> None:
    moe = lively(E).train().bfloat16()
    for _ in range(3):
        moe(draw(50, 1, 171, C).bfloat16())
    assert moe.load.tolist() == [513] * E


@pytest.mark.parametrize("experts_per_token", [1, 2])
def test_the_auxiliary_loss_is_1_when_balanced_and_more_when_not(experts_per_token: int) -> None:
    n_tokens = 100
    even = torch.full((E,), n_tokens * experts_per_token // E)
    balanced = load_balancing_loss(torch.zeros(n_tokens, E), even, experts_per_token)
    assert_close(balanced, torch.tensor(1.0))
    greedy = torch.zeros(n_tokens, E)
    greedy[:, 0] = 20  # all probability and all tokens on one expert
    all_on_one = torch.tensor([n_tokens * experts_per_token, 0, 0, 0])
    assert_close(load_balancing_loss(greedy, all_on_one, experts_per_token), torch.tensor(float(E)))


@pytest.mark.parametrize("experts_per_token", [1, 2])
def test_the_auxiliary_loss_trains_as_if_it_were_added_to_the_loss(experts_per_token: int) -> None:
    moe, x = lively(experts_per_token).train(), draw(50, 2, 8, C).requires_grad_()
    moe.set_auxiliary_loss(0.7)
    found = gradients(moe, moe(x), x)

    moe.set_auxiliary_loss(0.0)
    out = moe(x)
    logits = moe.router(x.flatten(0, 1)).logits
    share = sort_by_expert(logits.topk(experts_per_token, dim=-1).indices, E)[1] / (16 * experts_per_token)
    auxiliary = 0.7 * E * (share * logits.softmax(-1).mean(0)).sum()
    names, weights = zip(*moe.named_parameters(), strict=True)
    loss = (out * draw(99, *out.shape)).sum()
    right = torch.autograd.grad(loss + auxiliary, (x, *weights))
    for name, gradient in zip(("x", *names), right, strict=True):
        assert_close(found[name], gradient, atol=1e-5, rtol=1e-4, msg=name)

    plain = gradients(moe, moe(x), x)  # and it is no small thing here
    assert (plain["router.weight"] - found["router.weight"]).abs().max() > 1e-3


def test_the_auxiliary_loss_changes_no_output_and_acts_in_training_only() -> None:
    moe, x = lively(1).train(), draw(50, 2, 8, C).requires_grad_()
    plain = moe(x)
    moe.set_auxiliary_loss(0.7)
    assert torch.equal(moe(x), plain)
    moe.eval()
    with_weight = gradients(moe, moe(x), x)
    moe.set_auxiliary_loss(0.0)
    assert torch.equal(with_weight["router.weight"], gradients(moe, moe(x), x)["router.weight"])


def test_with_loss_gives_the_loss_a_gradient_of_1() -> None:
    x, loss = draw(1, 3).requires_grad_(), torch.tensor(5.0, requires_grad=True)
    out = AddAuxiliaryLoss.apply(x, loss)
    assert torch.equal(out, x)
    (3 * out).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [3, 3, 3]
    assert loss.grad == 1


def test_idle_parameters_are_those_of_the_experts_not_chosen() -> None:
    moe = mixture(8, 3)
    assert moe.inactive_parameters == 5 * 3 * C * HIDDEN


@pytest.mark.parametrize("experts_per_token", [0, -1, 5])
def test_experts_per_token_out_of_range_is_an_error(experts_per_token: int) -> None:
    with pytest.raises(UsageError, match=f"experts_per_token {experts_per_token} must lie between 1 and n_experts 4"):
        mixture(4, experts_per_token)


def test_all_experts_are_the_sum_of_all() -> None:
    moe, x = lively(E), draw(50, 2, 3, C)
    logits = moe.router(x.flatten(0, 1)).logits.view(2, 3, E)
    out = moe.shared(x)
    for expert in range(E):
        single = SwiGLU(C, HIDDEN)
        gate, up = moe.experts.gate_up[expert].detach().chunk(2, dim=1)
        weights = {"gate.weight": gate.T, "up.weight": up.T, "down.weight": moe.experts.down[expert].detach().T}
        single.load_state_dict(copy.deepcopy(weights))
        out = out + single(logits[..., expert, None].sigmoid() * x)
    assert_close(moe(x), out, atol=1e-5, rtol=1e-5)
