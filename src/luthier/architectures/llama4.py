"""Llama 4's language model (Meta, April 2025): mixture of experts, local layers with RoPE, global layers without."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from luthier.architectures import config_json, gguf_metadata, llama_like_names, params_json
from luthier.architectures.checked_values import LARGEST_CONTEXT, LARGEST_DEPTH, LARGEST_EXPERTS, CheckedValues
from luthier.architectures.family import Family, FormatSpec
from luthier.architectures.initialize import empty_embedding, initialize_normal
from luthier.architectures.llama_like_names import BLOCK, GGUF, HUGGING_FACE, META
from luthier.architectures.settings import (
    CustomSetting,
    Fixed,
    HeadDimSetting,
    Ignored,
    Reading,
    Section,
    Setting,
    SettingList,
    WriteOnly,
    count,
    flag,
    head_dim,
    integers,
    positive,
    probability,
    same_as,
)
from luthier.errors import LuthierError
from luthier.formats.weight_table import Join, PairsToHalves, Reshape, Rule, Split, Table, Transpose, each_layer
from luthier.model.attention import Attention
from luthier.model.experts import Experts
from luthier.model.feed_forward import SwiGLU
from luthier.model.mask import Chunked, causal
from luthier.model.moe import MoE
from luthier.model.norm import RMSNorm
from luthier.model.rope import QueryTemperature, UnitQKNorm, rope
from luthier.model.rope_scaling import RopeScaling
from luthier.model.router import SigmoidRouter
from luthier.model.transformer import Block, Transformer


@dataclass(frozen=True)
class Config:
    """Configuration of a Llama 4 model. The defaults are Scout."""

    vocab_size: int = 202_048
    """Entries of the vocabulary."""
    context_length: int = 10_485_760
    """Tokens."""
    dim: int = 5120
    """Width of the residual stream."""
    hidden_dim: int = 8192
    """Width of each expert and of the shared expert."""
    dense_hidden_dim: int = 16_384
    """Width of the feed-forward on layers without experts."""
    n_layers: int = 48
    """Blocks."""
    n_heads: int = 40
    """Query heads."""
    n_kv_heads: int = 8
    """Key and value heads, each shared by n_heads / n_kv_heads query heads."""
    head_dim: int | None = None
    """Width of a head; dim / n_heads unless given."""
    n_experts: int = 16
    """Routed experts of an MoE layer, besides the shared one."""
    experts_per_token: int = 1
    """Experts that each token is routed to, besides the shared one."""
    moe_every: int = 1
    """Every n-th layer has experts (2: layers 1, 3, 5, ... counted from 0)."""
    moe_layers: tuple[int, ...] | None = None
    """The layers with experts, counted from 0; overrides moe_every."""
    global_every: int = 4
    """Every n-th layer has global attention without RoPE (4: layers 3, 7, ... counted from 0)."""
    global_layers: tuple[int, ...] | None = None
    """The layers with global attention without RoPE, counted from 0; overrides global_every."""
    attention_chunk: int = 8192
    """Tokens: on the other layers, queries attend only within their own chunk."""
    qk_norm: bool = True
    """Normalize queries and keys to unit RMS on layers with RoPE."""
    temperature_tuning: bool = True
    """Scale queries up with the position on layers without RoPE."""
    temperature_floor: int = 8192
    """Tokens per step of the temperature."""
    temperature_scale: float = 0.1
    """Coefficient of the temperature's logarithm."""
    norm_eps: float = 1e-5
    """Added to the mean square in RMS norm."""
    rope_theta: float = 500_000.0
    """Base of the rotary wavelengths."""
    rope_scaling: RopeScaling | None = None
    """RoPE scaling for a context longer than the one trained on."""
    tie_embeddings: bool = False
    """Use the token embedding as the output matrix."""
    dropout: float = 0.0
    """Probability, in training only. Llama itself uses none."""

    def is_moe(self, layer: int) -> bool:
        """Whether this layer, counted from 0, has experts."""
        return (layer + 1) % self.moe_every == 0 if self.moe_layers is None else layer in self.moe_layers

    def is_global(self, layer: int) -> bool:
        """Whether this layer, counted from 0, has global attention without RoPE."""
        return (layer + 1) % self.global_every == 0 if self.global_layers is None else layer in self.global_layers


