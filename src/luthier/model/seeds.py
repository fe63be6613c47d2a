"""Random generators from integer seeds of any size."""

from __future__ import annotations

import hashlib

import torch

WIDTH = 2**32  # the CPU generator uses only the lowest 32 bits of a seed


def seeded(seed: int) -> torch.Generator:
    """A CPU generator. Seeds below 2^32 are PyTorch's own; others are hashed, so that all their bits matter."""
    if not 0 <= seed < WIDTH:
        seed = int.from_bytes(hashlib.sha256(str(seed).encode()).digest()[:4], "little")
    return torch.Generator().manual_seed(seed)
