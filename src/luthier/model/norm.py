"""Normalization over the last dimension. (GPT-2 uses `torch.nn.LayerNorm`.)"""

from __future__ import annotations

import torch
import torch.nn.functional as F
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


class OffsetRMSNorm(RMSNorm):
    """RMS norm whose scale is 1 + the weights, multiplied in float32 (Gemma, arXiv 2403.08295). (..., C)."""

    def __init__(self, dim: int, eps: float = 1e-6) -> None:
        super().__init__(dim, eps)
        self.weight = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        return (unit_rms(x.float(), self.eps) * (1 + self.weight.float())).type_as(x)


class UnitNorm(nn.Module):
    """RMS norm without weights. (..., C)."""

    def __init__(self, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return unit_rms(x, self.eps)


class HeadLayerNorm(nn.Module):
    """LayerNorm over the dimensions of each head, without bias, whose weights differ by head. (B, H, T, D).

    The weights are concatenated by head, (H * D,).
    """

    def __init__(self, n_heads: int, head_dim: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.n_heads, self.head_dim, self.eps = n_heads, head_dim, eps
        self.weight = nn.Parameter(torch.ones(n_heads * head_dim))

    def forward(self, x: Tensor) -> Tensor:
        normed = F.layer_norm(x, (self.head_dim,), eps=self.eps)
        return normed * self.weight.view(self.n_heads, 1, self.head_dim)


def unit_rms(x: Tensor, eps: float) -> Tensor:
    """Divide x by its root mean square over the last dimension, computed in float32 for precision."""
    x32 = x.float()
    return (x32 * torch.rsqrt(x32.square().mean(-1, keepdim=True) + eps)).type_as(x)
