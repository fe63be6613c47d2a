"""Attention beside a slow one that looks at one query and one key at a time."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.testing import assert_close

from luthier.errors import UsageError
from luthier.model.attention import Attention
from luthier.model.cache import LayerCache
from luthier.model.context import AttentionContext
from luthier.model.cores.blockwise import QUERIES_PER_BLOCK, BlockwiseCore
from luthier.model.cores.eager import EagerCore
from luthier.model.cores.fused import FusedCore
from luthier.model.mask import Chunked, MaskRule, SlidingWindow, build_mask, causal

property_test = settings(max_examples=25, deadline=None, derandomize=True, database=None)
RULES = (causal, SlidingWindow(3), Chunked(4))


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def lively(attention: Attention, seed: int = 0) -> Attention:
    with torch.no_grad():
        for number, weight in enumerate(attention.parameters()):
            weight.copy_(draw(seed + number, *weight.shape) * (1.5 * weight.shape[-1] ** -0.5))
    return attention.requires_grad_(False)


def places(length: int) -> Tensor:
    return torch.arange(length)[None]


def attend(attention: Attention, x: Tensor) -> Tensor:
    """All tokens at once."""
    out: Tensor = attention(x, attention.context(places(x.shape[1])))
    return out


def step_by_step(attention: Attention, x: Tensor) -> Tensor:
    """A token at a time, with a cache."""
    cache = attention.make_cache(x.shape[1])
    contexts = [attention.context(places(t + 1), 1) for t in range(x.shape[1])]
    return torch.cat([attention(x[:, t : t + 1], context, cache) for t, context in enumerate(contexts)], dim=1)


def sees(rule: MaskRule, query: int, key: int) -> bool:
    """What the rules say, in words of one query and one key."""
    if isinstance(rule, SlidingWindow):
        return query - rule.size < key <= query
    if isinstance(rule, Chunked):
        return key <= query and query // rule.size == key // rule.size
    return key <= query


def slow_attention(attention: Attention, x: Tensor, rule: MaskRule) -> Tensor:
    """(T, C) -> (T, C), by loops, in float64."""
    size, group = attention.head_dim, attention.n_heads // attention.n_kv_heads
    q, k, v = (part(x).double() for part in (attention.query, attention.key, attention.value))
    mixed = torch.zeros_like(q)
    for head in range(attention.n_heads):
        own = slice(head * size, (head + 1) * size)
        shared = slice(head // group * size, (head // group + 1) * size)
        for t in range(len(x)):
            keys = [s for s in range(len(x)) if sees(rule, t, s)]
            scores = [float(q[t, own] @ k[s, shared]) * attention.scale for s in keys]
            total = sum(math.exp(score - max(scores)) for score in scores)
            for s, score in zip(keys, scores, strict=True):
                mixed[t, own] += math.exp(score - max(scores)) / total * v[s, shared]
    return attention.output(mixed.float())


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("n_kv_heads", [1, 2, 4])
def test_it_is_what_the_formula_says(rule: MaskRule, n_kv_heads: int) -> None:
    attention = lively(Attention(16, 4, n_kv_heads, 6, mask=rule, bias=True, out_bias=True))
    x = draw(7, 11, 16)
    expected = slow_attention(attention, x, rule)
    assert expected.abs().max() > 1
    assert_close(attend(attention, x[None])[0], expected, atol=1e-5, rtol=1e-5)
    for core in (EagerCore(), BlockwiseCore(), FusedCore()):
        attention.core = core
        assert_close(attend(attention, x[None])[0], expected, atol=1e-5, rtol=1e-5)


def test_the_scale_of_the_scores_can_be_set() -> None:
    attention = lively(Attention(16, 4, scale=0.9))
    x = draw(7, 5, 16)
    assert_close(attend(attention, x[None])[0], slow_attention(attention, x, causal), atol=1e-5, rtol=1e-5)
    assert_close(step_by_step(attention, x[None]), attend(attention, x[None]), atol=1e-5, rtol=1e-5)
    assert attention.scale == 0.9
    assert Attention(16, 4).scale == 0.5


@property_test
@given(st.integers(0, 2**31), st.integers(1, 12), st.sampled_from([1, 2, 3]), st.booleans())
def test_grouped_queries_equal_repeated_heads(seed: int, length: int, n_kv_heads: int, train: bool) -> None:
    grouped = lively(Attention(12, 6, n_kv_heads, 4, dropout=0.3), seed).train(train)
    repeated = Attention(12, 6, None, 4, dropout=0.3).train(train)
    weights = grouped.state_dict()
    for name in ("key.weight", "value.weight"):
        heads = weights[name].view(n_kv_heads, 4, 12)
        weights[name] = heads.repeat_interleave(6 // n_kv_heads, dim=0).reshape(24, 12)
    repeated.load_state_dict(weights)
    x = draw(seed, 2, length, 12)
    assert_close(attend(grouped, x), attend(repeated, x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("n_kv_heads", [2, 4])
def test_one_new_token_sees_the_whole_cache(n_kv_heads: int) -> None:
    attention = lively(Attention(16, 4, n_kv_heads))
    x = draw(7, 3, 9, 16)
    assert_close(step_by_step(attention, x), attend(attention, x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("train", [False, True])
def test_fused_causal_attention_equals_a_mask_written_out(train: bool) -> None:
    attention = lively(Attention(16, 4, 2, dropout=0.3)).train(train)
    x = draw(7, 2, 9, 16)
    mask = torch.ones(9, 9, dtype=torch.bool).tril()[None, None]
    masked = attention(x, attention.context(places(9))._replace(mask=mask))
    assert_close(attend(attention, x), masked, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("n_kv_heads", [2, 4])
def test_training_in_bfloat16_says_what_reading_in_bfloat16_says(n_kv_heads: int) -> None:
    """On a CPU the two take different ways, and both lose a little."""
    attention, x = lively(Attention(16, 4, n_kv_heads, mask=Chunked(4))), draw(7, 2, 9, 16)
    exact = attend(attention, x)
    attention.bfloat16()
    for train in (True, False):
        low = attend(attention.train(train), x.bfloat16())
        assert low.dtype == torch.bfloat16
        assert (low - exact).norm() / exact.norm() < 0.02


@pytest.mark.parametrize("padding", [0, 70])
@pytest.mark.parametrize("rule", [causal, SlidingWindow(90), Chunked(300)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_written_out_in_pieces_it_says_what_fused_attention_says(
    dtype: torch.dtype, rule: MaskRule, padding: int
) -> None:
    """More queries than go into one piece, or two. Exact in float64; to 1 % in bfloat16."""
    length = 2 * QUERIES_PER_BLOCK + 37
    tensors = [draw(seed, 2, heads, length, 8) for seed, heads in enumerate((4, 2, 2, 4))]
    attention = Attention(32, 4, 2, mask=rule)
    valid = None
    if padding:
        valid = torch.ones(2, length, dtype=torch.bool)
        valid[1, :padding] = False
    mask = build_mask(rule, places(length), length, valid)

    def values_and_gradients(dtype: torch.dtype, *, fused: bool) -> list[Tensor]:
        q, k, v, by_out = (tensor.to(dtype).requires_grad_() for tensor in tensors)
        if fused:
            out = nn.functional.scaled_dot_product_attention(q, k, v, mask, is_causal=mask is None, enable_gqa=True)
        else:
            out = BlockwiseCore()(
                q, k, v, mask,
                scale=attention.scale, softcap=None, sinks=None, dropout=attention.dropout, weights=attention.weights,
            )  # fmt: skip
        return [out, *torch.autograd.grad(out, (q, k, v), by_out)]

    exact = values_and_gradients(torch.float64, fused=True)
    for found, expected in zip(values_and_gradients(dtype, fused=False), exact, strict=True):
        assert found.dtype == dtype
        assert (found - expected).norm() / expected.norm() < (0.01 if dtype == torch.bfloat16 else 1e-12)


def test_causal_attention_without_a_cache_is_fused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mask written out costs three times the time on a CPU."""
    asked: list[tuple[bool, bool]] = []
    fused = nn.functional.scaled_dot_product_attention

    def spy(*tensors: Tensor, is_causal: bool = False, **rest: object) -> Tensor:
        asked.append((is_causal, len(tensors) > 3 and tensors[3] is not None))
        return fused(*tensors, is_causal=is_causal, **rest)

    monkeypatch.setattr(nn.functional, "scaled_dot_product_attention", spy)
    for rule in (causal, SlidingWindow(9), Chunked(9)):  # nine tokens do not reach beyond the window or the chunk
        attend(Attention(16, 4, mask=rule), draw(7, 2, 9, 16))
    assert asked == [(True, False)] * 3


