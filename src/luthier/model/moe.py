"""Mixture of experts: a router picks few experts for each token; one shared expert may serve all.

Only the chosen tokens reach an expert: they are sorted by expert, and each expert multiplies its own rows.

Shapes: N tokens (B * T), k experts a token, E experts, C dim.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from luthier.model.experts import Experts
from luthier.model.hook_point import HookPoint
from luthier.model.router import Router, Routing


class MoE(nn.Module):
    """shared(x) + the sum over the chosen experts of weight * expert(x), or of expert(weight * x).

    weigh: whether an expert's weight multiplies its "output", as in most families, or its "input", as in Llama 4. No
    token is dropped. Hook point `routing`: gets the router's Routing.

    In training the layer counts for training/balance.py, from when both were last 0: `load` (E,), the tokens that each
    expert got, and `input_sum` (C,), the sum of all inputs.
    """

    load: Tensor
    input_sum: Tensor

    def __init__(
        self,
        router: Router,
        experts: Experts,
        shared: nn.Module | None = None,
        *,
        weigh: Literal["input", "output"] = "output",
    ) -> None:
        super().__init__()
        self.router, self.experts, self.shared, self.weigh = router, experts, shared, weigh
        self.routing = HookPoint()
        self.auxiliary_weight = 0.0
        # on the CPU even within `torch.device("meta")`: they are in no file of weights. `load` counts in integers:
        # bfloat16, to which a model may be cast, stops counting at 256
        n_experts, dim = router.weight.shape
        self.register_buffer("load", torch.zeros(n_experts, dtype=torch.int64, device="cpu"), persistent=False)
        self.register_buffer("input_sum", torch.zeros(dim, device="cpu"), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        tokens = x.flatten(0, -2)  # (N, C)
        routing: Routing = self.routing(self.router(tokens))
        order, counts = sort_by_expert(routing.chosen, self.n_experts)  # (N * k,), (E,)
        weights = routing.weights
        if self.training:
            self.load += counts
            self.input_sum += tokens.detach().float().sum(0)
            if self.auxiliary_weight:
                loss = self.auxiliary_weight * load_balancing_loss(routing.logits, counts, self.experts_per_token)
                weights = WithLoss.apply(weights, loss)  # type: ignore[no-untyped-call]
        rows = order // self.experts_per_token  # the token of each sorted slot
        inputs = tokens[rows]  # (N * k, C)
        if self.weigh == "input":
            inputs = inputs * weights.flatten()[order, None].type_as(tokens)
        outputs = self.experts(inputs, counts)
        back = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
        by_token = outputs[back].view(*routing.chosen.shape, -1)  # (N, k, C)
        if self.weigh == "output":
            by_token = by_token * weights[..., None].type_as(by_token)
        mixed = by_token.sum(1).view_as(x)
        out: Tensor = mixed if self.shared is None else self.shared(x) + mixed
        return out

    def set_auxiliary_loss(self, weight: float) -> None:
        """In training, minimize weight * load_balancing_loss beside whatever is minimized. 0: not."""
        self.auxiliary_weight = weight

    @property
    def n_experts(self) -> int:
        """Experts, besides the shared one."""
        return self.router.n_experts

    @property
    def experts_per_token(self) -> int:
        """Experts that each token is sent to, besides the shared one."""
        return self.router.experts_per_token

    @property
    def idle_parameters(self) -> int:
        """Parameters of the experts that a token is not sent to."""
        one_expert = sum(weight[0].numel() for weight in self.experts.parameters())
        return one_expert * (self.n_experts - self.experts_per_token)


@contextmanager
def uncounted(block: nn.Module) -> Iterator[None]:
    """Restore the counts of mixture layers afterwards: recomputed tokens are no more tokens."""
    layers = [module for module in block.modules() if isinstance(module, MoE)]
    counts = [(layer.load.clone(), layer.input_sum.clone()) for layer in layers]
    try:
        yield
    finally:  # checkpointing leaves a block by an exception as soon as it has what it needs
        for layer, (load, input_sum) in zip(layers, counts, strict=True):
            layer.load.copy_(load)
            layer.input_sum.copy_(input_sum)


def sort_by_expert(chosen: Tensor, n_experts: int) -> tuple[Tensor, Tensor]:
    """(N, k) expert ids -> the order that groups the N * k slots by expert, and the slots of each expert, (E,)."""
    flat = chosen.flatten()
    return flat.argsort(stable=True), F.one_hot(flat, n_experts).sum(0)


def load_balancing_loss(logits: Tensor, counts: Tensor, experts_per_token: int) -> Tensor:
    """E * sum over experts of (share of tokens) * (mean probability), 1 when balanced (arXiv 2101.03961)."""
    n_tokens, n_experts = logits.shape
    share = counts / (n_tokens * experts_per_token)
    return n_experts * (share * logits.softmax(-1).mean(0)).sum()


class WithLoss(torch.autograd.Function):
    """Returns x, and adds `loss` to whatever is minimized: its gradient is 1 in the backward pass."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, loss: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> tuple[Tensor, Tensor]:
        return gradient, gradient.new_ones(())
