"""Ernie 4.5, dense (Baidu, June 2025): Llama's blocks, and heads with a width of their own."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from luthier.architectures import config_json, gguf_metadata, llama_like_names, llama_like_settings
from luthier.architectures.family import Family, FormatSpec
from luthier.architectures.initialize import empty_embedding, initialize_normal
from luthier.architectures.llama_like_names import BLOCK, GGUF
from luthier.architectures.settings import Fixed, SettingList, head_dim
from luthier.formats.weight_table import Rule, Table, each_layer
from luthier.model.attention import Attention
from luthier.model.feed_forward import SwiGLU
from luthier.model.norm import RMSNorm
from luthier.model.rope import rope
from luthier.model.rope_scaling import RopeScaling
from luthier.model.transformer import Block, Transformer


@dataclass(frozen=True)
class Config:
    """Ernie's shape. The defaults are Ernie 4.5 0.3B, but for the width of its heads."""

    vocab_size: int = 103_424
    """Entries of the vocabulary."""
    context_length: int = 131_072
    """Tokens."""
    dim: int = 1024
    """Width of the residual stream."""
    hidden_dim: int = 3072
    """Width of the feed-forward."""
    n_layers: int = 18
    """Blocks."""
    n_heads: int = 16
    """Query heads."""
    n_kv_heads: int = 2
    """Heads of keys and values, each shared by n_heads / n_kv_heads query heads."""
    head_dim: int | None = None
    """Width of a head; dim / n_heads unless given."""
    norm_eps: float = 1e-5
    """Added to the mean square in RMS norm."""
    rope_theta: float = 500_000.0
    """Base of the rotary wavelengths."""
    rope_scaling: RopeScaling | None = None
    """How rotary positions are scaled for a context longer than the one trained on."""
    tie_embeddings: bool = True
    """Use the token embedding as the output matrix."""
    dropout: float = 0.0
    """Probability, in training only. Ernie itself uses none."""


SIZES = {
    "ernie4.5-0.3b": Config(head_dim=128),
    # for a CPU: the vocabulary is that of the tokenizer
    "ernie4_5-nano": Config(512, 128, 128, 352, 4, 4, 2, rope_theta=1e4),
    "ernie4_5-micro": Config(2048, 256, 192, 512, 6, 6, 2, rope_theta=1e4),
    "ernie4_5-mini": Config(4096, 256, 384, 1024, 8, 6, 2, rope_theta=1e4),
}


def build(config: Config) -> Transformer:
    """Parts joined as Ernie joins them, with weights that are not yet set (see registry.build)."""
    return Transformer(
        empty_embedding(config.vocab_size, config.dim),
        [build_block(config) for _ in range(config.n_layers)],
        RMSNorm(config.dim, config.norm_eps),
        tie_embeddings=config.tie_embeddings,
        dropout=config.dropout,
    )


def build_block(config: Config) -> Block:
    """One of the n_layers identical blocks."""
    magnitude = config.rope_scaling.magnitude if config.rope_scaling else 1.0  # of queries and of keys
    return Block(
        RMSNorm(config.dim, config.norm_eps),
        Attention(
            config.dim,
            config.n_heads,
            config.n_kv_heads,
            config.head_dim,
            qk_steps=(rope(head_dim(config), config.rope_theta, config.rope_scaling),),
            scale=head_dim(config) ** -0.5 * magnitude**2,
            dropout=config.dropout,
        ),
        RMSNorm(config.dim, config.norm_eps),
        SwiGLU(config.dim, config.hidden_dim),
        dropout=config.dropout,
    )


def initialize(model: Transformer, config: Config, generator: torch.Generator) -> None:
    """N(0, 0.02), residual outputs / sqrt(2 n_layers), as in GPT-2: none is published for it."""
    initialize_normal(model, generator, std=0.02, residual_scale=(2 * config.n_layers) ** -0.5)


def hugging_face_tensors(config: Config) -> Table:
    """Weight table of transformers' Ernie4_5ForCausalLM. Rotary pairs are adjacent dimensions there."""
    attention = llama_like_names.hugging_face_attention(config.n_heads, config.n_kv_heads, interleaved=True)
    block = llama_like_names.hugging_face_block(attention, llama_like_names.hugging_face_feed_forward("mlp"))
    return llama_like_names.hugging_face_table(each_layer(range(config.n_layers), block), config.tie_embeddings)


# defaults: those of transformers' Ernie4_5Config
HUGGING_FACE_SETTINGS: SettingList[Config] = config_json.settings(
    Config,
    "Ernie4_5ForCausalLM",
    "ernie4_5",
    *llama_like_settings.hugging_face(eps=1e-5, context=131_072, theta=5e5, kv_heads=2, head_dim=128, tied=True),
    Fixed("use_bias", False),
    Fixed("compression_ratio", 1.0, written=False),  # in files older than its class in transformers
)


def gguf_tensors(config: Config) -> Table:
    """Weight table of llama.cpp's architecture "ernie4_5"."""
    block = [
        Rule(GGUF + "attn_norm.weight", BLOCK + "attention_norm.weight"),
        Rule(GGUF + "ffn_norm.weight", BLOCK + "feed_forward_norm.weight"),
        *llama_like_names.gguf_attention(config.n_heads, config.n_kv_heads),
        *llama_like_names.gguf_feed_forward(),
    ]
    return llama_like_names.gguf_table([], each_layer(range(config.n_layers), block), config.tie_embeddings)


GGUF_SETTINGS: SettingList[Config] = gguf_metadata.settings(
    Config,
    "ernie4_5",
    *llama_like_settings.gguf("ernie4_5", factors=False),
)

FAMILY = Family(
    "ernie4_5",
    Config,
    SIZES,
    build,
    initialize,
    {
        "hf": FormatSpec(
            hugging_face_tensors,
            HUGGING_FACE_SETTINGS,
            {"Ernie4_5ForCausalLM": "ernie4_5", "Ernie4_5Model": "ernie4_5"},
        ),
        "gguf": FormatSpec(gguf_tensors, GGUF_SETTINGS),
    },
)
