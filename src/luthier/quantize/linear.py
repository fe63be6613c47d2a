"""Linear layers with weights quantized to int8 or int4 with scales: they replace `nn.Linear` on CPUs that the compiled
library (native/blocks.py) does not support.

For one token, speed is bound by reading the weights: there the packed weights are multiplied directly. A long prompt is
bound by arithmetic: there they are unpacked to bfloat16, one layer at a time, for the CPU's fast matrix products.

Shapes: M rows (tokens), K in_features, N out_features, G = K / GROUP groups of a row.
"""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GROUP = 32  # weights of a row that share a scale and a zero, in int4
LANES = 64  # rows that PyTorch packs together in int4, with 512-bit vectors
ROWS = 4096  # rows of a matrix quantized at once
FEW = 48  # input rows up to which products with packed weights are faster (docs/experiments.md)
INNER_TILES = 2  # a parameter of PyTorch's packing that CPUs ignore


class Int8Linear(nn.Module):
    """y = (x @ numbers^T) * scales + bias, in bfloat16.

    numbers (N, K) int8, scales (N,): one for each row of the weight. N and K must be multiples of 16.
    """

    numbers: Tensor
    scales: Tensor
    bias: Tensor | None

    def __init__(self, numbers: Tensor, scales: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        self.out_features, self.in_features = numbers.shape
        self.register_buffer("numbers", numbers)
        self.register_buffer("scales", scales.bfloat16())
        self.register_buffer("bias", bias)

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor | None = None) -> Int8Linear:
        """Quantize a weight (N, K) by rounding to nearest."""
        numbers = torch.empty(weight.shape, dtype=torch.int8)
        scales = torch.empty(len(weight), dtype=torch.bfloat16)
        for start in range(0, len(weight), ROWS):  # an output matrix in float32 would dominate peak memory
            piece = weight[start : start + ROWS].float()
            scale = (piece.abs().amax(1) / 127).clamp(min=1e-30).bfloat16()
            scales[start : start + ROWS] = scale
            numbers[start : start + ROWS] = (piece / scale.float()[:, None]).round_().clamp_(-127, 127)
        return cls(numbers, scales, bias)

    def forward(self, x: Tensor) -> Tensor:
        """(..., K) -> (..., N), in x's dtype."""
        rows = x.flatten(0, -2).bfloat16()  # (M, K)
        if rows.shape[0] <= FEW:
            y: Tensor = torch.ops.aten._weight_int8pack_mm(rows, self.numbers, self.scales)  # (M, N)
        else:  # integers up to 127 are exact in bfloat16
            y = F.linear(rows, self.numbers.bfloat16()).mul_(self.scales)
        return finish(y, self.bias, x)


class Int4Linear(nn.Module):
    """y = x @ weight^T + bias, in bfloat16, with weight = (numbers - 8) * scale + zero, a scale and zero per GROUP.

    packed: numbers of 0 to 15 in the layout of PyTorch's CPU kernel, two per byte, (N, K / 2). scales_and_zeros
    (G, N, 2) bfloat16. N must be a multiple of 16, K of GROUP.
    """

    packed: Tensor
    scales_and_zeros: Tensor
    bias: Tensor | None

    def __init__(self, numbers: Tensor, scales: Tensor, zeros: Tensor, bias: Tensor | None = None) -> None:
        """Numbers (N, K) of 0 to 15, scales and zeros (N, G)."""
        super().__init__()
        self.out_features, self.in_features = numbers.shape
        self.register_buffer("packed", pack(numbers))
        both = torch.stack((scales, zeros), -1).bfloat16()  # (N, G, 2)
        self.register_buffer("scales_and_zeros", both.transpose(0, 1).contiguous())
        self.register_buffer("bias", bias)

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor | None = None) -> Int4Linear:
        """Quantize a weight (N, K) to sixteen even steps from each group's minimum to its maximum."""
        groups = weight.float().view(len(weight), -1, GROUP)  # (N, G, GROUP)
        low, high = groups.amin(-1), groups.amax(-1)
        scales = ((high - low) / 15).clamp(min=1e-30).bfloat16().float()
        zeros = (low + 8 * scales).bfloat16().float()
        # quantize against scale and zero as rounded to bfloat16
        numbers = ((groups - zeros[..., None]) / scales[..., None]).round().add_(8).clamp_(0, 15)
        return cls(numbers.view(weight.shape).to(torch.uint8), scales, zeros, bias)

    def forward(self, x: Tensor) -> Tensor:
        """(..., K) -> (..., N), in x's dtype."""
        rows = x.flatten(0, -2).bfloat16()  # (M, K)
        if rows.shape[0] <= FEW or self.out_features % LANES or not packing_is_known():
            y: Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(rows, self.packed, GROUP, self.scales_and_zeros)
        else:
            y = rows @ self.transposed()
        return finish(y, self.bias, x)

    def transposed(self) -> Tensor:
        """The transposed weight, as it is unpacked, (K, N) bfloat16."""
        # interleaved, they would be read ten times slower
        scales, zeros = self.scales_and_zeros.permute(2, 0, 1).contiguous()  # (G, N)
        numbers = unpack(self.packed).bfloat16().view(-1, GROUP, self.out_features)  # (G, GROUP, N)
        lowest = (zeros.float() - 8 * scales.float()).bfloat16()
        return torch.addcmul(lowest[:, None], numbers, scales[:, None]).flatten(0, 1)


def finish(y: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
    """Add the bias to (M, N) and restore the shape and dtype of the input (..., K)."""
    if bias is not None:
        y = y + bias
    return y.view(*x.shape[:-1], y.shape[-1]).to(x.dtype)


def pack(numbers: Tensor) -> Tensor:
    """(N, K) of 0 to 15 -> (N, K / 2) bytes, in the layout of PyTorch's kernel on this machine."""
    packed: Tensor = torch.ops.aten._convert_weight_to_int4pack_for_cpu(numbers.int().contiguous(), INNER_TILES)
    return packed


def unpack(packed: Tensor) -> Tensor:
    """Transposed numbers, (K, N), of what `pack` makes where `packing_is_known`. N must be a multiple of LANES.

    LANES rows are packed together; in each column, a byte holds row i in its low half and row i + LANES / 2 in its high
    one.
    """
    N, K = packed.shape[0], packed.shape[1] * 2
    halves = packed.view(-1, K, LANES // 2)  # (N / LANES, K, LANES / 2)
    numbers = torch.cat((halves & 15, halves >> 4), -1)  # (N / LANES, K, LANES)
    return numbers.transpose(0, 1).reshape(K, N)


@cache
def packing_is_known() -> bool:
    """Whether this machine's packing is the one that `unpack` reads: CPUs with shorter vectors use another layout."""
    numbers = torch.randint(16, (2 * LANES, GROUP), generator=torch.Generator().manual_seed(0))
    return bool((numbers == unpack(pack(numbers)).T).all())
