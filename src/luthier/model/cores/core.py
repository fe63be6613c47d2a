"""What an attention core is, and what a layer needs of one.

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
class Need:
    """What a layer asks of its core.

    training: gradients will be asked for. dropout: probability of dropping an attention weight, 0 outside training.
    weights: the attention weights must pass through the layer's hook point. softcap, sinks: whether the scores are
    capped, and whether each head has a sink. device ("cpu", "cuda", ...) and dtype are those of q, k and v.
    """

    training: bool = False
    dropout: float = 0.0
    weights: bool = False
    softcap: bool = False
    sinks: bool = False
    device: str = "cpu"
    dtype: torch.dtype = torch.float32


class AttentionCore(Protocol):
    """softmax(scale * q k^T) v, in one of several ways.

    A core declares what it supports. It is never used for anything else, so it may ignore what it does not support.
    """

    @staticmethod
    def supports(need: Need) -> str | None:
        """None, or why not."""

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

        mask (B or 1, 1, T, S) bool, True where a query sees a key; None: causal where T == S, everything where T == 1.
        softcap: scores become softcap * tanh(score / softcap) (arXiv 2408.00118). sinks (H,): a logit beside each
        row of scores, whose weight is dropped (gpt-oss, arXiv 2508.10925). dropout acts on the weights; `weights`
        gets them, (B, H, T, S).
        """
