"""gpt-oss (arXiv 2508.10925): attention sinks, every second layer with a window, and clamped experts with biases."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from luthier.architectures import config_json, gguf_metadata, llama_like_names
from luthier.architectures.checked_values import LARGEST_CONTEXT, LARGEST_DEPTH, LARGEST_EXPERTS
from luthier.architectures.family import Family, FormatSpec
from luthier.architectures.initialize import empty_embedding, initialize_normal
from luthier.architectures.layer_types import GGUFLayerTypes, LayerTypes, is_global
from luthier.architectures.llama_like_names import BLOCK, GGUF, HUGGING_FACE
from luthier.architectures.settings import (
    CustomSetting,
    Fixed,
    HeadDimSetting,
    Ignored,
    Reading,
    Setting,
    SettingList,
    count,
    flag,
    head_dim,
    positive,
    probability,
)
from luthier.formats.weight_table import Deinterleave, Join, Reshape, Rule, Table, Transpose, each_layer
from luthier.model.attention import Attention
from luthier.model.experts import ClampedExperts
from luthier.model.mask import SlidingWindow, causal
from luthier.model.moe import MoE
from luthier.model.norm import RMSNorm
from luthier.model.rope import rope
from luthier.model.rope_scaling import RopeScaling
from luthier.model.router import SoftmaxRouter
from luthier.model.transformer import Block, Transformer

ALPHA, LIMIT = 1.702, 7.0
YARN = RopeScaling(32.0, original_context_length=4096, kind="yarn", truncate=False)


@dataclass(frozen=True)
class Config:
    """Configuration of a gpt-oss model. The defaults are 20B."""

    vocab_size: int = 201_088
    """Entries of the vocabulary."""
    context_length: int = 131_072
    """Tokens."""
    dim: int = 2880
    """Width of the residual stream."""
    hidden_dim: int = 2880
    """Width of each expert."""
    n_layers: int = 24
    """Blocks."""
    n_heads: int = 64
    """Query heads."""
    n_kv_heads: int = 8
    """Key and value heads, each shared by n_heads / n_kv_heads query heads."""
    head_dim: int | None = 64
    """Width of a head; dim / n_heads unless given."""
    n_experts: int = 32
    """Experts."""
    experts_per_token: int = 4
    """Experts that each token is routed to."""
    window: int = 128
    """Sliding window of local layers in tokens, the query's own included."""
    global_every: int = 2
    """Every n-th layer has global attention (2: layers 1, 3, 5, ... counted from 0)."""
    global_layers: tuple[int, ...] | None = None
    """The layers with global attention, counted from 0; overrides global_every."""
    swiglu_alpha: float = ALPHA
    """Factor of the sigmoid's input in an expert's gate."""
    swiglu_limit: float = LIMIT
    """Inputs of an expert's gate are clamped to it."""
    norm_eps: float = 1e-5
    """Added to the mean square in RMS norm."""
    rope_theta: float = 150_000.0
    """Base of the rotary wavelengths."""
    rope_scaling: RopeScaling | None = None
    """RoPE scaling for a context longer than the one trained on."""
    tie_embeddings: bool = False
    """Use the token embedding as the output matrix."""
    dropout: float = 0.0
    """Probability, in training only. gpt-oss itself uses none."""


def small_config(vocab_size: int, context_length: int, dim: int, n_layers: int, n_heads: int, n_experts: int) -> Config:
    """A gpt-oss small enough to train on a CPU: experts as wide as the model, windows of a quarter of the context."""
    return Config(
        vocab_size,
        context_length,
        dim,
        hidden_dim=dim,
        n_layers=n_layers,
        n_heads=n_heads,
        n_kv_heads=2,
        head_dim=None,
        n_experts=n_experts,
        experts_per_token=2,
        window=context_length // 4,
        rope_theta=10_000.0,
        tie_embeddings=True,
    )


