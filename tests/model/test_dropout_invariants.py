"""Dropout from a hash: as good as chance, and yet the same for the same seed."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.testing import assert_close

from luthier.errors import UsageError
from luthier.model.dropout import Dropout, hash_int32, reseed

property_test = settings(max_examples=25, deadline=None, derandomize=True, database=None)
N = 1 << 18
# a mean of N fair things strays by more than 5 of its own deviations once in two million times
FIVE_SIGMA = 5 * N**-0.5


def dropout(p: float, seed: int) -> Dropout:
    layer = Dropout(p).train()
    layer.seed.fill_(seed)
    return layer


def signs(p: float, seed: int, *shape: int) -> Tensor:
    """Kept and dropped as numbers of mean 0 and variance 1."""
    kept = (dropout(p, seed)(torch.ones(shape)) > 0).double()
    return (kept - (1 - p)) / (p * (1 - p)) ** 0.5


seeds = st.integers(-(2**31), 2**31 - 1)


@property_test
@given(p=st.floats(0.01, 0.95), seed=seeds)
def test_the_share_of_zeros_is_p_and_the_rest_is_scaled(p: float, seed: int) -> None:
    out = dropout(p, seed)(torch.full((N,), 3.0))
    zeros = (out == 0).double().mean().item()
    assert abs(zeros - p) < FIVE_SIGMA * (p * (1 - p)) ** 0.5
    assert_close(out[out != 0], torch.full(((out != 0).sum(),), 3 / (1 - p)))


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_places_are_independent(p: float) -> None:
    """Neighbors, and places that lie a power of two (rows, heads, sequences) or some odd number apart."""
    drawn = signs(p, 12345, N)
    for distance in [1, 2, 3, 5, 7, 100, 768, *(1 << bit for bit in range(2, 17))]:
        assert abs((drawn[:-distance] * drawn[distance:]).mean()) < 1.2 * FIVE_SIGMA, distance


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_rows_and_columns_each_keep_their_share(p: float) -> None:
    drawn = signs(p, 777, 1024, 1024)
    for means in (drawn.mean(0), drawn.mean(1)):
        assert means.abs().max() < 5.5 * 1024**-0.5
        assert abs(means.std() * 1024**0.5 - 1) < 0.12  # neither too uneven nor too even


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_seeds_are_independent(p: float) -> None:
    """Seeds next to each other, those that differ in one bit, and those of two layers or two steps."""
    drawn = signs(p, 0, N)
    generator = torch.Generator().manual_seed(5)
    others = [1, 2, 3, -1, *(1 << bit for bit in range(2, 31, 3)), -(2**31)]
    others += torch.randint(-(2**31), 2**31, (20,), generator=generator).tolist()
    for other in others:
        assert abs((drawn * signs(p, other, N)).mean()) < 1.2 * FIVE_SIGMA, other


def test_every_bit_of_the_hash_hangs_on_every_bit_of_the_place() -> None:
    places = torch.randint(-(2**31), 2**31, (1 << 14,), generator=torch.Generator().manual_seed(5)).to(torch.int32)
    for flipped in range(32):
        change = hash_int32(places) ^ hash_int32(places ^ torch.tensor(1 << flipped).to(torch.int32))
        for bit in range(32):
            share = ((change >> bit) & 1).double().mean().item()
            assert abs(share - 0.5) < 0.06, (flipped, bit)


def test_the_hash_is_that_of_unsigned_numbers() -> None:
    """Each of its five steps can be undone, so no number comes twice; with the shifts of signed ones, one could not."""
    places = torch.randint(-(2**31), 2**31, (500,), generator=torch.Generator().manual_seed(5)).to(torch.int32)
    for place, scrambled in zip(places.tolist(), hash_int32(places).tolist(), strict=True):
        x = place % 2**32
        for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B), (16, 1)):
            x = (x ^ (x >> shift)) * factor % 2**32
        assert scrambled % 2**32 == x


def test_the_expectation_is_kept() -> None:
    x = torch.linspace(-1, 2, 64)
    total = sum(dropout(0.4, seed)(x).double() for seed in range(4000)) / 4000
    assert (total - x).abs().max() < 5 * 2 * (0.4 / 0.6 / 4000) ** 0.5


@property_test
@given(p=st.floats(0, 0.9), seed=seeds)
def test_one_seed_is_one_mask_forwards_and_backwards(p: float, seed: int) -> None:
    x = torch.rand(3, 50) + 0.5
    x.requires_grad_()
    layer = dropout(p, seed)
    out = layer(x)
    assert torch.equal(out, dropout(p, seed)(x))
    (gradient,) = torch.autograd.grad(out.sum(), x)
    assert_close(gradient, (out != 0).float() / (1 - p))


def test_what_is_dropped_is_zero_even_where_the_input_is_not_finite() -> None:
    x = torch.full((1000,), float("inf"))
    out = dropout(0.5, 3)(x)
    assert sorted(out.unique().tolist()) == [0.0, float("inf")]


def test_evaluation_and_p_0_change_nothing() -> None:
    x = torch.randn(4, 5)
    assert dropout(0.5, 1).eval()(x) is x
    assert dropout(0.0, 1)(x) is x


@pytest.mark.parametrize("p", [-0.1, 1.0, 1.5])
def test_p_out_of_range_is_an_error(p: float) -> None:
    with pytest.raises(UsageError, match=f"dropout {p} must be at least 0 and less than 1"):
        Dropout(p)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_type_stays_and_the_mask_does_not_hang_on_it(dtype: torch.dtype) -> None:
    out = dropout(0.3, 9)(torch.ones(1000, dtype=dtype))
    assert out.dtype == dtype
    assert torch.equal(out != 0, dropout(0.3, 9)(torch.ones(1000)) != 0)


def test_reseeding_gives_each_layer_a_seed_of_its_own_from_the_generator_alone() -> None:
    model = nn.Sequential(*(Dropout(0.1) for _ in range(50)))

    def drawn(seed: int) -> list[int]:
        reseed(model, torch.Generator().manual_seed(seed))
        return [int(layer.seed) for layer in model if isinstance(layer, Dropout)]

    before = torch.get_rng_state()
    assert len(set(drawn(1))) == 50
    assert drawn(1) == drawn(1) != drawn(2)
    assert min(drawn(1)) < 0 < max(drawn(1))
    assert torch.equal(torch.get_rng_state(), before)
    reseed(nn.Linear(2, 2), torch.Generator())  # a model without dropout is no error


def test_it_runs_on_meta_and_its_seed_stays_real() -> None:
    with torch.device("meta"):
        layer, x = Dropout(0.1).train(), torch.empty(2, 3)
    assert layer(x).is_meta
    assert not layer.seed.is_meta
    assert not layer.state_dict()
