"""Weights in the blocks of GGUF files, multiplied by the compiled library: a linear layer and an embedding.

Activations are rounded to 8 bits, with a scale for each 32 of them, and multiplied by the weights as whole numbers.

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
ALIGNMENT = 64  # bytes, of a line of the cache
BITS = {"Q4_0": 4, "Q4_1": 4, "Q8_0": 8, "Q4_K": 4, "Q6_K": 6}


def room(sizes: Sequence[int]) -> list[Tensor]:
    """Zeros, uint8, of so many bytes each, in one piece of memory with large pages where the system has them: what is
    read from one end to the other is then found faster.
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
    """An N x K matrix in blocks of a kind ("Q4_0", ...). K must be a multiple of the kind's block.

    numbers: its bytes, 16 rows side by side, as blocks.h has them.
    """

    def __init__(self, kind: str, rows: int, columns: int, numbers: Tensor | None = None) -> None:
        self.kind, self.rows, self.columns = kind, rows, columns
        self.compiled = library()
        self.numbers = room([size_of(kind, rows, columns)])[0] if numbers is None else numbers

    def matrix(self, bias: Tensor | None = None, *, wide: bool = False) -> Matrix:
        """As the library reads it."""
        at = None if bias is None else bias.data_ptr()
        return Matrix(Kind[self.kind], self.rows, self.columns, self.numbers.data_ptr(), at, wide)

    def fill(self, rows: Tensor, first: int = 0) -> None:
        """Take rows of a file, uint8 (n, bytes), from row `first` on, a multiple of 16."""
        rows = rows.contiguous()
        block, block_bytes = FILE_BLOCKS[self.kind]
        assert rows.shape[1] == self.columns // block * block_bytes
        assert first % 16 == 0
        assert first + len(rows) <= self.rows
        self.compiled.pack(ctypes.byref(self.matrix()), rows.data_ptr(), first, len(rows))

    def rows_of(self, ids: Tensor) -> Tensor:
        """Some rows, (n,) -> (n, K) float32."""
        ids = ids.long().contiguous()
        if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < self.rows:
            raise IndexError(f"row {int(ids.max())} of {self.rows}")
        out = torch.empty(len(ids), self.columns)
        self.compiled.unpack(ctypes.byref(self.matrix()), ids.data_ptr(), len(ids), out.data_ptr())
        return out

    def product(self, x: Tensor, bias: Tensor | None, *, wide: bool) -> Tensor:
        """(M, K) float32 -> (M, N) float32."""
        x = x.contiguous()
        out = torch.empty(len(x), self.rows)
        matrix = self.matrix(bias, wide=wide)
        self.compiled.multiply_rows(ctypes.byref(matrix), x.data_ptr(), len(x), out.data_ptr(), torch.get_num_threads())
        return out


def size_of(kind: str, rows: int, columns: int) -> int:
    """Bytes of an N x K matrix in blocks of a kind."""
    size: int = library().bytes_of(Kind[kind], rows, columns)
    return size


class BlockLinear(nn.Module):
    """y = x @ weight^T + bias, with a weight (N, K) in blocks. wide: x keeps 16 bits, and not 8."""

    numbers: Tensor
    bias: Tensor | None

    def __init__(self, blocks: Blocks, bias: Tensor | None = None, *, wide: bool = False) -> None:
        super().__init__()
        self.wide = wide
        self.kind, self.out_features, self.in_features = blocks.kind, blocks.rows, blocks.columns
        self.register_buffer("numbers", blocks.numbers)
        self.register_buffer("bias", None if bias is None else bias.bfloat16())

    @property
    def blocks(self) -> Blocks:
        """The weight."""
        return Blocks(self.kind, self.out_features, self.in_features, self.numbers)

    def forward(self, x: Tensor) -> Tensor:
        """(..., K) -> (..., N), in x's type."""
        y = self.blocks.product(x.detach().flatten(0, -2).float(), self.bias, wide=self.wide)
        return y.view(*x.shape[:-1], y.shape[-1]).to(x.dtype)


class BlockEmbedding(nn.Module):
    """Rows of a matrix (V, C) in blocks, in bfloat16."""

    numbers: Tensor

    def __init__(self, blocks: Blocks) -> None:
        super().__init__()
        self.kind, self.num_embeddings, self.embedding_dim = blocks.kind, blocks.rows, blocks.columns
        self.register_buffer("numbers", blocks.numbers)

    def forward(self, tokens: Tensor) -> Tensor:
        """(...) ids -> (..., C)."""
        blocks = Blocks(self.kind, self.num_embeddings, self.embedding_dim, self.numbers)
        return blocks.rows_of(tokens.flatten()).view(*tokens.shape, -1).bfloat16()


def four_bits(weight: Tensor) -> Tensor:
    """Rows (n, K) as a file has them in Q4_1: sixteen even steps from the smallest to the largest number of each 32."""
    groups = weight.float().view(len(weight), -1, GROUP)  # (n, G, GROUP)
    low, high = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
    scales, lowest = ((high - low) / 15).half(), low.half()
    # numbers are sought for scale and lowest as they are after rounding
    numbers = ((groups - lowest.float()) / scales.float().clamp(min=1e-30)).round_().clamp_(0, 15).to(torch.uint8)
    halves = numbers[..., : GROUP // 2] | numbers[..., GROUP // 2 :] << 4
    return torch.cat((scales.view(torch.uint8), lowest.view(torch.uint8), halves), -1).flatten(1)


def eight_bits(weight: Tensor) -> Tensor:
    """Rows (n, K) as a file has them in Q8_0: 254 even steps for each 32."""
    groups = weight.float().view(len(weight), -1, GROUP)
    scales = (groups.abs().amax(-1, keepdim=True) / 127).half()
    numbers = (groups / scales.float().clamp(min=1e-30)).round_().clamp_(-127, 127).to(torch.int8)
    return torch.cat((scales.view(torch.uint8), numbers.view(torch.uint8)), -1).flatten(1)
