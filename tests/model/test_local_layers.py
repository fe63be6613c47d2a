"""Layers that see only so far back: they ask, and keep, no more than that, and nothing else changes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.testing import assert_close

from luthier.architectures import llama4
from luthier.architectures.registry import build
from luthier.errors import LuthierError
from luthier.model import cache as caches
from luthier.model.cache import KVCache, LayerCache
from luthier.model.mask import Chunked, MaskRule, SlidingWindow, build_mask, causal, first_visible_key
from luthier.model.transformer import Transformer

VOCAB, CHUNK, SLACK = 61, 5, 4
LLAMA4 = llama4.Config(
    VOCAB, 128, 32, 24, 40, 4, 4, 2, 12, n_experts=4, moe_every=2, attention_chunk=CHUNK, temperature_floor=4
)
property_test = settings(max_examples=40, deadline=None, derandomize=True, database=None)
seeds = st.integers(0, 2**31)
pieces = st.lists(st.integers(1, 9), min_size=1, max_size=9)


@pytest.fixture(autouse=True, scope="module")
def _little_slack() -> Iterator[None]:
    """So that short texts are forgotten, too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(caches, "SLACK", SLACK)
        yield


@pytest.fixture(scope="module", params=["chunks", "a window"])
def local(request: pytest.FixtureRequest) -> Transformer:
    """A Llama 4 of local and global layers, or one whose local layers slide."""
    model = build(LLAMA4, seed=0).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(8 if weight.ndim > 1 else 1)  # a fresh model hardly looks at other tokens
    if request.param == "a window":
        for block in model.layers:
            block.attention.mask = causal if block.attention.mask == causal else SlidingWindow(CHUNK)
    return model.requires_grad_(False)


def random_tokens(seed: int, *shape: int) -> Tensor:
    return torch.randint(0, VOCAB, shape, generator=torch.Generator().manual_seed(seed))


def held(cache: KVCache) -> list[int]:
    """Tokens that the buffers of each layer have room for."""
    return [0 if layer.buffers is None else layer.buffers[0].shape[2] for layer in cache.layers]


@property_test
@given(seed=seeds, sizes=pieces, lengths=st.lists(st.integers(1, 40), max_size=2), data=st.data())
def test_any_pieces_with_steps_back_equal_the_whole(
    local: Transformer, seed: int, sizes: list[int], lengths: list[int], data: st.DataObject
) -> None:
    total = sum(sizes)
    rows = 1 + len(lengths)
    tokens = random_tokens(seed, rows, total)
    valid = torch.arange(total) >= torch.tensor([0, *(max(0, total - length) for length in lengths)])[:, None]
    expected = local(tokens, valid=valid)
    cache, begin = local.make_cache(total), 0
    for size in sizes:
        end = begin + size
        logits = local(tokens[:, begin:end], cache, valid=valid[:, :end] if lengths else None)
        assert_close(logits[valid[:, begin:end]], expected[:, begin:end][valid[:, begin:end]], atol=1e-4, rtol=1e-4)
        back = data.draw(st.integers(0, min(SLACK, size)))  # some is taken back, and read again
        if back:
            cache.truncate(end - back)
            again = local(tokens[:, end - back : end], cache, valid=valid[:, :end] if lengths else None)
            assert_close(again, logits[:, size - back :], atol=1e-4, rtol=1e-4)
        begin = end
    assert cache.length == total


@property_test
@given(seed=seeds, short=st.integers(1, 12), long=st.integers(20, 40), kept=st.sampled_from([[1], [1, 1], [2, 1]]))
def test_rows_can_be_chosen_and_their_padding_dropped(
    local: Transformer, seed: int, short: int, long: int, kept: list[int]
) -> None:
    tokens, more = random_tokens(seed, 3, long), random_tokens(seed + 1, len(kept), 12)
    valid = torch.arange(long) >= torch.tensor([0, long - short, long - short])[:, None]
    cache = local.make_cache(long + 12)
    for begin in range(0, long, 7):
        local(tokens[:, begin : begin + 7], cache, valid=valid[:, : begin + 7])
    cache.select(torch.tensor(kept))
    cache.drop_first(long - short)
    assert cache.length == short
    texts = torch.cat((tokens[kept, long - short :], more), 1)
    expected = local(texts)[:, short:]
    for step in range(12):
        assert_close(local(more[:, step : step + 1], cache)[:, 0], expected[:, step], atol=1e-4, rtol=1e-4)


