"""Granite 3's mixtures of experts (IBM, 2024 and 2025), with or without a shared expert."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from luthier.architectures import config_json, gguf_metadata, granite, llama_like_names, llama_like_settings
from luthier.architectures.checked_values import LARGEST_EXPERTS
from luthier.architectures.family import Family, FormatSpec
from luthier.architectures.initialize import empty_embedding, initialize_normal
from luthier.architectures.llama_like_names import BLOCK, GGUF, HUGGING_FACE
from luthier.architectures.settings import CustomSetting, Reading, Setting, SettingList, count, flag, head_dim
from luthier.formats.weight_table import Rule, Table, Transpose, each_layer
from luthier.model.experts import Experts
from luthier.model.feed_forward import SwiGLU
from luthier.model.moe import MoE
from luthier.model.norm import RMSNorm, ScaledRMSNorm
from luthier.model.rope_scaling import RopeScaling
from luthier.model.router import SoftmaxRouter
from luthier.model.scale import Scale
from luthier.model.transformer import Block, Transformer


@dataclass(frozen=True)
class Config:
    """Configuration of a Granite MoE model. The defaults are Granite 3.1 1B-A400M."""

    vocab_size: int = 49_155
    """Entries of the vocabulary."""
    context_length: int = 131_072
    """Tokens."""
    dim: int = 1024
    """Width of the residual stream."""
    hidden_dim: int = 512
    """Width of each expert."""
    n_layers: int = 24
    """Blocks."""
    n_heads: int = 16
    """Query heads."""
    n_kv_heads: int = 8
    """Key and value heads, each shared by n_heads / n_kv_heads query heads."""
    head_dim: int | None = None
    """Width of a head; dim / n_heads unless given."""
    n_experts: int = 32
    """Experts of a layer, besides the shared one."""
    experts_per_token: int = 8
    """Experts that each token is routed to, besides the shared one."""
    shared_dim: int | None = None
    """Width of the shared expert, which serves every token; there is none unless given."""
    norm_eps: float = 1e-6
    """Added to the mean square in RMS norm."""
    rope_theta: float = 1_500_000.0
    """Base of the rotary wavelengths."""
    rope_scaling: RopeScaling | None = None
    """RoPE scaling for a context longer than the one trained on."""
    tie_embeddings: bool = True
    """Use the token embedding as the output matrix."""
    dropout: float = 0.0
    """Probability, in training only. Granite itself uses none."""
    embedding_multiplier: float = 12.0
    """Factor of the embeddings."""
    attention_multiplier: float = 0.015625
    """Factor of attention scores, instead of 1 / sqrt(head_dim)."""
    residual_multiplier: float = 0.22
    """Factor of the outputs of attention and feed-forward."""
    logits_scaling: float = 6.0
    """Divisor of the logits."""
    attention_bias: bool = False
    """Biases on queries, keys, values and the output of attention."""


def small_config(vocab_size: int, context_length: int, dim: int, n_layers: int, n_heads: int, n_experts: int) -> Config:
    """A mixture of Granite's small enough to train on a CPU: experts half as wide as the model, two per token."""
    return Config(
        vocab_size,
        context_length,
        dim,
        hidden_dim=dim // 2,
        n_layers=n_layers,
        n_heads=n_heads,
        n_kv_heads=2,
        n_experts=n_experts,
        experts_per_token=2,
        shared_dim=dim // 2,
        attention_multiplier=n_heads / dim,
        logits_scaling=1.0,  # the published ones, for wider models, slow the training of narrow ones down
        rope_theta=10_000.0,
    )


SIZES = {
    "granite3.1-1b-a400m": Config(),
    "granite3.1-3b-a800m": Config(dim=1536, n_layers=32, n_heads=24, n_experts=40),
    # small enough to train on a CPU; vocab_size is replaced by the tokenizer's
    "granitemoe-nano": small_config(512, context_length=128, dim=128, n_layers=4, n_heads=4, n_experts=8),
    "granitemoe-micro": small_config(2048, context_length=256, dim=192, n_layers=6, n_heads=6, n_experts=16),
    "granitemoe-mini": small_config(4096, context_length=256, dim=256, n_layers=6, n_heads=8, n_experts=16),
}


def build(config: Config) -> Transformer:
    """The model, with uninitialized weights (see registry.build)."""
    return Transformer(
        empty_embedding(config.vocab_size, config.dim, config.embedding_multiplier),
        [build_block(config) for _ in range(config.n_layers)],
        ScaledRMSNorm(config.dim, config.norm_eps, 1 / config.logits_scaling),
        tie_embeddings=config.tie_embeddings,
        dropout=config.dropout,
    )


def build_block(config: Config) -> Block:
    """One of the n_layers identical blocks."""
    return Block(
        RMSNorm(config.dim, config.norm_eps),
        granite.build_attention(config),
        RMSNorm(config.dim, config.norm_eps),
        MoE(
            SoftmaxRouter(config.dim, config.n_experts, config.experts_per_token),
            Experts(config.n_experts, config.dim, config.hidden_dim),
            None if config.shared_dim is None else SwiGLU(config.dim, config.shared_dim),
        ),
        dropout=config.dropout,
        attention_post=Scale(config.residual_multiplier),
        feed_forward_post=Scale(config.residual_multiplier),
    )


