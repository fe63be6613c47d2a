"""Dropout whose mask is a hash of a seed and the element's index, independent of any generator's state.

A mask is hash(index, seed) >= threshold. So nothing is drawn from the global generator, resuming a run needs only the
seeds, recomputed activations get the same mask, and a compiler fuses the hash into the preceding operation: drawing
masks costs a third of a training step on CPU.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from luthier.errors import UsageError, of_model


class Dropout(nn.Module):
    """In training, zero each element with probability p and divide the others by 1 - p (arXiv 1207.0580).

    The mask stays the same until `reseed` sets another seed.
    """

    seed: Tensor

    def __init__(self, p: float) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise UsageError(f"{of_model('dropout')} {p} must be at least 0 and less than 1")
        self.p = p
        self.rank, self.generator_seed = 0, 0
        # a tensor, not an int, which would recompile a block for each seed. On the CPU even under
        # `torch.device("meta")`: checkpoints do not contain it, so nothing would materialize it
        self.register_buffer("seed", torch.zeros((), dtype=torch.int32, device="cpu"), persistent=False)

    def reseed(self, seed: int, rank: int) -> None:
        """Set the seed (an int32). rank: of this process; its rows of the batch follow those of lower ranks."""
        self.seed.fill_(seed)
        self.rank = rank
        self.generator_seed = (seed % 2**32) << 16 | rank  # for kernels that draw from a generator

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        threshold = int(self.p * 2**32) - 2**31
        first = self.rank * x.numel()
        indices = torch.arange(first, first + x.numel(), dtype=torch.int32, device=x.device).view(x.shape)
        keep = hash_int32(indices ^ self.seed) >= threshold
        return torch.where(keep, x * (1 / (1 - self.p)), 0.0)

    def extra_repr(self) -> str:
        return f"p={self.p}"


def hash_int32(x: Tensor) -> Tensor:
    """A bijective integer hash on int32: multiply and xor-shift (as MurmurHash's finalizer)."""
    x = (x ^ ((x >> 16) & 0xFFFF)) * 0x7FEB352D  # an arithmetic shift: mask off the copies of the sign bit
    x = (x ^ ((x >> 15) & 0x1FFFF)) * -0x7B935975
    return x ^ ((x >> 16) & 0xFFFF)


def reseed(model: nn.Module, generator: torch.Generator, rank: int = 0) -> None:
    """Set a new seed in each Dropout of a model; called once per forward pass in training.

    rank: of this process, whose rows of the batch follow those of lower ranks. All ranks draw the same seeds.
    """
    layers = [module for module in model.modules() if isinstance(module, Dropout)]
    if layers:
        seeds = torch.randint(-(2**31), 2**31, (len(layers),), dtype=torch.int64, generator=generator)
        for layer, seed in zip(layers, seeds.tolist(), strict=True):
            layer.reseed(seed, rank)
