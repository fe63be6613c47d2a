"""Attention in blocks of queries, for training on a CPU.

Shapes: B batch, T queries, S keys, H query heads, K key heads, D width of q and k, E width of v.
"""

from __future__ import annotations

import torch
from torch import Tensor

from luthier.model.cores.core import CoreRequirements
from luthier.model.cores.fused import FusedCore
from luthier.model.dropout import Dropout
from luthier.model.hook_point import HookPoint

MAX_SCORES = 1024 * 1024  # T * S of one head: weights are kept for the backward pass, too much memory for long texts
QUERIES_PER_BLOCK = 256


class BlockwiseCore:
    """softmax(scale * q k^T) v by matrix products, each block of queries with the keys up to its last query only.

    Nearly half of the scores are never computed. In bfloat16 on a CPU, forward and backward take half the time of the
    fused kernel. With dropout all queries form one block, since the dropout mask is a function of the flat index.
    """

    @staticmethod
    def supports(needs: CoreRequirements) -> str | None:
        """Training with dropout, or in bfloat16 on a CPU."""
        if not needs.training:
            return "the fused kernel is as fast without a backward pass"
        if not needs.dropout and (needs.device, needs.dtype) != ("cpu", torch.bfloat16):
            return f"the fused kernel is faster in {needs.dtype} on {needs.device}"
        if needs.weights or needs.softcap or needs.sinks:
            return "it supports no published weights, softcap or sinks"
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
        """See AttentionCore."""
        T, S = q.shape[2], k.shape[2]
        if not dropout.p and T * S > MAX_SCORES:
            return FusedCore()(
                q, k, v, mask, scale=scale, softcap=softcap, sinks=sinks, dropout=dropout, weights=weights
            )
        group = q.shape[1] // k.shape[1]
        q = (q * scale).contiguous()
        k = k.repeat_interleave(group, dim=1).contiguous()
        v = v.repeat_interleave(group, dim=1).contiguous()
        bias = q.new_full((T, S) if mask is None else mask.shape, float("-inf"))
        bias = bias.triu(S - T + 1) if mask is None else bias.masked_fill(mask, 0)
        step = T if dropout.p > 0 else QUERIES_PER_BLOCK
        outputs = []
        for begin in range(0, T, step):
            end = min(begin + step, T)
            n_keys = S - T + end
            scores = q[:, :, begin:end] @ k[:, :, :n_keys].transpose(2, 3)  # (B, H, step, n_keys)
            probs = (scores + bias[..., begin:end, :n_keys]).softmax(-1).type_as(v)
            outputs.append(dropout(probs) @ v[:, :, :n_keys])
        return torch.cat(outputs, dim=2)
