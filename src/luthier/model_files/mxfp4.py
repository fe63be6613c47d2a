"""Folders whose experts are packed in MXFP4 (Open Compute Project, "OCP Microscaling Formats", 2023), as gpt-oss has
them: numbers of 4 bits, and for every 32 of them a power of two.

Shapes: E experts, N rows, G groups of 32 columns, C = 32 G.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from luthier.errors import LuthierError
from luthier.formats.weight_table import Checkpoint, Shape

GROUP = 32  # numbers of a row that share a power of two
BIAS = 127  # of the exponents
VALUES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)
BLOCKS, SCALES = "_blocks", "_scales"


class UnpackedCheckpoint:
    """A checkpoint in which each pair NAME_blocks (E, N, G, 16) and NAME_scales (E, N, G), both uint8, appears as one
    tensor NAME (E, C, N) in bfloat16.
    """

    def __init__(self, packed: Checkpoint) -> None:
        self.packed = packed
        self.stored = packed.shapes()

    def shapes(self) -> Mapping[str, Shape]:
        found: dict[str, Shape] = {}
        for name, shape in self.stored.items():
            if name.endswith(SCALES) and name.removesuffix(SCALES) + BLOCKS in self.stored:
                continue
            if name.endswith(BLOCKS):
                n, rows, groups = self.checked(name, shape)
                found[name.removesuffix(BLOCKS)] = (n, groups * GROUP, rows)
            else:
                found[name] = shape
        return found

    def checked(self, name: str, shape: Shape) -> Shape:
        """The shape of the scales that belong to these blocks. A LuthierError where they are not there."""
        scales = name.removesuffix(BLOCKS) + SCALES
        if len(shape) != 4 or shape[3] != GROUP // 2 or self.stored.get(scales) != shape[:3]:
            raise LuthierError(f"'{name}' {shape} is not packed in MXFP4, or its '{scales}' does not fit")
        return shape[:3]

    def tensor(self, name: str) -> Tensor:
        if name in self.stored:
            return self.packed.tensor(name)
        blocks, scales = self.packed.tensor(name + BLOCKS), self.packed.tensor(name + SCALES)
        if blocks.dtype != torch.uint8 or scales.dtype != torch.uint8:
            raise LuthierError(f"'{name}{BLOCKS}' holds {blocks.dtype}, not bytes of MXFP4")
        unpacked = torch.empty(*self.shapes()[name], dtype=torch.bfloat16)  # (E, C, N)
        for place, block, scale in zip(unpacked, blocks, scales, strict=True):  # an expert at a time
            place.copy_(unpack(block, scale).T)
        return unpacked


def unpack(blocks: Tensor, scales: Tensor) -> Tensor:
    """Rows (N, G, 16) and scales (N, G) -> (N, C) bfloat16. The low half of a byte comes first."""
    values = torch.tensor(VALUES, dtype=torch.bfloat16)
    halves = torch.stack((blocks & 15, blocks >> 4), -1).flatten(-2)  # (N, G, 32)
    exponents = scales.int() - BIAS
    return torch.ldexp(values[halves.int()], exponents[..., None]).flatten(1)
