"""Llama 4, text (Meta, April 2025): mixture of experts, local layers with rotary positions, global ones without."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from luthier.architectures.initialise import empty_embedding, initialise_normal
from luthier.model.attention import Attention
from luthier.model.experts import Experts
from luthier.model.feed_forward import SwiGLU
from luthier.model.mask import Chunked, causal
from luthier.model.moe import MoE
from luthier.model.norm import RMSNorm
from luthier.model.rope import QueryTemperature, UnitQK, rope
from luthier.model.rope_scaling import RopeScaling
from luthier.model.router import SigmoidRouter
from luthier.model.transformer import Block, Transformer


@dataclass(frozen=True)
class Config:
    """Llama 4's shape. The defaults are Scout."""

    vocab_size: int = 202_048
    """Entries of the vocabulary."""
    context_length: int = 10_485_760
    """Tokens."""
    dim: int = 5120
    """Width of the residual stream."""
    hidden_dim: int = 8192
    """Width of each expert and of the shared expert."""
    dense_hidden_dim: int = 16_384
    """Width of the feed-forward on layers without experts."""
    n_layers: int = 48
    """Blocks."""
    n_heads: int = 40
    """Query heads."""
    n_kv_heads: int = 8
    """Heads of keys and values."""
    head_dim: int | None = None
    """Width of a head; dim / n_heads unless given."""
    n_experts: int = 16
    """Experts of a mixture layer, besides the shared one."""
    experts_per_token: int = 1
    """Experts that each token is sent to, besides the shared one."""
    moe_every: int = 1
    """Every how many layers there are experts (2: layers 1, 3, 5, ... counted from 0)."""
    moe_layers: tuple[int, ...] | None = None
    """The layers with experts, counted from 0, where moe_every does not say it."""
    global_every: int = 4
    """Every how many layers attention has no positions and sees everything (4: layers 3, 7, ... counted from 0)."""
    global_layers: tuple[int, ...] | None = None
    """The layers without positions, counted from 0, where global_every does not say it."""
    attention_chunk: int = 8192
    """Tokens: the other layers see only their own chunk."""
    qk_norm: bool = True
    """Unit norm of queries and keys on layers with positions."""
    temperature_tuning: bool = True
    """Let queries grow with the position on layers without."""
    temperature_floor: int = 8192
    """Tokens over which the temperature takes one step."""
    temperature_scale: float = 0.1
    """Size of the temperature's steps."""
    norm_eps: float = 1e-5
    """Added to the mean square in RMS norm."""
    rope_theta: float = 500_000.0
    """Base of the rotary wavelengths."""
    rope_scaling: RopeScaling | None = None
    """How rotary positions are scaled for a context longer than the one trained on."""
    tie_embeddings: bool = False
    """Use the token embedding as the output matrix."""
    dropout: float = 0.0
    """Probability, in training only. Llama itself uses none."""

    def is_moe(self, layer: int) -> bool:
        """Whether this layer, counted from 0, has experts."""
        return (layer + 1) % self.moe_every == 0 if self.moe_layers is None else layer in self.moe_layers

    def is_global(self, layer: int) -> bool:
        """Whether this layer, counted from 0, has no positions and sees everything."""
        return (layer + 1) % self.global_every == 0 if self.global_layers is None else layer in self.global_layers


def small(vocab_size: int, context_length: int, dim: int, n_layers: int, n_heads: int, n_experts: int) -> Config:
    """A Llama 4 for a CPU: experts as wide as the model, chunks of half the context."""
    return Config(
        vocab_size,
        context_length,
        dim,
        hidden_dim=dim,
        dense_hidden_dim=8 * dim // 3,
        n_layers=n_layers,
        n_heads=n_heads,
        n_kv_heads=2,
        n_experts=n_experts,
        attention_chunk=context_length // 2,
        tie_embeddings=True,
    )


SIZES = {
    "llama4-scout": Config(
        rope_scaling=RopeScaling(factor=16.0, low_freq_factor=1.0, high_freq_factor=1.0, original_context_length=8192)
    ),
    "llama4-maverick": Config(context_length=1_048_576, n_experts=128, moe_every=2, qk_norm=False),
    # for a CPU: the vocabulary is that of the tokenizer
    "llama4-nano": small(512, context_length=128, dim=128, n_layers=4, n_heads=4, n_experts=4),
    "llama4-micro": small(2048, context_length=256, dim=192, n_layers=6, n_heads=6, n_experts=8),
    "llama4-mini": small(4096, context_length=256, dim=256, n_layers=6, n_heads=8, n_experts=8),
}


def build(config: Config) -> Transformer:
    """Parts joined as Llama 4 joins them, with weights that are not yet set (see registry.build)."""
    return Transformer(
        empty_embedding(config.vocab_size, config.dim),
        [build_block(config, layer) for layer in range(config.n_layers)],
        RMSNorm(config.dim, config.norm_eps),
        tie_embeddings=config.tie_embeddings,
        dropout=config.dropout,
    )


def build_block(config: Config, layer: int) -> Block:
    """Block number `layer`, counted from 0: local or global attention, experts or one feed-forward."""
    return Block(
        RMSNorm(config.dim, config.norm_eps),
        Attention(
            config.dim,
            config.n_heads,
            config.n_kv_heads,
            config.head_dim,
            qk_steps=qk_steps(config, layer),
            mask=causal if config.is_global(layer) else Chunked(config.attention_chunk),
            scale=score_scale(config, layer),
            dropout=config.dropout,
        ),
        RMSNorm(config.dim, config.norm_eps),
        mixture(config) if config.is_moe(layer) else SwiGLU(config.dim, config.dense_hidden_dim),
        dropout=config.dropout,
    )


def mixture(config: Config) -> MoE:
    """Routed experts, whose weights multiply their inputs, and a shared one."""
    return MoE(
        SigmoidRouter(config.dim, config.n_experts, config.experts_per_token),
        Experts(config.n_experts, config.dim, config.hidden_dim),
        SwiGLU(config.dim, config.hidden_dim),
        weigh="input",
    )


def qk_steps(config: Config, layer: int) -> tuple[nn.Module, ...]:
    """Local layers turn and then normalise; global ones only warm the queries."""
    if config.is_global(layer):
        temperature = QueryTemperature(config.temperature_floor, config.temperature_scale)
        return (temperature,) if config.temperature_tuning else ()
    turn = rope(head_dim(config), config.rope_theta, config.rope_scaling)
    return (turn, UnitQK(config.norm_eps / magnitude(config) ** 2)) if config.qk_norm else (turn,)


def score_scale(config: Config, layer: int) -> float:
    """What scores are multiplied by: also by what the scaling of rotary positions makes of queries and keys, unless
    their norm takes that away again.
    """
    factor = 1.0 if config.is_global(layer) or config.qk_norm else magnitude(config)
    return float(head_dim(config) ** -0.5 * factor**2)


def magnitude(config: Config) -> float:
    """What the scaling of rotary positions multiplies queries and keys by."""
    return config.rope_scaling.magnitude if config.rope_scaling else 1.0


def head_dim(config: Config) -> int:
    """Width of a head."""
    return config.head_dim or config.dim // config.n_heads


def initialise(model: Transformer, config: Config, generator: torch.Generator) -> None:
    """N(0, 0.02), residual outputs / sqrt(2 n_layers). (Meta has published no other.)"""
    initialise_normal(model, generator, std=0.02, residual_scale=(2 * config.n_layers) ** -0.5)
