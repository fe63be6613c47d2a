"""Normalization over the last dimension. (GPT-2 uses `torch.nn.LayerNorm` as it is.)"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class RMSNorm(nn.Module):
    """Bring each vector to a root mean square of 1, then scale it by learned weights (arXiv 1910.07467). (..., C)."""

    def __init__(self, dim: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return unit_rms(x, self.eps) * self.weight


class ScaledRMSNorm(RMSNorm):
    """The same, times a constant. Before the output matrix the constant multiplies the logits (Granite)."""

    def __init__(self, dim: int, eps: float, scale: float) -> None:
        super().__init__(dim, eps)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.scale


def unit_rms(x: Tensor, eps: float) -> Tensor:
    """Divide x by its root mean square over the last dimension, taken in float32: bfloat16 squares lose digits."""
    x32 = x.float()
    return (x32 * torch.rsqrt(x32.square().mean(-1, keepdim=True) + eps)).type_as(x)