def initialize(model: Transformer, config: Config, generator: torch.Generator) -> None:
    """N(0, 0.02) everywhere: the residual multiplier makes what is added smaller."""
    initialize_normal(model, generator, std=0.02, residual_scale=1.0)


def hugging_face_tensors(config: Config) -> Table:
    """Weight table of transformers' GraniteMoeForCausalLM and GraniteMoeSharedForCausalLM."""
    external, internal = HUGGING_FACE + "block_sparse_moe.", BLOCK + "feed_forward."
    mixture = [
        Rule(external + "router.layer.weight", internal + "router.weight"),
        Rule(external + "input_linear.weight", internal + "experts.gate_up", Transpose()),
        Rule(external + "output_linear.weight", internal + "experts.down", Transpose()),
    ]
    if config.shared_dim is not None:
        mixture += granite.hugging_face_shared(config.shared_dim, "feed_forward.shared")
    attention = llama_like_names.hugging_face_attention(config.n_heads, config.n_kv_heads, bias=config.attention_bias)
    layers = each_layer(range(config.n_layers), llama_like_names.hugging_face_block(attention, mixture))
    return llama_like_names.hugging_face_table(layers, config.tie_embeddings)


def read_shared(reading: Reading) -> dict[str, Any]:
    """The width of the shared expert; none if 0 or missing."""
    values = reading.values
    width = values.number("shared_intermediate_size", 0.0, least=0.0)
    return {"shared_dim": values.count("shared_intermediate_size") if width else None}


def write_shared(config: Config) -> Mapping[str, Any]:
    """The class that has a shared expert, and its width."""
    if config.shared_dim is None:
        return {}
    named = {"architectures": ["GraniteMoeSharedForCausalLM"], "model_type": "granitemoeshared"}
    return {**named, "shared_intermediate_size": config.shared_dim}


# defaults: those of transformers' GraniteMoeConfig
HUGGING_FACE_SETTINGS: SettingList[Config] = config_json.settings(
    Config,
    "GraniteMoeForCausalLM",
    "granitemoe",
    *llama_like_settings.hugging_face(eps=1e-6),
    *granite.MULTIPLIERS,
    Setting("num_local_experts", "n_experts", count(LARGEST_EXPERTS), default=8),
    Setting("num_experts_per_tok", "experts_per_token", count(), default=2),
    Setting("attention_bias", "attention_bias", flag, default=False),
    CustomSetting(read_shared, write_shared),
    llama_like_settings.OF_TRAINING,
)


def gguf_tensors(config: Config) -> Table:
    """Weight table of llama.cpp's architecture "granitemoe"."""
    shared = [] if config.shared_dim is None else llama_like_names.gguf_feed_forward("_shexp", "feed_forward.shared")
    block = [
        Rule(GGUF + "attn_norm.weight", BLOCK + "attention_norm.weight"),
        Rule(GGUF + "ffn_norm.weight", BLOCK + "feed_forward_norm.weight"),
        *llama_like_names.gguf_attention(config.n_heads, config.n_kv_heads, bias=config.attention_bias),
        *llama_like_names.gguf_experts(config.hidden_dim),
        *shared,
    ]
    factors = gguf_metadata.rope_rules(head_dim(config), config.rope_theta, config.rope_scaling)
    return llama_like_names.gguf_table(factors, each_layer(range(config.n_layers), block), config.tie_embeddings)


SHARED = "granitemoe.expert_shared_feed_forward_length"


def read_gguf_shared(reading: Reading) -> dict[str, Any]:
    """The width of the shared expert, and whether attention has biases."""
    width = reading.values.number(SHARED, 0.0, least=0.0)
    return {
        "shared_dim": reading.values.count(SHARED) if width else None,
        "attention_bias": gguf_metadata.has_bias(reading.weights.checkpoint, "attn_"),
    }


def write_gguf_shared(config: Config) -> Mapping[str, Any]:
    """The width of the shared expert."""
    return {} if config.shared_dim is None else {SHARED: config.shared_dim}


GGUF_SETTINGS: SettingList[Config] = gguf_metadata.settings(
    Config,
    "granitemoe",
    *llama_like_settings.gguf("granitemoe"),
    *granite.gguf_multipliers("granitemoe"),
    *llama_like_settings.gguf_experts("granitemoe"),
    CustomSetting(read_gguf_shared, write_gguf_shared),
)

FAMILY = Family(
    "granitemoe",
    Config,
    SIZES,
    build,
    initialize,
    {
        "hf": FormatSpec(
            hugging_face_tensors,
            HUGGING_FACE_SETTINGS,
            {
                "GraniteMoeForCausalLM": "granitemoe",
                "GraniteMoeSharedForCausalLM": "granitemoeshared",
                "GraniteMoeModel": "granitemoe",
            },
        ),
        "gguf": FormatSpec(gguf_tensors, GGUF_SETTINGS),
    },
)