SIZES = {
    "gpt-oss-20b": Config(rope_scaling=YARN),
    "gpt-oss-120b": Config(n_layers=36, n_experts=128, rope_scaling=YARN),
    # small enough to train on a CPU; vocab_size is replaced by the tokenizer's
    "gpt-oss-nano": small_config(512, context_length=128, dim=128, n_layers=4, n_heads=4, n_experts=4),
    "gpt-oss-micro": small_config(2048, context_length=256, dim=192, n_layers=6, n_heads=6, n_experts=8),
    "gpt-oss-mini": small_config(4096, context_length=256, dim=256, n_layers=6, n_heads=8, n_experts=8),
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
    """The block of a layer, counted from 0: with or without a window."""
    scaling = config.rope_scaling
    magnitude = scaling.magnitude if scaling else 1.0  # multiplies queries and keys
    attention = Attention(
        config.dim,
        config.n_heads,
        config.n_kv_heads,
        config.head_dim,
        qk_steps=(rope(head_dim(config), config.rope_theta, scaling),),
        mask=causal if is_global(config, layer) else SlidingWindow(config.window),
        scale=head_dim(config) ** -0.5 * magnitude**2,
        sinks=True,
        bias=True,
        out_bias=True,
        dropout=config.dropout,
    )
    mixture = MoE(
        SoftmaxRouter(config.dim, config.n_experts, config.experts_per_token, bias=True),
        ClampedExperts(
            config.n_experts, config.dim, config.hidden_dim, alpha=config.swiglu_alpha, limit=config.swiglu_limit
        ),
    )
    return Block(
        RMSNorm(config.dim, config.norm_eps),
        attention,
        RMSNorm(config.dim, config.norm_eps),
        mixture,
        dropout=config.dropout,
    )


def initialize(model: Transformer, config: Config, generator: torch.Generator) -> None:
    """N(0, 0.02), residual outputs divided by sqrt(2 n_layers), as in GPT-2; sinks 0."""
    initialize_normal(model, generator, std=0.02, residual_scale=(2 * config.n_layers) ** -0.5)


KINDS = ("weight", "bias")
EXPERTS, ROUTER = BLOCK + "feed_forward.experts.", BLOCK + "feed_forward.router."


def hugging_face_tensors(config: Config) -> Table:
    """Weight table of GptOssForCausalLM, whose gate and up columns alternate."""
    n, dim, wide = config.n_experts, config.dim, 2 * config.hidden_dim
    attention = llama_like_names.hugging_face_attention(config.n_heads, config.n_kv_heads, bias=True)
    names, gate_up = HUGGING_FACE + "mlp.", "experts.gate_up_proj"
    mixture = [
        Rule(HUGGING_FACE + "self_attn.sinks", BLOCK + "attention.sinks"),
        *(Rule(f"{names}router.{kind}", f"{ROUTER}{kind}") for kind in KINDS),
        Rule(names + gate_up, EXPERTS + "gate_up", Deinterleave()),
        Rule(f"{names}{gate_up}_bias", EXPERTS + "gate_up_bias", Deinterleave(), Reshape((n, wide), (n * wide,))),
        Rule(names + "experts.down_proj", EXPERTS + "down"),
        Rule(names + "experts.down_proj_bias", EXPERTS + "down_bias", Reshape((n, dim), (n * dim,))),
    ]  # fmt: skip
    layers = each_layer(range(config.n_layers), llama_like_names.hugging_face_block(attention, mixture))
    return llama_like_names.hugging_face_table(layers, config.tie_embeddings)


ROPE = config_json.RopeSettings(theta=150_000.0, context=131_072)


def read_rope(reading: Reading) -> Mapping[str, Any]:
    """RoPE settings: transformers' default is YaRN."""
    values = reading.values.values
    if not values.get("rope_scaling") and not values.get("rope_parameters"):
        values["rope_parameters"] = {
            "rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False,
            "original_max_position_embeddings": 4096,
        }  # fmt: skip
    ROPE.read(reading)
    return {}


HUGGING_FACE_SETTINGS: SettingList[Config] = config_json.settings(  # defaults: those of transformers' GptOssConfig
    Config,
    "GptOssForCausalLM",
    "gpt_oss",
    Setting("vocab_size", "vocab_size", count(), default=201_088),
    Setting("hidden_size", "dim", count(), default=2880),
    Setting("intermediate_size", "hidden_dim", count(), default=2880),
    Setting("num_hidden_layers", "n_layers", count(LARGEST_DEPTH), default=36),
    Setting("num_attention_heads", "n_heads", count(), default=64),
    Setting("num_key_value_heads", "n_kv_heads", count(), default=8),
    HeadDimSetting(default=64),
    Setting("num_local_experts", "n_experts", count(LARGEST_EXPERTS), default=128),
    Setting("num_experts_per_tok", "experts_per_token", count(), default=4),
    Setting("sliding_window", "window", count(LARGEST_CONTEXT), default=128),
    LayerTypes(step=2),
    Setting("swiglu_alpha", "swiglu_alpha", positive, default=ALPHA),
    Setting("swiglu_limit", "swiglu_limit", positive, default=LIMIT),
    Fixed("hidden_act", "silu", also=("swish",)),
    Setting("rms_norm_eps", "norm_eps", positive, default=1e-5),
    CustomSetting(read_rope, ROPE.write),
    Fixed("attention_bias", True),
    Setting("attention_dropout", "dropout", probability, default=0.0),
    Setting("tie_word_embeddings", "tie_embeddings", flag, default=False),
    # for training or packed weights, or duplicates
    Ignored(
        "router_aux_loss_coef", "output_router_logits", "quantization_config", "experts_per_token",
        "initial_context_length",
    ),
)  # fmt: skip


def gguf_tensors(config: Config) -> Table:
    """Weight table of llama.cpp's architecture "gpt-oss". Its rotary pairs are halves; experts are (out, in)."""
    n, dim, hidden = config.n_experts, config.dim, config.hidden_dim
    linears = {"attn_q": "query", "attn_k": "key", "attn_v": "value", "attn_output": "output"}
    halves = Join((hidden, hidden), dim=1)
    block = [
        Rule(GGUF + "attn_norm.weight", BLOCK + "attention_norm.weight"),
        *(Rule(f"{GGUF}{a}.{kind}", f"{BLOCK}attention.{b}.{kind}") for a, b in linears.items() for kind in KINDS),
        Rule(GGUF + "attn_sinks.weight", BLOCK + "attention.sinks"),
        Rule(GGUF + "post_attention_norm.weight", BLOCK + "feed_forward_norm.weight"),
        *(Rule(f"{GGUF}ffn_gate_inp.{kind}", f"{ROUTER}{kind}") for kind in KINDS),
        Rule(
            tuple(f"{GGUF}ffn_{part}_exps.weight" for part in ("gate", "up")), EXPERTS + "gate_up", Transpose(),
            Join((hidden, hidden), dim=2),
        ),
        Rule(
            tuple(f"{GGUF}ffn_{part}_exps.bias" for part in ("gate", "up")), EXPERTS + "gate_up_bias", halves,
            Reshape((n, 2 * hidden), (2 * n * hidden,)),
        ),
        Rule(GGUF + "ffn_down_exps.weight", EXPERTS + "down", Transpose()),
        Rule(GGUF + "ffn_down_exps.bias", EXPERTS + "down_bias", Reshape((n, dim), (n * dim,))),
    ]  # fmt: skip
    return Table([
        *gguf_metadata.embedding_rules(config.tie_embeddings),
        *each_layer(range(config.n_layers), block),
        Rule("output_norm.weight", "norm.weight"),
    ])  # fmt: skip


GGUF_ROPE = gguf_metadata.RopeSettings("gpt-oss", scaling_types=("none", "linear", "yarn"))
TRUNCATE = "luthier.rope_scaling.truncate"


def read_gguf_rope(reading: Reading) -> Mapping[str, Any]:
    """RoPE settings. llama.cpp has none for YaRN's truncate, which is false in the published models."""
    GGUF_ROPE.read(reading)
    scaling = reading.fields["rope_scaling"]
    truncate = reading.values.flag(TRUNCATE, False)
    if scaling is None or scaling.kind != "yarn":
        return {}
    return {"rope_scaling": replace(scaling, truncate=truncate)}


def write_gguf_rope(config: Config) -> Mapping[str, Any]:
    """Write the settings read by `read_gguf_rope`."""
    scaling = config.rope_scaling
    if scaling is None or scaling.kind != "yarn":
        return GGUF_ROPE.write(config)
    rounded = replace(config, rope_scaling=replace(scaling, truncate=True))
    return {**GGUF_ROPE.write(rounded), TRUNCATE: scaling.truncate}


GGUF_SETTINGS: SettingList[Config] = gguf_metadata.settings(
    Config,
    "gpt-oss",
    gguf_metadata.VocabSize("gpt-oss"),
    Setting("gpt-oss.context_length", "context_length", count(LARGEST_CONTEXT)),
    Setting("gpt-oss.embedding_length", "dim", count()),
    Setting("gpt-oss.expert_feed_forward_length", "hidden_dim", count()),
    CustomSetting(lambda reading: {}, lambda config: {"gpt-oss.feed_forward_length": config.hidden_dim}),
    Ignored("gpt-oss.feed_forward_length"),  # no layer has a dense feed-forward
    gguf_metadata.LayerCount("gpt-oss"),
    gguf_metadata.Heads("gpt-oss"),
    Setting("gpt-oss.expert_count", "n_experts", count(LARGEST_EXPERTS)),
    Setting("gpt-oss.expert_used_count", "experts_per_token", count()),
    Setting("gpt-oss.attention.sliding_window", "window", count(LARGEST_CONTEXT)),
    GGUFLayerTypes("gpt-oss", step=2),
    Setting("luthier.swiglu_alpha", "swiglu_alpha", positive, default=ALPHA),
    Setting("luthier.swiglu_limit", "swiglu_limit", positive, default=LIMIT),
    Setting("gpt-oss.attention.layer_norm_rms_epsilon", "norm_eps", positive),
    CustomSetting(read_gguf_rope, write_gguf_rope),
    Setting("luthier.dropout", "dropout", probability, default=0.0),
    gguf_metadata.TIED_OR_EQUAL,
)


def caveats(config: Config) -> list[str]:
    """Messages about what llama.cpp would compute differently from this model."""
    found = []
    if (config.swiglu_alpha, config.swiglu_limit) != (ALPHA, LIMIT):
        found.append(f"llama.cpp's experts of gpt-oss have an alpha of {ALPHA} and a limit of {LIMIT:g}")
    scaling = config.rope_scaling
    if scaling is not None and scaling.kind == "yarn" and not scaling.truncate:
        found.append("llama.cpp rounds the ramp of YaRN to whole pairs, this model does not: it differs slightly")
    return found


FAMILY = Family(
    "gpt-oss",
    Config,
    SIZES,
    build,
    initialize,
    {
        "hf": FormatSpec(hugging_face_tensors, HUGGING_FACE_SETTINGS, {"GptOssForCausalLM": "gpt_oss"}),
        "gguf": FormatSpec(gguf_tensors, GGUF_SETTINGS, caveats=caveats),
    },
)
