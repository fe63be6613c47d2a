"""Steps on queries and keys before the scores: rotary positions, and Llama 4's norm and temperature.

Each step is called as `q, k = step(q, k, context)`, in the order that the architecture lists them.

Shapes: B batch (or 1), T tokens, H query heads, K key heads, D head_dim.
    q (B, H, T, D)   k (B, K, T, D)   context.positions (B, T), counted from 0 in each row
"""

from __future__ import annotations

from collections.abc import Hashable

import torch
from torch import Tensor, nn

from luthier.errors import UsageError, of_model
from luthier.model.context import Angles, AttentionContext
from luthier.model.norm import unit_rms
from luthier.model.rope_scaling import (
    RopeScaling,
    dynamic_frequencies,
    long_frequencies,
    plain_frequencies,
    scale_frequencies,
)


class Rope(nn.Module):
    """Rotary position embedding (arXiv 2104.09864): pair (i, i + D/2) turns by position * theta^(-2i/D) radians.

    The pairs lie in halves, as in Hugging Face's Llama. Weights from formats whose pairs are interleaved have the rows
    of q and k permuted when they are read; scores do not change when q and k are permuted alike.

    scaling: of the frequencies, in a way that does not depend on the text's length (see LengthRope, and `rope`). Its
    `magnitude` is not applied here: it belongs into the scale of the scores.
    """

    def __init__(self, head_dim: int, theta: float = 10_000.0, scaling: RopeScaling | None = None) -> None:
        super().__init__()
        check_rope(head_dim, theta, scaling)
        if scaling is not None and scaling.depends_on_length:
            raise UsageError(f"rope_scaling {scaling.kind} depends on the text's length: that is a LengthRope")
        self.head_dim, self.theta, self.scaling = head_dim, theta, scaling

    def frequencies(self, device: torch.device | None = None) -> Tensor:
        """Radians per token of each pair, (D/2,). Made anew at each call: a buffer would be empty after `meta`."""
        frequencies = plain_frequencies(self.head_dim, self.theta, device)
        return frequencies if self.scaling is None else scale_frequencies(frequencies, self.scaling, self.theta)

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


class LengthRope(nn.Module):
    """Rotary positions whose frequencies depend on how long the text is: scaling of the kinds dynamic and longrope.

    A text's length is its last position of this call, plus 1, in each row by itself. As in transformers, keys that are
    in the cache keep the angles that they were given when they were read: beyond `scaling.original_context_length`
    tokens, logits depend on how the text was cut into calls.
    """

    def __init__(self, head_dim: int, theta: float, scaling: RopeScaling) -> None:
        super().__init__()
        check_rope(head_dim, theta, scaling)
        if not scaling.depends_on_length:
            raise UsageError(f"rope_scaling {scaling.kind} does not depend on the text's length: that is a Rope")
        self.head_dim, self.theta, self.scaling = head_dim, theta, scaling

    @property
    def kind(self) -> Hashable:
        """What the angles depend on: layers with equal kinds share them."""
        return self.head_dim, self.theta, self.scaling

    def angles(self, positions: Tensor) -> Angles:
        """Of tokens at these positions, (B or 1, T), of which the last ends the text."""
        lengths = positions.amax(-1, keepdim=True) + 1  # (B, 1)
        frequencies = dynamic_frequencies if self.scaling.kind == "dynamic" else long_frequencies
        each = frequencies(self.head_dim, self.theta, self.scaling, lengths)  # (B, D/2)
        angles = positions[:, None, :, None].float() * each[:, None, None, :]  # (B, 1, T, D/2)
        return Angles(angles.cos(), angles.sin())

    def forward(self, q: Tensor, k: Tensor, context: AttentionContext) -> tuple[Tensor, Tensor]:
        assert context.angles is not None
        return rotate(q, context.angles), rotate(k, context.angles)


def rope(head_dim: int, theta: float, scaling: RopeScaling | None) -> Rope | LengthRope:
    """The part that computes this scaling."""
    if scaling is not None and scaling.depends_on_length:
        return LengthRope(head_dim, theta, scaling)
    return Rope(head_dim, theta, scaling)


def check_rope(head_dim: int, theta: float, scaling: RopeScaling | None) -> None:
    """Raise a UsageError for sizes that this scaling cannot be computed with."""
    if head_dim % 2:
        raise UsageError(
            f"head_dim {head_dim} ({of_model('dim')} / {of_model('n_heads')}) is odd: rotary positions turn "
            "pairs, make it even"
        )
    if scaling is None:
        return
    if scaling.kind == "yarn" and theta <= 1:
        raise UsageError(f"{of_model('rope_theta')} is {theta:g}: with rope_scaling yarn it must be above 1")
    if scaling.kind == "dynamic" and head_dim < 4:
        raise UsageError(f"head_dim is {head_dim}: with rope_scaling dynamic it must be at least 4")
    if scaling.kind == "longrope" and len(scaling.long_factors) != head_dim // 2:
        raise UsageError(
            f"rope_scaling: longrope has {len(scaling.long_factors)} factors, and a head of {head_dim} dimensions "
            f"needs {head_dim // 2}"
        )


def rotate(x: Tensor, angles: Angles) -> Tensor:
    """Rotate each pair (x[i], x[i + D/2]) by its angle, in float32."""
    cos, sin = angles
    first, second = x.float().chunk(2, dim=-1)  # (B, H, T, D/2) each
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).type_as(x)


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