def test_dropout_acts_in_training_only_and_on_the_weights() -> None:
    attention, without = lively(Attention(16, 4, 2, dropout=0.5)), lively(Attention(16, 4, 2))
    x = draw(7, 2, 9, 16)
    assert torch.equal(attend(attention.eval(), x), attend(without, x))
    trained = attend(attention.train(), x)
    assert (trained - attend(without, x)).abs().max() > 0.1
    assert torch.equal(trained, attend(attention, x))  # one seed, one mask
    # a weight that is dropped is 0 and the others double: the first token, which has one weight a head, shows it
    attention.output.weight.copy_(torch.eye(16))
    value = attention.value(x[:, 0]).view(2, 2, 1, 4).expand(2, 2, 2, 4).reshape(2, 4, 4)
    ratio = attend(attention, x)[:, 0].view(2, 4, 4) / value
    assert_close(ratio, (ratio > 1).float() * 2, atol=1e-4, rtol=1e-4)
    assert_close(ratio, ratio[..., :1].expand(-1, -1, 4), atol=1e-4, rtol=1e-4)  # a whole value at once
    assert 0 < (ratio > 1).float().mean() < 1


def test_steps_on_queries_and_keys_run_in_their_order() -> None:
    class Affine(nn.Module):
        def __init__(self, scale: float, shift: float) -> None:
            super().__init__()
            self.scale, self.shift = scale, shift

        def forward(self, q: Tensor, k: Tensor, context: AttentionContext) -> tuple[Tensor, Tensor]:
            assert torch.equal(context.positions, places(5))
            return q * self.scale + self.shift, k

    x = draw(7, 1, 5, 16)
    both = lively(Attention(16, 4, qk_steps=(Affine(2, 0), Affine(1, 3))))
    joined = lively(Attention(16, 4, qk_steps=(Affine(2, 3),)))
    swapped = lively(Attention(16, 4, qk_steps=(Affine(1, 3), Affine(2, 0))))
    assert_close(attend(both, x), attend(joined, x))
    assert (attend(both, x) - attend(swapped, x)).abs().max() > 0.01


