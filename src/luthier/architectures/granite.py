"""Granite 3 and 4, dense (IBM, 2024 and 2025): Llama's blocks with four multipliers.

Of Granite 4, the models without state-space layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from luthier.architectures import config_json, gguf_metadata, llama_like_names, llama_like_settings
from luthier.architectures.family import Family, FormatSpec
from luthier.architectures.initialize import empty_embedding, initialize_normal
from luthier.architectures.llama_like_names import BLOCK, GGUF, HUGGING_FACE
from luthier.architectures.settings import (
    CustomSetting,
    Entry,
    Fixed,
    HeadDim,
    Ignored,
    Reading,
    Setting,
    SettingList,
    flag,
    head_dim,
    positive,
)
from luthier.errors import LuthierError
from luthier.formats.weight_table import Rule, Split, Table, each_layer
from luthier.model.attention import Attention
from luthier.model.feed_forward import SwiGLU
from luthier.model.norm import RMSNorm, ScaledRMSNorm
from luthier.model.rope import rope
from luthier.model.rope_scaling import RopeScaling
from luthier.model.scale import Scale
from luthier.model.transformer import Block, Transformer


@dataclass(frozen=True)
class Config:
    """Configuration of a Granite model. The defaults are Granite 3.1 2B."""

    vocab_size: int = 49_155
    """Entries of the vocabulary."""
    context_length: int = 131_072
    """Tokens."""
    dim: int = 2048
    """Width of the residual stream."""
    hidden_dim: int = 8192
    """Width of the feed-forward."""
    n_layers: int = 40
    """Blocks."""
    n_heads: int = 32
    """Query heads."""
    n_kv_heads: int = 8
    """Key and value heads, each shared by n_heads / n_kv_heads query heads."""
    head_dim: int | None = None
    """Width of a head; dim / n_heads unless given."""
    norm_eps: float = 1e-5
    """Added to the mean square in RMS norm."""
    rope_theta: float = 5_000_000.0
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
    logits_scaling: float = 8.0
    """Divisor of the logits."""
    attention_bias: bool = False
    """Biases on queries, keys, values and the output of attention."""
    mlp_bias: bool = False
    """Biases on the three matrices of the feed-forward."""
    hybrid_names: bool = False
    """Name the weights in Hugging Face's format as Granite 4 does, GraniteMoeHybridForCausalLM, not as Granite 3."""


class Shape(HeadDim, Protocol):
    """The fields of attention and of the multipliers, shared with the MoE family."""

    @property
    def n_kv_heads(self) -> int: ...
    @property
    def rope_theta(self) -> float: ...
    @property
    def rope_scaling(self) -> RopeScaling | None: ...
    @property
    def attention_multiplier(self) -> float: ...
    @property
    def attention_bias(self) -> bool: ...
    @property
    def dropout(self) -> float: ...


def small_config(
    vocab_size: int, context_length: int, dim: int, hidden_dim: int, n_layers: int, n_heads: int
) -> Config:
    """A Granite small enough to train on a CPU."""
    return Config(
        vocab_size,
        context_length,
        dim,
        hidden_dim,
        n_layers,
        n_heads,
        n_kv_heads=2,
        rope_theta=10_000.0,
        attention_multiplier=n_heads / dim,
        logits_scaling=1.0,  # the published ones, for wider models, slow the training of narrow ones down
    )


LARGER = {"dim": 4096, "hidden_dim": 12_800, "attention_multiplier": 0.0078125, "logits_scaling": 16.0}
SIZES = {
    "granite3.1-2b": Config(),
    "granite3.1-8b": Config(**LARGER),  # type: ignore[arg-type]
    "granite3.3-2b": Config(49_159, rope_theta=1e7),
    "granite3.3-8b": Config(49_159, rope_theta=1e7, **LARGER),  # type: ignore[arg-type]
    "granite4.0-micro": Config(
        100_352, 131_072, 2560, n_heads=40, rope_theta=1e7, logits_scaling=10.0, hybrid_names=True
    ),
    # small enough to train on a CPU; vocab_size is replaced by the tokenizer's
    "granite-nano": small_config(512, 128, 128, 352, 4, 4),
    "granite-micro": small_config(2048, 256, 192, 512, 6, 6),
    "granite-mini": small_config(4096, 256, 384, 1024, 8, 6),
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
        build_attention(config),
        RMSNorm(config.dim, config.norm_eps),
        SwiGLU(config.dim, config.hidden_dim, bias=config.mlp_bias),
        dropout=config.dropout,
        attention_post=Scale(config.residual_multiplier),
        feed_forward_post=Scale(config.residual_multiplier),
    )


