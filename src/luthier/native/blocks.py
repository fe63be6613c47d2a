"""Linear layer and embedding with weights in GGUF's block formats, computed by the compiled library.

Activations are quantized to 8 bits with a scale for each 32 values, and products are summed in integers.

Shapes: M rows (tokens), N out_features, K in_features.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn

from luthier.native.build import library
from luthier.native.layout import GROUP, Kind, Matrix

FILE_BLOCKS = {"Q4_0": (32, 18), "Q4_1": (32, 20), "Q8_0": (32, 34), "Q4_K": (256, 144), "Q6_K": (256, 210)}
ALIGNMENT = 64  # bytes of a cache line
BITS = {"Q4_0": 4, "Q4_1": 4, "Q8_0": 8, "Q4_K": 4, "Q6_K": 6}


def allocate_zeros(sizes: Sequence[int]) -> list[Tensor]:
    """Zeroed uint8 buffers of these sizes in bytes, in one mapping with huge pages where available, which makes
    sequential reads faster.
    """
    padded = [-(-size // ALIGNMENT) * ALIGNMENT for size in sizes]
    whole = mmap.mmap(-1, max(sum(padded), 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a system without them
            whole.madvise(mmap.MADV_HUGEPAGE)
    starts = accumulate(padded, initial=0)
    return [
        torch.frombuffer(whole, dtype=torch.uint8, count=size, offset=at)
        for size, at in zip(sizes, starts, strict=False)
    ]


class Blocks:
    """An N x K matrix in a block format ("Q4_0", ...). K must be a multiple of the format's block size.

    data: its bytes, 16 rows interleaved, see blocks.h.
    """

    def __init__(self, kind: str, rows: int, columns: int, data: Tensor | None = None) -> None:
        self.kind, self.rows, self.columns = kind, rows, columns
        self.compiled = library()
        self.data = allocate_zeros([packed_size(kind, rows, columns)])[0] if data is None else data

    def matrix(self, bias: Tensor | None = None, *, wide: bool = False) -> Matrix:
        """The structure that the library reads."""
        at = None if bias is None else bias.data_ptr()
        return Matrix(Kind[self.kind], self.rows, self.columns, self.data.data_ptr(), at, wide)

    def pack_rows(self, rows: Tensor, first: int = 0) -> None:
        """Pack rows of a file, uint8 (n, bytes), into the rows from `first` on, a multiple of 16."""
        rows = rows.contiguous()
        block, block_bytes = FILE_BLOCKS[self.kind]
        assert rows.shape[1] == self.columns // block * block_bytes
        assert first % 16 == 0
        assert first + len(rows) <= self.rows
        self.compiled.pack(ctypes.byref(self.matrix()), rows.data_ptr(), first, len(rows))

    def dequantize_rows(self, ids: Tensor) -> Tensor:
        """Dequantize rows, ids (n,) -> (n, K) float32."""
        ids = ids.long().contiguous()
        if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < self.rows:
            raise IndexError(f"row {int(ids.max())} of {self.rows}")
        out = torch.empty(len(ids), self.columns)
        self.compiled.dequantize(ctypes.byref(self.matrix()), ids.data_ptr(), len(ids), out.data_ptr())
        return out

    def matmul(self, x: Tensor, bias: Tensor | None, *, wide: bool) -> Tensor:
        """X @ weight^T + bias, (M, K) float32 -> (M, N) float32. wide: see BlockLinear."""
        x = x.contiguous()
        out = torch.empty(len(x), self.rows)
        matrix = self.matrix(bias, wide=wide)
        self.compiled.multiply_rows(ctypes.byref(matrix), x.data_ptr(), len(x), out.data_ptr(), torch.get_num_threads())
        return out


def packed_size(kind: str, rows: int, columns: int) -> int:
    """Bytes of a packed N x K matrix in a block format."""
    size: int = library().packed_size(Kind[kind], rows, columns)
    return size


class BlockLinear(nn.Module):
    """y = x @ weight^T + bias, with a weight (N, K) in a block format. wide: quantize x to 16 bits instead of 8."""

    packed_weight: Tensor
    bias: Tensor | None

    def __init__(self, blocks: Blocks, bias: Tensor | None = None, *, wide: bool = False) -> None:
        super().__init__()
        self.wide = wide
        self.kind, self.out_features, self.in_features = blocks.kind, blocks.rows, blocks.columns
        self.register_buffer("packed_weight", blocks.data)
        self.register_buffer("bias", None if bias is None else bias.bfloat16())

    @property
    def blocks(self) -> Blocks:
        """The weight, sharing memory."""
        return Blocks(self.kind, self.out_features, self.in_features, self.packed_weight)

    def forward(self, x: Tensor) -> Tensor:
        """(..., K) -> (..., N), in x's dtype."""
        y = self.blocks.matmul(x.detach().flatten(0, -2).float(), self.bias, wide=self.wide)
        return y.view(*x.shape[:-1], y.shape[-1]).to(x.dtype)


class BlockEmbedding(nn.Module):
    """An embedding (V, C) in a block format, with outputs in bfloat16."""

    packed_weight: Tensor

    def __init__(self, blocks: Blocks) -> None:
        super().__init__()
        self.kind, self.num_embeddings, self.embedding_dim = blocks.kind, blocks.rows, blocks.columns
        self.register_buffer("packed_weight", blocks.data)

    def forward(self, tokens: Tensor) -> Tensor:
        """(...) ids -> (..., C)."""
        blocks = Blocks(self.kind, self.num_embeddings, self.embedding_dim, self.packed_weight)
        return blocks.dequantize_rows(tokens.flatten()).view(*tokens.shape, -1).bfloat16()


def quantize_q4_1(weight: Tensor) -> Tensor:
    """Quantize rows (n, K) to GGUF's Q4_1: sixteen even steps from the minimum to the maximum of each 32 values."""
    groups = weight.float().view(len(weight), -1, GROUP)  # (n, G, GROUP)
    low, high = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
    scales, minimum = ((high - low) / 15).half(), low.half()
    # quantize against scale and minimum as rounded to float16
    values = ((groups - minimum.float()) / scales.float().clamp(min=1e-30)).round_().clamp_(0, 15).to(torch.uint8)
    nibbles = values[..., : GROUP // 2] | values[..., GROUP // 2 :] << 4
    return torch.cat((scales.view(torch.uint8), minimum.view(torch.uint8), nibbles), -1).flatten(1)


def quantize_q8_0(weight: Tensor) -> Tensor:
    """Quantize rows (n, K) to GGUF's Q8_0: 254 even steps for each 32 values."""
    groups = weight.float().view(len(weight), -1, GROUP)
    scales = (groups.abs().amax(-1, keepdim=True) / 127).half()
    values = (groups / scales.float().clamp(min=1e-30)).round_().clamp_(-127, 127).to(torch.int8)
    return torch.cat((scales.view(torch.uint8), values.view(torch.uint8)), -1).flatten(1)
