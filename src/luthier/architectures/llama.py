"""Llama 2 (arXiv 2307.09288), Llama 3, 3.1 and 3.2 (arXiv 2407.21783)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from luthier.architectures import config_json, gguf_metadata, llama_like_names, params_json
from luthier.architectures.checked_values import LARGEST_CONTEXT, LARGEST_DEPTH
from luthier.architectures.family import Family, FormatSpec
from luthier.architectures.initialize import empty_embedding, initialize_normal
from luthier.architectures.llama_like_names import BLOCK, GGUF, META
from luthier.architectures.settings import (
    CustomSetting,
    Fixed,
    HeadDimSetting,
    Ignored,
    Reading,
    Section,
    Setting,
    SettingList,
    Unsupported,
    count,
    flag,
    head_dim,
    positive,
    probability,
    same_as,
)
from luthier.errors import LuthierError
from luthier.formats.weight_table import PairsToHalves, Rule, Table, each_layer
from luthier.model.attention import Attention
from luthier.model.feed_forward import SwiGLU
from luthier.model.norm import RMSNorm
from luthier.model.rope import rope
from luthier.model.rope_scaling import RopeScaling
from luthier.model.transformer import Block, Transformer


@dataclass(frozen=True)
class Config:
    """Configuration of a Llama model. The defaults are Llama 2 7B."""

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
    """Probability, in training only. Llama itself uses none."""
    attention_bias: bool = False
    """Biases on queries, keys, values and the output of attention."""
    mlp_bias: bool = False
    """Biases on the three matrices of the feed-forward."""


LLAMA2 = Config()
LLAMA3 = Config(128_256, 8192, 4096, 14_336, 32, 32, 8, rope_theta=500_000.0)
LLAMA31 = Config(128_256, 131_072, 4096, 14_336, 32, 32, 8, rope_theta=500_000.0, rope_scaling=RopeScaling())
LLAMA32_SCALING = RopeScaling(factor=32.0)

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
        128_256, 131_072, 2048, 8192, 16, 32, 8, rope_theta=5e5, rope_scaling=LLAMA32_SCALING, tie_embeddings=True
    ),
    "llama3.2-3b": Config(
        128_256, 131_072, 3072, 8192, 28, 24, 8, rope_theta=5e5, rope_scaling=LLAMA32_SCALING, tie_embeddings=True
    ),
    # small enough to train on a CPU; vocab_size is replaced by the tokenizer's
    "llama-nano": Config(512, 128, 128, 352, 4, 4, 2, tie_embeddings=True),
    "llama-micro": Config(2048, 256, 192, 512, 6, 6, 2, tie_embeddings=True),
    "llama-mini": Config(4096, 256, 384, 1024, 8, 6, 2, tie_embeddings=True),
}


def build(config: Config) -> Transformer:
    """The model, with uninitialized weights (see registry.build)."""
    return Transformer(
        empty_embedding(config.vocab_size, config.dim),
        [build_block(config) for _ in range(config.n_layers)],
        RMSNorm(config.dim, config.norm_eps),
        tie_embeddings=config.tie_embeddings,
        dropout=config.dropout,
    )


def build_block(config: Config) -> Block:
    """One of the n_layers identical blocks."""
    magnitude = config.rope_scaling.magnitude if config.rope_scaling else 1.0  # multiplies queries and keys
    return Block(
        RMSNorm(config.dim, config.norm_eps),
        Attention(
            config.dim,
            config.n_heads,
            config.n_kv_heads,
            config.head_dim,
            qk_steps=(rope(head_dim(config), config.rope_theta, config.rope_scaling),),
            scale=head_dim(config) ** -0.5 * magnitude**2,
            bias=config.attention_bias,
            out_bias=config.attention_bias,
            dropout=config.dropout,
        ),
        RMSNorm(config.dim, config.norm_eps),
        SwiGLU(config.dim, config.hidden_dim, bias=config.mlp_bias),
        dropout=config.dropout,
    )


def initialize(model: Transformer, config: Config, generator: torch.Generator) -> None:
    """N(0, 0.02), residual outputs divided by sqrt(2 n_layers), as in GPT-2: Meta has not published its own."""
    initialize_normal(model, generator, std=0.02, residual_scale=(2 * config.n_layers) ** -0.5)


def hugging_face_tensors(config: Config) -> Table:
    """Weight table of transformers' LlamaForCausalLM. Rotary pairs are in halves there too: nothing is permuted."""
    attention = llama_like_names.hugging_face_attention(config.n_heads, config.n_kv_heads, bias=config.attention_bias)
    feed_forward = llama_like_names.hugging_face_feed_forward("mlp", bias=config.mlp_bias)
    layers = each_layer(range(config.n_layers), llama_like_names.hugging_face_block(attention, feed_forward))
    return llama_like_names.hugging_face_table(layers, config.tie_embeddings)


