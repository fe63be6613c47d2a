"""What layers of one kind share in a forward pass: built once, not once a layer.

Shapes: B batch, T new tokens, S keys (cached and new), D head_dim.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Angles(NamedTuple):
    """Cosine and sine of the rotary angles of each new token and pair, (B or 1, 1, T, D/2) float32 each."""

    cos: Tensor
    sin: Tensor


class AttentionContext(NamedTuple):
    """Where the new tokens are, and what they see.

    positions (B or 1, T): of the new tokens, counted from 0. angles: None where there are no rotary positions. mask (B
    or 1, 1, T, S) bool: True where a query sees a key; None: causal, or a single query that sees every key.
    first_key: the keys before this one are visible to no query, and are not among the S.
    """

    positions: Tensor
    angles: Angles | None
    mask: Tensor | None
    first_key: int
