"""The small parts that work on vectors: RMS norm, rotary positions, Llama 4's steps on queries and keys."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from luthier.errors import UsageError
from luthier.model.context import AttentionContext
from luthier.model.feed_forward import FeedForward, SwiGLU
from luthier.model.norm import RMSNorm
from luthier.model.rope import QueryTemperature, Rope, RopeScaling, UnitQKNorm, scale_frequencies

property_test = settings(max_examples=25, deadline=None, derandomize=True, database=None)


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def at(positions: Tensor, rope: Rope | None = None) -> AttentionContext:
    """What a step on queries and keys is given."""
    return AttentionContext(positions, None if rope is None else rope.angles(positions), None, 0)


def apply(rope: Rope, q: Tensor, k: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    rotated: tuple[Tensor, Tensor] = rope(q, k, at(positions, rope))
    return rotated


def slow_rotation(x: Tensor, position: int, theta: float) -> Tensor:
    """(D,) turned pair by pair, as complex numbers in float64."""
    half = len(x) // 2
    turned = torch.empty(len(x), dtype=torch.float64)
    for pair in range(half):
        angle = position * theta ** (-2 * pair / len(x))
        number = complex(x[pair], x[pair + half]) * complex(math.cos(angle), math.sin(angle))
        turned[pair], turned[pair + half] = number.real, number.imag
    return turned


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rms_norm_is_its_formula_rounded_once(dtype: torch.dtype) -> None:
    norm, x = RMSNorm(24, eps=0.1), (30 * draw(1, 2, 3, 24)).to(dtype)
    norm.weight.data = draw(2, 24)
    norm = norm.to(dtype)
    unit = x.double() / (x.double().square().mean(-1, keepdim=True) + 0.1).sqrt()
    assert norm(x).dtype == dtype
    assert_close(norm(x), unit.to(dtype) * norm.weight, rtol=1e-6, atol=1e-6)


def test_rms_norm_of_nothing_is_nothing() -> None:
    assert torch.equal(RMSNorm(4)(torch.zeros(1, 4)), torch.zeros(1, 4))


@property_test
@given(
    st.integers(0, 5000), st.sampled_from([100.0, 10_000.0, 500_000.0]), st.integers(1, 8).map(lambda half: 2 * half)
)
def test_rotary_pairs_turn_as_complex_numbers(position: int, theta: float, size: int) -> None:
    q, k = draw(1, 1, 2, 1, size), draw(2, 1, 1, 1, size)
    turned = apply(Rope(size, theta), q, k, torch.tensor([[position]]))
    for before, after in zip((q, k), turned, strict=True):
        for head in range(before.shape[1]):
            exact = slow_rotation(before[0, head, 0], position, theta).float()
            assert_close(after[0, head, 0], exact, atol=2e-3, rtol=0)  # 5000 radians in float32


@property_test
@given(st.integers(0, 400), st.integers(0, 400), st.integers(0, 400))
def test_rotary_scores_know_only_the_distance(first: int, second: int, shift: int) -> None:
    rope, q, k = Rope(16), draw(1, 1, 1, 1, 16), draw(2, 1, 1, 1, 16)

    def score(query: int, key: int) -> Tensor:
        turned, _ = apply(rope, q, k, torch.tensor([[query]]))
        _, other = apply(rope, q, k, torch.tensor([[key]]))
        return (turned * other).sum()

    assert_close(score(first + shift, second + shift), score(first, second), atol=2e-3, rtol=0)


def test_each_row_turns_by_its_own_positions() -> None:
    rope, q, k = Rope(8), draw(1, 2, 2, 3, 8), draw(2, 2, 1, 3, 8)
    positions = torch.tensor([[0, 1, 2], [5, 0, 9]])
    both = apply(rope, q, k, positions)
    for row in range(2):
        alone = apply(rope, q[row : row + 1], k[row : row + 1], positions[row : row + 1])
        for together, by_itself in zip(both, alone, strict=True):
            assert torch.equal(together[row], by_itself[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_angles_are_in_float32_however_far_and_whatever_the_weights(dtype: torch.dtype) -> None:
    """In bfloat16 the position 1000003 would be 999424, and the angle off by hundreds of radians."""
    far = torch.tensor([[1_000_003]])
    q = torch.ones(1, 1, 1, 64, dtype=dtype)
    with torch.autocast("cpu", torch.bfloat16):
        turned, _ = apply(Rope(64, 500_000.0), q, q, far)
    assert turned.dtype == dtype
    exact = slow_rotation(torch.ones(64), 1_000_003, 500_000.0).float()
    # of a million radians, the 24 bits of a float32 lose up to a sixteenth
    assert (turned[0, 0, 0].float() - exact).abs().max() < 0.1


def test_an_odd_head_cannot_turn() -> None:
    with pytest.raises(UsageError, match="head_dim 5 "):
        Rope(5)


def test_scaling_leaves_fast_pairs_and_stretches_slow_ones() -> None:
    scaling = RopeScaling(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_context_length=8192)
    plain, scaled = Rope(128, 500_000.0).frequencies(), Rope(128, 500_000.0, scaling).frequencies()
    turns = 8192 * plain / (2 * math.pi)
    assert torch.equal(scaled[turns > 4], plain[turns > 4])
    assert torch.equal(scaled[turns < 1], plain[turns < 1] / 8)
    between = (turns > 1) & (turns < 4)
    assert between.any()
    mixed = (turns - 1) / 3
    assert_close(scaled[between], (mixed * plain + (1 - mixed) * plain / 8)[between])
    assert (scaled.diff() < 0).all()  # the order of the pairs stays


def test_scaling_with_nothing_between_divides_by_no_zero() -> None:
    scout = RopeScaling(factor=16.0, low_freq_factor=1.0, high_freq_factor=1.0, original_context_length=8192)
    plain = Rope(128, 500_000.0).frequencies()
    scaled = scale_frequencies(plain, scout)
    slow = 8192 * plain / (2 * math.pi) < 1
    assert slow.any()
    assert not slow.all()
    assert torch.equal(scaled, torch.where(slow, plain / 16, plain))


def test_unit_queries_and_keys_have_a_mean_square_of_one() -> None:
    q, k = UnitQKNorm()(9 * draw(1, 1, 2, 3, 16), 0.1 * draw(2, 1, 1, 3, 16), at(torch.arange(3)[None]))
    for x in (q, k):
        assert_close(x.square().mean(-1), torch.ones(x.shape[:-1]), atol=2e-3, rtol=0)


def test_queries_grow_by_steps_of_the_position_and_keys_do_not() -> None:
    q, k = torch.ones(1, 1, 9, 2), torch.ones(1, 1, 9, 2)
    warm, same = QueryTemperature(4, 0.5)(q, k, at(torch.arange(9)[None]))
    expected = [1 + 0.5 * math.log((position + 1) // 4 + 1) for position in range(9)]
    assert_close(warm[0, 0, :, 0], torch.tensor(expected))
    assert torch.equal(same, k)


def test_feed_forwards_are_their_formulas() -> None:
    x = draw(1, 2, 3, 8)
    plain, gated = FeedForward(8, 12), SwiGLU(8, 12)
    up = (x @ plain.up.weight.T + plain.up.bias).double()
    gelu = 0.5 * up * (1 + torch.tanh(math.sqrt(2 / math.pi) * (up + 0.044715 * up**3)))
    assert_close(plain(x), gelu.float() @ plain.down.weight.T + plain.down.bias)
    gate = x @ gated.gate.weight.T
    assert_close(gated(x), (gate * gate.sigmoid() * (x @ gated.up.weight.T)) @ gated.down.weight.T)


def test_small_parts_run_on_meta() -> None:
    with torch.device("meta"):
        x, q, positions = torch.empty(2, 3, 8), torch.empty(2, 4, 3, 8), torch.arange(3)[None]
        for part in (RMSNorm(8), FeedForward(8, 12), SwiGLU(8, 12)):
            assert part(x).is_meta
        for step in (Rope(8, scaling=RopeScaling()), UnitQKNorm(), QueryTemperature()):
            for out in step(q, q, at(positions, step if isinstance(step, Rope) else None)):
                assert out.is_meta
