"""Which keys a query may see: small rules on positions, joined into one boolean tensor a forward.

Shapes: B batch (or 1), T queries, S keys (those in the cache, then the T new ones).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

Positions = TypeVar("Positions", int, Tensor)


class MaskRule(ABC):
    """A query sees from `first_seen` up to itself. Rules are hashable: layers with equal ones share one mask."""

    @property
    @abstractmethod
    def window(self) -> int | None:
        """Keys this far back are never visible, so that the rule is plain causal attention in shorter texts.
        None: unlimited.
        """

    @abstractmethod
    def first_seen(self, queries: Positions) -> Positions:
        """The lowest position that queries at such positions see; it never falls as they rise. Under 0: all."""

    def __call__(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Positions that broadcast against each other -> bool, True where the query sees the key."""
        return (keys <= queries) & (keys >= self.first_seen(queries))


@dataclass(frozen=True)
class Causal(MaskRule):
    """Everything up to and including the query itself."""

    @property
    def window(self) -> None:
        return None

    def first_seen(self, queries: Positions) -> Positions:
        return queries * 0


@dataclass(frozen=True)
class SlidingWindow(MaskRule):
    """The last `size` tokens, the query's own among them."""

    size: int

    @property
    def window(self) -> int:
        return self.size

    def first_seen(self, queries: Positions) -> Positions:
        return queries - self.size + 1


@dataclass(frozen=True)
class Chunked(MaskRule):
    """What came before within the query's own chunk of `size` tokens (Llama 4's local layers)."""

    size: int

    @property
    def window(self) -> int:
        return self.size

    def first_seen(self, queries: Positions) -> Positions:
        return queries // self.size * self.size


causal = Causal()


def first_slot(rule: MaskRule, key_positions: Tensor, n_queries: int, valid: Tensor | None) -> int:
    """The first of S keys that any of the last `n_queries` sees: those before need not be asked. As `build_mask`."""
    n_keys = key_positions.shape[1]
    begin = n_keys - n_queries  # the first query sees furthest back
    if begin == 0 or rule.window is None or n_keys <= rule.window:
        return 0
    if valid is None:
        return max(0, rule.first_seen(begin))
    seen = valid & (key_positions >= rule.first_seen(key_positions[:, begin, None]))  # (B, S)
    unseen = (seen.cumsum(1) == 0).sum(1)  # how many of the first slots of each row
    return min(begin, int(unseen.min()))


def build_mask(rule: MaskRule, key_positions: Tensor, n_queries: int, valid: Tensor | None) -> Tensor | None:
    """The mask of the last `n_queries` of S keys, (B, 1, T, S) bool; None when fused causal attention does the same.

    key_positions (B or 1, S), from 0 or from the `first_slot` on; valid (B, S) bool, False = padding. A padded query
    sees itself: a row of scores with nothing in it would be NaN.
    """
    n_keys = key_positions.shape[1]
    plain = rule.window is None or n_keys <= rule.window
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