def test_local_layers_hold_a_chunk_and_global_ones_the_text(local: Transformer) -> None:
    tokens = random_tokens(1, 1, 120)
    cache = local.make_cache(120)
    for piece in tokens.split(6, 1):
        local(piece, cache)
        assert max(held(cache)[:3]) <= CHUNK + 2 * SLACK + 6
    assert held(cache)[3] == 120
    for layer in cache.layers[:3]:
        assert layer.length - layer.begin >= CHUNK


def test_scores_are_computed_for_keys_that_are_seen(local: Transformer, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, bool]] = []
    fused = nn.functional.scaled_dot_product_attention

    def spy(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, **rest: object) -> Tensor:
        asked.append((k.shape[2], mask is not None))
        return fused(q, k, v, mask, **rest)

    monkeypatch.setattr(nn.functional, "scaled_dot_product_attention", spy)
    tokens, cache = random_tokens(1, 1, 40), local.make_cache(40)
    local(tokens[:, :20], cache)
    asked.clear()
    local(tokens[:, 20:25], cache)  # a chunk, from its first token
    chunked = local.layers[0].attention.mask == Chunked(CHUNK)
    assert asked == [(5, False) if chunked else (9, True)] * 3 + [(25, True)]
    asked.clear()
    local(tokens[:, 25:28], cache)
    local(tokens[:, 28:29], cache)  # a single token needs no mask
    assert asked[4:] == [(4 if chunked else 5, False)] * 3 + [(29, False)]


def test_what_is_forgotten_cannot_be_asked_for(local: Transformer) -> None:
    tokens, cache = random_tokens(1, 1, 60), local.make_cache(60)
    for piece in tokens.split(1, 1):
        local(piece, cache)
    with pytest.raises(LuthierError, match="the cache has dropped tokens that token 20 sees: start with a new cache"):
        cache.truncate(20)
    assert cache.length == 60
    cache.truncate(60 - SLACK)
    with pytest.raises(LuthierError, match="has dropped the first"):
        cache.layers[0].append(torch.zeros(1, 2, 1, 12), torch.zeros(1, 2, 1, 12), first=0)


@property_test
@given(sizes=pieces, window=st.integers(1, 9))
def test_a_layer_gives_back_what_it_was_given(sizes: list[int], window: int) -> None:
    total = sum(sizes)
    keys = torch.randn(2, 3, total, 4, generator=torch.Generator().manual_seed(total))
    layer, end = LayerCache(total, window), 0
    for size in sizes:
        first, begin, end = max(0, end + 1 - window), end, end + size
        k, v = layer.append(keys[:, :, begin:end], -keys[:, :, begin:end], first=first)
        assert torch.equal(k, keys[:, :, first:end])
        assert torch.equal(v, -keys[:, :, first:end])
        assert layer.buffers is not None
        assert layer.buffers[0].shape[2] <= window + 2 * SLACK + max(sizes)


@property_test
@given(
    patterns=st.lists(st.lists(st.booleans(), min_size=14, max_size=14), min_size=1, max_size=3),
    n_queries=st.integers(1, 14),
    rule=st.sampled_from([causal, SlidingWindow(3), Chunked(4)]),
    padded=st.booleans(),
)
def test_the_first_slot_is_the_first_that_a_query_sees(
    patterns: list[list[bool]], n_queries: int, rule: MaskRule, padded: bool
) -> None:
    valid = torch.tensor(patterns) if padded else torch.ones(1, 14, dtype=torch.bool)
    positions = (valid.long().cumsum(1) - 1).clamp(min=0)
    first = first_visible_key(rule, positions, n_queries, valid if padded else None)
    mask = build_mask(rule, positions, n_queries, valid)
    assert mask is not None
    real = valid[:, -n_queries:, None] & mask[:, 0]  # what padding sees does not count
    seen = real.any(1).any(0).nonzero()
    assert first <= 14 - n_queries
    if len(seen):
        assert first <= int(seen[0])
    if not padded and rule is not causal:
        assert first == int(seen[0])
    cut = build_mask(rule, positions[:, first:], n_queries, valid[:, first:])
    assert cut is not None
    assert torch.equal(cut[:, 0][real[:, :, first:]], mask[:, 0, :, first:][real[:, :, first:]])
