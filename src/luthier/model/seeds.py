"""Random generators by seed: another seed gives other numbers, however large it is."""

from __future__ import annotations

import hashlib

import torch

WIDTH = 2**32  # seeds that the generator of a CPU tells apart: of larger ones it takes the lowest 32 bits


def seeded(seed: int) -> torch.Generator:
    """A generator on the CPU. Seeds up to 2^32 are PyTorch's own; of larger ones all the bits count."""
    if not 0 <= seed < WIDTH:
        seed = int.from_bytes(hashlib.sha256(str(seed).encode()).digest()[:4], "little")
    return torch.Generator().manual_seed(seed)
