"""Load balancing of a mixture of experts, and a measure of its imbalance.

Without it a mixture can collapse: an expert that gets slightly more tokens learns faster and gets even more.

The usual method without an auxiliary loss (DeepSeek-V3, arXiv 2412.19437; arXiv 2408.15664) is a bias on each expert's
score, raised slightly before each step for experts with too few tokens and lowered for those with too many. Llama 4's
file formats have no tensor for such a bias, and a model trained with it would route differently without it. So the bias
is folded into the router's weight. The inputs of a router have a large mean m; adding b m / |m|^2 to an expert's row
adds b to its mean logit. The saved weights thus route as in training. A router that has such a bias (DeepSeek-V3)
keeps it.

Shapes: E experts, C dim.
"""

from __future__ import annotations

import torch

from luthier.model.moe import MoE
from luthier.model.router import GroupedSigmoidRouter
from luthier.model.transformer import Transformer
from luthier.training.distributed import ALONE, World, distribute_like
from luthier.training.settings import Settings


class Balancer:
    """Balances all mixture layers of a model. Call `update` before each optimizer step."""

    def __init__(self, model: Transformer, settings: Settings, world: World = ALONE) -> None:
        self.world = world
        self.layers = [module for module in model.modules() if isinstance(module, MoE)]
        self.settings = settings
        for layer in self.layers:
            layer.set_auxiliary_loss(
                settings.balance_rate / settings.gradient_accumulation_steps if settings.balance == "auxiliary" else 0
            )

    @torch.no_grad()
    def update(self) -> list[list[float]]:
        """Adjust the routers. Returns each layer's expert load as fractions of its tokens, (E,) each.

        The step size is constant during the run: one that decays with the learning rate leaves loads uneven.
        """
        shares = []
        for layer in self.layers:
            self.world.sum(layer.load)
            self.world.sum(layer.input_sum)
            load = layer.load.float()
            shares.append((load / load.sum().clamp(min=1)).tolist())
            if self.settings.balance == "bias":
                move = torch.sign(load.mean() - load) * self.settings.balance_rate
                if isinstance(layer.router, GroupedSigmoidRouter):
                    balance = layer.router.balance
                    balance.add_(distribute_like((move - move.mean()).to(balance.dtype), balance))
                else:
                    shift_logits(layer, move - move.mean())
        self.forget()
        return shares

    def forget(self) -> None:
        """Reset the counters."""
        for layer in self.layers:
            layer.load.zero_()
            layer.input_sum.zero_()


def shift_logits(layer: MoE, move: torch.Tensor) -> None:
    """Add `move` (E,) to the router's logits at the mean of its inputs."""
    tokens = layer.load.sum() / layer.experts_per_token
    mean = layer.input_sum / tokens.clamp(min=1)  # (C,)
    direction = mean / mean.square().sum().clamp(min=1e-6)
    weight = layer.router.weight
    weight.add_(distribute_like(torch.outer(move, direction).to(weight.dtype), weight))


def load_imbalance(shares: list[float]) -> float:
    """Maximum expert load divided by the mean load: 1 if balanced, E if one expert gets every token."""
    return max(shares) * len(shares)
