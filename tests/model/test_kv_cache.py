"""The cache of keys and values: what is kept, in which order, and what is forgotten."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from luthier.errors import LuthierError
from luthier.model.cache import LayerCache
from luthier.model.transformer import Transformer

VOCAB = 61


def random_tokens(seed: int, *shape: int) -> Tensor:
    return torch.randint(0, VOCAB, shape, generator=torch.Generator().manual_seed(seed))


def test_what_is_appended_comes_back_in_order() -> None:
    cache, parts = LayerCache(9), torch.randn(2, 3, 9, 4).split([4, 1, 4], dim=2)
    for end in range(1, 4):
        keys, values = cache.append(parts[end - 1], -parts[end - 1])
        expected = torch.cat(parts[:end], dim=2)
        assert torch.equal(keys, expected)
        assert torch.equal(values, -expected)
        assert cache.length == expected.shape[2]


def test_later_tokens_are_written_into_the_same_memory() -> None:
    cache = LayerCache(8)
    first, _ = cache.append(torch.randn(1, 2, 3, 4), torch.randn(1, 2, 3, 4))
    later, _ = cache.append(torch.randn(1, 2, 1, 4), torch.randn(1, 2, 1, 4))
    assert later.data_ptr() == first.data_ptr()


def test_it_keeps_the_type_of_what_it_is_given() -> None:
    keys, values = LayerCache(4).append(torch.zeros(1, 1, 2, 4, dtype=torch.bfloat16), torch.zeros(1, 1, 2, 4))
    assert (keys.dtype, values.dtype) == (torch.bfloat16, torch.float32)


def test_an_overflow_is_an_error_that_leaves_the_cache_as_it_was() -> None:
    cache = LayerCache(4)
    before, _ = cache.append(torch.ones(1, 1, 3, 2), torch.ones(1, 1, 3, 2))
    with pytest.raises(LuthierError, match="the cache holds 4 tokens, 5 are needed: make it larger"):
        cache.append(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2))
    assert cache.length == 3
    assert before.eq(1).all()


def test_a_truncated_cache_goes_on_from_there(model: Transformer) -> None:
    tokens, other = random_tokens(1, 2, 9), random_tokens(2, 2, 6)
    cache = model.make_cache(16)
    model(tokens, cache)
    cache.truncate(7)
    assert cache.length == 7
    expected = model(torch.cat((tokens[:, :7], other), dim=1))[:, 7:]
    assert_close(model(other, cache), expected, atol=1e-4, rtol=1e-4)
    cache.truncate(99)
    assert cache.length == 13


def test_selected_rows_go_on_in_their_new_order(model: Transformer) -> None:
    tokens, other = random_tokens(1, 3, 8), random_tokens(2, 4, 1)
    cache = model.make_cache(16)
    cache.select(torch.tensor([0]))  # nothing is held yet
    model(tokens, cache)
    rows = torch.tensor([2, 0, 0, 1])
    cache.select(rows)
    expected = model(torch.cat((tokens[rows], other), dim=1))[:, -1:]
    assert_close(model(other, cache), expected, atol=1e-4, rtol=1e-4)
    cache.select(torch.tensor([3]))  # fewer rows
    expected = model(torch.cat((tokens[[1]], other[[3]], other[[0]]), dim=1))[:, -1:]
    assert_close(model(other[[0]], cache), expected, atol=1e-4, rtol=1e-4)


def test_padding_that_no_row_needs_can_be_dropped(model: Transformer) -> None:
    """When the longest row of a left-padded batch has ended, the others need not carry its length."""
    tokens, other = random_tokens(1, 2, 9), random_tokens(2, 1, 6)
    valid = torch.tensor([[True] * 9, [False] * 5 + [True] * 4])
    cache = model.make_cache(15)
    model(tokens, cache, valid=valid)
    cache.select(torch.tensor([1]))
    cache.drop_first(5)
    assert cache.length == 4
    expected = model(torch.cat((tokens[1:, 5:], other), dim=1))[:, 4:]
    for step in range(6):
        logits = model(other[:, step : step + 1], cache, valid=torch.ones(1, 5 + step, dtype=torch.bool))
        assert_close(logits[:, 0], expected[:, step], atol=1e-4, rtol=1e-4)
    with pytest.raises(LuthierError, match="the cache holds 10 tokens, 11 are needed"):
        model(other[:, :1], cache)
