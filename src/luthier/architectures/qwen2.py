"""Qwen2 (arXiv 2407.10671) and Qwen2.5 (arXiv 2412.15115): Llama's blocks with biases on queries, keys and values."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from luthier.architectures import config_json, gguf_metadata, llama_like_names, llama_like_settings, windows
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
    """Configuration of a Qwen2 model. The defaults are Qwen2.5 0.5B."""

    vocab_size: int = 151_936
    """Entries of the vocabulary."""
    context_length: int = 32_768
    """Tokens."""
    dim: int = 896
    """Width of the residual stream."""
    hidden_dim: int = 4864
    """Width of the feed-forward."""
    n_layers: int = 24
    """Blocks."""
    n_heads: int = 14
    """Query heads."""
    n_kv_heads: int = 2
    """Key and value heads, each shared by n_heads / n_kv_heads query heads."""
    head_dim: int | None = None
    """Width of a head; dim / n_heads unless given."""
    norm_eps: float = 1e-6
    """Added to the mean square in RMS norm."""
    rope_theta: float = 1_000_000.0
    """Base of the rotary wavelengths."""
    rope_scaling: RopeScaling | None = None
    """RoPE scaling for a context longer than the one trained on."""
    tie_embeddings: bool = True
    """Use the token embedding as the output matrix."""
    dropout: float = 0.0
    """Probability, in training only. Qwen itself uses none."""
    window: int | None = None
    """Sliding window in tokens, the query's own included; none unless given."""
    global_layers: tuple[int, ...] | None = None
    """The layers with global attention despite the window, counted from 0; none unless given."""


SIZES = {
    "qwen2-0.5b": Config(context_length=131_072),
    "qwen2-1.5b": Config(context_length=131_072, dim=1536, hidden_dim=8960, n_layers=28, n_heads=12),
    "qwen2-7b": Config(152_064, 131_072, 3584, 18_944, 28, 28, 4, tie_embeddings=False),
    "qwen2-72b": Config(152_064, 131_072, 8192, 29_568, 80, 64, 8, norm_eps=1e-5, tie_embeddings=False),
    "qwen2.5-0.5b": Config(),
    "qwen2.5-1.5b": Config(context_length=131_072, dim=1536, hidden_dim=8960, n_layers=28, n_heads=12),
    "qwen2.5-3b": Config(dim=2048, hidden_dim=11_008, n_layers=36, n_heads=16),
    "qwen2.5-7b": Config(152_064, 131_072, 3584, 18_944, 28, 28, 4, tie_embeddings=False),
    "qwen2.5-14b": Config(152_064, 131_072, 5120, 13_824, 48, 40, 8, norm_eps=1e-5, tie_embeddings=False),
    "qwen2.5-32b": Config(152_064, 131_072, 5120, 27_648, 64, 40, 8, norm_eps=1e-5, tie_embeddings=False),
    "qwen2.5-72b": Config(152_064, 131_072, 8192, 29_568, 80, 64, 8, norm_eps=1e-5, tie_embeddings=False),
    # small enough to train on a CPU; vocab_size is replaced by the tokenizer's
    "qwen2-nano": Config(512, 128, 128, 352, 4, 4, 2, rope_theta=1e4),
    "qwen2-micro": Config(2048, 256, 192, 512, 6, 6, 2, rope_theta=1e4),
    "qwen2-mini": Config(4096, 256, 384, 1024, 8, 6, 2, rope_theta=1e4),
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
            bias=True,
            dropout=config.dropout,
        ),
        RMSNorm(config.dim, config.norm_eps),
        SwiGLU(config.dim, config.hidden_dim),
        dropout=config.dropout,
    )


def initialize(model: Transformer, config: Config, generator: torch.Generator) -> None:
    """N(0, 0.02), residual outputs divided by sqrt(2 n_layers), as in GPT-2."""
    initialize_normal(model, generator, std=0.02, residual_scale=(2 * config.n_layers) ** -0.5)


def hugging_face_tensors(config: Config) -> Table:
    """Weight table of transformers' Qwen2ForCausalLM."""
    attention = llama_like_names.hugging_face_attention(config.n_heads, config.n_kv_heads, bias=True, out_bias=False)
    block = llama_like_names.hugging_face_block(attention, llama_like_names.hugging_face_feed_forward("mlp"))
    return llama_like_names.hugging_face_table(each_layer(range(config.n_layers), block), config.tie_embeddings)


# defaults: those of transformers' Qwen2Config
HUGGING_FACE_SETTINGS: SettingList[Config] = config_json.settings(
    Config,
    "Qwen2ForCausalLM",
    "qwen2",
    *llama_like_settings.hugging_face(eps=1e-6, context=32_768, kv_heads=32),
    windows.SwitchedWindows(),
    Fixed("use_mrope", False, written=False),
)


def gguf_tensors(config: Config) -> Table:
    """Weight table of llama.cpp's architecture "qwen2", whose rotary pairs are halves."""
    n_heads, n_kv_heads = config.n_heads, config.n_kv_heads
    block = [
        Rule(GGUF + "attn_norm.weight", BLOCK + "attention_norm.weight"),
        Rule(GGUF + "ffn_norm.weight", BLOCK + "feed_forward_norm.weight"),
        *llama_like_names.gguf_attention(n_heads, n_kv_heads, bias=True, out_bias=False, interleaved=False),
        *llama_like_names.gguf_feed_forward(),
    ]
    return llama_like_names.gguf_table([], each_layer(range(config.n_layers), block), config.tie_embeddings)


GGUF_SETTINGS: SettingList[Config] = gguf_metadata.settings(
    Config,
    "qwen2",
    *llama_like_settings.gguf("qwen2", factors=False),
    windows.LuthierWindows(),
)

FAMILY = Family(
    "qwen2",
    Config,
    SIZES,
    build,
    initialize,
    {
        "hf": FormatSpec(
            hugging_face_tensors,
            HUGGING_FACE_SETTINGS,
            {
                "Qwen2ForCausalLM": "qwen2",
                "Qwen2Model": "qwen2",
            },
        ),
        "gguf": FormatSpec(gguf_tensors, GGUF_SETTINGS, caveats=windows.caveats),
    },
)
