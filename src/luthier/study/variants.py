"""Variants from GPT-2 to Llama 4. Each is a set of parts, joined from model/ as the architectures join them.

All variants of a study have the same number of parameters: the feed-forward's width makes up for what a part adds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import nn

from luthier.architectures.initialize import empty_embedding, initialize_normal
from luthier.errors import UsageError
from luthier.model.attention import Attention
from luthier.model.experts import Experts
from luthier.model.feed_forward import FeedForward, SwiGLU
from luthier.model.mask import Chunked, causal
from luthier.model.moe import MoE
from luthier.model.norm import RMSNorm
from luthier.model.rope import QueryTemperature, Rope, UnitQKNorm
from luthier.model.router import SigmoidRouter
from luthier.model.seeds import seeded
from luthier.model.transformer import Block, Transformer

TOLERANCE = 0.02  # of the parameters


@dataclass(frozen=True)
class Parts:
    """Parts of a model. With none of them it is GPT-2, with all it is Llama 4."""

    rms_norm: bool = False
    """RMSNorm for LayerNorm."""
    rope: bool = False
    """Rotary positions for learned ones."""
    swiglu: bool = False
    """A gate in the feed-forward, and no biases there."""
    grouped_queries: bool = False
    """Fewer heads of keys and values."""
    no_biases: bool = False
    """None in attention either."""
    experts: bool = False
    """A mixture of experts for the feed-forward."""
    local_layers: bool = False
    """Llama 4's attention: chunks, unit queries and keys; every fourth layer global and without positions."""


@dataclass(frozen=True)
class Shape:
    """The sizes that all variants share."""

    vocab_size: int
    context_length: int
    dim: int
    n_layers: int
    n_heads: int
    n_kv_heads: int = 2  # of grouped queries
    n_experts: int = 4
    norm_eps: float = 1e-5
    rope_theta: float = 10_000.0
    global_every: int = 4

    @property
    def attention_chunk(self) -> int:
        """Chunk size of a local layer, in tokens."""
        return max(1, self.context_length // 2)


def variants() -> dict[str, Parts]:
    """Variants by name, in order: each has one part more than the one before."""
    parts = Parts()
    found = {"GPT-2": parts}
    for name, part in (
        ("+ RMSNorm", "rms_norm"),
        ("+ RoPE", "rope"),
        ("+ SwiGLU", "swiglu"),
        ("+ GQA", "grouped_queries"),
        ("Llama 2", "no_biases"),
        ("+ MoE", "experts"),
        ("Llama 4", "local_layers"),
    ):
        parts = replace(parts, **{part: True})
        found[name] = parts
    return found


def join(parts: Parts, shape: Shape, hidden_dim: int) -> Transformer:
    """Build a model of these parts with uninitialized weights. hidden_dim: of the feed-forward, or of each expert."""
    return Transformer(
        empty_embedding(shape.vocab_size, shape.dim),
        [join_block(parts, shape, hidden_dim, layer) for layer in range(shape.n_layers)],
        norm(parts, shape),
        position_embedding=None if parts.rope else empty_embedding(shape.context_length, shape.dim),
        tie_embeddings=True,
    )


def join_block(parts: Parts, shape: Shape, hidden_dim: int, layer: int) -> Block:
    """Build block number `layer`, counted from 0."""
    is_global = not parts.local_layers or (layer + 1) % shape.global_every == 0
    attention = Attention(
        shape.dim,
        shape.n_heads,
        shape.n_kv_heads if parts.grouped_queries else shape.n_heads,
        qk_steps=qk_steps(parts, shape, is_global=is_global),
        mask=causal if is_global else Chunked(shape.attention_chunk),
        bias=not parts.no_biases,
        out_bias=not parts.no_biases,
    )
    return Block(norm(parts, shape), attention, norm(parts, shape), feed_forward(parts, shape, hidden_dim))


def norm(parts: Parts, shape: Shape) -> nn.Module:
    """A norm, as before attention, feed-forward and output."""
    kind = RMSNorm if parts.rms_norm else nn.LayerNorm
    return kind(shape.dim, eps=shape.norm_eps)


def qk_steps(parts: Parts, shape: Shape, *, is_global: bool) -> tuple[nn.Module, ...]:
    """Modules applied to queries and keys before the scores."""
    if parts.local_layers and is_global:
        return (QueryTemperature(),)
    if not parts.rope:
        return ()
    rope = Rope(shape.dim // shape.n_heads, shape.rope_theta)
    return (rope, UnitQKNorm(shape.norm_eps)) if parts.local_layers else (rope,)


def feed_forward(parts: Parts, shape: Shape, hidden_dim: int) -> nn.Module:
    """The feed-forward layer, dense or a mixture."""
    if parts.experts:
        return MoE(
            SigmoidRouter(shape.dim, shape.n_experts, experts_per_token=1),
            Experts(shape.n_experts, shape.dim, hidden_dim),
            SwiGLU(shape.dim, hidden_dim),
            weights_on="input",
        )
    return SwiGLU(shape.dim, hidden_dim) if parts.swiglu else FeedForward(shape.dim, hidden_dim)


def build(parts: Parts, shape: Shape, hidden_dim: int, seed: int, device: torch.device | str = "cpu") -> Transformer:
    """Build and initialize a model of these parts, as GPT-2 and Llama are from this seed."""
    model = on_meta(parts, shape, hidden_dim).to_empty(device="cpu")
    model.tie()
    generator = seeded(seed)
    initialize_normal(model, generator, std=0.02, residual_scale=(2 * shape.n_layers) ** -0.5)
    if model.position_embedding is not None:
        model.position_embedding.weight.data.normal_(0, 0.01, generator=generator)
    return model.to(device)


def on_meta(parts: Parts, shape: Shape, hidden_dim: int) -> Transformer:
    """Build the model on the meta device, without memory."""
    with torch.device("meta"):
        return join(parts, shape, hidden_dim)


def count(model: Transformer) -> tuple[int, int]:
    """(all, active) parameters; tied matrices count once."""
    total = sum(weight.numel() for weight in model.parameters())
    return total, total - sum(part.inactive_parameters for part in model.modules() if isinstance(part, MoE))


def budget(shape: Shape) -> int:
    """Number of parameters of all variants: that of GPT-2 with a feed-forward four times as wide as the model."""
    return count(on_meta(Parts(), shape, 4 * shape.dim))[0]


def hidden_dim_for(parts: Parts, shape: Shape, parameters: int) -> int:
    """The width that brings the model nearest to a number of parameters; a multiple of 32, 16, 8 ... if that costs
    less than half a percent. Raises a UsageError if none comes within 2%.
    """
    one, two = (count(on_meta(parts, shape, width))[0] for width in (1, 2))
    exact = 1 + (parameters - one) / (two - one)
    for grain in (32, 16, 8, 4, 2, 1):
        width = max(1, round(exact / grain) * grain)
        missed = abs(width - exact) * (two - one) / parameters
        if missed <= (0.005 if grain > 1 else TOLERANCE):
            return width
    raise UsageError(
        f"{shape.n_experts} experts of dim {shape.dim} cannot come within {TOLERANCE:.0%} of {parameters:,} "
        "parameters: take a larger size"
    )
