"""Inputs of attention that layers share within a forward pass: positions, rotary angles and mask.

Shapes: B batch, T new tokens, S keys (cached and new), D head_dim.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Angles(NamedTuple):
    """Cosine and sine of the rotary angle of each new token and pair, (B or 1, 1, T, D/2) float32 each."""

    cos: Tensor
    sin: Tensor


class AttentionContext(NamedTuple):
    """Positions of the new tokens, and the keys that they see.

    positions (B or 1, T): of the new tokens, counted from 0. angles: None without RoPE. mask (B or 1, 1, T, S) bool:
    True where a query sees a key; None: causal, or a single query that sees every key. first_key: index of the first
    key that any query sees; earlier ones are not among the S.
    """

    positions: Tensor
    angles: Angles | None
    mask: Tensor | None
    first_key: int
