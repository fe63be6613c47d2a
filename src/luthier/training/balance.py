"""Keeps the load of experts even, and tells how even it is.

Without it a mixture of experts can collapse: an expert that gets a little more tokens learns faster and gets more.

With a bias (DeepSeek-V3, arXiv 2412.19437; arXiv 2408.15664): before each step, the experts that had too few tokens get
a little more bias on their score, those that had too many a little less. The bias chooses and never weighs, so no
gradient is bent. Llama 4's file formats have no place for it, so it shrinks to zero over the last part of the run:
the weights that are saved choose by themselves what they were last trained with.

Shapes: E experts.
"""

from __future__ import annotations

import torch
from torch import Tensor

from luthier.model.moe import MoE
from luthier.model.transformer import Transformer
from luthier.training.settings import Settings

RELEASE = 0.2  # the last share of the run, over which the bias shrinks to zero


class Balancer:
    """All the mixture layers of a model. `update` goes before each optimizer step."""

    def __init__(self, model: Transformer, settings: Settings) -> None:
        self.layers = [module for module in model.modules() if isinstance(module, MoE)]
        self.settings = settings
        for layer in self.layers:
            if settings.balance == "auxiliary":
                layer.auxiliary_weight = settings.balance_rate / settings.accumulation

    @torch.no_grad()
    def update(self, step: int, total: int) -> list[list[float]]:
        """Move the biases at step `step` of `total`. Returns each layer's load as shares of its tokens, (E,) each."""
        shares = []
        for layer in self.layers:
            load = layer.load.float()
            shares.append((load / load.sum().clamp(min=1)).tolist())
            if self.settings.balance == "bias":
                move = torch.sign(load.mean() - load) * self.settings.balance_rate
                layer.balance += move - move.mean()
                left = (total - step - 1) / max(1.0, RELEASE * total)
                if left < 1:
                    layer.balance *= left / (left + 1 / max(1.0, RELEASE * total))
        self.forget()
        return shares

    def forget(self) -> None:
        """Count the loads from zero again."""
        for layer in self.layers:
            layer.load.zero_()

    def state(self) -> dict[str, Tensor]:
        """The biases, by layer."""
        return {f"balance.{index}": layer.balance for index, layer in enumerate(self.layers)}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Take the biases back."""
        for index, layer in enumerate(self.layers):
            layer.balance.copy_(state[f"balance.{index}"])


def imbalance(shares: list[float]) -> float:
    """The busiest expert's load over the mean load: 1 when even, E when one expert gets everything."""
    return max(shares) * len(shares)
