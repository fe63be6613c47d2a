"""How much arithmetic a token costs. Shapes: T context, H heads, D head_dim."""

from __future__ import annotations

from torch import nn

from luthier.model.moe import MoE
from luthier.model.transformer import Transformer


def flops_per_token(model: Transformer, context_length: int) -> int:
    """FLOPs of a training step for each token, forward and backward (arXiv 2204.02311, appendix B).

    6 for each weight that multiplies the token (embeddings do not, idle experts do not) and 12 T H D a layer for the
    scores and their use.
    """
    weights = sum(module.weight.numel() for module in model.modules() if isinstance(module, nn.Linear))
    for moe in (module for module in model.modules() if isinstance(module, MoE)):
        weights += sum(weight.numel() for weight in moe.experts.parameters()) - moe.idle_parameters
    attention = sum(block.attention.n_heads * block.attention.head_dim for block in model.layers)
    return 6 * weights + 12 * context_length * attention
