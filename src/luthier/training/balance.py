"""Keeps the load of experts even, and tells how even it is.

Without it a mixture of experts can collapse: an expert that gets a little more tokens learns faster and gets more.

The usual cure without an auxiliary loss (DeepSeek-V3, arXiv 2412.19437; arXiv 2408.15664) is a bias on each expert's
score, raised a little before each step where there were too few tokens and lowered where there were too many. Llama 4's
file formats have no place for such a bias: what was trained with it would choose other experts without it. So the bias
is written into the router itself. The inputs of a router have a strong common part, their mean m; adding
b m / |m|^2 to an expert's row adds b to its mean logit. The saved weights choose as they were trained.

Shapes: E experts, C dim.
"""

from __future__ import annotations

import torch

from luthier.model.moe import MoE
from luthier.model.transformer import Transformer
from luthier.training.distributed import ALONE, World, laid_out_as
from luthier.training.settings import Settings


class Balancer:
    """All the mixture layers of a model. `update` goes before each optimizer step."""

    def __init__(self, model: Transformer, settings: Settings, world: World = ALONE) -> None:
        self.world = world
        self.layers = [module for module in model.modules() if isinstance(module, MoE)]
        self.settings = settings
        for layer in self.layers:
            layer.set_auxiliary_loss(
                settings.balance_rate / settings.accumulation if settings.balance == "auxiliary" else 0
            )

    @torch.no_grad()
    def update(self) -> list[list[float]]:
        """Move the routers. Returns each layer's load as shares of its tokens, (E,) each.

        The step is the same all through the run: one that falls with the learning rate leaves loads uneven.
        """
        shares = []
        for layer in self.layers:
            self.world.sum(layer.load)
            self.world.sum(layer.input_sum)
            load = layer.load.float()
            shares.append((load / load.sum().clamp(min=1)).tolist())
            if self.settings.balance == "bias":
                move = torch.sign(load.mean() - load) * self.settings.balance_rate
                shift_logits(layer, move - move.mean())
        self.forget()
        return shares

    def forget(self) -> None:
        """Count from zero again."""
        for layer in self.layers:
            layer.load.zero_()
            layer.input_sum.zero_()


def shift_logits(layer: MoE, move: torch.Tensor) -> None:
    """Add `move` (E,) to the logits that the router gives the mean of its inputs."""
    tokens = layer.load.sum() / layer.experts_per_token
    mean = layer.input_sum / tokens.clamp(min=1)  # (C,)
    direction = mean / mean.square().sum().clamp(min=1e-6)
    weight = layer.router.weight
    weight.add_(laid_out_as(torch.outer(move, direction).to(weight.dtype), weight))


def imbalance(shares: list[float]) -> float:
    """The busiest expert's load over the mean load: 1 when even, E when one expert gets everything."""
    return max(shares) * len(shares)
