"""Position-wise feed-forward networks. Shapes: C dim, F hidden_dim; (..., C) -> (..., C)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class FeedForward(nn.Module):
    """GPT-2's: up, GELU (tanh approximation, arXiv 1606.08415), down."""

    def __init__(self, dim: int, hidden_dim: int, *, bias: bool = True) -> None:
        super().__init__()
        self.up = nn.Linear(dim, hidden_dim, bias=bias)
        self.down = nn.Linear(hidden_dim, dim, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down(F.gelu(self.up(x), approximate="tanh"))
        return out


class ExactGELUFeedForward(FeedForward):
    """FeedForward with the exact GELU, x * Phi(x). A separate class, since fast paths assume the tanh form."""

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down(F.gelu(self.up(x)))
        return out


class SquaredReLUFeedForward(FeedForward):
    """FeedForward with squared ReLU (arXiv 2109.08668)."""

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down(F.relu(self.up(x)).square())
        return out


class SwiGLU(nn.Module):
    """Llama's gated feed-forward, down(silu(gate(x)) * up(x)) (arXiv 2002.05202)."""

    def __init__(self, dim: int, hidden_dim: int, *, bias: bool = False) -> None:
        super().__init__()
        self.gate = nn.Linear(dim, hidden_dim, bias=bias)
        self.up = nn.Linear(dim, hidden_dim, bias=bias)
        self.down = nn.Linear(hidden_dim, dim, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down(F.silu(self.gate(x)) * self.up(x))
        return out


class GeGLU(SwiGLU):
    """SwiGLU with GELU (tanh approximation) instead of SiLU (arXiv 2002.05202)."""

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down(F.gelu(self.gate(x), approximate="tanh") * self.up(x))
        return out
