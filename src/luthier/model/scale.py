"""Constant multipliers of embeddings and of sublayer outputs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from luthier.model.norm import unit_rms


class Scale(nn.Module):
    """Multiply by a constant."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


class NormedEmbedding(nn.Embedding):
    """An embedding whose outputs are RMS-normalized, without weights (nanochat)."""

    def __init__(self, weight: Tensor, eps: float) -> None:
        super().__init__(weight.shape[0], weight.shape[1], _weight=weight)
        self.eps = eps

    def forward(self, tokens: Tensor) -> Tensor:
        return unit_rms(super().forward(tokens), self.eps)


class ScaledEmbedding(nn.Embedding):
    """An embedding whose output is multiplied by a constant. A tied output matrix uses the unscaled weights."""

    def __init__(self, weight: Tensor, scale: float) -> None:
        super().__init__(weight.shape[0], weight.shape[1], _weight=weight)
        self.scale = scale

    def forward(self, tokens: Tensor) -> Tensor:
        return super().forward(tokens) * self.scale


class RoundedScaleEmbedding(ScaledEmbedding):
    """The same with a constant that is rounded to the number type of the table first (Gemma)."""

    def forward(self, tokens: Tensor) -> Tensor:
        return nn.Embedding.forward(self, tokens) * torch.tensor(self.scale, dtype=self.weight.dtype)
