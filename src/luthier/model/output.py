"""Output layers, from hidden states to logits, that are more than a linear layer.

Shapes: C dim, V vocab_size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class CappedLinear(nn.Linear):
    """Logits become softcap * tanh(logit / softcap) (arXiv 2408.00118). Without bias. (..., C) -> (..., V)."""

    def __init__(self, dim: int, vocab_size: int, softcap: float) -> None:
        super().__init__(dim, vocab_size, bias=False)
        self.softcap = softcap

    def forward(self, x: Tensor) -> Tensor:
        return self.softcap * torch.tanh(super().forward(x) / self.softcap)
