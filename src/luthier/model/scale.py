"""Constant multipliers: of the embedding, and of what a sublayer adds."""

from __future__ import annotations

from torch import Tensor, nn


class Scale(nn.Module):
    """x times a constant."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


class ScaledEmbedding(nn.Embedding):
    """A table of vectors, each times a constant when it is read. A tied output matrix is the table as it is."""

    def __init__(self, weight: Tensor, scale: float) -> None:
        super().__init__(weight.shape[0], weight.shape[1], _weight=weight)
        self.scale = scale

    def forward(self, tokens: Tensor) -> Tensor:
        return super().forward(tokens) * self.scale
