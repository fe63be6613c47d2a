"""Cross entropy straight from hidden states, without ever holding all logits.

With a large vocabulary the logits are the biggest tensor of a training step: 2048 tokens of GPT-2 are 412 MB in
float32, and their gradient as much again. Here they are made a few rows at a time; loss and gradient leave together.

Shapes: N tokens (B * T), n rows of a piece, C dim, V vocab_size.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORE = -100  # a target with no loss: padding
LOGITS_AT_ONCE = 32 * 2**20  # elements: 64 MB in bfloat16
Kernel = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def loss_and_gradient(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """(n, V) logits and (n,) targets -> summed loss, and its gradient by the logits, (n, V) in their type."""
    wide = logits.float()
    normalizer = wide.logsumexp(-1, keepdim=True)  # (n, 1)
    counted = (targets != IGNORE)[:, None]
    classes = torch.arange(logits.shape[1], device=logits.device)
    named = targets.clamp(min=0)[:, None]
    loss = torch.where(counted, normalizer - wide.gather(1, named), 0.0).sum()
    gradient = torch.where(counted, (wide - normalizer).exp() - (classes == named).float(), 0.0)
    return loss, gradient.to(logits.dtype)


def cross_entropy_sum(hidden: Tensor, weight: Tensor, targets: Tensor, kernel: Kernel = loss_and_gradient) -> Tensor:
    """The sum over targets of -log softmax(hidden @ weight.T)[target], in nats, a float32 scalar.

    hidden (..., C); weight (V, C); targets (...) ids, IGNORE = no loss. Under autocast the products run in its type.
    kernel: loss_and_gradient, or the same compiled, which reads the logits twice instead of seven times.
    """
    device = hidden.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        hidden, weight = hidden.to(dtype), weight.to(dtype)
    with torch.autocast(device, enabled=False):
        rows, flat = hidden.flatten(0, -2), targets.flatten()
        if torch.is_grad_enabled():
            loss: Tensor = PiecewiseCrossEntropy.apply(rows, weight, flat, kernel)  # type: ignore[no-untyped-call]
            return loss
        pieces = split_rows(rows, flat, weight)
        sums = [F.cross_entropy((h @ weight.T).float(), t, ignore_index=IGNORE, reduction="sum") for h, t in pieces]
        return torch.stack(sums).sum()


def split_rows(rows: Tensor, targets: Tensor, weight: Tensor) -> list[tuple[Tensor, Tensor]]:
    """(N, C) and (N,) cut alike into pieces whose logits fit, all of a size: a kernel is compiled for each size."""
    fit = max(1, LOGITS_AT_ONCE // weight.shape[0])
    n_pieces = max(1, math.ceil(len(rows) / fit))
    size = max(1, math.ceil(len(rows) / n_pieces))
    return list(zip(torch.split(rows, size), torch.split(targets, size), strict=True))


class PiecewiseCrossEntropy(torch.autograd.Function):
    """The sum of cross entropy over pieces. The gradient is made in the forward pass, while the logits are there."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, targets: Tensor, kernel: Kernel) -> Tensor:
        pieces = split_rows(rows, targets, weight)
        by_rows = torch.empty_like(rows)
        by_weight = None
        total = torch.zeros((), device=rows.device)
        start = 0
        for h, t in pieces:
            loss, by_logits = kernel(h @ weight.T, t)  # (n, V)
            total += loss
            torch.mm(by_logits, weight, out=by_rows[start : start + len(h)])
            piece = by_logits.T @ h  # (V, C)
            # several pieces are summed in float32: bfloat16 would lose the small ones
            by_weight = piece if len(pieces) == 1 else piece.float() if by_weight is None else by_weight.add_(piece)
            start += len(h)
        ctx.save_for_backward(by_rows, by_weight)
        ctx.weight_dtype = weight.dtype
        return total

    @staticmethod
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor, Tensor, None, None]:
        by_rows, by_weight = ctx.saved_tensors
        return by_rows * scale, (by_weight * scale).to(ctx.weight_dtype), None, None
