"""Llama 2 (arXiv 2307.09288), Llama 3, 3.1 and 3.2 (arXiv 2407.21783)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from luthier.architectures.initialise import empty_embedding, initialise_normal
from luthier.model.attention import Attention
from luthier.model.feed_forward import SwiGLU
from luthier.model.norm import RMSNorm
from luthier.model.rope import rope
from luthier.model.rope_scaling import RopeScaling
from luthier.model.transformer import Block, Transformer


@dataclass(frozen=True)
class Config:
    """Llama's shape. The defaults are Llama 2 7B."""

    vocab_size: int = 32_000
    """Entries of the vocabulary."""
    context_length: int = 4096
    """Tokens."""
    dim: int = 4096
    """Width of the residual stream."""
    hidden_dim: int = 11_008
    """Width of the feed-forward."""
    n_layers: int = 32
    """Blocks."""
    n_heads: int = 32
    """Query heads."""
    n_kv_heads: int = 32
    """Heads of keys and values, each shared by n_heads / n_kv_heads query heads."""
    head_dim: int | None = None
    """Width of a head; dim / n_heads unless given."""
    norm_eps: float = 1e-5
    """Added to the mean square in RMS norm."""
    rope_theta: float = 10_000.0
    """Base of the rotary wavelengths."""
    rope_scaling: RopeScaling | None = None
    """How rotary positions are scaled for a context longer than the one trained on."""
    tie_embeddings: bool = False
    """Use the token embedding as the output matrix."""
    dropout: float = 0.0
    """Probability, in training only. Llama itself uses none."""
    attention_bias: bool = False
    """Biases on queries, keys, values and the output of attention."""
    mlp_bias: bool = False
    """Biases on the three matrices of the feed-forward."""


LLAMA2 = Config()
LLAMA3 = Config(128_256, 8192, 4096, 14_336, 32, 32, 8, rope_theta=500_000.0)
LLAMA31 = Config(128_256, 131_072, 4096, 14_336, 32, 32, 8, rope_theta=500_000.0, rope_scaling=RopeScaling())
STRETCH32 = RopeScaling(factor=32.0)

SIZES = {
    "llama2-7b": LLAMA2,
    "llama2-13b": Config(dim=5120, hidden_dim=13_824, n_layers=40, n_heads=40, n_kv_heads=40),
    "llama2-70b": Config(dim=8192, hidden_dim=28_672, n_layers=80, n_heads=64, n_kv_heads=8),
    "llama3-8b": LLAMA3,
    "llama3-70b": Config(128_256, 8192, 8192, 28_672, 80, 64, 8, rope_theta=500_000.0),
    "llama3.1-8b": LLAMA31,
    "llama3.1-70b": Config(128_256, 131_072, 8192, 28_672, 80, 64, 8, rope_theta=5e5, rope_scaling=RopeScaling()),
    "llama3.1-405b": Config(128_256, 131_072, 16_384, 53_248, 126, 128, 8, rope_theta=5e5, rope_scaling=RopeScaling()),
    "llama3.2-1b": Config(
        128_256, 131_072, 2048, 8192, 16, 32, 8, rope_theta=5e5, rope_scaling=STRETCH32, tie_embeddings=True
    ),
    "llama3.2-3b": Config(
        128_256, 131_072, 3072, 8192, 28, 24, 8, rope_theta=5e5, rope_scaling=STRETCH32, tie_embeddings=True
    ),
    # for a CPU: the vocabulary is that of the tokenizer
    "llama-nano": Config(512, 128, 128, 352, 4, 4, 2, tie_embeddings=True),
    "llama-micro": Config(2048, 256, 192, 512, 6, 6, 2, tie_embeddings=True),
    "llama-mini": Config(4096, 256, 384, 1024, 8, 6, 2, tie_embeddings=True),
}


def build(config: Config) -> Transformer:
    """Parts joined as Llama joins them, with weights that are not yet set (see registry.build)."""
    return Transformer(
        empty_embedding(config.vocab_size, config.dim),
        [build_block(config) for _ in range(config.n_layers)],
        RMSNorm(config.dim, config.norm_eps),
        tie_embeddings=config.tie_embeddings,
        dropout=config.dropout,
    )


def build_block(config: Config) -> Block:
    """One of the n_layers equal blocks."""
    head_dim = config.head_dim or config.dim // config.n_heads
    magnitude = config.rope_scaling.magnitude if config.rope_scaling else 1.0  # of queries and of keys
    return Block(
        RMSNorm(config.dim, config.norm_eps),
        Attention(
            config.dim,
            config.n_heads,
            config.n_kv_heads,
            config.head_dim,
            qk_steps=(rope(head_dim, config.rope_theta, config.rope_scaling),),
            scale=head_dim**-0.5 * magnitude**2,
            bias=config.attention_bias,
            out_bias=config.attention_bias,
            dropout=config.dropout,
        ),
        RMSNorm(config.dim, config.norm_eps),
        SwiGLU(config.dim, config.hidden_dim, bias=config.mlp_bias),
        dropout=config.dropout,
    )


def initialise(model: Transformer, config: Config, generator: torch.Generator) -> None:
    """N(0, 0.02), residual outputs / sqrt(2 n_layers). (Meta's papers do not say; its peers train so.)"""
    initialise_normal(model, generator, std=0.02, residual_scale=(2 * config.n_layers) ** -0.5)
