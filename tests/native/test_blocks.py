"""Matrices in GGUF's blocks: the weights of the file, to the last bit, and products that do not depend on the batch."""

from __future__ import annotations

import copy

import pytest
import torch
from gguf_blocks import KINDS, floats, random_blocks
from hypothesis import given, settings
from hypothesis import strategies as st
from quantized_weights import dequantized

from luthier.native import build
from luthier.native.blocks import BlockEmbedding, BlockLinear, Blocks, quantize_q4_1, quantize_q8_0

property_test = settings(max_examples=25, deadline=None, derandomize=True, database=None)
WIDTHS = {"Q4_K": (256, 1280), "Q6_K": (256, 1280)}  # others: an odd number of groups, and more than are read at once


@pytest.fixture(autouse=True, scope="module")
def _compiled():
    if not build.has_library():
        pytest.skip("this machine has no compiler, or no AVX-512 with products of 8 bits")


def blocks_of(kind: str, rows: int, columns: int, seed: int = 0) -> tuple[Blocks, torch.Tensor]:
    data = random_blocks(kind, rows, columns, seed)
    blocks = Blocks(kind, rows, columns)
    blocks.pack_rows(torch.from_numpy(data))
    return blocks, torch.from_numpy(floats(data, kind))


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def in_threads(count: int, layer: BlockLinear, x: torch.Tensor) -> torch.Tensor:
    torch.set_num_threads(count)
    try:
        return layer(x)
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [1, 16, 37])
def test_weights_are_those_that_the_package_reads(kind, rows):
    for columns in WIDTHS.get(kind, (32, 96, 1088)):
        blocks, weight = blocks_of(kind, rows, columns)
        assert dequantized(BlockLinear(blocks)).equal(weight)


@property_test
@given(
    kind=st.sampled_from(KINDS),
    tokens=st.integers(1, 20) | st.sampled_from([64, 150]),
    rows=st.sampled_from([1, 16, 70, 130]),
    width=st.integers(0, 2),
    bias=st.booleans(),
    wide=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    seed=st.integers(0, 100),
)
def test_products_are_those_with_the_weights_it_stands_for(kind, tokens, rows, width, bias, wide, dtype, seed):
    widths = WIDTHS.get(kind, (32, 96, 1088))
    columns = widths[width % len(widths)]
    blocks, weight = blocks_of(kind, rows, columns, seed)
    layer = BlockLinear(blocks, random(rows, seed=1) if bias else None, wide=wide)
    x = random(2, tokens, columns, seed=seed)
    x[..., seed % columns] *= 20  # a channel that stands out, as real models have
    x = x.to(dtype)
    found = layer(x)
    assert found.shape == (2, tokens, rows)
    assert found.dtype == dtype
    exact = x.double() @ weight.double().T
    error = found.double() - exact - (0 if layer.bias is None else layer.bias.double())
    groups = x.double().view(2, tokens, -1, 32)
    # half a step of each number's scale, times the weight's size: far above what rounding to nearest gives
    step = groups.abs().amax(-1, keepdim=True) / (127 * 254 if wide else 127) / 2
    most = step.expand_as(groups).flatten(2) @ weight.double().abs().T
    rounding = (2**-8 if dtype == torch.bfloat16 else 1e-6) * (
        found.double().abs() + x.double().abs() @ weight.double().abs().T
    )
    assert (error.abs() <= most + rounding + 1e-9).all()


@property_test
@given(
    kind=st.sampled_from(KINDS),
    tokens=st.integers(2, 20) | st.sampled_from([130, 150]),
    wide=st.booleans(),
    seed=st.integers(0, 100),
)
def test_a_row_is_the_same_to_the_last_bit_alone_among_others_and_with_more_threads(kind, tokens, wide, seed):
    columns = WIDTHS.get(kind, (1088, 1088))[1]
    layer = BlockLinear(blocks_of(kind, 70, columns)[0], random(70, seed=1), wide=wide)
    x = random(tokens, columns, seed=seed)
    x[:, seed % columns] *= torch.arange(tokens)  # some rows keep more bits of a group, and some do not
    together = layer(x)
    assert together.equal(torch.cat([layer(row[None]) for row in x]))
    for count in (2, 3):
        assert in_threads(count, layer, x).equal(together)


def test_a_group_that_stands_out_keeps_more_bits():
    blocks, weight = blocks_of("Q4_0", 64, 512)
    x = random(40, 512)
    x[:, 7] *= 50
    exact, found = x.double() @ weight.double().T, BlockLinear(blocks)(x)
    rounded = x.view(40, -1, 32)
    step = rounded.abs().amax(-1, keepdim=True) / 127
    rounded = ((rounded / step).round() * step).view(40, 512)
    assert (found - exact).std() < 0.4 * (rounded.double() @ weight.double().T - exact).std()


@pytest.mark.parametrize(("pack", "kind", "steps"), [(quantize_q4_1, "Q4_1", 15), (quantize_q8_0, "Q8_0", 254)])
def test_weights_are_rounded_to_the_nearest_step(pack, kind, steps):
    weight = random(48, 96)
    blocks = Blocks(kind, 48, 96)
    blocks.pack_rows(pack(weight[:32]))
    blocks.pack_rows(pack(weight[32:]), 32)
    groups = weight.view(48, 3, 32)
    spread = groups.amax(-1) - groups.amin(-1) if steps == 15 else 2 * groups.abs().amax(-1)
    off = (dequantized(BlockLinear(blocks)) - weight).abs().view(48, 3, 32).amax(-1)
    assert (off <= 0.502 * spread / steps + 2**-10 * groups.abs().amax(-1)).all()  # scales have 11 bits
    assert (off > 0).all()
    zeros = Blocks(kind, 16, 64)
    zeros.pack_rows(pack(torch.zeros(16, 64)))
    assert not BlockLinear(zeros)(random(3, 64)).any()


def test_no_number_stays_no_number():
    layer = BlockLinear(blocks_of("Q4_0", 16, 64)[0])
    x = random(3, 64)
    x[1, 5] = torch.nan
    x[2, 40] = torch.inf
    assert layer(x)[:1].isfinite().all()
    assert not layer(x)[1:].isfinite().any()


def test_an_embedding_gives_the_rows_and_knows_its_size():
    blocks, weight = blocks_of("Q6_K", 37, 256)
    embedding = BlockEmbedding(blocks)
    ids = torch.tensor([[0, 36, 5], [7, 7, 1]])
    assert embedding(ids).equal(weight[ids].bfloat16())
    with pytest.raises(IndexError, match="37"):
        embedding(torch.tensor([37]))


def test_a_copy_is_its_own():
    layer = BlockLinear(blocks_of("Q4_0", 16, 64)[0])
    other = copy.deepcopy(layer)
    layer.packed_weight.zero_()
    assert other(random(1, 64)).any()
    assert not layer(random(1, 64)).any()