def build_attention(config: Shape) -> Attention:
    """Attention of a block."""
    magnitude = config.rope_scaling.magnitude if config.rope_scaling else 1.0  # multiplies queries and keys
    return Attention(
        config.dim,
        config.n_heads,
        config.n_kv_heads,
        config.head_dim,
        qk_steps=(rope(head_dim(config), config.rope_theta, config.rope_scaling),),
        scale=config.attention_multiplier * magnitude**2,
        bias=config.attention_bias,
        out_bias=config.attention_bias,
        dropout=config.dropout,
    )


def initialize(model: Transformer, config: Config, generator: torch.Generator) -> None:
    """N(0, 0.02) everywhere: the residual multiplier makes what is added smaller."""
    initialize_normal(model, generator, std=0.02, residual_scale=1.0)


MULTIPLIERS: tuple[Entry[Any], ...] = tuple(
    Setting(name, name, positive, default=1.0)
    for name in ("embedding_multiplier", "attention_multiplier", "residual_multiplier", "logits_scaling")
)


def hugging_face_shared(hidden_dim: int, internal: str) -> list[Rule]:
    """Rules of the SwiGLU that Granite 4 and the mixtures have in `shared_mlp`: gate and up in one matrix."""
    gate_up = tuple(f"{BLOCK}{internal}.{part}.weight" for part in ("gate", "up"))
    return [
        Rule(HUGGING_FACE + "shared_mlp.input_linear.weight", gate_up, Split((hidden_dim, hidden_dim))),
        Rule(HUGGING_FACE + "shared_mlp.output_linear.weight", f"{BLOCK}{internal}.down.weight"),
    ]


def hugging_face_tensors(config: Config) -> Table:
    """Weight table of transformers' GraniteForCausalLM, and of GraniteMoeHybridForCausalLM without experts."""
    attention = llama_like_names.hugging_face_attention(config.n_heads, config.n_kv_heads, bias=config.attention_bias)
    feed_forward = llama_like_names.hugging_face_feed_forward("mlp", bias=config.mlp_bias)
    if config.hybrid_names:
        feed_forward = hugging_face_shared(config.hidden_dim, "feed_forward")
    layers = each_layer(range(config.n_layers), llama_like_names.hugging_face_block(attention, feed_forward))
    return llama_like_names.hugging_face_table(layers, config.tie_embeddings)


HYBRID = "GraniteMoeHybridForCausalLM"


def read_hybrid(reading: Reading) -> dict[str, Any]:
    """Granite 4's names, and that it has none of the layers that are not supported."""
    values, n_layers = reading.values, reading.fields["n_layers"]
    named = values.values.get("model_type") or values.values.get("architectures")
    if "hybrid" not in str(named).lower():
        return {"hybrid_names": False}
    kinds = values.value("layer_types") or values.value("layers_block_type") or ["mamba"]
    if not isinstance(kinds, list):
        raise LuthierError(f"config.json: 'layer_types' must be a list, it is {kinds!r:.60}")
    others = [kind for kind in kinds if kind not in ("attention", "full_attention")]
    if others or len(kinds) != n_layers:
        what = f"layers of the kind {others[0]!r:.40}" if others else f"{len(kinds)} kinds for {n_layers} layers"
        raise LuthierError(f"config.json: {HYBRID} with {what} is not supported, only with attention in all of them")
    values.require_one_of("num_local_experts", None, 0)
    values.require_one_of("position_embedding_type", None, "rope")
    if values.value("num_local_experts") is None or values.value("position_embedding_type") is None:
        raise LuthierError(
            f"config.json: {HYBRID} with experts, or without rotary positions, is not supported: "
            "'num_local_experts' must be 0 and 'position_embedding_type' \"rope\""
        )
    width = values.count("shared_intermediate_size", 1024)
    return {"hybrid_names": True, "hidden_dim": width}


