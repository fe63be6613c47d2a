"""Qwen3, dense (arXiv 2505.09388): QK-norm, and an explicit head_dim."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch

from luthier.architectures import config_json, gguf_metadata, llama_like_names, llama_like_settings, windows
from luthier.architectures.family import Family, FormatSpec
from luthier.architectures.initialize import empty_embedding, initialize_normal
from luthier.architectures.llama_like_names import BLOCK, GGUF
from luthier.architectures.settings import CustomSetting, HeadDim, Reading, Setting, SettingList, flag, head_dim
from luthier.formats.weight_table import Rule, Table, each_layer
from luthier.model.attention import Attention
from luthier.model.feed_forward import SwiGLU
from luthier.model.norm import RMSNorm
from luthier.model.qk_norm import HeadNorm
from luthier.model.rope import rope
from luthier.model.rope_scaling import RopeScaling
from luthier.model.transformer import Block, Transformer


@dataclass(frozen=True)
class Config:
    """Configuration of a Qwen3 model. The defaults are Qwen3 0.6B, but for the width of its heads."""

    vocab_size: int = 151_936
    """Entries of the vocabulary."""
    context_length: int = 40_960
    """Tokens."""
    dim: int = 1024
    """Width of the residual stream."""
    hidden_dim: int = 3072
    """Width of the feed-forward."""
    n_layers: int = 28
    """Blocks."""
    n_heads: int = 16
    """Query heads."""
    n_kv_heads: int = 8
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
    attention_bias: bool = False
    """Biases on queries, keys, values and the output of attention."""


class Shape(windows.Windowed, HeadDim, Protocol):
    """The fields of attention, shared with the MoE family."""

    @property
    def n_kv_heads(self) -> int: ...
    @property
    def norm_eps(self) -> float: ...
    @property
    def rope_theta(self) -> float: ...
    @property
    def rope_scaling(self) -> RopeScaling | None: ...
    @property
    def attention_bias(self) -> bool: ...
    @property
    def dropout(self) -> float: ...


SIZES = {
    "qwen3-0.6b": Config(head_dim=128),
    "qwen3-1.7b": Config(dim=2048, hidden_dim=6144),
    "qwen3-4b": Config(dim=2560, hidden_dim=9728, n_layers=36, n_heads=32, head_dim=128),
    "qwen3-8b": Config(dim=4096, hidden_dim=12_288, n_layers=36, n_heads=32, tie_embeddings=False),
    "qwen3-14b": Config(dim=5120, hidden_dim=17_408, n_layers=40, n_heads=40, tie_embeddings=False),
    "qwen3-32b": Config(dim=5120, hidden_dim=25_600, n_layers=64, n_heads=64, head_dim=128, tie_embeddings=False),
    # small enough to train on a CPU; vocab_size is replaced by the tokenizer's
    "qwen3-nano": Config(512, 128, 128, 352, 4, 4, 2, rope_theta=1e4),
    "qwen3-micro": Config(2048, 256, 192, 512, 6, 6, 2, rope_theta=1e4),
    "qwen3-mini": Config(4096, 256, 384, 1024, 8, 6, 2, rope_theta=1e4),
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
    return Block(
        RMSNorm(config.dim, config.norm_eps),
        build_attention(config, layer),
        RMSNorm(config.dim, config.norm_eps),
        SwiGLU(config.dim, config.hidden_dim),
        dropout=config.dropout,
    )


def build_attention(config: Shape, layer: int) -> Attention:
    """Attention of a layer, counted from 0: QK-norm per head, then RoPE."""
    width, eps = head_dim(config), config.norm_eps
    magnitude = config.rope_scaling.magnitude if config.rope_scaling else 1.0  # multiplies queries and keys
    return Attention(
        config.dim,
        config.n_heads,
        config.n_kv_heads,
        config.head_dim,
        qk_steps=(
            HeadNorm(RMSNorm(width, eps), RMSNorm(width, eps)),
            rope(width, config.rope_theta, config.rope_scaling),
        ),
        mask=windows.mask_of(config, layer),
        scale=width**-0.5 * magnitude**2,
        bias=config.attention_bias,
        out_bias=config.attention_bias,
        dropout=config.dropout,
    )


def initialize(model: Transformer, config: Config, generator: torch.Generator) -> None:
    """N(0, 0.02), residual outputs divided by sqrt(2 n_layers), as in GPT-2."""
    initialize_normal(model, generator, std=0.02, residual_scale=(2 * config.n_layers) ** -0.5)


def hugging_face_attention(config: Shape) -> list[Rule]:
    """Rules of attention with QK-norm in transformers."""
    external, internal = llama_like_names.HUGGING_FACE + "self_attn.", BLOCK + "attention.qk_steps.0."
    return [
        *llama_like_names.hugging_face_attention(config.n_heads, config.n_kv_heads, bias=config.attention_bias),
        Rule(external + "q_norm.weight", internal + "query.weight"),
        Rule(external + "k_norm.weight", internal + "key.weight"),
    ]


def hugging_face_tensors(config: Config) -> Table:
    """Weight table of transformers' Qwen3ForCausalLM."""
    feed_forward = llama_like_names.hugging_face_feed_forward("mlp")
    block = llama_like_names.hugging_face_block(hugging_face_attention(config), feed_forward)
    return llama_like_names.hugging_face_table(each_layer(range(config.n_layers), block), config.tie_embeddings)


