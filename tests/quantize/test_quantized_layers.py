"""Layers of 8 and 4 bits compute with the weights that they stand for, and models made of them too."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from quantized_weights import dequantized
from torch import nn

from luthier.architectures import gpt2, llama, llama4, registry
from luthier.errors import UsageError
from luthier.native import build
from luthier.native.blocks import BlockLinear
from luthier.quantize import linear as layers
from luthier.quantize.linear import GROUP, MAX_PACKED_ROWS, Int4Linear, Int8Linear, pack, packing_is_supported, unpack
from luthier.quantize.quantize import quantize

property_test = settings(max_examples=40, deadline=None, derandomize=True, database=None)
CONFIGS = {
    "gpt2": gpt2.Config(96, 64, 64, 2, 4),
    "llama": llama.Config(96, 64, 64, 96, 2, 4, 2, tie_embeddings=True),
    "llama4": llama4.Config(96, 64, 64, 32, 64, 4, 4, 2, None, n_experts=4, moe_every=2, attention_chunk=8),
}


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@property_test
@given(
    kind=st.sampled_from([Int8Linear, Int4Linear]),
    rows=st.sampled_from([1, 2, 5, MAX_PACKED_ROWS, MAX_PACKED_ROWS + 1, 70]),
    out=st.sampled_from([16, 48, 64, 80, 128]),
    columns=st.sampled_from([32, 64, 160]),
    bias=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_a_layer_multiplies_by_the_weight_it_stands_for(kind, rows, out, columns, bias, dtype):
    b = random(out, seed=2) if bias else None
    layer = kind.from_weight(random(out, columns), b)
    x = random(2, rows, columns, seed=1).to(dtype)
    y = layer(x)
    assert y.shape == (2, rows, out)
    assert y.dtype == dtype
    weight = dequantized(layer)
    expected = nn.functional.linear(x.bfloat16().float(), weight, b)
    # up to three roundings to bfloat16: of the weight or the product, of its scaling, of the sum with the bias
    size = x.float().abs() @ weight.abs().T + (0 if b is None else b.abs())
    assert ((y.float() - expected).abs() <= 2**-7 * size + 1e-6).all()


@pytest.mark.parametrize(("kind", "steps"), [(Int8Linear, 254), (Int4Linear, 15)])
def test_no_weight_is_further_off_than_half_a_step(kind, steps):
    weight = random(64, 96)
    given = weight.clone()
    spread = weight.amax() - weight.amin()
    off = (dequantized(kind.from_weight(weight)) - weight).abs().max()
    assert off < 0.6 * spread / steps * 1.3
    assert off > 0
    assert weight.equal(given)


def test_four_bits_keep_numbers_that_are_given():
    generator = torch.Generator().manual_seed(0)
    numbers = torch.randint(16, (64, 96), generator=generator, dtype=torch.uint8)
    scales, zeros = random(64, 3).bfloat16(), random(64, 3, seed=1).bfloat16()
    layer = Int4Linear(numbers, scales, zeros)
    expected = (numbers.float().view(64, 3, GROUP) - 8) * scales[..., None].float() + zeros[..., None].float()
    assert dequantized(layer).equal(expected.view(64, 96))


def test_packed_numbers_come_back():
    numbers = torch.randint(16, (128, 64), generator=torch.Generator().manual_seed(3))
    if packing_is_supported():
        assert unpack(pack(numbers)).T.equal(numbers.to(torch.uint8))


def test_a_machine_that_packs_otherwise_gets_the_same_products(monkeypatch):
    layer, x = Int4Linear.from_weight(random(64, 64)), random(50, 64, seed=1)
    here = layer(x)
    monkeypatch.setattr(layers, "packing_is_supported", lambda: False)
    torch.testing.assert_close(layer(x), here, atol=0.15, rtol=2**-6)


@pytest.fixture(params=["compiled library", "PyTorch alone"])
def layers_of(request, monkeypatch):
    """What stands in for a matrix of 8 and of 4 bits, with and without the compiled library."""
    if request.param == "PyTorch alone":
        monkeypatch.setattr("luthier.quantize.quantize.has_library", lambda: False)
        return Int8Linear, Int4Linear
    if not build.has_library():
        pytest.skip("this machine has no compiler, or no AVX-512 with products of 8 bits")
    return BlockLinear, BlockLinear


@pytest.mark.parametrize("kind", ["int8", "int4"])
@pytest.mark.parametrize("family", CONFIGS)
def test_a_model_computes_as_one_with_the_weights_that_its_layers_stand_for(family, kind, layers_of):
    config = CONFIGS[family]
    plain = registry.build(config, seed=1).eval().requires_grad_(False)
    quantized = quantize(copy.deepcopy(plain), kind)
    if config.tie_embeddings:
        plain.output = nn.Linear(config.dim, config.vocab_size, bias=False)
    kinds = set()
    for name, module in quantized.named_modules():
        if isinstance(module, (BlockLinear, Int8Linear, Int4Linear)):
            kinds.add((type(module), getattr(module, "kind", None), name == "output"))
            plain.get_submodule(name).weight.data = dequantized(module)
    eight, four = layers_of
    blocks = eight is BlockLinear
    assert (eight, "Q8_0" if blocks else None, True) in kinds  # the output matrix keeps 8 bits
    assert (
        (four, "Q4_1" if blocks else None, False) if kind == "int4" else (eight, "Q8_0" if blocks else None, False)
    ) in kinds
    tokens = torch.randint(96, (2, 40), generator=torch.Generator().manual_seed(0))
    for length in (1, 40):
        expected, found = plain(tokens[:, :length]), quantized(tokens[:, :length])
        assert (found - expected).std() < 0.02 * expected.std()


def test_routers_experts_and_embeddings_stay():
    model = quantize(registry.build(CONFIGS["llama4"]), "int4")
    names = {name for name, _ in model.named_parameters()}
    assert "embedding.weight" in names
    assert any(name.endswith("router.weight") for name in names)
    assert any(name.endswith("experts.gate_up") for name in names)
    assert not any(name.endswith(("query.weight", "shared.gate.weight")) for name in names)


def test_sizes_that_cannot_be_packed_stay_as_they_are(layers_of):
    model = quantize(registry.build(llama.Config(97, 32, 48, 40, 1, 4, 2)), "int4")
    assert isinstance(model.output, nn.Linear)
    assert isinstance(model.layers[0].attention.query, Int8Linear)  # 48 columns, which no block divides
    assert isinstance(model.layers[0].feed_forward.gate, nn.Linear)


def test_any_number_of_rows_fits_in_blocks(layers_of):
    if layers_of[0] is BlockLinear:
        model = quantize(registry.build(llama.Config(97, 32, 32, 64, 1, 4, 2)), "int4")
        assert model.output.kind == "Q8_0"
        assert dequantized(model.output).shape == (97, 32)


def test_other_kinds_and_devices_are_refused():
    model = registry.build(CONFIGS["gpt2"])
    with pytest.raises(UsageError, match="'int3' is not supported; there are int8, int4"):
        quantize(model, "int3")
    with pytest.raises(UsageError, match="for the CPU, and the model is on meta"):
        quantize(model.to("meta"), "int8")
