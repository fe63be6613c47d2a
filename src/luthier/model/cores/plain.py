"""Attention written out: the reference, which supports everything.

Shapes: B batch, T queries, S keys, H query heads, K key heads, D width of q and k, E width of v.
"""

from __future__ import annotations

import torch
from torch import Tensor

from luthier.model.cores.core import Need
from luthier.model.dropout import Dropout
from luthier.model.hook_point import HookPoint


class PlainCore:
    """softmax(scale * q k^T) v, one operation after another, with scores and weights in float32."""

    @staticmethod
    def supports(need: Need) -> None:
        """Everything."""

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
        group = q.shape[1] // k.shape[1]
        k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
        with torch.autocast(q.device.type, enabled=False):
            scores = (q.float() * scale) @ k.float().transpose(2, 3)  # (B, H, T, S)
            if softcap is not None:
                scores = softcap * torch.tanh(scores / softcap)
            scores = scores.masked_fill(~visible(q, k, mask), float("-inf"))
            if sinks is not None:
                beside = sinks.float().view(1, -1, 1, 1).expand(*scores.shape[:3], 1)
                scores = torch.cat((scores, beside), dim=-1)  # (B, H, T, S + 1)
            shares = weights(scores.softmax(-1)[..., : k.shape[2]])
            out: Tensor = dropout(shares).type_as(v) @ v
        return out


def visible(q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
    """The mask (..., T, S) bool; where there is none, causal attention, or a single query that sees every key."""
    if mask is not None:
        return mask
    n_queries, n_keys = q.shape[2], k.shape[2]
    return torch.ones(n_queries, n_keys, dtype=torch.bool, device=q.device).tril(n_keys - n_queries)
