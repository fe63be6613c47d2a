"""Invariants of temperature, filters, penalty and draw."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from luthier.generation.sampling import apply_filters, choose, draw, min_p, penalize_repetition, top_k, top_p, uniforms
from luthier.generation.settings import GenerationSettings

property_test = settings(max_examples=50, deadline=None, derandomize=True, database=None)

# from steep to flat, and with ties
LOGITS = st.builds(
    lambda seed, size, scale, digits: (
        torch.randn(2, size, generator=torch.Generator().manual_seed(seed)) * scale
    ).round(decimals=digits),
    seed=st.integers(0, 10**6),
    size=st.integers(1, 60),
    scale=st.sampled_from([0.0, 0.1, 1.0, 5.0]),
    digits=st.sampled_from([0, 1, 6]),
)


def rows(before, after):
    """(probabilities before, kept) of each row; what is kept has the logit it had."""
    kept = after > -math.inf
    assert torch.equal(before[kept], after[kept])
    return zip(before.double().softmax(-1), kept, strict=True)


@property_test
@given(LOGITS, st.integers(1, 70))
def test_top_k_keeps_the_k_likeliest_and_what_ties_with_the_last(logits, k):
    for probabilities, kept in rows(logits, top_k(logits, k)):
        assert kept.sum() >= min(k, len(kept))
        if kept.all():
            continue
        least = probabilities[kept].min()
        assert probabilities[~kept].max() < least
        assert (probabilities > least).sum() < k <= (probabilities >= least).sum()


@property_test
@given(LOGITS, st.floats(0.01, 1.0))
def test_top_p_keeps_the_fewest_likeliest_that_reach_p(logits, p):
    for probabilities, kept in rows(logits, top_p(logits, p)):
        assert probabilities[kept].sum() >= p - 1e-6
        least = probabilities[kept].min()
        assert kept.all() or probabilities[~kept].max() <= least
        assert probabilities[probabilities > least * (1 + 1e-6)].sum() < p + 1e-6


def test_top_p_looks_beyond_its_first_guesses():
    flat = torch.linspace(0, 1e-3, 9000)[None].repeat(2, 1)
    flat[1, 5] = 20  # one row is decided by its first token, the other by thousands
    for p in (0.01, 0.3, 0.9):
        counts = (top_p(flat, p) > -math.inf).sum(-1)
        assert abs(int(counts[0]) - 9000 * p) < 9000 * p * 0.002 + 2
        assert counts[1] == 1


@property_test
@given(LOGITS, st.floats(0.0, 1.0))
def test_min_p_keeps_what_is_at_least_that_share_of_the_likeliest(logits, share):
    for probabilities, kept in rows(logits, min_p(logits, share)):
        ratio = probabilities / probabilities.max()
        assert kept[ratio >= share * (1 + 1e-4)].all()
        assert not kept[ratio < share * (1 - 1e-4)].any()
        assert kept[probabilities.argmax()]


@property_test
@given(LOGITS, st.floats(0.1, 3.0), st.integers(1, 20), st.floats(0.05, 1.0), st.floats(0.0, 0.5))
def test_filters_follow_each_other_on_logits_over_temperature(logits, temperature, k, p, share):
    chosen = GenerationSettings(temperature=temperature, top_k=k, top_p=p, min_p=share)
    expected = top_k(logits / temperature, k)
    if p < 1:
        expected = top_p(expected, p)
    assert torch.equal(apply_filters(logits, chosen), min_p(expected, share))


def test_top_p_measures_what_top_k_left():
    logits = torch.tensor([[0.4, 0.3, 0.2, 0.1]]).log()
    # of the two that stay, the first has 4/7 of the probability: enough alone for 0.5, not for 0.6
    one = apply_filters(logits, GenerationSettings(temperature=1, top_k=2, top_p=0.5))
    two = apply_filters(logits, GenerationSettings(temperature=1, top_k=2, top_p=0.6))
    assert (one.softmax(-1) > 0).tolist() == [[True, False, False, False]]
    assert_close(two.softmax(-1), torch.tensor([[4 / 7, 3 / 7, 0, 0]]))


@property_test
@given(LOGITS, st.floats(1.0, 3.0), st.data())
def test_the_penalty_lowers_what_was_said_and_nothing_else(logits, penalty, data):
    said = torch.tensor([data.draw(st.lists(st.integers(0, logits.shape[1] - 1), min_size=3, max_size=3))] * 2)
    penalized = penalize_repetition(logits, said, penalty)
    for row in range(2):
        for token in range(logits.shape[1]):
            old, new = float(logits[row, token]), float(penalized[row, token])
            expected = (old / penalty if old > 0 else old * penalty) if token in said[row] else old
            assert new == pytest.approx(expected, rel=1e-5)


def test_draws_follow_the_softmax():
    logits = torch.randn(30, generator=torch.Generator().manual_seed(4)) * 2
    n = 20_000
    tokens = draw(logits.repeat(n, 1), uniforms(5, 1, n)[0])
    seen = torch.bincount(tokens, minlength=30).double()
    expected = n * logits.double().softmax(-1)
    chi_square = float(((seen - expected) ** 2 / expected).sum())
    assert chi_square < 52.3  # 29 degrees of freedom: 0.5% of honest draws lie above
    assert float(((seen - expected.roll(1)) ** 2 / expected.roll(1)).sum()) > 1000  # the test can fail


@property_test
@given(LOGITS, st.integers(1, 5), st.floats(0, 1, exclude_max=True, width=32))
def test_a_dropped_token_is_never_drawn(logits, k, number):
    filtered = top_k(logits, k)
    tokens = draw(filtered, torch.full((2,), number))
    assert (filtered.gather(1, tokens[:, None]) > -math.inf).all()


@pytest.mark.parametrize("place", [0, 4])
def test_the_ends_of_the_unit_interval_draw_the_only_token_left(place):
    logits = torch.full((1, 5), -math.inf)
    logits[0, place] = 3.0
    for number in (0.0, 1 - 2**-24, 1.0):  # 1 is what rounding could make of the number before
        assert draw(logits, torch.tensor([number])).tolist() == [place]


def test_temperature_0_is_the_likeliest_token():
    logits = torch.tensor([[1.0, 3.0, 2.0], [5.0, 0.0, 4.0]])
    numbers = torch.tensor([0.999, 0.999])
    assert choose(logits, torch.zeros(2, 1, dtype=torch.long), GenerationSettings(temperature=0), numbers).tolist() == [
        1,
        0,
    ]
    # the penalty comes first: token 0 was said, and 5 / 2 < 4
    penalized = GenerationSettings(temperature=0, repetition_penalty=2.0)
    assert choose(logits, torch.zeros(2, 1, dtype=torch.long), penalized, numbers).tolist() == [1, 2]


@property_test
@given(st.integers(0, 2**62), st.integers(1, 4), st.integers(1, 40))
def test_numbers_of_a_sample_depend_on_its_seed_alone(seed, samples, steps):
    numbers = uniforms(seed, samples, steps)
    assert numbers.shape == (samples, steps)
    assert ((numbers >= 0) & (numbers < 1)).all()
    for i in range(samples):
        assert torch.equal(numbers[i], uniforms(seed + i, 1, steps + 7)[0, :steps])
