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


def mask_groups(ranked: Tensor, group_scores: Tensor, groups_per_token: int) -> Tensor:
    """Scores (N, E) with those outside the best groups set to minus infinity. group_scores (N, G)."""
    groups = ranked.view(*group_scores.shape, -1)  # (N, G, E / G)
    best = group_scores.topk(groups_per_token, dim=-1).indices
    kept = torch.zeros_like(group_scores, dtype=torch.bool).scatter_(1, best, True)
    return groups.masked_fill(~kept[..., None], float("-inf")).flatten(1)


def check_groups(n_experts: int, experts_per_token: int, n_groups: int, groups_per_token: int) -> None:
    """Raise a UsageError for groups of experts that cannot be."""
    if n_groups < 1 or n_experts % n_groups:
        raise UsageError(
            f"{of_model('n_experts')} {n_experts} is not a multiple of {of_model('n_groups')} {n_groups}: make it one"
        )
    if not 1 <= groups_per_token <= n_groups:
        raise UsageError(
            f"{of_model('groups_per_token')} {groups_per_token} must lie between 1 and {of_model('n_groups')} "
            f"{n_groups}"
        )
    if experts_per_token > groups_per_token * (n_experts // n_groups):
        raise UsageError(
            f"{of_model('experts_per_token')} {experts_per_token} are more than the experts of "
            f"{groups_per_token} groups"
        )


class GroupedSoftmaxRouter(Router):
    """DeepSeek-V2's (arXiv 2405.04434): a softmax over all experts, the best groups first, then their best experts.

    A group's score is that of its best expert. The weights are the probabilities times `scale`.
    """

    def __init__(
        self,
        dim: int,
        n_experts: int,
        experts_per_token: int,
        *,
        n_groups: int = 1,
        groups_per_token: int = 1,
        scale: float = 1.0,
    ) -> None:
        super().__init__(dim, n_experts, experts_per_token)
        check_groups(n_experts, experts_per_token, n_groups, groups_per_token)
        self.n_groups, self.groups_per_token, self.scale = n_groups, groups_per_token, scale

    def route(self, logits: Tensor) -> Routing:
        scores = logits.softmax(-1)
        ranked = scores
        if self.groups_per_token < self.n_groups:
            best = scores.view(len(scores), self.n_groups, -1).amax(-1)  # (N, G)
            ranked = mask_groups(scores, best, self.groups_per_token)
        chosen = ranked.topk(self.experts_per_token, dim=-1).indices
        return Routing(logits, chosen, scores.gather(1, chosen) * self.scale)


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
        check_groups(n_experts, experts_per_token, n_groups, groups_per_token)
        self.n_groups, self.groups_per_token, self.normalize, self.scale = n_groups, groups_per_token, normalize, scale
        self.balance = nn.Parameter(torch.zeros(n_experts), requires_grad=False)

    def route(self, logits: Tensor) -> Routing:
        scores = logits.sigmoid()
        ranked = scores + self.balance.float()  # (N, E)
        if self.groups_per_token < self.n_groups:
            groups = ranked.view(len(ranked), self.n_groups, -1)  # (N, G, E / G)
            best = groups.topk(min(2, groups.shape[-1]), dim=-1).values.sum(-1)  # (N, G)
            ranked = mask_groups(ranked, best, self.groups_per_token)
        chosen = ranked.topk(self.experts_per_token, dim=-1).indices
        weights = scores.gather(1, chosen)
        if self.normalize:
            weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
        return Routing(logits, chosen, weights * self.scale)
