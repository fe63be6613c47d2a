"""FLOPs per token. Shapes: T context, H heads, D head_dim."""

from __future__ import annotations

from torch import nn

from luthier.model.moe import MoE
from luthier.model.router import Router
from luthier.model.transformer import Transformer


def flops_per_token(model: Transformer, context_length: int) -> int:
    """FLOPs of a training step per token, forward and backward (arXiv 2204.02311, appendix B).

    6 per weight that multiplies the token (excluding embeddings and idle experts) and 12 T H D per layer for the
    attention scores and the weighted values (half of that for each of the two widths, where values and keys differ in
    width). T is the window where a layer has one.
    """
    weights = sum(module.weight.numel() for module in model.modules() if isinstance(module, nn.Linear))
    weights += sum(router.weight.numel() for router in model.modules() if isinstance(router, Router))
    for moe in (module for module in model.modules() if isinstance(module, MoE)):
        matrices = moe.experts.gate_up.numel() + moe.experts.down.numel()
        weights += matrices // moe.n_experts * moe.experts_per_token
    products = 0
    for layer in (block.attention for block in model.layers):
        visible = min(context_length, layer.mask.window or context_length)
        products += visible * layer.n_heads * (layer.head_dim + layer.value_dim)
    return 6 * weights + 6 * products
