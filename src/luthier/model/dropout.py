"""Dropout whose mask is a function of a seed and of the place, not of a generator's past.

A mask is hash(place, seed) >= threshold. So nothing is drawn from the global generator, a run that resumes needs only
the seeds, recomputed activations meet the same mask, and a compiler fuses the hash into the operation before it:
drawing masks costs a third of a training step on CPU.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from luthier.errors import UsageError, of_model


class Dropout(nn.Module):
    """In training, zero each element with probability p and divide the others by 1 - p (arXiv 1207.0580).

    The mask stays the same until `reseed` gives another seed.
    """

    seed: Tensor

    def __init__(self, p: float) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise UsageError(f"{of_model('dropout')} {p} must be at least 0 and less than 1")
        self.p = p
        self.rank, self.generator_seed = 0, 0
        # a tensor, not an int: a compiled block must not be compiled again for each seed. On the CPU even within
        # `torch.device("meta")`: it is in no file of weights, so no assignment would make it real
        self.register_buffer("seed", torch.zeros((), dtype=torch.int32, device="cpu"), persistent=False)

    def reseed(self, seed: int, rank: int) -> None:
        """Take another mask. seed: an int32. rank: of this process; its rows follow those of the ranks before it."""
        self.seed.fill_(seed)
        self.rank = rank
        self.generator_seed = (seed % 2**32) << 16 | rank  # for kernels that draw from a generator

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        threshold = int(self.p * 2**32) - 2**31
        first = self.rank * x.numel()
        places = torch.arange(first, first + x.numel(), dtype=torch.int32, device=x.device).view(x.shape)
        keep = scramble(places ^ self.seed) >= threshold
        return torch.where(keep, x * (1 / (1 - self.p)), 0.0)

    def extra_repr(self) -> str:
        return f"p={self.p}"


def scramble(x: Tensor) -> Tensor:
    """A bijection on int32 whose bits look random: multiply and xor-shift, as hash finalizers do."""
    x = (x ^ ((x >> 16) & 0xFFFF)) * 0x7FEB352D  # the shift keeps the sign, so the upper bits are masked off
    x = (x ^ ((x >> 15) & 0x1FFFF)) * -0x7B935975
    return x ^ ((x >> 16) & 0xFFFF)


def reseed(model: nn.Module, generator: torch.Generator, rank: int = 0) -> None:
    """Give each Dropout of a model a new seed: once a forward in training.

    rank: of this process, whose rows of the batch follow those of the ranks before it. All ranks draw the same seeds.
    """
    layers = [module for module in model.modules() if isinstance(module, Dropout)]
    if layers:
        seeds = torch.randint(-(2**31), 2**31, (len(layers),), dtype=torch.int64, generator=generator)
        for layer, seed in zip(layers, seeds.tolist(), strict=True):
            layer.reseed(seed, rank)
