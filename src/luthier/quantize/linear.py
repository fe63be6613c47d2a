"""Linear layers with int8 or int4 weights and scales, for CPUs that the compiled library (native/blocks.py) does not
support.

Decoding is bound by reading weights: packed weights are multiplied directly. A long prompt is bound by arithmetic: they
are dequantized to bfloat16, one layer at a time, for the CPU's fast matrix products.

Shapes: M rows (tokens), K in_features, N out_features, G = K / GROUP groups of a row.
"""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GROUP = 32  # weights of a row that share a scale and a zero, in int4
LANES = 64  # rows that PyTorch interleaves in int4 with 512-bit vectors
ROWS_PER_CHUNK = 4096  # rows of a matrix quantized at once
MAX_PACKED_ROWS = 48  # input rows up to which products with packed weights are faster (docs/experiments.md)
INNER_TILES = 2  # a parameter of PyTorch's packing that CPUs ignore


class Int8Linear(nn.Module):
    """y = (x @ int_weight^T) * scales + bias, in bfloat16.

    int_weight (N, K) int8, scales (N,): one for each row of the weight. N and K must be multiples of 16.
    """

    int_weight: Tensor
    scales: Tensor
    bias: Tensor | None

    def __init__(self, int_weight: Tensor, scales: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        self.out_features, self.in_features = int_weight.shape
        self.register_buffer("int_weight", int_weight)
        self.register_buffer("scales", scales.bfloat16())
        self.register_buffer("bias", bias)

    @classmethod
    def from_weight(cls, weight: Tensor, bias: Tensor | None = None) -> Int8Linear:
        """Quantize a weight (N, K) by rounding to nearest."""
        int_weight = torch.empty(weight.shape, dtype=torch.int8)
        scales = torch.empty(len(weight), dtype=torch.bfloat16)
        for start in range(0, len(weight), ROWS_PER_CHUNK):  # an output matrix in float32 would dominate peak memory
            piece = weight[start : start + ROWS_PER_CHUNK].float()
            scale = (piece.abs().amax(1) / 127).clamp(min=1e-30).bfloat16()
            scales[start : start + ROWS_PER_CHUNK] = scale
            int_weight[start : start + ROWS_PER_CHUNK] = (piece / scale.float()[:, None]).round_().clamp_(-127, 127)
        return cls(int_weight, scales, bias)

    def forward(self, x: Tensor) -> Tensor:
        """(..., K) -> (..., N), in x's dtype."""
        rows = x.flatten(0, -2).bfloat16()  # (M, K)
        if rows.shape[0] <= MAX_PACKED_ROWS:
            y: Tensor = torch.ops.aten._weight_int8pack_mm(rows, self.int_weight, self.scales)  # (M, N)
        else:  # integers up to 127 are exact in bfloat16
            y = F.linear(rows, self.int_weight.bfloat16()).mul_(self.scales)
        return finish(y, self.bias, x)


class Int4Linear(nn.Module):
    """y = x @ weight^T + bias, in bfloat16, with weight = (int_weight - 8) * scale + zero, a scale and zero per GROUP.

    packed: int_weight of 0 to 15 in the layout of PyTorch's CPU kernel, two per byte, (N, K / 2). scales_and_zeros
    (G, N, 2) bfloat16. N must be a multiple of 16, K of GROUP.
    """

    packed: Tensor
    scales_and_zeros: Tensor
    bias: Tensor | None

    def __init__(self, int_weight: Tensor, scales: Tensor, zeros: Tensor, bias: Tensor | None = None) -> None:
        """int_weight (N, K) of 0 to 15, scales and zeros (N, G)."""
        super().__init__()
        self.out_features, self.in_features = int_weight.shape
        self.register_buffer("packed", pack(int_weight))
        both = torch.stack((scales, zeros), -1).bfloat16()  # (N, G, 2)
        self.register_buffer("scales_and_zeros", both.transpose(0, 1).contiguous())
        self.register_buffer("bias", bias)

    @classmethod
    def from_weight(cls, weight: Tensor, bias: Tensor | None = None) -> Int4Linear:
        """Quantize a weight (N, K) to sixteen even steps from each group's minimum to its maximum."""
        groups = weight.float().view(len(weight), -1, GROUP)  # (N, G, GROUP)
        low, high = groups.amin(-1), groups.amax(-1)
        scales = ((high - low) / 15).clamp(min=1e-30).bfloat16().float()
        zeros = (low + 8 * scales).bfloat16().float()
        # quantize against scale and zero as rounded to bfloat16
        int_weight = ((groups - zeros[..., None]) / scales[..., None]).round().add_(8).clamp_(0, 15)
        return cls(int_weight.view(weight.shape).to(torch.uint8), scales, zeros, bias)

    def forward(self, x: Tensor) -> Tensor:
        """(..., K) -> (..., N), in x's dtype."""
        rows = x.flatten(0, -2).bfloat16()  # (M, K)
        if rows.shape[0] <= MAX_PACKED_ROWS or self.out_features % LANES or not packing_is_supported():
            y: Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(rows, self.packed, GROUP, self.scales_and_zeros)
        else:
            y = rows @ self.transposed()
        return finish(y, self.bias, x)

    def transposed(self) -> Tensor:
        """The dequantized weight, transposed, (K, N) bfloat16."""
        # contiguous: interleaved, they would be read ten times slower
        scales, zeros = self.scales_and_zeros.permute(2, 0, 1).contiguous()  # (G, N)
        int_weight = unpack(self.packed).bfloat16().view(-1, GROUP, self.out_features)  # (G, GROUP, N)
        minimum = (zeros.float() - 8 * scales.float()).bfloat16()
        return torch.addcmul(minimum[:, None], int_weight, scales[:, None]).flatten(0, 1)


def finish(y: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
    """Add the bias to (M, N) and restore the shape and dtype of the input (..., K)."""
    if bias is not None:
        y = y + bias
    return y.view(*x.shape[:-1], y.shape[-1]).to(x.dtype)


def pack(int_weight: Tensor) -> Tensor:
    """Pack (N, K) values of 0 to 15 into (N, K / 2) bytes, in the layout of PyTorch's kernel on this machine."""
    packed: Tensor = torch.ops.aten._convert_weight_to_int4pack_for_cpu(int_weight.int().contiguous(), INNER_TILES)
    return packed


def unpack(packed: Tensor) -> Tensor:
    """Invert `pack` and transpose, (N, K / 2) bytes -> (K, N), where `packing_is_supported`. LANES must divide N.

    LANES rows are interleaved; in each column, a byte has row i in its low nibble and row i + LANES / 2 in its high
    one.
    """
    N, K = packed.shape[0], packed.shape[1] * 2
    nibbles = packed.view(-1, K, LANES // 2)  # (N / LANES, K, LANES / 2)
    int_weight = torch.cat((nibbles & 15, nibbles >> 4), -1)  # (N / LANES, K, LANES)
    return int_weight.transpose(0, 1).reshape(K, N)


@cache
def packing_is_supported() -> bool:
    """Whether `unpack` supports this machine's packing: CPUs with shorter vectors use another layout."""
    int_weight = torch.randint(16, (2 * LANES, GROUP), generator=torch.Generator().manual_seed(0))
    return bool((int_weight == unpack(pack(int_weight)).T).all())
