"""Learned norms of queries and keys before the scores (QK-norm, arXiv 2010.04245).

Shapes: B batch, T tokens, H query heads, K key heads, D head_dim.
    q (B, H, T, D)   k (B, K, T, D)
"""

from __future__ import annotations

from torch import Tensor, nn

from luthier.model.context import AttentionContext


class HeadNorm(nn.Module):
    """A norm over the D dimensions of each head, with weights shared by all heads (Qwen3)."""

    def __init__(self, query: nn.Module, key: nn.Module) -> None:
        super().__init__()
        self.query, self.key = query, key

    def forward(self, q: Tensor, k: Tensor, context: AttentionContext) -> tuple[Tensor, Tensor]:
        return self.query(q), self.key(k)


class AllHeadsNorm(nn.Module):
    """A norm over all heads together, H * D dimensions of queries and K * D of keys (OLMo 2)."""

    def __init__(self, query: nn.Module, key: nn.Module) -> None:
        super().__init__()
        self.query, self.key = query, key

    def forward(self, q: Tensor, k: Tensor, context: AttentionContext) -> tuple[Tensor, Tensor]:
        return across_heads(self.query, q), across_heads(self.key, k)


def across_heads(norm: nn.Module, x: Tensor) -> Tensor:
    """Apply a norm over H * D, (B, H, T, D) -> (B, H, T, D)."""
    wide = x.transpose(1, 2)  # (B, T, H, D)
    normed: Tensor = norm(wide.flatten(2)).view(wide.shape)
    return normed.transpose(1, 2)
