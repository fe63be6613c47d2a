"""Mixture of experts (arXiv 1701.06538): a router sends each token to a few experts; a shared expert is optional.

Tokens are sorted by expert, so that each expert computes only the tokens routed to it.

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

    weights_on: whether routing weights multiply an expert's "output", as in most families, or its "input", as in
    Llama 4. No token is dropped. Hook point `routing`: receives the router's Routing.

    In training the layer accumulates two buffers for training/balance.py, which resets them: `load` (E,), the tokens
    routed to each expert, and `input_sum` (C,), the sum of all inputs.
    """

    load: Tensor
    input_sum: Tensor

    def __init__(
        self,
        router: Router,
        experts: Experts,
        shared: nn.Module | None = None,
        *,
        weights_on: Literal["input", "output"] = "output",
    ) -> None:
        super().__init__()
        self.router, self.experts, self.shared, self.weights_on = router, experts, shared, weights_on
        self.routing = HookPoint()
        self.auxiliary_weight = 0.0
        # on the CPU even under `torch.device("meta")`: checkpoints do not contain them. `load` is an integer, which
        # casting the model leaves alone: bfloat16 cannot count beyond 256
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
                weights = AddAuxiliaryLoss.apply(weights, loss)  # type: ignore[no-untyped-call]
        rows = order // self.experts_per_token  # the token of each sorted assignment
        inputs = tokens[rows]  # (N * k, C)
        if self.weights_on == "input":
            inputs = inputs * weights.flatten()[order, None].type_as(tokens)
        outputs = self.experts(inputs, counts)
        inverse = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
        by_token = outputs[inverse].view(*routing.chosen.shape, -1)  # (N, k, C)
        if self.weights_on == "output":
            by_token = by_token * weights[..., None].type_as(by_token)
        routed = by_token.sum(1).view_as(x)
        out: Tensor = routed if self.shared is None else self.shared(x) + routed
        return out

    def set_auxiliary_loss(self, weight: float) -> None:
        """In training, add weight * load_balancing_loss to the loss. 0 disables it."""
        self.auxiliary_weight = weight

    @property
    def n_experts(self) -> int:
        """Number of experts, without the shared one."""
        return self.router.n_experts

    @property
    def experts_per_token(self) -> int:
        """Experts that each token is routed to, without the shared one."""
        return self.router.experts_per_token

    @property
    def inactive_parameters(self) -> int:
        """Parameters of the experts that a token is not routed to."""
        one_expert = sum(weight.numel() // self.n_experts for weight in self.experts.parameters())
        return one_expert * (self.n_experts - self.experts_per_token)


@contextmanager
def preserve_load(block: nn.Module) -> Iterator[None]:
    """Restore the load counters of MoE layers on exit, so that recomputed activations do not count tokens twice."""
    layers = [module for module in block.modules() if isinstance(module, MoE)]
    counts = [(layer.load.clone(), layer.input_sum.clone()) for layer in layers]
    try:
        yield
    finally:  # checkpointing aborts a block by an exception as soon as all activations are recomputed
        for layer, (load, input_sum) in zip(layers, counts, strict=True):
            layer.load.copy_(load)
            layer.input_sum.copy_(input_sum)


def sort_by_expert(chosen: Tensor, n_experts: int) -> tuple[Tensor, Tensor]:
    """(N, k) expert ids -> the order that sorts the N * k assignments by expert, and the count of each expert, (E,)."""
    flat = chosen.flatten()
    return flat.argsort(stable=True), F.one_hot(flat, n_experts).sum(0)


def load_balancing_loss(logits: Tensor, counts: Tensor, experts_per_token: int) -> Tensor:
    """E * sum over experts of (fraction of tokens) * (mean probability); 1 when balanced (arXiv 2101.03961)."""
    n_tokens, n_experts = logits.shape
    fraction = counts / (n_tokens * experts_per_token)
    return n_experts * (fraction * logits.softmax(-1).mean(0)).sum()


class AddAuxiliaryLoss(torch.autograd.Function):
    """Identity on x that adds `loss` to the total loss: in the backward pass, its gradient is 1."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, loss: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> tuple[Tensor, Tensor]:
        return gradient, gradient.new_ones(())
