"""The weights that quantized layers stand for."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from luthier.native.blocks import BlockLinear
from luthier.quantize.linear import GROUP, Int4Linear, Int8Linear

QUANTIZED = (BlockLinear, Int8Linear, Int4Linear)


def dequantized(layer: nn.Module) -> Tensor:
    """The weight, (N, K) float32."""
    if isinstance(layer, BlockLinear):
        return layer.blocks.dequantize_rows(torch.arange(layer.out_features))
    if isinstance(layer, Int8Linear):
        return layer.int_weight.float() * layer.scales.float()[:, None]
    assert isinstance(layer, Int4Linear)
    identity = torch.eye(layer.in_features, dtype=torch.bfloat16)  # slow, and right for any packing
    ones = torch.ones_like(layer.scales_and_zeros)
    ones[..., 1] = 0
    product = torch.ops.aten._weight_int4pack_mm_for_cpu
    numbers = product(identity, layer.packed, GROUP, ones).float().view(-1, GROUP, layer.out_features)  # minus 8
    scales, zeros = layer.scales_and_zeros.float().unbind(-1)  # (G, N)
    weight = numbers * scales[:, None] + zeros[:, None]
    return weight.view(layer.in_features, layer.out_features).T.contiguous()
