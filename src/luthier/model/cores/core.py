"""The interface of attention cores, and the requirements that a layer has of one.

Shapes: B batch, T queries, S keys, H query heads, K key heads, D width of q and k, E width of v.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from luthier.model.dropout import Dropout
from luthier.model.hook_point import HookPoint


@dataclass(frozen=True)
class CoreRequirements:
    """What a layer requires of its core.

    training: gradients are needed. dropout: probability of dropping an attention weight, 0 outside training.
    weights: attention weights must pass through the layer's hook point. softcap, sinks: whether scores are capped,
    and whether each head has a sink. device ("cpu", "cuda", ...) and dtype: of q, k and v.
    """

    training: bool = False
    dropout: float = 0.0
    weights: bool = False
    softcap: bool = False
    sinks: bool = False
    device: str = "cpu"
    dtype: torch.dtype = torch.float32


class AttentionCore(Protocol):
    """Computes softmax(scale * q k^T) v.

    A core declares what it supports. It is only used for that, so it may ignore arguments that it does not support.
    """

    @staticmethod
    def supports(needs: CoreRequirements) -> str | None:
        """None where these requirements are supported, otherwise the reason why not."""

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
        """Q (B, H, T, D), k (B, K, S, D), v (B, K, S, E) -> (B, H, T, E).

        mask (B or 1, 1, T, S) bool, True where a query sees a key; None: causal if T == S, all visible if T == 1.
        softcap: scores become softcap * tanh(score / softcap) (arXiv 2408.00118). sinks (H,): a logit appended to each
        row of scores, whose weight is dropped (gpt-oss, arXiv 2508.10925). dropout is applied to the attention weights,
        after `weights` has received them, (B, H, T, S).
        """
