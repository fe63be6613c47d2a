"""What must hold for every architecture, seen from outside: tokens in, logits out."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from luthier.architectures import llama4
from luthier.architectures.registry import Config, build_on_meta
from luthier.errors import LuthierError
from luthier.model.attention import Attention
from luthier.model.context import AttentionContext
from luthier.model.transformer import Block, Transformer

VOCAB = 61
property_test = settings(max_examples=25, deadline=None, derandomize=True, database=None)
seeds = st.integers(0, 2**31)
piece_sizes = st.lists(st.integers(1, 8), min_size=1, max_size=6)
ONE_BY_ONE = [1] * 23


def random_tokens(seed: int, *shape: int) -> Tensor:
    return torch.randint(0, VOCAB, shape, generator=torch.Generator().manual_seed(seed))


def read(model: Transformer, tokens: Tensor, sizes: list[int], valid: Tensor | None = None) -> Tensor:
    """Logits of all tokens, read in pieces through a cache; `valid` grows with what has been read."""
    cache = model.make_cache(tokens.shape[1])
    logits, end = [], 0
    for piece in tokens.split(sizes, dim=1):
        end += piece.shape[1]
        logits.append(model(piece, cache, valid=None if valid is None else valid[:, :end]))
    assert cache.length == end
    return torch.cat(logits, dim=1)


def close(actual: Tensor, expected: Tensor) -> None:
    assert expected.abs().max() > 1, "too weak a model to show a broken invariant"
    assert_close(actual, expected, atol=1e-4, rtol=1e-4)


@property_test
@given(seed=seeds, length=st.integers(2, 24), data=st.data())
def test_a_later_token_never_changes_an_earlier_logit(
    model: Transformer, seed: int, length: int, data: st.DataObject
) -> None:
    place = data.draw(st.integers(1, length - 1))
    tokens = random_tokens(seed, 2, length)
    changed = tokens.clone()
    changed[:, place:] = (changed[:, place:] + 1 + random_tokens(seed + 1, 2, length - place) % (VOCAB - 1)) % VOCAB
    before, after = model(tokens), model(changed)
    assert_close(after[:, :place], before[:, :place], atol=1e-5, rtol=1e-5)
    assert (after[:, place] - before[:, place]).abs().max() > 0.1


@property_test
@given(seed=seeds, sizes=piece_sizes)
@example(seed=0, sizes=ONE_BY_ONE)
@example(seed=0, sizes=[5, 5, 1, 5, 6])
@example(seed=0, sizes=[4, 1, 1, 9, 1])
def test_reading_in_pieces_with_the_cache_equals_reading_at_once(
    model: Transformer, seed: int, sizes: list[int]
) -> None:
    sizes = fit(sizes)
    tokens = random_tokens(seed, 2, sum(sizes))
    close(read(model, tokens, sizes), model(tokens))


@property_test
@given(seed=seeds, pattern=st.lists(st.booleans(), min_size=2, max_size=20).filter(any), sizes=piece_sizes)
@example(seed=0, pattern=[False] * 7 + [True] * 13, sizes=ONE_BY_ONE)
@example(seed=0, pattern=[True] * 6 + [False] * 9, sizes=[9, 2, 1, 3])
@example(seed=0, pattern=[True, False, False, True, True, False, True] * 2, sizes=[3, 1, 1, 4])
def test_padding_anywhere_changes_nothing(model: Transformer, seed: int, pattern: list[bool], sizes: list[int]) -> None:
    full = random_tokens(seed, 1, len(pattern))
    valid = torch.tensor([pattern])
    alone = model(full[valid][None])
    # a neighbor in the batch with no padding at all
    batch = torch.cat((full, random_tokens(seed + 1, 1, len(pattern))))
    both = torch.cat((valid, torch.ones_like(valid)))
    close(model(batch, valid=both)[0][valid[0]], alone[0])
    close(read(model, batch, cut(sizes, len(pattern)), both)[0][valid[0]], alone[0])


@property_test
@given(seed=seeds, lengths=st.lists(st.integers(1, 16), min_size=2, max_size=4), grow=st.integers(1, 6))
def test_left_padded_rows_go_on_token_by_token_as_each_would_alone(
    model: Transformer, seed: int, lengths: list[int], grow: int
) -> None:
    width = max(lengths)
    tokens = random_tokens(seed, len(lengths), width + grow)
    valid = torch.arange(width + grow) >= width - torch.tensor(lengths)[:, None]
    batched = read(model, tokens, [width] + [1] * grow, valid)
    for row, length in enumerate(lengths):
        alone = model(tokens[row : row + 1, width - length :])
        close(batched[row, width - length :], alone[0])


@property_test
@given(seed=seeds, length=st.integers(1, 20))
def test_neighbors_in_the_batch_change_nothing(model: Transformer, seed: int, length: int) -> None:
    batch = random_tokens(seed, 4, length)
    close(model(batch), torch.cat([model(row[None]) for row in batch]))


def test_valid_that_is_all_true_changes_nothing(model: Transformer) -> None:
    tokens = random_tokens(3, 2, 19)
    close(model(tokens, valid=torch.ones(2, 19, dtype=torch.bool)), model(tokens))


def test_a_row_of_nothing_but_padding_is_not_nan(model: Transformer) -> None:
    valid = torch.tensor([[False] * 7, [True] * 7])
    assert model(random_tokens(3, 2, 7), valid=valid).isfinite().all()


def test_the_order_of_tokens_matters(model: Transformer) -> None:
    tokens = random_tokens(3, 1, 4)
    swapped = tokens[:, [1, 0, 2, 3]]
    assert (model(tokens)[:, -1] - model(swapped)[:, -1]).abs().max() > 0.01


def test_forward_is_the_output_matrix_on_hidden(model: Transformer) -> None:
    tokens = random_tokens(5, 2, 9)
    hidden = model.hidden(tokens)
    assert hidden.shape == (2, 9, model.embedding.embedding_dim)
    assert_close(model.output(hidden), model(tokens))
    if type(model.output) is torch.nn.Linear and model.output.bias is None:
        assert_close(hidden @ model.output.weight.T, model(tokens))


def test_a_part_alone_does_as_within_the_transformer(model: Transformer) -> None:
    """Attention called by itself finds the same mask, chunks too, that the Transformer builds once for its layers."""
    seen: list[tuple[Attention, Tensor, AttentionContext, Tensor]] = []

    def keep(attention: Attention, given: tuple[Tensor, AttentionContext, None], output: Tensor) -> None:
        seen.append((attention, given[0], given[1], output))

    hooks = [block.attention.register_forward_hook(keep) for block in model.blocks]
    model(random_tokens(5, 2, 13))
    for hook in hooks:
        hook.remove()
    assert len(seen) == len(model.blocks)
    for attention, x, context, output in seen:
        alone = attention.context(context.positions)
        assert_close(attention(x, alone), output, atol=1e-5, rtol=1e-5)


def test_masks_and_angles_are_built_once_for_each_kind_of_layer(model: Transformer) -> None:
    contexts = []

    def keep(block: Block, given: tuple[Tensor, AttentionContext, None]) -> None:
        contexts.append(given[1])

    hooks = [block.register_forward_pre_hook(keep) for block in model.blocks]
    valid = torch.ones(2, 13, dtype=torch.bool)
    model(random_tokens(5, 2, 13), valid=valid)
    for hook in hooks:
        hook.remove()
    kinds = {block.attention.context_key for block in model.layers}
    assert len(contexts) == len(model.layers)
    assert len({id(context) for context in contexts}) == len(kinds)
    assert len({id(context.mask) for context in contexts}) == len(kinds)
    with_rope = {id(context.angles) for context in contexts if context.angles is not None}
    assert len(with_rope) == len({kind for kind in kinds if kind[1] is not None})


def test_valid_must_speak_of_the_tokens_in_the_cache_too(model: Transformer) -> None:
    cache = model.make_cache(8)
    model(random_tokens(5, 1, 4), cache)
    with pytest.raises(LuthierError, match="valid has 1 tokens, expected 5"):
        model(random_tokens(6, 1, 1), cache, valid=torch.ones(1, 1, dtype=torch.bool))


def test_learned_positions_end_and_rotary_ones_do_not(model: Transformer, config: Config) -> None:
    too_long = random_tokens(5, 1, config.context_length + 1)
    if model.position_embedding is None:
        assert model(too_long).isfinite().all()
        return
    with pytest.raises(LuthierError, match="33 tokens exceed this model's 32 positions"):
        model(too_long)
    cache = model.make_cache(40)
    model(too_long[:, :-1], cache)
    with pytest.raises(LuthierError, match="33 tokens exceed this model's 32 positions"):
        model(too_long[:, -1:], cache)


def test_a_full_cache_says_what_it_holds_and_what_it_needs(model: Transformer) -> None:
    cache = model.make_cache(6)
    model(random_tokens(5, 1, 4), cache)
    with pytest.raises(LuthierError, match="the cache holds 6 tokens, 7 are needed"):
        model(random_tokens(5, 1, 3), cache)


def test_a_forward_on_meta_touches_no_data(config: Config) -> None:
    if isinstance(config, llama4.Config):
        config = replace(config, moe_layers=())  # experts split their tokens by counts, which are data
    elif hasattr(config, "n_experts"):
        pytest.skip("a mixture")
    model = build_on_meta(config)
    cache = model.make_cache(8)
    tokens = torch.zeros(2, 7, dtype=torch.long, device="meta")
    for piece in (tokens, tokens[:, :1]):
        logits = model(piece, cache)
        assert logits.is_meta
        assert logits.shape == (*piece.shape, VOCAB)
    assert model.train()(tokens).is_meta  # with dropout, and without a cache


def fit(sizes: list[int]) -> list[int]:
    """As many of these pieces as the context has room for."""
    kept: list[int] = []
    for size in sizes:
        if sum(kept) + size <= 32:
            kept.append(size)
    return kept


def cut(sizes: list[int], length: int) -> list[int]:
    """Pieces of these sizes, again and again, that add up to `length`."""
    pieces: list[int] = []
    while sum(pieces) < length:
        pieces.append(min(sizes[len(pieces) % len(sizes)], length - sum(pieces)))
    return pieces
