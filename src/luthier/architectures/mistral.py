"""Mistral 7B (arXiv 2310.06825), Nemo, Small and Ministral: Llama's blocks, in some with a window of tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from luthier.architectures import config_json, gguf_metadata, llama_like_names, llama_like_settings, windows
from luthier.architectures.family import Family, FormatSpec
from luthier.architectures.initialize import empty_embedding, initialize_normal
from luthier.architectures.llama_like_names import BLOCK, GGUF
from luthier.architectures.settings import CustomSetting, Fixed, Reading, SettingList, head_dim
from luthier.formats.weight_table import Rule, Table, each_layer
from luthier.model.attention import Attention
from luthier.model.feed_forward import SwiGLU
from luthier.model.norm import RMSNorm
from luthier.model.rope import rope
from luthier.model.rope_scaling import RopeScaling
from luthier.model.transformer import Block, Transformer


@dataclass(frozen=True)
class Config:
    """Configuration of a Mistral model. The defaults are Mistral 7B v0.1, but for its window."""

    vocab_size: int = 32_000
    """Entries of the vocabulary."""
    context_length: int = 32_768
    """Tokens."""
    dim: int = 4096
    """Width of the residual stream."""
    hidden_dim: int = 14_336
    """Width of the feed-forward."""
    n_layers: int = 32
    """Blocks."""
    n_heads: int = 32
    """Query heads."""
    n_kv_heads: int = 8
    """Key and value heads, each shared by n_heads / n_kv_heads query heads."""
    head_dim: int | None = None
    """Width of a head; dim / n_heads unless given."""
    norm_eps: float = 1e-5
    """Added to the mean square in RMS norm."""
    rope_theta: float = 10_000.0
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


SIZES = {
    "mistral-7b-v0.1": Config(window=4096),
    "mistral-7b-v0.2": Config(rope_theta=1e6),
    "mistral-7b-v0.3": Config(32_768, rope_theta=1e6),
    "mistral-nemo-12b": Config(131_072, 131_072, 5120, n_layers=40, head_dim=128, rope_theta=1e6),
    "mistral-small-24b": Config(131_072, 32_768, 5120, 32_768, n_layers=40, head_dim=128, rope_theta=1e8),
    "ministral-8b": Config(131_072, 32_768, 4096, 12_288, n_layers=36, rope_theta=1e8, window=32_768),
    # small enough to train on a CPU; vocab_size is replaced by the tokenizer's
    "mistral-nano": Config(512, 128, 128, 352, 4, 4, 2, tie_embeddings=True, window=64),
    "mistral-micro": Config(2048, 256, 192, 512, 6, 6, 2, tie_embeddings=True, window=128),
    "mistral-mini": Config(4096, 256, 384, 1024, 8, 6, 2, tie_embeddings=True, window=128),
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
        SwiGLU(config.dim, config.hidden_dim),
        dropout=config.dropout,
    )


def initialize(model: Transformer, config: Config, generator: torch.Generator) -> None:
    """N(0, 0.02), residual outputs divided by sqrt(2 n_layers), as in GPT-2."""
    initialize_normal(model, generator, std=0.02, residual_scale=(2 * config.n_layers) ** -0.5)


def hugging_face_tensors(config: Config) -> Table:
    """Weight table of transformers' MistralForCausalLM and MinistralForCausalLM."""
    attention = llama_like_names.hugging_face_attention(config.n_heads, config.n_kv_heads)
    block = llama_like_names.hugging_face_block(attention, llama_like_names.hugging_face_feed_forward("mlp"))
    return llama_like_names.hugging_face_table(each_layer(range(config.n_layers), block), config.tie_embeddings)


def read_windows(reading: Reading) -> dict[str, Any]:
    """`sliding_window`, of all layers in MistralForCausalLM, of those in `layer_types` in MinistralForCausalLM."""
    window = windows.read_window(reading, 4096)
    return windows.fields_of(window, windows.read_layer_types(reading, windows.no_layer), reading.fields["n_layers"])


def write_windows(config: Config) -> Mapping[str, Any]:
    """The window, and the class: only Ministral's supports layers without a window."""
    window = {"sliding_window": config.window}
    if config.global_layers is None:
        return window
    named = {"architectures": ["MinistralForCausalLM"], "model_type": "ministral"}
    return {**window, **named, "layer_types": windows.layer_types(config)}


# defaults: those of transformers' MistralConfig
HUGGING_FACE_SETTINGS: SettingList[Config] = config_json.settings(
    Config,
    "MistralForCausalLM",
    "mistral",
    *llama_like_settings.hugging_face(eps=1e-6, context=131_072, kv_heads=8),
    CustomSetting(read_windows, write_windows),
)


def gguf_tensors(config: Config) -> Table:
    """Weight table of llama.cpp's architecture "llama"."""
    block = [
        Rule(GGUF + "attn_norm.weight", BLOCK + "attention_norm.weight"),
        Rule(GGUF + "ffn_norm.weight", BLOCK + "feed_forward_norm.weight"),
        *llama_like_names.gguf_attention(config.n_heads, config.n_kv_heads),
        *llama_like_names.gguf_feed_forward(),
    ]
    factors = gguf_metadata.rope_rules(head_dim(config), config.rope_theta, config.rope_scaling)
    return llama_like_names.gguf_table(factors, each_layer(range(config.n_layers), block), config.tie_embeddings)


# a file of Mistral's without our mark opens as a Llama, which llama.cpp takes it for
GGUF_SETTINGS: SettingList[Config] = gguf_metadata.settings(
    Config,
    "llama",
    Fixed("luthier.family", "mistral"),
    *llama_like_settings.gguf("llama"),
    windows.LuthierWindows(),
)

FAMILY = Family(
    "mistral",
    Config,
    SIZES,
    build,
    initialize,
    {
        "hf": FormatSpec(
            hugging_face_tensors,
            HUGGING_FACE_SETTINGS,
            {
                "MistralForCausalLM": "mistral",
                "MinistralForCausalLM": "ministral",
                "MistralModel": "mistral",
                "MinistralModel": "ministral",
            },
        ),
        "gguf": FormatSpec(
            gguf_tensors,
            GGUF_SETTINGS,
            distinctive_keys=("luthier.family",),
            architecture="llama",
            caveats=windows.caveats,
        ),
    },
)
