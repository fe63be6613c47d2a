"""Attention by PyTorch's fused kernels (FlashAttention, arXiv 2205.14135, 2307.08691, where the device has it)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from luthier.model.cores.core import CoreRequirements
from luthier.model.dropout import Dropout
from luthier.model.hook_point import HookPoint


class FusedCore:
    """`F.scaled_dot_product_attention`, without dropout."""

    @staticmethod
    def supports(needs: CoreRequirements) -> str | None:
        """Any softmax of masked scores, without dropout, softcap or sinks."""
        if needs.training and needs.dropout:
            return "the fused kernel draws dropout's masks from the global generator"
        return unsupported_by_fused(needs)

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
        B, H, T, _ = q.shape
        if T == 1:
            # fold the queries of a group into rows: up to 13 times faster than enable_gqa in bfloat16 on CPU
            rows = q.reshape(B, k.shape[1], -1, q.shape[-1])
            return F.scaled_dot_product_attention(rows, k, v, mask, scale=scale).reshape(B, H, 1, v.shape[-1])
        return F.scaled_dot_product_attention(
            q, k, v, mask, is_causal=mask is None, scale=scale, enable_gqa=k.shape[1] != H
        )


class FusedDropoutCore:
    """`F.scaled_dot_product_attention` with dropout, for training on a CUDA device.

    The kernel draws its masks from the device's global generator, which is seeded with the layer's seed during the call
    and restored afterwards: the same seed gives the same masks, also when activations are recomputed, and other random
    numbers do not change.
    """

    def __init__(self) -> None:
        # generators cannot be traced: a graph break in compiled code. Not a decorator: it would import torch's compiler
        # in every program, 1 s
        self.attend = torch.compiler.disable(attend_with_dropout)  # type: ignore[no-untyped-call]

    @staticmethod
    def supports(needs: CoreRequirements) -> str | None:
        """Training with dropout on CUDA."""
        if not (needs.training and needs.dropout):
            return "there is no dropout"
        if needs.device != "cuda":
            return f"on {needs.device} the cores with hashed dropout masks are used"
        return unsupported_by_fused(needs)

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
        out: Tensor = self.attend(q, k, v, mask, scale, dropout)
        return out


def attend_with_dropout(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float, dropout: Dropout) -> Tensor:
    """Fused attention whose dropout masks depend only on the seed of `dropout`. Shapes as in AttentionCore."""
    cuda = q.device.type == "cuda"
    generator = torch.cuda.default_generators[q.device.index] if cuda else torch.default_generator
    state = generator.get_state()
    generator.manual_seed(dropout.generator_seed)
    try:
        return F.scaled_dot_product_attention(
            q, k, v, mask, dropout.p, is_causal=mask is None, scale=scale, enable_gqa=q.shape[1] != k.shape[1]
        )
    finally:
        generator.set_state(state)


def unsupported_by_fused(needs: CoreRequirements) -> str | None:
    """The reason why fused kernels do not support these requirements, or None."""
    if needs.weights:
        return "fused kernels never materialize the attention weights"
    if needs.softcap:
        return "fused kernels do not support softcap"
    if needs.sinks:
        return "fused kernels do not support sinks"
    return None