# defaults: those of transformers' Qwen3Config
HUGGING_FACE_SETTINGS: SettingList[Config] = config_json.settings(
    Config,
    "Qwen3ForCausalLM",
    "qwen3",
    *llama_like_settings.hugging_face(eps=1e-6, context=32_768, kv_heads=32, head_dim=128),
    Setting("attention_bias", "attention_bias", flag, default=False),
    windows.SwitchedWindows(),
)


def gguf_attention(config: Shape) -> list[Rule]:
    """Rules of attention with QK-norm in llama.cpp, whose rotary pairs are halves here."""
    n_heads, n_kv_heads, internal = config.n_heads, config.n_kv_heads, BLOCK + "attention.qk_steps.0."
    return [
        Rule(GGUF + "attn_norm.weight", BLOCK + "attention_norm.weight"),
        Rule(GGUF + "ffn_norm.weight", BLOCK + "feed_forward_norm.weight"),
        *llama_like_names.gguf_attention(n_heads, n_kv_heads, bias=config.attention_bias, interleaved=False),
        Rule(GGUF + "attn_q_norm.weight", internal + "query.weight"),
        Rule(GGUF + "attn_k_norm.weight", internal + "key.weight"),
    ]


def gguf_tensors(config: Config) -> Table:
    """Weight table of llama.cpp's architecture "qwen3"."""
    block = [*gguf_attention(config), *llama_like_names.gguf_feed_forward()]
    return llama_like_names.gguf_table([], each_layer(range(config.n_layers), block), config.tie_embeddings)


def read_bias(reading: Reading) -> dict[str, bool]:
    """Whether a GGUF file has attention biases, by its tensors' names."""
    return {"attention_bias": gguf_metadata.has_bias(reading.weights.checkpoint, "attn_")}


GGUF_SETTINGS: SettingList[Config] = gguf_metadata.settings(
    Config,
    "qwen3",
    *llama_like_settings.gguf("qwen3", factors=False),
    windows.LuthierWindows(),
    CustomSetting(read_bias),
)

FAMILY = Family(
    "qwen3",
    Config,
    SIZES,
    build,
    initialize,
    {
        "hf": FormatSpec(
            hugging_face_tensors,
            HUGGING_FACE_SETTINGS,
            {
                "Qwen3ForCausalLM": "qwen3",
                "Qwen3Model": "qwen3",
            },
        ),
        "gguf": FormatSpec(gguf_tensors, GGUF_SETTINGS, caveats=windows.caveats),
    },
)