def small_config(vocab_size: int, context_length: int, dim: int, n_layers: int, n_heads: int, n_experts: int) -> Config:
    """A Llama 4 small enough to train on a CPU: experts as wide as the model, chunks of half the context."""
    return Config(
        vocab_size,
        context_length,
        dim,
        hidden_dim=dim,
        dense_hidden_dim=8 * dim // 3,
        n_layers=n_layers,
        n_heads=n_heads,
        n_kv_heads=2,
        n_experts=n_experts,
        attention_chunk=context_length // 2,
        tie_embeddings=True,
    )


SIZES = {
    "llama4-scout": Config(
        rope_scaling=RopeScaling(factor=16.0, low_freq_factor=1.0, high_freq_factor=1.0, original_context_length=8192)
    ),
    "llama4-maverick": Config(context_length=1_048_576, n_experts=128, moe_every=2, qk_norm=False),
    # small enough to train on a CPU; vocab_size is replaced by the tokenizer's
    "llama4-nano": small_config(512, context_length=128, dim=128, n_layers=4, n_heads=4, n_experts=4),
    "llama4-micro": small_config(2048, context_length=256, dim=192, n_layers=6, n_heads=6, n_experts=8),
    "llama4-mini": small_config(4096, context_length=256, dim=256, n_layers=6, n_heads=8, n_experts=8),
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
    """The block of a layer, counted from 0: local or global attention, MoE or dense feed-forward."""
    return Block(
        RMSNorm(config.dim, config.norm_eps),
        Attention(
            config.dim,
            config.n_heads,
            config.n_kv_heads,
            config.head_dim,
            qk_steps=qk_steps(config, layer),
            mask=causal if config.is_global(layer) else Chunked(config.attention_chunk),
            scale=score_scale(config, layer),
            dropout=config.dropout,
        ),
        RMSNorm(config.dim, config.norm_eps),
        build_moe(config) if config.is_moe(layer) else SwiGLU(config.dim, config.dense_hidden_dim),
        dropout=config.dropout,
    )


def build_moe(config: Config) -> MoE:
    """Routed experts, weighted at their inputs, and a shared expert."""
    return MoE(
        SigmoidRouter(config.dim, config.n_experts, config.experts_per_token),
        Experts(config.n_experts, config.dim, config.hidden_dim),
        SwiGLU(config.dim, config.hidden_dim),
        weights_on="input",
    )


def qk_steps(config: Config, layer: int) -> tuple[nn.Module, ...]:
    """Steps on queries and keys: RoPE and then norm on local layers, query temperature on global ones."""
    if config.is_global(layer):
        temperature = QueryTemperature(config.temperature_floor, config.temperature_scale)
        return (temperature,) if config.temperature_tuning else ()
    rotary = rope(head_dim(config), config.rope_theta, config.rope_scaling)
    return (rotary, UnitQKNorm(config.norm_eps / magnitude(config) ** 2)) if config.qk_norm else (rotary,)


def score_scale(config: Config, layer: int) -> float:
    """The factor of attention scores: 1 / sqrt(head_dim), times the square of the RoPE scaling's magnitude where no
    norm of queries and keys cancels it.
    """
    factor = 1.0 if config.is_global(layer) or config.qk_norm else magnitude(config)
    return float(head_dim(config) ** -0.5 * factor**2)


def magnitude(config: Config) -> float:
    """The factor by which RoPE scaling multiplies queries and keys."""
    return config.rope_scaling.magnitude if config.rope_scaling else 1.0


def initialize(model: Transformer, config: Config, generator: torch.Generator) -> None:
    """N(0, 0.02), residual outputs divided by sqrt(2 n_layers), as in GPT-2: Meta has not published its own."""
    initialize_normal(model, generator, std=0.02, residual_scale=(2 * config.n_layers) ** -0.5)


def block_rules(config: Config, block: list[Rule], mixture: list[Rule], dense: list[Rule]) -> list[Rule]:
    """The rules of all layers: those of every block, and those of its MoE or dense feed-forward."""
    kinds = ((layer, mixture if config.is_moe(layer) else dense) for layer in range(config.n_layers))
    return [rule for layer, feed_forward in kinds for rule in each_layer([layer], block + feed_forward)]


def hugging_face_tensors(config: Config) -> Table:
    """Weight table of Llama4ForCausalLM and of the language model in multimodal files.

    Rotary pairs are adjacent dimensions there. Layers without RoPE are permuted like the others: scores do not change
    when queries and keys are permuted alike.
    """
    attention = llama_like_names.hugging_face_attention(config.n_heads, config.n_kv_heads, interleaved=True)
    external, internal = HUGGING_FACE + "feed_forward.", BLOCK + "feed_forward."
    mixture = [
        Rule(external + "router.weight", internal + "router.weight"),
        Rule(external + "experts.gate_up_proj", internal + "experts.gate_up"),
        Rule(external + "experts.down_proj", internal + "experts.down"),
        *llama_like_names.hugging_face_feed_forward("feed_forward.shared_expert", "feed_forward.shared"),
    ]
    dense = llama_like_names.hugging_face_feed_forward("feed_forward")
    layers = block_rules(config, llama_like_names.hugging_face_block(attention, []), mixture, dense)
    prefixes, ignored = ("language_model.", "model."), ("vision_model.*", "multi_modal_projector.*")
    return llama_like_names.hugging_face_table(layers, config.tie_embeddings, prefixes, ignored)


def read_moe_layers(reading: Reading) -> Mapping[str, Any]:
    """`moe_layers`, or None where `interleave_moe_layer_step` gives the same layers."""
    n_layers, step = reading.fields["n_layers"], reading.fields["moe_every"]
    by_step = tuple(range(step - 1, n_layers, step))
    listed = reading.values.integers("moe_layers")
    layers = by_step if listed is None else tuple(sorted(set(range(n_layers)).intersection(listed)))
    return {"moe_layers": None if layers == by_step else layers}


def read_global_layers(reading: Reading) -> Mapping[str, Any]:
    """The layers without RoPE. In `no_rope_layers`, 1 means RoPE; an empty list means `no_rope_layer_interval`."""
    values, n_layers = reading.values, reading.fields["n_layers"]
    step = values.count("no_rope_layer_interval", 4)
    rotary = values.integers("no_rope_layers") or [int((layer + 1) % step != 0) for layer in range(n_layers)]
    if len(rotary) < n_layers:
        raise LuthierError(f"config.json: 'no_rope_layers' names {len(rotary)} layers of {n_layers}")
    layers = tuple(layer for layer in range(n_layers) if not rotary[layer])
    values.require_one_of(
        "layer_types", ["full_attention" if i in layers else "chunked_attention" for i in range(n_layers)]
    )
    same = layers == tuple(range(step - 1, n_layers, step))
    return {"global_every": step, "global_layers": None if same else layers}


def text_settings(values: Mapping[str, Any]) -> CheckedValues:
    """The settings of the language model; multimodal files have them under "text_config"."""
    settings = CheckedValues(values)
    return settings.section("text_config") if "text_config" in settings.values else settings


HUGGING_FACE_SETTINGS: SettingList[Config] = config_json.settings(  # defaults: those of transformers' Llama4TextConfig
    Config,
    "Llama4ForCausalLM",
    "llama4_text",
    Setting("vocab_size", "vocab_size", count(), default=202_048),
    Setting("hidden_size", "dim", count(), default=5120),
    Setting("intermediate_size", "hidden_dim", count(), default=8192),
    Setting("intermediate_size_mlp", "dense_hidden_dim", count(), default=16_384),
    Setting("num_hidden_layers", "n_layers", count(LARGEST_DEPTH), default=48),
    Setting("num_attention_heads", "n_heads", count(), default=40),
    Setting("num_key_value_heads", "n_kv_heads", count(), default=8),
    HeadDimSetting(default=128),
    Setting("num_local_experts", "n_experts", count(LARGEST_EXPERTS), default=16),
    Setting("num_experts_per_tok", "experts_per_token", count(), default=1),
    Setting("interleave_moe_layer_step", "moe_every", count(), default=1),
    CustomSetting(read_moe_layers, lambda config: {"moe_layers": list(filter(config.is_moe, range(config.n_layers)))}),
    CustomSetting(
        read_global_layers,
        lambda config: {
            "no_rope_layers": [int(not config.is_global(layer)) for layer in range(config.n_layers)],
            "no_rope_layer_interval": config.global_every,
        },
    ),
    Setting("attention_chunk_size", "attention_chunk", count(), default=8192),
    Setting("use_qk_norm", "qk_norm", flag, default=True),
    Setting("attn_temperature_tuning", "temperature_tuning", flag, default=True),
    Setting("floor_scale", "temperature_floor", count(LARGEST_CONTEXT), default=8192),
    Setting("attn_scale", "temperature_scale", positive, default=0.1),
    Fixed("hidden_act", "silu", also=("swish",)),
    Setting("rms_norm_eps", "norm_eps", positive, default=1e-5),
    config_json.RopeSettings(theta=500_000.0, context=131_072),
    Fixed("attention_bias", False),
    Setting("attention_dropout", "dropout", probability, default=0.0),
    Setting("tie_word_embeddings", "tie_embeddings", flag, default=False),
    Ignored("router_aux_loss_coef", "router_jitter_noise", "output_router_logits"),  # of training
    find_settings=text_settings,
)

# hard-coded in llama.cpp: chunks and temperature steps of 8192 tokens, every 4th layer global, and normalized queries
# and keys unless there are 128 experts. Only Luthier reads settings that differ
CHUNK = 8192
TEMPERATURE_SCALE = 0.1
GLOBAL_EVERY = 4
MAVERICK_EXPERTS = 128


def gguf_tensors(config: Config) -> Table:
    """Weight table of llama.cpp's architecture "llama4"."""
    block = [
        Rule(GGUF + "attn_norm.weight", BLOCK + "attention_norm.weight"),
        *llama_like_names.gguf_attention(config.n_heads, config.n_kv_heads),
        Rule(GGUF + "ffn_norm.weight", BLOCK + "feed_forward_norm.weight"),
    ]
    mixture = [
        *llama_like_names.gguf_experts(config.hidden_dim),
        *llama_like_names.gguf_feed_forward("_shexp", "feed_forward.shared"),
    ]
    layers = block_rules(config, block, mixture, llama_like_names.gguf_feed_forward())
    rope = gguf_metadata.rope_rules(head_dim(config), config.rope_theta, config.rope_scaling)
    return llama_like_names.gguf_table(rope, layers, config.tie_embeddings)


GGUF_SETTINGS: SettingList[Config] = gguf_metadata.settings(
    Config,
    "llama4",
    gguf_metadata.VocabSize("llama4"),
    Setting("llama4.context_length", "context_length", count(LARGEST_CONTEXT)),
    Setting("llama4.embedding_length", "dim", count()),
    Setting("llama4.feed_forward_length", "dense_hidden_dim", count()),
    Setting("llama4.expert_feed_forward_length", "hidden_dim", count()),
    gguf_metadata.LayerCount("llama4"),
    gguf_metadata.Heads("llama4"),
    Setting("llama4.expert_count", "n_experts", count(LARGEST_EXPERTS)),
    Setting("llama4.expert_used_count", "experts_per_token", count()),
    Setting("llama4.interleave_moe_layer_step", "moe_every", count()),
    Setting("llama4.attention.sliding_window", "attention_chunk", count(), default=CHUNK),
    Setting("llama4.attention.sliding_window_pattern", "global_every", count(), default=GLOBAL_EVERY),
    Setting("llama4.attention.temperature_length", "temperature_floor", count(LARGEST_CONTEXT), default=CHUNK),
    Setting("llama4.attention.temperature_scale", "temperature_scale", positive, default=TEMPERATURE_SCALE),
    Setting("llama4.attention.layer_norm_rms_epsilon", "norm_eps", positive),
    gguf_metadata.RopeSettings("llama4", scaling_types=("none", "linear", "yarn")),
    Setting("luthier.qk_norm", "qk_norm", flag, default=lambda r: r.fields["n_experts"] != MAVERICK_EXPERTS),
    Setting("luthier.temperature_tuning", "temperature_tuning", flag, default=True),
    Setting("luthier.dropout", "dropout", probability, default=0.0),
    gguf_metadata.LayerIndices("luthier.moe_layers", "moe_layers"),
    gguf_metadata.LayerIndices("luthier.global_layers", "global_layers"),
    gguf_metadata.TIED_EMBEDDINGS,
)


def caveats(config: Config) -> list[str]:
    """Messages about what llama.cpp would compute differently from this model."""
    layers = range(config.n_layers)
    found = []
    if any(config.is_moe(layer) != ((layer + 1) % config.moe_every == 0) for layer in layers):
        found.append("llama.cpp cannot open it: its MoE layers are not every n-th layer")
    if any(config.is_global(layer) != ((layer + 1) % GLOBAL_EVERY == 0) for layer in layers):
        found.append("llama.cpp treats every 4th layer as global, this model has other global layers")
    if config.qk_norm != (config.n_experts != MAVERICK_EXPERTS):
        found.append("llama.cpp normalizes queries and keys unless there are 128 experts, this model does the opposite")
    shorter = min(config.attention_chunk, CHUNK)
    if config.attention_chunk != CHUNK and config.context_length > shorter:
        found.append(
            f"llama.cpp attends in chunks of {CHUNK} tokens, not {config.attention_chunk}: it differs after {shorter}"
        )
    step = min(config.temperature_floor, CHUNK) if config.temperature_tuning else CHUNK
    temperature = (config.temperature_tuning, config.temperature_floor, config.temperature_scale)
    if temperature != (True, CHUNK, TEMPERATURE_SCALE) and config.context_length >= step:
        found.append(f"llama.cpp scales queries by another temperature: it differs after {step} tokens")
    return found


def meta_tensors(config: Config) -> Table:
    """Weight table of Meta's Transformer, as in the published files: fused matrices, norms named after what they feed.

    Rotary pairs are adjacent dimensions there. Layers without RoPE are permuted like the others.
    """
    external, internal = META + "feed_forward.", BLOCK + "feed_forward."
    n, dim, hidden = config.n_experts, config.dim, config.hidden_dim
    halves = PairsToHalves((config.n_heads, config.n_kv_heads, None))
    qkv = tuple(f"{BLOCK}attention.{part}.weight" for part in ("query", "key", "value"))
    block = [
        Rule(META + "attention.wqkv.layer_norm_weight", BLOCK + "attention_norm.weight"),
        Rule(META + "attention.wqkv.weight", qkv, Split(qkv_rows(config)), halves),
        Rule(META + "attention.wo.weight", BLOCK + "attention.output.weight"),
    ]
    gate_up = (internal + "gate.weight", internal + "up.weight")
    dense = [
        Rule(external + "mlp.layer_norm_weight", BLOCK + "feed_forward_norm.weight"),
        Rule(external + "mlp.fc1_weight", gate_up, Split((config.dense_hidden_dim,) * 2)),
        Rule(external + "mlp.fc2_weight", internal + "down.weight"),
    ]
    into = (external + "experts.moe_w_in_eD_F", external + "experts.moe_w_swiglu_eD_F")
    stacked = Reshape((n * dim, hidden), (n, dim, hidden))
    down = Reshape((n * hidden, dim), (n, hidden, dim))
    mixture = [
        Rule(external + "norm.weight", BLOCK + "feed_forward_norm.weight"),
        Rule(external + "router_DE", internal + "router.weight", Transpose()),
        Rule(into, internal + "experts.gate_up", stacked, Join((hidden, hidden), dim=2)),
        Rule(external + "experts.moe_w_out_eF_D", internal + "experts.down", down),
        Rule(external + "w_in_shared_FD.weight", internal + "shared.gate.weight"),
        Rule(external + "w_swiglu_FD.weight", internal + "shared.up.weight"),
        Rule(external + "w_out_shared_DF.weight", internal + "shared.down.weight"),
    ]
    counts = ("global_gate_stats_3E", "running_gate_stats_3E", "expert_activation_DE")
    ignored = ("*._extra_state", *(f"*.feed_forward.{name}" for name in counts), "vision_embeddings.*")
    layers = block_rules(config, block, mixture, dense)
    return llama_like_names.meta_table(layers, config.tie_embeddings, (*ignored, "vision_projection.*"))


def qkv_rows(config: Config) -> tuple[int, int, int]:
    """The rows of queries, keys and values in the fused matrix."""
    keys = config.n_kv_heads * head_dim(config)
    return config.n_heads * head_dim(config), keys, keys


def row_groups(config: Config) -> dict[str, tuple[int, ...]]:
    """Tensors that are several matrices stacked by rows, each sharded separately, and the rows of each."""
    found: dict[str, tuple[int, ...]] = {}
    for layer in range(config.n_layers):
        found[f"layers.{layer}.attention.wqkv.weight"] = qkv_rows(config)
        if config.is_moe(layer):
            found[f"layers.{layer}.feed_forward.experts.moe_w_out_eF_D"] = (config.hidden_dim,) * config.n_experts
        else:
            found[f"layers.{layer}.feed_forward.mlp.fc1_weight"] = (config.dense_hidden_dim,) * 2
    return found


def read_context(reading: Reading) -> int:
    """The context length, which Meta's files lack: Scout's for 16 experts, otherwise Maverick's."""
    n_experts = reading.root.section("moe_args").count("num_experts", 1, most=LARGEST_EXPERTS)
    published = 10_485_760 if n_experts == 16 else 1_048_576
    return reading.root.section(params_json.LUTHIER_SECTION).count("context_length", published, most=LARGEST_CONTEXT)


def read_widths(reading: Reading) -> dict[str, int]:
    """The widths of dense feed-forwards and of an expert, computed as in Meta's code."""
    values, dim = reading.values, reading.fields["dim"]
    mixture, own = values.section("moe_args"), values.section(params_json.LUTHIER_SECTION)
    multiplier = values.number("ffn_dim_multiplier", 1.0)
    multiple_of = values.count("multiple_of", 256, most=params_json.LARGEST_MULTIPLE)
    narrower = mixture.flag("auto_scale_F", True)
    share = mixture.number("capacity_factor", 1.0) + 1 if narrower else 1.0
    expanded = int(values.number("ffn_exp", 4.0) * dim)
    dense = params_json.swiglu_width(4 * dim, multiplier, multiple_of)
    expert = params_json.swiglu_width(expanded, multiplier, multiple_of, share=share)
    return {
        "hidden_dim": own.count("hidden_dim", expert),
        "dense_hidden_dim": own.count("dense_hidden_dim", dense),
    }


def width_settings(config: Config) -> dict[str, Any]:
    """The settings from which the widths are computed. ffn_exp: None where no value gives the experts' width."""
    multiple_of = params_json.common_power_of_two(config.dense_hidden_dim, config.hidden_dim)
    multiplier = params_json.find_ffn_dim_multiplier(config.dense_hidden_dim, 4 * config.dim, multiple_of) or 1.0
    # the width of the experts is computed with the multiplier of the dense layers
    expansion = params_json.find_ffn_exp(config.hidden_dim, config.dim, multiplier, multiple_of)
    return {"ffn_dim_multiplier": multiplier, "ffn_exp": expansion, "multiple_of": multiple_of}


def write_expert_width(config: Config) -> dict[str, int]:
    """The width of the experts, where Meta's settings cannot express it: only Luthier reads it."""
    return {} if width_settings(config)["ffn_exp"] is not None else {"hidden_dim": config.hidden_dim}


def default_layers(setting: str) -> Any:
    """The default of a list of layers: None (every n-th layer) where the file has this setting, otherwise no layers."""
    return lambda reading: None if setting in reading.root.values else ()


META_SETTINGS: SettingList[Config] = params_json.settings(
    Config,
    Setting("dim", "dim", count()),
    Setting("n_layers", "n_layers", count(LARGEST_DEPTH)),
    Setting("n_heads", "n_heads", count()),
    Setting("n_kv_heads", "n_kv_heads", count(), default=same_as("n_heads")),
    CustomSetting(lambda reading: {}, lambda config: {"vocab_size": config.vocab_size}),
    CustomSetting(read_widths, lambda config: {k: 4.0 if v is None else v for k, v in width_settings(config).items()}),
    Setting("norm_eps", "norm_eps", positive, default=1e-5),
    Setting("attention_chunk_size", "attention_chunk", count(LARGEST_CONTEXT), default=read_context),
    Setting("rope_theta", "rope_theta", positive, default=500_000.0),
    params_json.ScalingSettings(lambda reading: 16.0, high=1.0),
    Setting("nope_layer_interval", "global_every", count(), default=4),
    Setting("use_qk_norm", "qk_norm", flag, default=False),
    Setting("attn_temperature_tuning", "temperature_tuning", flag, default=False),
    Setting("floor_scale", "temperature_floor", count(LARGEST_CONTEXT), default=8192),
    Setting("attn_scale", "temperature_scale", positive, default=0.1),
    Section(
        "moe_args",
        Setting("num_experts", "n_experts", count(LARGEST_EXPERTS), default=1),
        WriteOnly({"capacity_factor": 1.0, "auto_scale_F": False}),
        Setting("top_k", "experts_per_token", count(), default=1),
        Setting("interleave_moe_layer_step", "moe_every", count(), default=1),
    ),
    Section(
        params_json.LUTHIER_SECTION,
        Setting("context_length", "context_length", count(LARGEST_CONTEXT), default=read_context),
        HeadDimSetting(),
        CustomSetting(lambda reading: {}, write_expert_width),
        Setting("moe_layers", "moe_layers", integers, default=default_layers("moe_args")),
        Setting("global_layers", "global_layers", integers, default=default_layers("nope_layer_interval")),
        Setting("tie_embeddings", "tie_embeddings", flag, default=lambda reading: reading.weights.tied),
        Setting("dropout", "dropout", probability, default=0.0),
        params_json.LUTHIER_SCALING,
    ),
    Ignored("max_batch_size", "max_seq_len", "vision_args", "vocab_size", "head_dim"),
)

FAMILY = Family(
    "llama4",
    Config,
    SIZES,
    build,
    initialize,
    {
        "hf": FormatSpec(
            hugging_face_tensors,
            HUGGING_FACE_SETTINGS,
            {"Llama4ForCausalLM": "llama4_text", "Llama4ForConditionalGeneration": "llama4"},
        ),
        "gguf": FormatSpec(gguf_tensors, GGUF_SETTINGS, caveats=caveats),
        "meta": FormatSpec(
            meta_tensors,
            META_SETTINGS,
            distinctive_keys=("moe_args", "nope_layer_interval", "attention_chunk_size", "use_qk_norm", "ffn_exp"),
            row_groups=row_groups,
        ),
    },
)