def write_hybrid(config: Config) -> Mapping[str, Any]:
    """The class, and what it needs."""
    if not config.hybrid_names:
        return {}
    if config.mlp_bias:
        raise LuthierError(f"{HYBRID} has no mlp_bias: set hybrid_names to false")
    return {
        "architectures": [HYBRID],
        "model_type": "granitemoehybrid",
        "shared_intermediate_size": config.hidden_dim,
        "num_local_experts": 0,
        "num_experts_per_tok": 0,
        "position_embedding_type": "rope",
        "layer_types": ["attention"] * config.n_layers,
        "mamba_n_heads": 1,  # of layers that there are none of: their defaults do not fit every width, and are refused
    }


# defaults: those of transformers' GraniteConfig
HUGGING_FACE_SETTINGS: SettingList[Config] = config_json.settings(
    Config,
    "GraniteForCausalLM",
    "granite",
    *llama_like_settings.hugging_face(eps=1e-6),
    *MULTIPLIERS,
    Setting("attention_bias", "attention_bias", flag, default=False),
    Setting("mlp_bias", "mlp_bias", flag, default=False),
    CustomSetting(read_hybrid, write_hybrid),
    Ignored("mamba_*", "time_step_*", "normalization_function", "num_experts_per_tok", "init_method"),
    llama_like_settings.OF_TRAINING,
)


def gguf_tensors(config: Config) -> Table:
    """Weight table of llama.cpp's architecture "granite"."""
    block = [
        Rule(GGUF + "attn_norm.weight", BLOCK + "attention_norm.weight"),
        Rule(GGUF + "ffn_norm.weight", BLOCK + "feed_forward_norm.weight"),
        *llama_like_names.gguf_attention(config.n_heads, config.n_kv_heads, bias=config.attention_bias),
        *llama_like_names.gguf_feed_forward(bias=config.mlp_bias),
    ]
    factors = gguf_metadata.rope_rules(head_dim(config), config.rope_theta, config.rope_scaling)
    return llama_like_names.gguf_table(factors, each_layer(range(config.n_layers), block), config.tie_embeddings)


def default_scale(reading: Reading) -> float:
    """The scale of attention scores in files without the setting."""
    fields = reading.fields
    return float((fields["head_dim"] or fields["dim"] // fields["n_heads"]) ** -0.5)


def gguf_multipliers(section: str) -> tuple[Entry[Any], ...]:
    """The multipliers in GGUF."""
    return (
        Setting(f"{section}.logit_scale", "logits_scaling", positive),
        Setting(f"{section}.residual_scale", "residual_multiplier", positive, default=1.0),
        Setting(f"{section}.embedding_scale", "embedding_multiplier", positive, default=1.0),
        Setting(f"{section}.attention.scale", "attention_multiplier", positive, default=default_scale),
        Fixed(f"{section}.rope.scaling.finetuned", True, written=False),  # false: no rotary positions
    )


def read_biases(reading: Reading) -> dict[str, bool]:
    """Which biases a GGUF file has, from the names of its tensors."""
    checkpoint = reading.weights.checkpoint
    return {
        "attention_bias": gguf_metadata.has_bias(checkpoint, "attn_"),
        "mlp_bias": gguf_metadata.has_bias(checkpoint, "ffn_"),
    }


GGUF_SETTINGS: SettingList[Config] = gguf_metadata.settings(
    Config,
    "granite",
    *llama_like_settings.gguf("granite"),
    *gguf_multipliers("granite"),
    Setting("luthier.hybrid_names", "hybrid_names", flag, default=False),
    CustomSetting(read_biases),
)

FAMILY = Family(
    "granite",
    Config,
    SIZES,
    build,
    initialize,
    {
        "hf": FormatSpec(
            hugging_face_tensors,
            HUGGING_FACE_SETTINGS,
            {
                "GraniteForCausalLM": "granite",
                "GraniteModel": "granite",
                HYBRID: "granitemoehybrid",
            },
        ),
        "gguf": FormatSpec(gguf_tensors, GGUF_SETTINGS),
    },
)
