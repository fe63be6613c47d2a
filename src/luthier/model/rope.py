"""Steps on queries and keys before the scores: rotary positions, and Llama 4's norm and temperature.

Each step is called as `q, k = step(q, k, context)`, in the order that the architecture lists them.

Shapes: B batch (or 1), T tokens, H query heads, K key heads, D head_dim.
    q (B, H, T, D)   k (B, K, T, D)   context.positions (B, T), counted from 0 in each row
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from luthier.errors import UsageError
from luthier.model.context import Angles, AttentionContext
from luthier.model.norm import unit_rms


@dataclass(frozen=True)
class RopeScaling:
    """Llama 3.1's stretch of the slow rotations, for a context longer than the one trained on.

    Wavelengths under original / high_freq_factor stay, those over original / low_freq_factor are divided by `factor`,
    and those between are mixed. Llama 4 Scout has low = high = 1: then nothing lies between.
    """

    factor: float = 8.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_context_length: int = 8192  # tokens


class Rope(nn.Module):
    """Rotary position embedding (arXiv 2104.09864): pair (i, i + D/2) turns by position * theta^(-2i/D) radians.

    The pairs lie in halves, as in Hugging Face's Llama. Weights from formats whose pairs are interleaved have the rows
    of q and k permuted when they are read; scores do not change when q and k are permuted alike.
    """

    def __init__(self, head_dim: int, theta: float = 10_000.0, scaling: RopeScaling | None = None) -> None:
        super().__init__()
        if head_dim % 2:
            raise UsageError(f"head_dim {head_dim} (dim / n_heads) is odd: rotary positions turn pairs, make it even")
        self.head_dim, self.theta, self.scaling = head_dim, theta, scaling

    def frequencies(self, device: torch.device | None = None) -> Tensor:
        """Radians per token of each pair, (D/2,). Made anew at each call: a buffer would be empty after `meta`."""
        exponents = torch.arange(0, self.head_dim, 2, dtype=torch.float32, device=device) / self.head_dim
        frequencies = 1.0 / self.theta**exponents
        return frequencies if self.scaling is None else scale_frequencies(frequencies, self.scaling)

    @property
    def kind(self) -> Hashable:
        """What the angles depend on: layers with equal kinds share them."""
        return self.head_dim, self.theta, self.scaling

    def angles(self, positions: Tensor) -> Angles:
        """Of tokens at these positions, (B or 1, T)."""
        angles = positions[:, None, :, None].float() * self.frequencies(positions.device)  # (B, 1, T, D/2)
        return Angles(angles.cos(), angles.sin())

    def forward(self, q: Tensor, k: Tensor, context: AttentionContext) -> tuple[Tensor, Tensor]:
        assert context.angles is not None
        return rotate(q, context.angles), rotate(k, context.angles)


def rotate(x: Tensor, angles: Angles) -> Tensor:
    """Rotate each pair (x[i], x[i + D/2]) by its angle, in float32."""
    cos, sin = angles
    first, second = x.float().chunk(2, dim=-1)  # (B, H, T, D/2) each
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).type_as(x)


def scale_frequencies(frequencies: Tensor, scaling: RopeScaling) -> Tensor:
    """Apply Llama 3.1's scaling to (D/2,) frequencies."""
    turns = scaling.original_context_length * frequencies / (2 * math.pi)  # over the original context
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    # share of the frequency that is kept as it is: 0 for slow pairs, 1 for fast ones. low == high must not divide by 0
    kept = ((turns - low) / (high - low)).clamp(0, 1) if high > low else (turns >= low).float()
    return frequencies * (kept + (1 - kept) / scaling.factor)


class UnitQK(nn.Module):
    """Llama 4's norm of queries and keys on layers with rotary positions: unit RMS over D, with no weights."""

    def __init__(self, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, q: Tensor, k: Tensor, context: AttentionContext) -> tuple[Tensor, Tensor]:
        return unit_rms(q, self.eps), unit_rms(k, self.eps)


class QueryTemperature(nn.Module):
    """Llama 4's growing queries on layers without positions (arXiv 2501.19399).

    q *= 1 + scale * log(floor((position + 1) / floor_scale) + 1): sharper attention over longer contexts.
    """

    def __init__(self, floor_scale: float = 8192.0, scale: float = 0.1) -> None:
        super().__init__()
        self.floor_scale, self.scale = floor_scale, scale

    def forward(self, q: Tensor, k: Tensor, context: AttentionContext) -> tuple[Tensor, Tensor]:
        temperature = 1 + self.scale * torch.log(torch.floor((context.positions.float() + 1) / self.floor_scale) + 1)
        return (q.float() * temperature[:, None, :, None]).type_as(q), k