# defaults: those of transformers' LlamaConfig
HUGGING_FACE_SETTINGS: SettingList[Config] = config_json.settings(
    Config,
    "LlamaForCausalLM",
    "llama",
    Setting("vocab_size", "vocab_size", count()),
    Setting("hidden_size", "dim", count()),
    Setting("intermediate_size", "hidden_dim", count()),
    Setting("num_hidden_layers", "n_layers", count(LARGEST_DEPTH)),
    Setting("num_attention_heads", "n_heads", count()),
    Setting("num_key_value_heads", "n_kv_heads", count(), default=same_as("n_heads")),
    HeadDimSetting(),
    Fixed("hidden_act", "silu", also=("swish",)),
    Fixed("rope_interleaved", False, written=False),
    Setting("rms_norm_eps", "norm_eps", positive, default=1e-6),
    config_json.RopeSettings(theta=10_000.0, context=2048),
    Setting("attention_bias", "attention_bias", flag, default=False),
    Setting("mlp_bias", "mlp_bias", flag, default=False),
    Setting("attention_dropout", "dropout", probability, default=0.0),
    Setting("tie_word_embeddings", "tie_embeddings", flag, default=False),
)


def gguf_tensors(config: Config) -> Table:
    """Weight table of llama.cpp's architecture "llama"."""
    block = [
        Rule(GGUF + "attn_norm.weight", BLOCK + "attention_norm.weight"),
        Rule(GGUF + "ffn_norm.weight", BLOCK + "feed_forward_norm.weight"),
        *llama_like_names.gguf_attention(config.n_heads, config.n_kv_heads, bias=config.attention_bias),
        *llama_like_names.gguf_feed_forward(bias=config.mlp_bias),
    ]
    rope = gguf_metadata.rope_rules(head_dim(config), config.rope_theta, config.rope_scaling)
    layers = each_layer(range(config.n_layers), block)
    legacy = ("blk.*.attn_rot_embd.weight",)
    return llama_like_names.gguf_table(rope, layers, config.tie_embeddings, ignored=legacy)


def read_biases(reading: Reading) -> dict[str, bool]:
    """Which biases a GGUF file has, from the names of its tensors."""
    checkpoint = reading.weights.checkpoint
    return {
        "attention_bias": gguf_metadata.has_bias(checkpoint, "attn_"),
        "mlp_bias": gguf_metadata.has_bias(checkpoint, "ffn_"),
    }


GGUF_SETTINGS: SettingList[Config] = gguf_metadata.settings(
    Config,
    "llama",
    Fixed("llama.expert_count", 0, written=False),  # Mixtral's files have architecture "llama" too
    Fixed("llama.attention.causal", True, written=False),
    Fixed("llama.attention.sliding_window", 0, written=False),
    *(
        Fixed(f"llama.{name}", None, written=False)
        for name in ("attention.scale", "attention.clamp_kqv", "logit_scale", "residual_scale", "embedding_scale")
    ),
    gguf_metadata.VocabSize("llama"),
    Setting("llama.context_length", "context_length", count(LARGEST_CONTEXT)),
    Setting("llama.embedding_length", "dim", count()),
    Setting("llama.feed_forward_length", "hidden_dim", count()),
    gguf_metadata.LayerCount("llama"),
    gguf_metadata.Heads("llama"),
    Setting("llama.attention.layer_norm_rms_epsilon", "norm_eps", positive),
    gguf_metadata.RopeSettings("llama"),
    Setting("luthier.dropout", "dropout", probability, default=0.0),
    gguf_metadata.TIED_EMBEDDINGS,
    CustomSetting(read_biases),
)


