"""Attention cores: each computes what the plain one does, and is chosen only for what it declares."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from luthier.model.attention import Attention
from luthier.model.cores.blockwise import BlockwiseCore
from luthier.model.cores.choice import CORES, choose_core
from luthier.model.cores.core import AttentionCore, CoreRequirements
from luthier.model.cores.eager import EagerCore
from luthier.model.cores.fused import FusedCore, FusedDropoutCore
from luthier.model.dropout import Dropout
from luthier.model.hook_point import HookPoint

B, H, K, T, S, D, E = 2, 4, 2, 5, 9, 8, 6


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def run(
    core: AttentionCore,
    *,
    keys: int = S,
    softcap: float | None = None,
    sinks: Tensor | None = None,
    dropout: Dropout | None = None,
    weights: HookPoint | None = None,
    leaf: bool = False,
) -> Tensor | list[Tensor]:
    """Causal attention of the last T of `keys` tokens; with leaf, the gradients of q, k and v too."""
    q, k, v = draw(1, B, H, T, D), draw(2, B, K, keys, D), draw(3, B, K, keys, E)
    tensors = [tensor.requires_grad_(leaf) for tensor in (q, k, v)]
    mask = None if keys == T else torch.ones(T, keys, dtype=torch.bool).tril(keys - T)[None, None]
    out = core(
        *tensors, mask, scale=0.4, softcap=softcap, sinks=sinks, dropout=dropout or Dropout(0.0).eval(),
        weights=weights or HookPoint(),
    )  # fmt: skip
    return [out, *torch.autograd.grad((out * draw(4, *out.shape)).sum(), tensors)] if leaf else out


@pytest.mark.parametrize("keys", [S, T])
@pytest.mark.parametrize("core", [FusedCore(), BlockwiseCore()])
def test_values_and_gradients_are_those_of_the_plain_core(core: AttentionCore, keys: int) -> None:
    """Values are narrower than keys here."""
    for found, expected in zip(run(core, keys=keys, leaf=True), run(EagerCore(), keys=keys, leaf=True), strict=True):
        assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_a_core_is_chosen_only_for_what_it_declares() -> None:
    for training, dropout, weights, softcap, sinks, device, dtype in itertools.product(
        (False, True), (0.0, 0.1), (False, True), (False, True), (False, True), ("cpu", "cuda", "mps"),
        (torch.float32, torch.bfloat16),
    ):  # fmt: skip
        needs = CoreRequirements(training, dropout, weights, softcap, sinks, device, dtype)
        chosen = choose_core(needs)
        assert chosen.supports(needs) is None
        if softcap or sinks or weights:
            assert isinstance(chosen, EagerCore)
        elif training and dropout:
            assert isinstance(chosen, FusedDropoutCore if device == "cuda" else BlockwiseCore)
        elif training and (device, dtype) == ("cpu", torch.bfloat16):
            assert isinstance(chosen, BlockwiseCore)
        else:
            assert isinstance(chosen, FusedCore)
    assert CORES[-1] is EagerCore


def test_why_a_core_is_not_taken_is_said() -> None:
    assert FusedCore.supports(CoreRequirements(softcap=True)) == "fused kernels do not support softcap"
    assert FusedCore.supports(CoreRequirements(training=True, dropout=0.1)).endswith("from the global generator")
    assert BlockwiseCore.supports(CoreRequirements()).startswith("the fused kernel is as fast")


def test_the_choice_follows_the_weights() -> None:
    attention = Attention(16, 4)
    attention.choose_cores("cpu", torch.bfloat16)
    assert isinstance(attention.training_core, BlockwiseCore)
    assert isinstance(attention.core, FusedCore)
    attention.choose_cores("cpu", torch.float32, weights=True)
    assert isinstance(attention.training_core, EagerCore)


def test_the_weights_pass_through_the_hook_point_and_can_be_replaced_there() -> None:
    point, seen = HookPoint(), []
    handle = point.register_forward_hook(lambda _, inputs, output: seen.append(output))
    run(EagerCore(), weights=point)
    handle.remove()
    assert seen[0].shape == (B, H, T, S)
    assert_close(seen[0].sum(-1), torch.ones(B, H, T))
    assert not seen[0][..., 0, S - T + 1 :].any()
    point.register_forward_hook(lambda _, inputs, output: torch.zeros_like(output))
    assert not run(EagerCore(), weights=point).any()


def test_one_seed_gives_one_mask_and_nothing_else_that_is_drawn_changes() -> None:
    """The kernel's masks come from a generator that is global; here the CPU's, on a GPU the device's."""
    core, dropout = FusedDropoutCore(), Dropout(0.5)
    plain = run(EagerCore(), keys=T)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    dropout.reseed(-7, rank=0)
    first = run(core, keys=T, dropout=dropout)
    assert torch.equal(torch.get_rng_state(), state)
    torch.randn(3)
    assert torch.equal(run(core, keys=T, dropout=dropout), first)
    dropout.reseed(-7, rank=1)
    assert not torch.equal(run(core, keys=T, dropout=dropout), first)
    dropout.reseed(8, rank=0)
    assert not torch.equal(run(core, keys=T, dropout=dropout), first)
    mean = torch.zeros_like(plain)
    for seed in range(400):
        dropout.reseed(seed, rank=0)
        mean += run(core, keys=T, dropout=dropout) / 400
    assert (mean - plain).abs().max() < 0.25
    assert (first - plain).abs().max() > 0.5


def test_a_sink_takes_a_share_of_every_query_and_gives_nothing() -> None:
    none = run(EagerCore())
    assert_close(run(EagerCore(), sinks=torch.full((H,), -1e9)), none)
    assert_close(run(EagerCore(), sinks=torch.full((H,), 1e9)), torch.zeros_like(none))


def test_a_large_cap_changes_nothing_and_a_small_one_evens_the_weights() -> None:
    assert_close(run(EagerCore(), softcap=1e6), run(EagerCore()), atol=1e-4, rtol=1e-4)
    even = run(EagerCore(), softcap=1e-6, keys=S)
    values = draw(3, B, K, S, E).repeat_interleave(H // K, dim=1)
    assert_close(even[:, :, -1], values.mean(2), atol=1e-5, rtol=1e-4)
