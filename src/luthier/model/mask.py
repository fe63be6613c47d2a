"""Attention masks: rules on positions, from which one boolean mask is built per forward pass.

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
    """A query sees the keys from `first_visible` up to itself. Hashable: layers with equal rules share one mask."""

    @property
    @abstractmethod
    def window(self) -> int | None:
        """Number of keys, the query's own included, beyond which none is visible: in shorter texts the rule is causal.
        None: unlimited.
        """

    @abstractmethod
    def first_visible(self, queries: Positions) -> Positions:
        """The lowest position visible to queries at these positions; non-decreasing. Below 0: all are visible."""

    def __call__(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Broadcastable positions of queries and keys -> bool, True where the query sees the key."""
        return (keys <= queries) & (keys >= self.first_visible(queries))


@dataclass(frozen=True)
class Causal(MaskRule):
    """All keys up to and including the query's own."""

    @property
    def window(self) -> None:
        return None

    def first_visible(self, queries: Positions) -> Positions:
        return queries * 0


@dataclass(frozen=True)
class SlidingWindow(MaskRule):
    """The last `size` keys, including the query's own."""

    size: int

    @property
    def window(self) -> int:
        return self.size

    def first_visible(self, queries: Positions) -> Positions:
        return queries - self.size + 1


@dataclass(frozen=True)
class Chunked(MaskRule):
    """Keys up to the query's own within its chunk of `size` tokens (Llama 4's local layers)."""

    size: int

    @property
    def window(self) -> int:
        return self.size

    def first_visible(self, queries: Positions) -> Positions:
        return queries // self.size * self.size


causal = Causal()


def first_visible_key(rule: MaskRule, key_positions: Tensor, n_queries: int, valid: Tensor | None) -> int:
    """Index of the first of S keys that any of the last `n_queries` sees. Arguments as in `build_mask`."""
    n_keys = key_positions.shape[1]
    begin = n_keys - n_queries  # the first query sees the earliest keys
    if begin == 0 or rule.window is None or n_keys <= rule.window:
        return 0
    if valid is None:
        return max(0, rule.first_visible(begin))
    seen = valid & (key_positions >= rule.first_visible(key_positions[:, begin, None]))  # (B, S)
    unseen = (seen.cumsum(1) == 0).sum(1)  # leading invisible keys of each row
    return min(begin, int(unseen.min()))


def build_mask(rule: MaskRule, key_positions: Tensor, n_queries: int, valid: Tensor | None) -> Tensor | None:
    """The mask of the last `n_queries` of S keys, (B, 1, T, S) bool; None where plain causal attention is equivalent.

    key_positions (B or 1, S): of all keys, or from `first_visible_key` on. valid (B, S) bool, False = padding. A padded
    query sees itself, since a row without any key would give NaN.
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
        # padding repeats positions, so causal order must hold for slots as well
        mask = (mask & valid[:, None, :] & (slots <= slots[-n_queries:, None])) | own
    return mask[:, None]