def meta_tensors(config: Config) -> Table:
    """Weight table of Meta's Transformer, whose rotary pairs are adjacent dimensions."""
    block = [
        Rule(META + "attention_norm.weight", BLOCK + "attention_norm.weight"),
        Rule(META + "attention.wq.weight", BLOCK + "attention.query.weight", PairsToHalves((config.n_heads,))),
        Rule(META + "attention.wk.weight", BLOCK + "attention.key.weight", PairsToHalves((config.n_kv_heads,))),
        Rule(META + "attention.wv.weight", BLOCK + "attention.value.weight"),
        Rule(META + "attention.wo.weight", BLOCK + "attention.output.weight"),
        Rule(META + "ffn_norm.weight", BLOCK + "feed_forward_norm.weight"),
        Rule(META + "feed_forward.w1.weight", BLOCK + "feed_forward.gate.weight"),
        Rule(META + "feed_forward.w2.weight", BLOCK + "feed_forward.down.weight"),
        Rule(META + "feed_forward.w3.weight", BLOCK + "feed_forward.up.weight"),
    ]
    return llama_like_names.meta_table(each_layer(range(config.n_layers), block), config.tie_embeddings)


def check_vocab_size(reading: Reading) -> dict[str, int]:
    """Check that `vocab_size` in params.json equals the embedding's rows. Llama 2's files have -1."""
    given, found = reading.values.finite("vocab_size", -1), reading.weights.vocab_size
    if given not in (-1, found):
        raise LuthierError(f"params.json: 'vocab_size' is {given}, and the embedding has {found} entries")
    return {}


def read_width(reading: Reading) -> dict[str, int]:
    """The width of the feed-forward, computed as in Meta's code."""
    values = reading.values
    multiplier = values.number("ffn_dim_multiplier", 1.0)
    multiple_of = values.count("multiple_of", 256, most=params_json.LARGEST_MULTIPLE)
    width = params_json.swiglu_width(4 * reading.fields["dim"], multiplier, multiple_of)
    # the section `luthier` never contains it: this checks that the width is within bounds
    return {"hidden_dim": values.section(params_json.LUTHIER_SECTION).count("hidden_dim", width)}


def write_width(config: Config) -> Mapping[str, Any]:
    """The settings from which the width of the feed-forward is computed."""
    multiple_of = params_json.common_power_of_two(config.hidden_dim)
    multiplier = params_json.find_ffn_dim_multiplier(config.hidden_dim, 4 * config.dim, multiple_of)
    return {**({} if multiplier is None else {"ffn_dim_multiplier": multiplier}), "multiple_of": multiple_of}


def published_factor(reading: Reading) -> float:
    """The RoPE scaling factor, which Meta's files lack: 32 for Llama 3.2, 8 for Llama 3.1 and 3.3."""
    llama32 = ((2048, 16), (3072, 28))
    return 32.0 if (reading.fields["dim"], reading.fields["n_layers"]) in llama32 else 8.0


def published_context(reading: Reading) -> int:
    """The context length, which Meta's files lack: that of Llama 3.1, Llama 2, Llama 3 or Code Llama."""
    if reading.fields["rope_scaling"] is not None:
        return 131_072
    return {10_000.0: 4096, 500_000.0: 8192}.get(reading.fields["rope_theta"], 16_384)


META_SETTINGS: SettingList[Config] = params_json.settings(
    Config,
    Unsupported(
        ("attention_bias", "mlp_bias"), "Meta's format does not support {field}: write the model as hf or gguf"
    ),
    Setting("dim", "dim", count()),
    Setting("n_layers", "n_layers", count(LARGEST_DEPTH)),
    Setting("n_heads", "n_heads", count()),
    Setting("n_kv_heads", "n_kv_heads", count(), default=same_as("n_heads")),
    CustomSetting(check_vocab_size, lambda config: {"vocab_size": config.vocab_size}),
    CustomSetting(read_width, write_width),
    Setting("norm_eps", "norm_eps", positive, default=1e-5),
    Setting("rope_theta", "rope_theta", positive, default=10_000.0),
    params_json.ScalingSettings(published_factor, high=4.0),
    Section(
        params_json.LUTHIER_SECTION,
        Setting("context_length", "context_length", count(LARGEST_CONTEXT), default=published_context),
        HeadDimSetting(),
        Setting("tie_embeddings", "tie_embeddings", flag, default=lambda reading: reading.weights.tied),
        Setting("dropout", "dropout", probability, default=0.0),
        params_json.LUTHIER_SCALING,
    ),
    Ignored("max_batch_size", "max_seq_len"),
)

FAMILY = Family(
    "llama",
    Config,
    SIZES,
    build,
    initialize,
    {
        "hf": FormatSpec(
            hugging_face_tensors,
            HUGGING_FACE_SETTINGS,
            {"LlamaForCausalLM": "llama", "LlamaModel": "llama", "LLaMAForCausalLM": "llama"},
        ),
        "gguf": FormatSpec(gguf_tensors, GGUF_SETTINGS),
        "meta": FormatSpec(meta_tensors, META_SETTINGS),
    },
)
