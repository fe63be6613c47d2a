"""Rows of random weights in each kind of GGUF block, as files hold them."""

from __future__ import annotations

from typing import Any

import numpy as np
from gguf import GGMLQuantizationType
from gguf.quants import dequantize, quantize

KINDS = ("Q4_0", "Q4_1", "Q8_0", "Q4_K", "Q6_K")
SCALES = {"Q4_K": (144, (0, 2)), "Q6_K": (210, (208,))}  # bytes of a block of 256, and where its numbers of 16 bits are


def random_blocks(kind: str, rows: int, columns: int, seed: int = 0) -> Any:
    """(rows, bytes) uint8. The package packs no K-quants: those are random bits with scales of a useful size."""
    generator = np.random.default_rng(seed)
    if kind not in SCALES:
        weight = generator.normal(size=(rows, columns)).astype(np.float32) / columns**0.5
        return quantize(weight, GGMLQuantizationType[kind])
    size, places = SCALES[kind]
    blocks = generator.integers(0, 256, (rows, columns // 256, size), dtype=np.uint8)
    for place in places:
        scales = generator.uniform(2e-5, 2e-4, (rows, columns // 256, 1)).astype(np.float16)
        blocks[..., place : place + 2] = scales.view(np.uint8)
    return blocks.reshape(rows, -1)


def floats(data: Any, kind: str) -> Any:
    """The weights that they stand for, by the package."""
    return dequantize(data, GGMLQuantizationType[kind])
