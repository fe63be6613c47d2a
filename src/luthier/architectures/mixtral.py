"""Mixtral (arXiv 2401.04088): Mistral's blocks with experts in place of the feed-forward."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from luthier.architectures import config_json, gguf_metadata, llama_like_names, llama_like_settings, windows
from luthier.architectures.checked_values import LARGEST_EXPERTS
from luthier.architectures.family import Family, FormatSpec
from luthier.architectures.initialize import empty_embedding, initialize_normal
from luthier.architectures.llama_like_names import BLOCK, GGUF, HUGGING_FACE
from luthier.architectures.settings import Setting, SettingList, count, head_dim
from luthier.formats.weight_table import Rule, Table, each_layer
from luthier.model.attention import Attention
from luthier.model.experts import Experts
from luthier.model.moe import MoE
from luthier.model.norm import RMSNorm
from luthier.model.rope import rope
from luthier.model.rope_scaling import RopeScaling
from luthier.model.router import SoftmaxRouter
from luthier.model.transformer import Block, Transformer


@dataclass(frozen=True)
class Config:
    """Configuration of a Mixtral model. The defaults are Mixtral 8x7B."""

    vocab_size: int = 32_000
    """Entries of the vocabulary."""
    context_length: int = 32_768
    """Tokens."""
    dim: int = 4096
    """Width of the residual stream."""
    hidden_dim: int = 14_336
    """Width of each expert."""
    n_layers: int = 32
    """Blocks."""
    n_heads: int = 32
    """Query heads."""
    n_kv_heads: int = 8
    """Key and value heads, each shared by n_heads / n_kv_heads query heads."""
    head_dim: int | None = None
    """Width of a head; dim / n_heads unless given."""
    n_experts: int = 8
    """Experts of a layer."""
    experts_per_token: int = 2
    """Experts that each token is routed to."""
    norm_eps: float = 1e-5
    """Added to the mean square in RMS norm."""
    rope_theta: float = 1_000_000.0
    """Base of the rotary wavelengths."""
    rope_scaling: RopeScaling | None = None
    """RoPE scaling for a context longer than the one trained on."""
    tie_embeddings: bool = False
    """Use the token embedding as the output matrix."""
    dropout: float = 0.0
    """Probability, in training only. Mistral itself uses none."""
    window: int | None = None
    """Sliding window in tokens, the query's own included; none unless given."""
    global_layers: tuple[int, ...] | None = None
    """The layers with global attention despite the window, counted from 0; none unless given."""


def small_config(vocab_size: int, context_length: int, dim: int, n_layers: int, n_heads: int, n_experts: int) -> Config:
    """A Mixtral small enough to train on a CPU: experts as wide as the model."""
    return Config(
        vocab_size,
        context_length,
        dim,
        hidden_dim=dim,
        n_layers=n_layers,
        n_heads=n_heads,
        n_kv_heads=2,
        n_experts=n_experts,
        rope_theta=10_000.0,
        tie_embeddings=True,
    )


SIZES = {
    "mixtral-8x7b": Config(),
    "mixtral-8x22b": Config(context_length=65_536, dim=6144, hidden_dim=16_384, n_layers=56, n_heads=48),
    # small enough to train on a CPU; vocab_size is replaced by the tokenizer's
    "mixtral-nano": small_config(512, context_length=128, dim=128, n_layers=4, n_heads=4, n_experts=4),
    "mixtral-micro": small_config(2048, context_length=256, dim=192, n_layers=6, n_heads=6, n_experts=8),
    "mixtral-mini": small_config(4096, context_length=256, dim=256, n_layers=6, n_heads=8, n_experts=8),
}


def build(config: Config) -> Transformer:
    """The model, with uninitialized weights (see registry.build)."""
    return Transformer(
        empty_embedding(config.vocab_size, config.dim),
        [build_block(config, layer) for layer in range(config.n_layers)],
        RMSNorm(config.dim, config.norm_eps),
        tie_embeddings=config.tie_embeddings,
        dropout=config.dropout,
    )


