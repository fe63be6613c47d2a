"""Attention by PyTorch's fused kernels (FlashAttention, arXiv 2205.14135, 2307.08691, where the device has it)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from luthier.model.cores.core import Need
from luthier.model.dropout import Dropout
from luthier.model.hook_point import HookPoint


class FusedCore:
    """`F.scaled_dot_product_attention`, without dropout."""

    @staticmethod
    def supports(need: Need) -> str | None:
        """Whatever is a plain softmax of masked scores."""
        if need.training and need.dropout:
            return "the fused kernel draws dropout's masks from the global generator"
        return not_a_plain_softmax(need)

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
        B, H, T, _ = q.shape
        if T == 1:
            # the queries of a group as rows of one product: up to 13 times faster than enable_gqa in bfloat16 on CPU
            rows = q.reshape(B, k.shape[1], -1, q.shape[-1])
            return F.scaled_dot_product_attention(rows, k, v, mask, scale=scale).reshape(B, H, 1, v.shape[-1])
        return F.scaled_dot_product_attention(
            q, k, v, mask, is_causal=mask is None, scale=scale, enable_gqa=k.shape[1] != H
        )


class FusedDropoutCore:
    """`F.scaled_dot_product_attention` with dropout, for training on a CUDA device.

    The kernel draws its masks from the device's global generator. That is set from the layer's own seed for the time
    of the call and put back afterwards: the same seed gives the same masks, also when activations are computed again,
    and nothing else that is drawn changes.
    """

    def __init__(self) -> None:
        # generators cannot be traced, so compiled code leaves its graph here. Not a decorator: it would load torch's
        # compiler in every program, 1 s
        self.attend = torch.compiler.disable(attend_with_dropout)  # type: ignore[no-untyped-call]

    @staticmethod
    def supports(need: Need) -> str | None:
        """Training with dropout on CUDA."""
        if not (need.training and need.dropout):
            return "there is no dropout"
        if need.device != "cuda":
            return f"on {need.device} attention written out with our own masks is used"
        return not_a_plain_softmax(need)

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
        out: Tensor = self.attend(q, k, v, mask, scale, dropout)
        return out


def attend_with_dropout(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float, dropout: Dropout) -> Tensor:
    """Fused attention whose dropout masks are a function of `dropout`'s seed. Shapes as in AttentionCore."""
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


def not_a_plain_softmax(need: Need) -> str | None:
    """Why fused kernels cannot do it, or None."""
    if need.weights:
        return "fused kernels never hold the attention weights"
    if need.softcap:
        return "fused kernels do not cap scores"
    if need.sinks:
        return "fused kernels have no sinks"
    return None
