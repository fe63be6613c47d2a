"""Eager attention: the reference implementation, which supports everything.

Shapes: B batch, T queries, S keys, H query heads, K key heads, D width of q and k, E width of v.
"""

from __future__ import annotations

import torch
from torch import Tensor

from luthier.model.cores.core import CoreRequirements
from luthier.model.dropout import Dropout
from luthier.model.hook_point import HookPoint


class EagerCore:
    """softmax(scale * q k^T) v by separate operations, with scores and weights in float32."""

    @staticmethod
    def supports(needs: CoreRequirements) -> None:
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
        """See AttentionCore."""
        group = q.shape[1] // k.shape[1]
        k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
        device_type = "cpu" if q.is_meta else q.device.type  # meta has no autocast
        with torch.autocast(device_type, enabled=False):
            scores = (q.float() * scale) @ k.float().transpose(2, 3)  # (B, H, T, S)
            if softcap is not None:
                scores = softcap * torch.tanh(scores / softcap)
            scores = scores.masked_fill(~visible(q, k, mask), float("-inf"))
            if sinks is not None:
                sink_logits = sinks.float().view(1, -1, 1, 1).expand(*scores.shape[:3], 1)
                scores = torch.cat((scores, sink_logits), dim=-1)  # (B, H, T, S + 1)
            probs = weights(scores.softmax(-1)[..., : k.shape[2]])
            out: Tensor = dropout(probs).type_as(v) @ v
        return out


def visible(q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
    """The mask (..., T, S) bool. Without one: causal, or all True for a single query."""
    if mask is not None:
        return mask
    n_queries, n_keys = q.shape[2], k.shape[2]
    return torch.ones(n_queries, n_keys, dtype=torch.bool, device=q.device).tril(n_keys - n_queries)
