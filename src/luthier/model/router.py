"""Routers: which experts each token is routed to, and their weights.

Shapes: N tokens (B * T), k experts a token, E experts, G groups of experts, C dim.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from luthier.errors import UsageError, of_model


class Routing(NamedTuple):
    """logits (N, E) float32; chosen (N, k) ids of experts; weights (N, k) float32, of the experts chosen."""

    logits: Tensor
    chosen: Tensor
    weights: Tensor


class Router(nn.Module):
    """A linear layer that scores experts, (N, C) -> (N, E). Subclasses choose experts and their weights."""

    def __init__(self, dim: int, n_experts: int, experts_per_token: int, *, bias: bool = False) -> None:
        super().__init__()
        if not 1 <= experts_per_token <= n_experts:
            raise UsageError(
                f"{of_model('experts_per_token')} {experts_per_token} must lie between 1 and "
                f"{of_model('n_experts')} {n_experts}"
            )
        self.n_experts, self.experts_per_token = n_experts, experts_per_token
        self.weight = nn.Parameter(torch.empty(n_experts, dim))
        self.bias = nn.Parameter(torch.zeros(n_experts)) if bias else None

    def forward(self, x: Tensor) -> Routing:
        """(N, C) -> Routing."""
        return self.route(F.linear(x, self.weight, self.bias).float())

    def route(self, logits: Tensor) -> Routing:
        """(N, E) float32 -> Routing."""
        raise NotImplementedError


class SigmoidRouter(Router):
    """Llama 4's: the k largest logits, each weighted by its sigmoid."""

    def route(self, logits: Tensor) -> Routing:
        chosen = logits.topk(self.experts_per_token, dim=-1).indices
        return Routing(logits, chosen, logits.gather(1, chosen).sigmoid())


class SoftmaxRouter(Router):
    """The k largest logits, weighted by a softmax over the chosen experts (Mixtral, arXiv 2401.04088; gpt-oss;
    Qwen3-MoE) or over all experts, so that the weights sum to less than 1 (Qwen3-MoE without `norm_topk_prob`).
    """

    def __init__(
        self,
        dim: int,
        n_experts: int,
        experts_per_token: int,
        *,
        over: Literal["chosen", "all"] = "chosen",
        bias: bool = False,
    ) -> None:
        super().__init__(dim, n_experts, experts_per_token, bias=bias)
        self.over = over

    def route(self, logits: Tensor) -> Routing:
        best, chosen = logits.topk(self.experts_per_token, dim=-1)
        weights = best.softmax(-1) if self.over == "chosen" else logits.softmax(-1).gather(1, chosen)
        return Routing(logits, chosen, weights)


class GroupedSigmoidRouter(Router):
    """DeepSeek-V3's group-limited routing (arXiv 2412.19437): sigmoid scores, top groups, then top experts within them.

    A group's score is the sum of its two best experts. `balance` (E,) is added to the scores for choosing experts, not
    for weighting them: training adjusts it to balance the expert load. normalize: weights sum to 1; then they are
    multiplied by `scale`.
    """

    def __init__(
        self,
        dim: int,
        n_experts: int,
        experts_per_token: int,
        *,
        n_groups: int = 1,
        groups_per_token: int = 1,
        normalize: bool = True,
        scale: float = 1.0,
    ) -> None:
        super().__init__(dim, n_experts, experts_per_token)
        if n_groups < 1 or n_experts % n_groups:
            raise UsageError(
                f"{of_model('n_experts')} {n_experts} is not a multiple of {of_model('n_groups')} "
                f"{n_groups}: make it one"
            )
        if not 1 <= groups_per_token <= n_groups:
            raise UsageError(
                f"{of_model('groups_per_token')} {groups_per_token} must lie between 1 and "
                f"{of_model('n_groups')} {n_groups}"
            )
        if experts_per_token > groups_per_token * (n_experts // n_groups):
            raise UsageError(
                f"{of_model('experts_per_token')} {experts_per_token} are more than the experts of "
                f"{groups_per_token} groups"
            )
        self.n_groups, self.groups_per_token, self.normalize, self.scale = n_groups, groups_per_token, normalize, scale
        self.balance = nn.Parameter(torch.zeros(n_experts), requires_grad=False)

    def route(self, logits: Tensor) -> Routing:
        scores = logits.sigmoid()
        ranked = scores + self.balance.float()  # (N, E)
        if self.groups_per_token < self.n_groups:
            groups = ranked.view(len(ranked), self.n_groups, -1)  # (N, G, E / G)
            best = groups.topk(min(2, groups.shape[-1]), dim=-1).values.sum(-1)  # (N, G)
            kept = torch.zeros_like(best, dtype=torch.bool).scatter_(
                1, best.topk(self.groups_per_token, dim=-1).indices, True
            )
            ranked = groups.masked_fill(~kept[..., None], float("-inf")).flatten(1)
        chosen = ranked.topk(self.experts_per_token, dim=-1).indices
        weights = scores.gather(1, chosen)
        if self.normalize:
            weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
        return Routing(logits, chosen, weights * self.scale)
