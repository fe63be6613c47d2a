"""Normalization over the last dimension. (GPT-2 uses `torch.nn.LayerNorm`.)"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class RMSNorm(nn.Module):
    """Root mean square normalization with learned weights (arXiv 1910.07467), (..., C) -> (..., C)."""

    def __init__(self, dim: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return unit_rms(x, self.eps) * self.weight


class ScaledRMSNorm(RMSNorm):
    """RMSNorm times a constant. Before the output matrix, the constant multiplies the logits (Granite)."""

    def __init__(self, dim: int, eps: float, scale: float) -> None:
        super().__init__(dim, eps)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.scale


def unit_rms(x: Tensor, eps: float) -> Tensor:
    """Divide x by its root mean square over the last dimension, computed in float32 for precision."""
    x32 = x.float()
    return (x32 * torch.rsqrt(x32.square().mean(-1, keepdim=True) + eps)).type_as(x)
