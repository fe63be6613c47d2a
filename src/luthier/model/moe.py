"""Mixture of experts as in Llama 4: a router picks few experts for each token, and one shared expert serves all.

Only the chosen tokens reach an expert: they are sorted by expert, and each expert multiplies its own rows.

Shapes: N tokens (B * T), k experts a token, E experts, C dim, F hidden_dim of an expert.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from luthier.errors import UsageError
from luthier.model.feed_forward import SwiGLU

ROWS = 32  # an expert's rows are filled up with zeros to a multiple of this


class Experts(nn.Module):
    """E SwiGLU feed-forwards in two stacked weights."""

    def __init__(self, n_experts: int, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.gate_up = nn.Parameter(torch.empty(n_experts, dim, 2 * hidden_dim))  # (E, C, 2F), gate first
        self.down = nn.Parameter(torch.empty(n_experts, hidden_dim, dim))  # (E, F, C)

    def forward(self, x: Tensor, counts: Tensor) -> Tensor:
        """(N, C) sorted by expert, and how many rows each expert has, (E,), -> (N, C)."""
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        if len(x) <= ROWS:
            return self.each(x, counts.tolist())
        places, room = spread(counts)
        roomy = x.new_zeros(int(room.sum()), x.shape[1]).index_copy(0, places, x)
        return self.each(roomy, room.tolist())[places]

    def each(self, x: Tensor, sizes: list[int]) -> Tensor:
        """Every expert on its own rows, (N, C) -> (N, C)."""
        gate, up = grouped_product(x, self.gate_up, sizes).chunk(2, dim=-1)
        return grouped_product(F.silu(gate) * up, self.down, sizes)


def spread(counts: Tensor) -> tuple[Tensor, Tensor]:
    """Fill each expert's rows up to a multiple of ROWS: the new place of every row, (N,), and the room of each, (E,).

    A CPU library compiles its products for their shapes, for about 1 ms and 50 kB each. Without this, new shapes came
    at almost every step: they cost a quarter of its time.
    """
    room = (counts + ROWS - 1) // ROWS * ROWS
    shift = (room - counts).cumsum(0) - (room - counts)  # (E,) how far each expert's rows move
    return torch.arange(int(counts.sum()), device=counts.device) + shift.repeat_interleave(counts), room


def grouped_product(x: Tensor, weights: Tensor, sizes: list[int]) -> Tensor:
    """Each group of rows times a matrix of its own: (N, C), (E, C, F), E numbers of rows -> (N, F), in x's type."""
    out: Tensor = GroupedProduct.apply(x, weights, sizes)  # type: ignore[no-untyped-call]
    return out


class GroupedProduct(torch.autograd.Function):
    """Written out so that each matrix is cast, and its gradient put in its place, while it is in the cache: autograd
    would cast all of them, and stack all gradients, in passes over the memory. (F.grouped_mm refuses float64, and
    rows that are no multiple of 16 bytes.)
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weights: Tensor, sizes: list[int]) -> Tensor:
        ctx.save_for_backward(x, weights)
        ctx.sizes = sizes
        out = x.new_empty(len(x), weights.shape[2])
        for rows, weight, place in zip(torch.split(x, sizes), weights, torch.split(out, sizes), strict=True):
            torch.mm(rows, weight.to(x.dtype), out=place)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weights = ctx.saved_tensors
        by_x, by_weights = torch.empty_like(x), torch.empty_like(weights)
        groups = zip(*(torch.split(rows, ctx.sizes) for rows in (x, gradient, by_x)), strict=True)
        for (rows, by_out, place), weight, by_weight in zip(groups, weights, by_weights, strict=True):
            torch.mm(by_out, weight.to(x.dtype).T, out=place)
            by_weight.copy_(rows.T @ by_out)  # zeros for an expert without rows
        return by_x, by_weights, None


def leave_experts_uncompiled() -> None:
    """Let compiled code leave its graph at the experts: how many tokens each gets changes at every step, and each
    change would be compiled anew. (Not a decorator, which would load torch's compiler in every program: 1 s.)
    """
    Experts.forward = torch.compiler.disable(Experts.forward)  # type: ignore[method-assign, no-untyped-call]


class MoE(nn.Module):
    """Router, experts and shared expert.

    The score of a chosen expert, sigmoid(router(x)), multiplies the expert's input, as in Meta's Llama 4. No token is
    dropped. In training the layer counts for training/balance.py, from when both were last 0: `load` (E,), the tokens
    that each expert got, and `input_sum` (C,), the sum of all inputs.
    """

    load: Tensor
    input_sum: Tensor

    def __init__(self, dim: int, hidden_dim: int, n_experts: int, experts_per_token: int) -> None:
        super().__init__()
        if not 1 <= experts_per_token <= n_experts:
            raise UsageError(f"experts_per_token {experts_per_token} must lie between 1 and n_experts {n_experts}")
        self.n_experts, self.experts_per_token = n_experts, experts_per_token
        self.router = nn.Linear(dim, n_experts, bias=False)
        self.experts = Experts(n_experts, dim, hidden_dim)
        self.shared = SwiGLU(dim, hidden_dim)
        self.auxiliary_weight = 0.0
        # on the CPU even within `torch.device("meta")`: they are in no file of weights. `load` counts in integers:
        # bfloat16, to which a model may be cast, stops counting at 256
        self.register_buffer("load", torch.zeros(n_experts, dtype=torch.int64, device="cpu"), persistent=False)
        self.register_buffer("input_sum", torch.zeros(dim, device="cpu"), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        tokens = x.flatten(0, -2)  # (N, C)
        logits = self.router(tokens).float()  # (N, E)
        chosen = logits.topk(self.experts_per_token, dim=-1).indices  # (N, k)
        scores = logits.gather(1, chosen).sigmoid()  # (N, k)
        order, counts = sort_by_expert(chosen, self.n_experts)  # (N * k,), (E,)
        if self.training:
            self.load += counts
            self.input_sum += tokens.detach().float().sum(0)
            if self.auxiliary_weight:
                loss = self.auxiliary_weight * load_balancing_loss(logits, counts, self.experts_per_token)
                scores = WithLoss.apply(scores, loss)  # type: ignore[no-untyped-call]
        rows = order // self.experts_per_token  # the token of each sorted slot
        inputs = tokens[rows] * scores.flatten()[order, None].type_as(tokens)  # (N * k, C)
        outputs = self.experts(inputs, counts)
        back = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
        mixed = outputs[back].view(*chosen.shape, -1).sum(1)  # (N, C)
        out: Tensor = self.shared(x) + mixed.view_as(x)
        return out

    @property
    def idle_parameters(self) -> int:
        """Parameters of the experts that a token is not sent to."""
        one_expert = sum(weight[0].numel() for weight in self.experts.parameters())
        return one_expert * (self.n_experts - self.experts_per_token)


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
    """Passes x on, and adds `loss` to whatever is minimised: its gradient is 1 in the backward pass."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, loss: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> tuple[Tensor, Tensor]:
        return gradient, gradient.new_ones(())