def test_heads_that_do_not_divide_are_errors() -> None:
    with pytest.raises(UsageError, match="dim 30 does not divide into n_heads 4: take a multiple of 4"):
        Attention(30, 4)
    with pytest.raises(UsageError, match="n_heads 6 is not a multiple of n_kv_heads 4"):
        Attention(36, 6, 4)
    Attention(30, 4, head_dim=8)  # heads of their own width need not divide dim


def test_it_runs_on_meta() -> None:
    with torch.device("meta"):
        attention, x = Attention(16, 4, 2, mask=Chunked(4), dropout=0.1), torch.empty(2, 9, 16)
        context = attention.context(torch.arange(9)[None])
        assert attention.eval()(x, context).is_meta
        assert attention.train()(x, context).is_meta
        assert attention.eval()(x[:, :1], attention.context(torch.arange(1)[None]), LayerCache(4)).is_meta


@property_test
@given(query=st.integers(0, 40), key=st.integers(0, 40), size=st.integers(1, 12))
def test_rules_say_what_they_are_named_for(query: int, key: int, size: int) -> None:
    for rule in (causal, SlidingWindow(size), Chunked(size)):
        assert bool(rule(torch.tensor(query), torch.tensor(key))) == sees(rule, query, key)
        assert rule.window is None or max(query, key) >= rule.window or sees(rule, query, key) == (key <= query)


@property_test
@given(
    pattern=st.lists(st.booleans(), min_size=1, max_size=12),
    n_queries=st.integers(1, 12),
    rule=st.sampled_from([causal, SlidingWindow(3), Chunked(4)]),
    padded=st.booleans(),
)
def test_a_built_mask_is_the_rule_on_real_tokens(
    pattern: list[bool], n_queries: int, rule: MaskRule, padded: bool
) -> None:
    if not padded:
        pattern = [True] * len(pattern)
    n_keys, n_queries = len(pattern), min(n_queries, len(pattern))
    valid = torch.tensor([pattern])
    positions = (valid.long().cumsum(1) - 1).clamp(min=0)
    mask = build_mask(rule, positions, n_queries, valid if padded else None)
    first = n_keys - n_queries
    expected = [
        [
            key == query
            or (pattern[key] and key < query and sees(rule, int(positions[0, query]), int(positions[0, key])))
            for key in range(n_keys)
        ]
        for query in range(first, n_keys)
    ]
    if mask is None:  # only where fused attention does the same, or one query sees all
        assert not padded
        assert expected == [[key <= query for key in range(n_keys)] for query in range(first, n_keys)]
        assert n_queries in (1, n_keys)
    else:
        assert mask[0, 0].tolist() == expected


def test_equal_rules_are_one_key_of_a_table() -> None:
    assert len({causal, Chunked(4), Chunked(4), Chunked(5), SlidingWindow(4)}) == 4
