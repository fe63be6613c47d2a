"""Transforms of queries and keys before the scores: rotary position embedding, and Llama 4's norm and temperature.

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
    base_frequencies,
    dynamic_frequencies,
    longrope_frequencies,
    scale_frequencies,
)


class Rope(nn.Module):
    """Rotary position embedding (arXiv 2104.09864): rotates pair (i, i + D/2) by position * theta^(-2i/D) radians.

    Pairs are split in halves, as in transformers' Llama. Weights from formats with interleaved pairs have the rows of
    q and k permuted when they are read; scores do not change when q and k are permuted alike.

    scaling: of the frequencies, of a kind that does not depend on the sequence length (see LengthRope and `rope`). Its
    `magnitude` is not applied here: it belongs in the scale of the scores.
    """

    def __init__(self, head_dim: int, theta: float = 10_000.0, scaling: RopeScaling | None = None) -> None:
        super().__init__()
        check_rope(head_dim, theta, scaling)
        if scaling is not None and scaling.depends_on_length:
            raise UsageError(f"rope_scaling {scaling.kind} depends on the sequence length: use LengthRope")
        self.head_dim, self.theta, self.scaling = head_dim, theta, scaling

    def frequencies(self, device: torch.device | None = None) -> Tensor:
        """Radians per token of each pair, (D/2,). Not a buffer, which building on `meta` would leave uninitialized."""
        frequencies = base_frequencies(self.head_dim, self.theta, device)
        return frequencies if self.scaling is None else scale_frequencies(frequencies, self.scaling, self.theta)

    @property
    def angles_key(self) -> Hashable:
        """What the angles depend on: layers with equal keys share them."""
        return self.head_dim, self.theta, self.scaling

    def angles(self, positions: Tensor) -> Angles:
        """Rotary angles of tokens at these positions, (B or 1, T)."""
        angles = positions[:, None, :, None].float() * self.frequencies(positions.device)  # (B, 1, T, D/2)
        return Angles(angles.cos(), angles.sin())

    def forward(self, q: Tensor, k: Tensor, context: AttentionContext) -> tuple[Tensor, Tensor]:
        assert context.angles is not None
        return rotate(q, context.angles), rotate(k, context.angles)


class LengthRope(nn.Module):
    """Rotary position embedding with frequencies that depend on the sequence length: the scalings dynamic and longrope.

    The length is the last position of this call plus 1, for each row separately. As in transformers, cached keys keep
    the angles with which they were computed: beyond `scaling.original_context_length` tokens, logits depend on how the
    sequence was split into calls.
    """

    def __init__(self, head_dim: int, theta: float, scaling: RopeScaling) -> None:
        super().__init__()
        check_rope(head_dim, theta, scaling)
        if not scaling.depends_on_length:
            raise UsageError(f"rope_scaling {scaling.kind} does not depend on the sequence length: use Rope")
        self.head_dim, self.theta, self.scaling = head_dim, theta, scaling

    @property
    def angles_key(self) -> Hashable:
        """What the angles depend on: layers with equal keys share them."""
        return self.head_dim, self.theta, self.scaling

    def angles(self, positions: Tensor) -> Angles:
        """Rotary angles of tokens at these positions, (B or 1, T), the last of which ends the sequence."""
        lengths = positions.amax(-1, keepdim=True) + 1  # (B, 1)
        frequencies = dynamic_frequencies if self.scaling.kind == "dynamic" else longrope_frequencies
        per_row = frequencies(self.head_dim, self.theta, self.scaling, lengths)  # (B, D/2)
        angles = positions[:, None, :, None].float() * per_row[:, None, None, :]  # (B, 1, T, D/2)
        return Angles(angles.cos(), angles.sin())

    def forward(self, q: Tensor, k: Tensor, context: AttentionContext) -> tuple[Tensor, Tensor]:
        assert context.angles is not None
        return rotate(q, context.angles), rotate(k, context.angles)


class PartialRope(nn.Module):
    """Rotary positions on the first dimensions of each head only, as many as `rope` rotates; the others are unchanged.

    The magnitude of a scaling is applied here, to what is rotated: it cannot be a part of the scale of all scores.
    """

    def __init__(self, rope: Rope | LengthRope) -> None:
        super().__init__()
        self.rope = rope
        self.magnitude = 1.0 if rope.scaling is None else rope.scaling.magnitude

    def forward(self, q: Tensor, k: Tensor, context: AttentionContext) -> tuple[Tensor, Tensor]:
        size = self.rope.head_dim
        rotated = self.rope(q[..., :size], k[..., :size], context)
        if self.magnitude != 1:
            rotated = rotated[0] * self.magnitude, rotated[1] * self.magnitude
        first, second = (torch.cat((part, x[..., size:]), -1) for part, x in zip(rotated, (q, k), strict=True))
        return first, second


def partial_rope(
    head_dim: int, rotary_dim: int, theta: float, scaling: RopeScaling | None = None
) -> Rope | LengthRope | PartialRope:
    """Rotary positions on `rotary_dim` of the head_dim dimensions of a head."""
    if not 0 < rotary_dim <= head_dim:
        raise UsageError(f"rotary positions turn {rotary_dim} of {head_dim} dimensions of a head: it must be 2 or more")
    whole = rope(rotary_dim, theta, scaling)
    return whole if rotary_dim == head_dim else PartialRope(whole)


def rope(head_dim: int, theta: float, scaling: RopeScaling | None) -> Rope | LengthRope:
    """Rope or LengthRope, whichever supports this scaling."""
    if scaling is not None and scaling.depends_on_length:
        return LengthRope(head_dim, theta, scaling)
    return Rope(head_dim, theta, scaling)


def check_rope(head_dim: int, theta: float, scaling: RopeScaling | None) -> None:
    """Raise a UsageError for sizes that RoPE or this scaling does not support."""
    if head_dim % 2:
        raise UsageError(
            f"head_dim {head_dim} ({of_model('dim')} / {of_model('n_heads')}) is odd: rotary positions "
            "rotate pairs, make it even"
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


class UnitQKNorm(nn.Module):
    """Llama 4's QK-norm on layers with RoPE: normalization to unit RMS over D, without weights."""

    def __init__(self, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, q: Tensor, k: Tensor, context: AttentionContext) -> tuple[Tensor, Tensor]:
        return unit_rms(q, self.eps), unit_rms(k, self.eps)


class QueryTemperature(nn.Module):
    """Llama 4's temperature scaling of queries on layers without RoPE (arXiv 2501.19399).

    q *= 1 + scale * log(floor((position + 1) / floor_scale) + 1), which sharpens attention over long contexts.
    """

    def __init__(self, floor_scale: float = 8192.0, scale: float = 0.1) -> None:
        super().__init__()
        self.floor_scale, self.scale = floor_scale, scale

    def forward(self, q: Tensor, k: Tensor, context: AttentionContext) -> tuple[Tensor, Tensor]:
        temperature = 1 + self.scale * torch.log(torch.floor((context.positions.float() + 1) / self.floor_scale) + 1)
        return (q.float() * temperature[:, None, :, None]).type_as(q), k
