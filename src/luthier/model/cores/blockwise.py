"""Attention written out for training on a CPU, a few queries at a time.

Shapes: B batch, T queries, S keys, H query heads, K key heads, D width of q and k, E width of v.
"""

from __future__ import annotations

import torch
from torch import Tensor

from luthier.model.cores.core import Need
from luthier.model.cores.fused import FusedCore
from luthier.model.dropout import Dropout
from luthier.model.hook_point import HookPoint

MOST_SCORES = 1024 * 1024  # (T, S) of one head: the weights are kept for the backward pass, too much for long texts
QUERIES_AT_ONCE = 256


class BlockwiseCore:
    """softmax(scale * q k^T) v in plain products, each block of queries with the keys up to its last one only.

    Nearly half of the scores are never computed. In bfloat16 on a CPU, forward and backward take half the time of the
    fused kernel. With dropout all queries are one block, since the mask goes by the place among all weights.
    """

    @staticmethod
    def supports(need: Need) -> str | None:
        """Training with dropout, or in bfloat16 on a CPU."""
        if not need.training:
            return "the fused kernel is as fast without a backward pass"
        if not need.dropout and (need.device, need.dtype) != ("cpu", torch.bfloat16):
            return f"the fused kernel is faster in {need.dtype} on {need.device}"
        if need.weights or need.softcap or need.sinks:
            return "it does not publish weights, cap scores or know sinks"
        return None

    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Tensor | None,
        *,
        scale: float,
        softcap: float | None,
        sinks: Tensor | None,
        dropout: Dropout,
        weights: HookPoint,
    ) -> Tensor:
        """As AttentionCore says."""
        T, S = q.shape[2], k.shape[2]
        if not dropout.p and T * S > MOST_SCORES:
            return FusedCore()(
                q, k, v, mask, scale=scale, softcap=softcap, sinks=sinks, dropout=dropout, weights=weights
            )
        group = q.shape[1] // k.shape[1]
        q = (q * scale).contiguous()
        k = k.repeat_interleave(group, dim=1).contiguous()
        v = v.repeat_interleave(group, dim=1).contiguous()
        hide = q.new_full((T, S) if mask is None else mask.shape, float("-inf"))
        hide = hide.triu(S - T + 1) if mask is None else hide.masked_fill(mask, 0)
        step = T if dropout.p > 0 else QUERIES_AT_ONCE
        mixed = []
        for begin in range(0, T, step):
            end = min(begin + step, T)
            seen = S - T + end
            scores = q[:, :, begin:end] @ k[:, :, :seen].transpose(2, 3)  # (B, H, step, seen)
            shares = (scores + hide[..., begin:end, :seen]).softmax(-1).type_as(v)
            mixed.append(dropout(shares) @ v[:, :, :seen])
        return torch.cat(mixed, dim=2)
