"""Fused linear and cross-entropy in chunks, without materializing all logits.

With a large vocabulary the logits are the largest tensor of a training step: 2048 tokens of GPT-2 are 412 MB in
float32, and their gradient as much again. Here they are computed chunk by chunk, loss and gradient together.

Shapes: N tokens (B * T), n rows of a chunk, C dim, V vocab_size.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORE_INDEX = -100  # a target without loss, as in PyTorch: padding
LOGITS_PER_CHUNK = 32 * 2**20  # elements: 64 MB in bfloat16
Kernel = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def loss_and_gradient(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """(n, V) logits and (n,) targets -> summed loss, and the gradient of the logits, (n, V) in their dtype."""
    wide = logits.float()
    lse = wide.logsumexp(-1, keepdim=True)  # (n, 1)
    counted = (targets != IGNORE_INDEX)[:, None]
    classes = torch.arange(logits.shape[1], device=logits.device)
    indices = targets.clamp(min=0)[:, None]
    loss = torch.where(counted, lse - wide.gather(1, indices), 0.0).sum()
    gradient = torch.where(counted, (wide - lse).exp() - (classes == indices).float(), 0.0)
    return loss, gradient.to(logits.dtype)


def cross_entropy_sum(hidden: Tensor, weight: Tensor, targets: Tensor, kernel: Kernel = loss_and_gradient) -> Tensor:
    """The sum over targets of -log softmax(hidden @ weight.T)[target], in nats, a float32 scalar.

    hidden (..., C); weight (V, C); targets (...) ids, IGNORE_INDEX = no loss. Under autocast, products are in its
    dtype. kernel: loss_and_gradient, or it compiled, which reads the logits twice instead of seven times.
    """
    device = hidden.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        hidden, weight = hidden.to(dtype), weight.to(dtype)
    with torch.autocast(device, enabled=False):
        rows, flat = hidden.flatten(0, -2), targets.flatten()
        if torch.is_grad_enabled():
            loss: Tensor = ChunkedCrossEntropy.apply(rows, weight, flat, kernel)  # type: ignore[no-untyped-call]
            return loss
        chunks = split_chunks(rows, flat, weight)
        sums = [
            F.cross_entropy((h @ weight.T).float(), t, ignore_index=IGNORE_INDEX, reduction="sum") for h, t in chunks
        ]
        return torch.stack(sums).sum()


def split_chunks(rows: Tensor, targets: Tensor, weight: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Split (N, C) and (N,) into equal chunks of at most LOGITS_PER_CHUNK logits: each size compiles a kernel."""
    fit = max(1, LOGITS_PER_CHUNK // weight.shape[0])
    n_chunks = max(1, math.ceil(len(rows) / fit))
    size = max(1, math.ceil(len(rows) / n_chunks))
    return list(zip(torch.split(rows, size), torch.split(targets, size), strict=True))


class ChunkedCrossEntropy(torch.autograd.Function):
    """Summed cross-entropy over chunks. Gradients are computed in the forward pass, while a chunk's logits exist."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, targets: Tensor, kernel: Kernel) -> Tensor:
        chunks = split_chunks(rows, targets, weight)
        grad_rows = torch.empty_like(rows)
        grad_weight = None
        total = torch.zeros((), device=rows.device)
        start = 0
        for h, t in chunks:
            loss, grad_logits = kernel(h @ weight.T, t)  # (n, V)
            total += loss
            torch.mm(grad_logits, weight, out=grad_rows[start : start + len(h)])
            update = grad_logits.T @ h  # (V, C)
            # chunks are summed in float32: bfloat16 would lose small updates
            grad_weight = (
                update if len(chunks) == 1 else update.float() if grad_weight is None else grad_weight.add_(update)
            )
            start += len(h)
        ctx.save_for_backward(grad_rows, grad_weight)
        ctx.weight_dtype = weight.dtype
        return total

    @staticmethod
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor, Tensor, None, None]:
        grad_rows, grad_weight = ctx.saved_tensors
        return grad_rows * scale, (grad_weight * scale).to(ctx.weight_dtype), None, None
