"""Weight initialization from an explicit generator, so that a seed determines the model."""

from __future__ import annotations

import torch
from torch import nn

from luthier.model.attention import Attention
from luthier.model.dropout import Dropout
from luthier.model.experts import ClampedExperts, Experts
from luthier.model.feed_forward import FeedForward, SwiGLU
from luthier.model.moe import MoE
from luthier.model.norm import HeadLayerNorm, OffsetRMSNorm, RMSNorm
from luthier.model.router import GroupedSigmoidRouter, Router
from luthier.model.scale import ScaledEmbedding
from luthier.model.transformer import Transformer


def empty_embedding(n_entries: int, dim: int, scale: float = 1.0) -> nn.Embedding:
    """An embedding with uninitialized weights. `nn.Embedding` would initialize them, which on `meta` imports torch's
    compiler (1 s).

    scale: multiplies each embedding when it is looked up.
    """
    table = torch.empty(n_entries, dim)
    return nn.Embedding(n_entries, dim, _weight=table) if scale == 1 else ScaledEmbedding(table, scale)


@torch.no_grad()
def initialize_normal(model: Transformer, generator: torch.Generator, *, std: float, residual_scale: float) -> None:
    """Initialize matrices from N(0, std), norms with 1 and biases with 0.

    residual_scale: multiplies std for the matrices that write to the residual stream.
    """
    residual = {id(weight) for module in model.modules() for weight in residual_outputs(module)}
    for module in model.modules():
        if isinstance(module, (RMSNorm, nn.LayerNorm, HeadLayerNorm)):
            module.weight.fill_(0.0 if isinstance(module, OffsetRMSNorm) else 1.0)
        if isinstance(module, Router) and module.bias is not None:
            module.bias.zero_()
        if isinstance(module, GroupedSigmoidRouter):
            module.balance.zero_()
        if isinstance(module, ClampedExperts):
            module.gate_up_bias.zero_()
            module.down_bias.zero_()
        if isinstance(module, Attention) and module.sinks is not None:
            module.sinks.zero_()
        if isinstance(module, (nn.Linear, nn.LayerNorm)) and module.bias is not None:
            module.bias.zero_()
        if isinstance(module, (MoE, Dropout)):
            for buffer in module.buffers(recurse=False):
                buffer.zero_()
    for weight in model.parameters():  # a tied matrix is listed once
        if weight.ndim > 1:
            scale = residual_scale if id(weight) in residual else 1.0
            weight.normal_(0, std * scale, generator=generator)


def residual_outputs(module: nn.Module) -> list[torch.Tensor]:
    """The weights of a module whose output is added to the residual stream."""
    if isinstance(module, Attention):
        return [module.output.weight]
    if isinstance(module, (FeedForward, SwiGLU)):
        return [module.down.weight]
    return [module.down] if isinstance(module, Experts) else []