def build_block(config: Config, layer: int) -> Block:
    """The block of a layer, counted from 0."""
    magnitude = config.rope_scaling.magnitude if config.rope_scaling else 1.0  # multiplies queries and keys
    return Block(
        RMSNorm(config.dim, config.norm_eps),
        Attention(
            config.dim,
            config.n_heads,
            config.n_kv_heads,
            config.head_dim,
            qk_steps=(rope(head_dim(config), config.rope_theta, config.rope_scaling),),
            mask=windows.mask_of(config, layer),
            scale=head_dim(config) ** -0.5 * magnitude**2,
            dropout=config.dropout,
        ),
        RMSNorm(config.dim, config.norm_eps),
        MoE(
            SoftmaxRouter(config.dim, config.n_experts, config.experts_per_token),
            Experts(config.n_experts, config.dim, config.hidden_dim),
        ),
        dropout=config.dropout,
    )


def initialize(model: Transformer, config: Config, generator: torch.Generator) -> None:
    """N(0, 0.02), residual outputs divided by sqrt(2 n_layers), as in GPT-2."""
    initialize_normal(model, generator, std=0.02, residual_scale=(2 * config.n_layers) ** -0.5)


def hugging_face_tensors(config: Config) -> Table:
    """Weight table of transformers' MixtralForCausalLM: w1 is an expert's gate, w3 its up, w2 its down matrix."""
    experts, names = "block_sparse_moe.experts", ("w1", "w3", "w2")
    mixture = [
        Rule(HUGGING_FACE + "block_sparse_moe.gate.weight", BLOCK + "feed_forward.router.weight"),
        *llama_like_names.hugging_face_experts(config.n_experts, config.hidden_dim, experts, names),
    ]
    attention = llama_like_names.hugging_face_attention(config.n_heads, config.n_kv_heads)
    layers = each_layer(range(config.n_layers), llama_like_names.hugging_face_block(attention, mixture))
    return llama_like_names.hugging_face_table(layers, config.tie_embeddings)


# defaults: those of transformers' MixtralConfig
HUGGING_FACE_SETTINGS: SettingList[Config] = config_json.settings(
    Config,
    "MixtralForCausalLM",
    "mixtral",
    *llama_like_settings.hugging_face(eps=1e-5, context=131_072, theta=1e6, kv_heads=8),
    Setting("num_local_experts", "n_experts", count(LARGEST_EXPERTS), default=8),
    Setting("num_experts_per_tok", "experts_per_token", count(), default=2),
    windows.OneWindow(),
    llama_like_settings.OF_TRAINING,
)


def gguf_tensors(config: Config) -> Table:
    """Weight table of llama.cpp's architecture "llama", with experts."""
    block = [
        Rule(GGUF + "attn_norm.weight", BLOCK + "attention_norm.weight"),
        Rule(GGUF + "ffn_norm.weight", BLOCK + "feed_forward_norm.weight"),
        *llama_like_names.gguf_attention(config.n_heads, config.n_kv_heads),
        *llama_like_names.gguf_experts(config.hidden_dim),
    ]
    factors = gguf_metadata.rope_rules(head_dim(config), config.rope_theta, config.rope_scaling)
    return llama_like_names.gguf_table(factors, each_layer(range(config.n_layers), block), config.tie_embeddings)


GGUF_SETTINGS: SettingList[Config] = gguf_metadata.settings(
    Config,
    "llama",
    *llama_like_settings.gguf("llama"),
    *llama_like_settings.gguf_experts("llama"),
    windows.LuthierWindows(),
)

FAMILY = Family(
    "mixtral",
    Config,
    SIZES,
    build,
    initialize,
    {
        "hf": FormatSpec(
            hugging_face_tensors,
            HUGGING_FACE_SETTINGS,
            {"MixtralForCausalLM": "mixtral", "MixtralModel": "mixtral"},
        ),
        "gguf": FormatSpec(
            gguf_tensors,
            GGUF_SETTINGS,
            distinctive_keys=("llama.expert_count",),
            architecture="llama",
            caveats=windows.caveats,
        ),
    },
)
