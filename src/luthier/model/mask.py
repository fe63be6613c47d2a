"""Which keys a query may see: small rules on positions, joined into one boolean tensor a forward.

Shapes: B batch (or 1), T queries, S keys (those in the cache, then the T new ones).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class MaskRule(Protocol):
    """A hashable rule: layers with equal rules share one mask."""

    @property
    def reach(self) -> int | None:
        """As long as no position reaches this, the rule is plain causal attention. None: always."""

    def __call__(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Positions that broadcast against each other -> bool, True where the query sees the key."""


@dataclass(frozen=True)
class Causal:
    """Everything up to and including the query itself."""

    reach: None = None

    def __call__(self, queries: Tensor, keys: Tensor) -> Tensor:
        return keys <= queries


@dataclass(frozen=True)
class SlidingWindow:
    """The last `window` tokens, the query's own among them."""

    window: int

    @property
    def reach(self) -> int:
        return self.window

    def __call__(self, queries: Tensor, keys: Tensor) -> Tensor:
        return (keys <= queries) & (keys > queries - self.window)


@dataclass(frozen=True)
class Chunked:
    """What came before within the query's own chunk of `size` tokens (Llama 4's local layers)."""

    size: int

    @property
    def reach(self) -> int:
        return self.size

    def __call__(self, queries: Tensor, keys: Tensor) -> Tensor:
        return (keys <= queries) & (keys // self.size == queries // self.size)


causal = Causal()


def build_mask(rule: MaskRule, key_positions: Tensor, n_queries: int, valid: Tensor | None) -> Tensor | None:
    """The mask of the last `n_queries` of S keys, (B, 1, T, S) bool; None when fused causal attention does the same.

    key_positions (B or 1, S); valid (B, S) bool, False = padding. A padded query sees itself: a row of scores with
    nothing in it would be NaN.
    """
    n_keys = key_positions.shape[1]
    plain = rule.reach is None or n_keys <= rule.reach
    if valid is None and plain and (n_queries == n_keys or n_queries == 1):
        return None
    queries = key_positions[:, -n_queries:, None]  # (B, T, 1)
    mask = rule(queries, key_positions[:, None, :])  # (B, T, S)
    if valid is not None:
        slots = torch.arange(n_keys, device=key_positions.device)
        own = slots[-n_queries:, None] == slots
        # positions repeat where there is padding, so order is asked of the slots as well
        mask = (mask & valid[:, None, :] & (slots <= slots[-n_queries:, None])) | own
    return mask[:, None]
